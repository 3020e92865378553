package smrtest_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/smrtest"
)

// Deposit asks to change the balance of an account.
type Deposit struct {
	Account uint64
	Amount  int64
}

// Accounts holds balances as divisible state: accounts whose numbers leave the same remainder are
// one part.
type Accounts struct {
	smr.DivisibleState
	parts [64]*balances
}

// balances is one part. Once a capture shares it, it does not change any more.
type balances struct {
	of     map[uint64]int64
	shared bool
	once   sync.Once
	digest smr.Digest
}

func NewAccounts() *Accounts {
	a := &Accounts{}
	for i := range a.parts {
		a.parts[i] = &balances{of: map[uint64]int64{}}
	}
	return a
}

func (a *Accounts) State() smr.State { return a }

func (a *Accounts) Execute(_ *smr.Context, d Deposit) int64 {
	i := d.Account % uint64(len(a.parts))
	if p := a.parts[i]; p.shared { // copy on write
		a.parts[i] = &balances{of: maps.Clone(p.of)}
	}
	a.parts[i].of[d.Account] += d.Amount
	return a.parts[i].of[d.Account]
}

func (a *Accounts) Query(_ *smr.QueryContext, d Deposit) int64 {
	return a.parts[d.Account%uint64(len(a.parts))].of[d.Account]
}

// Freeze copies 64 pointers.
func (a *Accounts) Freeze() smr.FrozenParts {
	for _, p := range a.parts {
		p.shared = true
	}
	return &capture{a.parts}
}

func (a *Accounts) Reset() error { a.parts = NewAccounts().parts; return nil }

// capture is read beside execution.
type capture struct{ parts [64]*balances }

func (c *capture) Parts() (infos []smr.PartInfo, err error) {
	for i, p := range c.parts {
		if len(p.of) > 0 { // a part is never empty
			p.once.Do(func() { p.digest = sha256.Sum256(p.append(nil)) })
			infos = append(infos, smr.PartInfo{ID: smr.PartID(i), Bytes: uint64(16 * len(p.of)), Digest: p.digest})
		}
	}
	return infos, nil
}

func (c *capture) ReadPart(dst []byte, id smr.PartID) ([]byte, error) {
	return c.parts[id].append(dst), nil
}

func (c *capture) Release() {}

// append writes a part in sorted order: equal parts, equal bytes.
func (p *balances) append(dst []byte) []byte {
	for _, account := range slices.Sorted(maps.Keys(p.of)) {
		dst = binary.BigEndian.AppendUint64(dst, account)
		dst = binary.BigEndian.AppendUint64(dst, uint64(p.of[account]))
	}
	return dst
}

// Begin starts from the parts that are there; Commit swaps them for those that are wanted.
func (a *Accounts) Begin() smr.PartWriter { return &change{a, a.parts} }

type change struct {
	a     *Accounts
	parts [64]*balances
}

func (c *change) Put(info smr.PartInfo, data []byte) error {
	p := &balances{of: map[uint64]int64{}}
	for b := data; len(b) >= 16; b = b[16:] {
		p.of[binary.BigEndian.Uint64(b)] = int64(binary.BigEndian.Uint64(b[8:]))
	}
	if info.ID >= smr.PartID(len(c.parts)) || !bytes.Equal(p.append(nil), data) {
		return errors.New("malformed part")
	}
	c.parts[info.ID] = p
	return nil
}

func (c *change) Delete(id smr.PartID) error {
	c.parts[id] = &balances{of: map[uint64]int64{}}
	return nil
}

func (c *change) Commit() error { c.a.parts = c.parts; return nil }
func (c *change) Abort()        {}

func accountsService() smr.Service {
	return smr.NewService[Deposit, int64](NewAccounts(), smr.JSONCodec[Deposit]{}, smr.JSONCodec[int64]{})
}

// Divisible state of your own: what changed between two captures is one part.
func Example_divisibleState() {
	a := NewAccounts()
	for account := range uint64(1000) {
		a.Execute(nil, Deposit{account, 100})
	}
	before, _ := a.Freeze().Parts()
	fmt.Println(a.Execute(nil, Deposit{Account: 130, Amount: -30}))
	after, _ := a.Freeze().Parts()
	for i := range after {
		if after[i] != before[i] {
			fmt.Println("part", after[i].ID, "of", len(after), "changed")
		}
	}
	// Output:
	// 70
	// part 2 of 64 changed
}

func TestTheAccountsOfTheGuideKeepTheRules(t *testing.T) {
	smrtest.Application(t, accountsService, func(rng *rand.Rand) []byte {
		b, err := json.Marshal(Deposit{Account: uint64(rng.IntN(200)), Amount: int64(rng.IntN(100))})
		if err != nil {
			t.Fatal(err)
		}
		return b
	})
}

// The code in the guide about state is code that is compiled and tested.
func TestTheGuideAboutStateShowsTestedCode(t *testing.T) {
	guide, err := os.ReadFile("../docs/guide/state.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := 0
	for rest := string(guide); ; blocks++ {
		_, after, found := strings.Cut(rest, "<!-- code from ")
		if !found {
			break
		}
		path, after, _ := strings.Cut(after, " -->\n```go\n")
		code, after, ended := strings.Cut(after, "```")
		source, err := os.ReadFile("../" + path)
		if err != nil || !ended {
			t.Fatalf("block %d of %q: %v", blocks, path, err)
		}
		for _, piece := range strings.Split(code, "\n...\n") {
			if !strings.Contains(string(source), strings.TrimSpace(piece)) {
				t.Errorf("%s does not contain:\n%s", path, piece)
			}
		}
		rest = after
	}
	if blocks < 3 {
		t.Errorf("%d blocks of code", blocks)
	}
}
