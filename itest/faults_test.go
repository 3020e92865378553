package itest

import (
	"testing"
	"time"
)

// A primary that neither ends nor answers loses its view, and follows once it goes on.
func TestAPrimaryThatHangsLosesItsView(t *testing.T) {
	c := start(t, Options{Clients: 2})
	l := load(t, c, 2, 200)
	acked(t, l, 50)
	primary, view, err := c.Primary(within(t, time.Minute))
	must(t, err)
	must(t, c.Pause(primary))
	acked(t, l, 100) // served without it
	must(t, c.Resume(primary))
	must(t, c.AwaitAll(within(t, time.Minute)))
	if _, now, err := c.Primary(within(t, time.Minute)); err != nil || now <= view {
		t.Errorf("view %d after %d, error %v", now, view, err)
	}
	judge(t, c, l)
}

// With more than f replicas down nothing is answered; when they are back nothing was lost and work
// goes on by itself.
func TestMoreThanFReplicasCrashAndReturn(t *testing.T) {
	c := start(t, Options{Clients: 2})
	l := load(t, c, 2, 200)
	acked(t, l, 50)
	must(t, c.Kill(1, 2))
	must(t, c.Start(1))
	must(t, c.Start(2))
	must(t, c.AwaitAll(within(t, time.Minute)))
	acked(t, l, 100)
	judge(t, c, l)
}

// All replicas are killed at once, again and again, under load.
func TestAllReplicasAreKilledAgainAndAgain(t *testing.T) {
	c := start(t, Options{Clients: 2})
	l := load(t, c, 2, 200)
	for range 3 {
		acked(t, l, 60)
		must(t, c.Kill(c.Nodes()...))
		must(t, c.StartAll())
		must(t, c.AwaitAll(within(t, time.Minute)))
	}
	acked(t, l, 60)
	judge(t, c, l)
}
