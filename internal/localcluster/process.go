package localcluster

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"github.com/atlas-smr/smr"
)

// process is one life of a replica.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed once it was awaited
	err   error         // how it ended; read after ended
}

func startProcess(cmd *exec.Cmd) (*process, error) {
	dieWithParent(cmd)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	go func() { // ends with the process, which Close ends
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// terminate asks the process to end; one that stands still must go on to hear it.
func (p *process) terminate() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Process.Signal(syscall.SIGCONT)
}

// Running reports whether replica i was started and has not been killed or awaited. It may have ended
// by itself: see Ended.
func (c *Cluster) Running(i smr.NodeID) bool { return c.procs[i-1] != nil }

// Pid returns the process of replica i, which must be running.
func (c *Cluster) Pid(i smr.NodeID) int { return c.procs[i-1].cmd.Process.Pid }

// Signal sends a signal to replica i, which must be running.
func (c *Cluster) Signal(i smr.NodeID, s os.Signal) error { return c.procs[i-1].cmd.Process.Signal(s) }

// Ended returns an error if replica i, which should run, ended.
func (c *Cluster) Ended(i smr.NodeID) error {
	p := c.procs[i-1]
	if p == nil {
		return fmt.Errorf("replica %d was not started", i)
	}
	select {
	case <-p.ended:
		return fmt.Errorf("replica %d ended by itself (%v); the end of its log:\n%s", i, p.err, tail(c.LogPath(i), 2000))
	default:
		return nil
	}
}

// AwaitEnd waits until replica i ends by itself, and returns how: nil for exit code 0.
func (c *Cluster) AwaitEnd(ctx context.Context, i smr.NodeID) (exit error, err error) {
	p := c.procs[i-1]
	select {
	case <-p.ended:
		c.procs[i-1] = nil
		return p.err, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("replica %d does not end: %w", i, context.Cause(ctx))
	}
}

// tail returns the last bytes of a file, for messages.
func tail(path string, n int64) []byte {
	f, err := os.Open(path)
	if err != nil {
		return []byte(err.Error())
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > n {
		_, _ = f.Seek(-n, io.SeekEnd)
	}
	b, _ := io.ReadAll(io.LimitReader(f, n))
	return bytes.TrimSpace(b)
}
