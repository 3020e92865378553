package itest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

var (
	minutes = flag.Float64("minutes", 0.4, "how long TestChaos lets faults begin")
	seed    = flag.Uint64("seed", 1, "seed of the faults of TestChaos; 0: a new one, which is printed")
	keep    = flag.String("keep", "", "directory in which the clusters' files and logs stay")
)

// binary is the smr command under test.
var binary string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "smr-itest-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "smr")
		build := exec.Command("go", "build", "-trimpath", "-o", binary, "github.com/atlas-smr/smr/cmd/smr")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build smr: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// prepare makes a cluster that ends with the test. Without the right to mount, small disks are left
// out: leftOut says so.
func prepare(t *testing.T, o Options) (c *Cluster, leftOut []string) {
	t.Helper()
	o.Dir, o.Exe = t.TempDir(), binary
	if *keep != "" {
		o.Dir = filepath.Join(*keep, t.Name())
		if err := os.MkdirAll(o.Dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c, err := New(o)
	if errors.Is(err, ErrNoDisks) {
		leftOut = append(leftOut, fmt.Sprintf("full disks: %v", err))
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, i := range c.Nodes() {
				b, _ := os.ReadFile(c.LogPath(i))
				t.Logf("the end of replica %d's log:\n%s", i, b[max(0, len(b)-1500):])
			}
		}
		if err := c.Close(slog.New(slog.NewTextHandler(t.Output(), nil))); err != nil {
			t.Error(err)
		}
	})
	return c, leftOut
}

// start starts a cluster and waits until all its replicas work.
func start(t *testing.T, o Options) *Cluster {
	t.Helper()
	c, leftOut := prepare(t, o)
	if len(leftOut) > 0 {
		t.Fatal("left out, and this test needs it:", leftOut)
	}
	startAll(t, c)
	return c
}

func startAll(t *testing.T, c *Cluster) {
	t.Helper()
	if err := c.StartAll(); err != nil {
		t.Fatal(err)
	}
	if err := c.AwaitAll(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
}

// within bounds what is waited for.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeoutCause(t.Context(), d, fmt.Errorf("not within %v", d))
	t.Cleanup(cancel)
	return ctx
}

// load starts clients.
func load(t *testing.T, c *Cluster, clients, rate int) *Load {
	t.Helper()
	l, err := StartLoad(t.Context(), c, clients, rate, 1)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// judge ends the load and judges.
func judge(t *testing.T, c *Cluster, l *Load) {
	t.Helper()
	if err := l.Finish(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	wrong, err := c.Judge(within(t, 2*time.Minute), l.History)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range wrong {
		t.Error(w)
	}
	t.Logf("%d calls answered, %d given up", l.Acked.Load(), l.Open.Load())
}

// must fails the test on an error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// acked waits until n more calls are answered.
func acked(t *testing.T, l *Load, n int64) {
	t.Helper()
	must(t, l.AwaitAcked(within(t, time.Minute), n))
}
