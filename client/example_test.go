package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/execution"
	"github.com/atlas-smr/smr/wire"
)

type panics struct{}

func (panics) Helper()                           {}
func (panics) Fatal(args ...any)                 { panic(fmt.Sprint(args...)) }
func (panics) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

// exampleConfig is a client of four replicas in this process; a program takes Membership, Client and
// Key from its configuration and leaves Dial alone.
func exampleConfig() Config {
	s := &service{reps: newReplicas(panics{}, 4, execution.Limits{}), in: make(chan Frame, 1<<10), seen: map[smr.BundleID]bool{}}
	return s.config()
}

func ExampleClient() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := Open(ctx, exampleConfig(), smr.BytesCodec{}, smr.BytesCodec{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	reply, err := c.Do(ctx, []byte("work"))
	for errors.Is(err, ErrUnknown) && ctx.Err() == nil {
		reply, err = c.Retry(ctx, err) // the same op number: at most once
	}
	fmt.Printf("%s %v\n", reply, err)

	answer, err := c.Query(ctx, []byte("it"))
	fmt.Printf("%s %v\n", answer, err)
	// Output:
	// did work <nil>
	// saw it <nil>
}

func ExampleClient_Submit() {
	ctx := context.Background()
	c, err := Open(ctx, exampleConfig(), smr.BytesCodec{}, smr.BytesCodec{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	var futures []*Future[[]byte]
	for i := range 3 {
		futures = append(futures, c.Submit(fmt.Appendf(nil, "step %d", i)))
	}
	for _, f := range futures {
		reply, err := f.Wait(ctx)
		fmt.Printf("%s %v\n", reply, err)
	}
	// Output:
	// did step 0 <nil>
	// did step 1 <nil>
	// did step 2 <nil>
}

// Core is driven by hand: this is what the simulator does.
func ExampleCore() {
	reps := newReplicas(panics{}, 4, execution.Limits{})
	now, out := time.Unix(0, 0), Output{}
	core := newScript(panics{}, 1, 4).core
	reps.emit = func(from smr.NodeID, _ smr.ClientID, class wire.Class, payload []byte) {
		_ = core.Receive(now, from, class, wire.KindOnly, payload, &out)
	}
	call := &Call{}
	_ = core.Submit(call, []byte("work"))
	for len(out.Done) == 0 {
		core.Flush(now, &out)
		send := out.Send
		out.Send = nil
		for _, f := range send {
			if f.To == 1 { // one copy is enough for the order
				reps.handle(f)
			}
		}
	}
	fmt.Printf("%s at %d\n", out.Done[0].Data, out.Done[0].Seq)
	// Output: did work at 2
}
