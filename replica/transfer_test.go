package replica

import (
	"testing"
	"time"
)

func TestPaceLetsABurstGoAndThenSpreadsBytes(t *testing.T) {
	p := pace{bytesPerSecond: 1000}
	now := time.Unix(50, 0)
	if d := p.next(now, 100); d != 0 {
		t.Fatalf("a burst waits %v", d)
	}
	if d := p.next(now, 500); d != 500*time.Millisecond {
		t.Fatalf("waits %v", d)
	}
	if d := p.next(now.Add(time.Second), 500); d != 400*time.Millisecond {
		t.Fatalf("after a pause waits %v: more was made up for than a burst", d)
	}
}
