package smr_test

import (
	"fmt"

	"github.com/atlas-smr/smr"
)

// tally counts words; its zero value is empty.
type tally struct{ n map[string]int }

func (t *tally) Execute(_ *smr.Context, word string) int {
	if t.n == nil {
		t.n = make(map[string]int)
	}
	t.n[word]++
	return t.n[word]
}

func (t *tally) Query(_ *smr.QueryContext, word string) int { return t.n[word] }

// An application is written against typed requests and replies; NewService binds it to codecs.
func ExampleNewService() {
	svc := smr.NewService[string, int](&tally{}, smr.JSONCodec[string]{}, smr.JSONCodec[int]{})
	for range 2 {
		reply, err := svc.Execute(&smr.Context{Seq: 1}, []byte(`"apple"`), nil)
		fmt.Printf("%s %v\n", reply, err)
	}
	_, err := svc.Execute(&smr.Context{Seq: 2}, []byte(`{}`), nil)
	fmt.Println(err != nil)
	// Output:
	// 1 <nil>
	// 2 <nil>
	// true
}

// Randomness comes from the context and is the same on every replica.
func ExampleContext_Rand() {
	a := &smr.Context{Seq: 7, Index: 1, Op: 3}
	b := &smr.Context{Seq: 7, Index: 1, Op: 3}
	fmt.Println(a.Rand().Uint64() == b.Rand().Uint64())
	// Output: true
}

// A query states the last write that its answer depends on.
func ExampleQueryContext_SetVersion() {
	q := smr.NewQueryContext(90, 1)
	fmt.Println(q.Version())
	q.SetVersion(12)
	fmt.Println(q.Version())
	// Output:
	// 90
	// 12
}
