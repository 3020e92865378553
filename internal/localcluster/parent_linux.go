package localcluster

import (
	"os/exec"
	"syscall"
)

// dieWithParent makes a process end when this one is killed, and keeps the terminal's interrupt from
// it: this process ends it in good order.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
