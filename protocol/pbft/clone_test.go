package pbft

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/quorum"
)

// shared are the types that clones may share, since nobody changes their values.
var shared = []reflect.Type{
	reflect.TypeFor[*Header](), reflect.TypeFor[*Certificate](), reflect.TypeFor[*Timeout](), reflect.TypeFor[*TimeoutCertificate](),
	reflect.TypeFor[*Proposal](), reflect.TypeFor[*Heartbeat](), reflect.TypeFor[*auth.Vote](), reflect.TypeFor[*auth.Certificate](),
	reflect.TypeFor[*Codec](), reflect.TypeFor[*quorum.Membership](), reflect.TypeFor[*auth.Verifier](), reflect.TypeFor[*time.Location](),
	reflect.TypeFor[[]byte](), reflect.TypeFor[auth.Signer](),
}

// notPrinted says why a fingerprint need not tell a field.
var notPrinted = map[string]string{
	"Replica.p": "configuration", "Replica.m": "configuration", "Replica.v": "configuration", "Replica.codec": "configuration",
	"Replica.index": "configuration", "Replica.n": "configuration",
	"Replica.now": "within an input only", "Replica.out": "within an input only", "Replica.stale": "within an input only",
	"Replica.dirty": "within an input only", "Replica.replay": "within an input only",
	"Replica.entered": "a clock", "Replica.peers": "rate limits and evidence",
	"timerState.timeout": "a clock", "timerState.failures": "a clock", "timerState.progressed": "a clock", "timerState.progress": "a clock",
	"timerState.idle": "a clock", "timerState.clock": "a clock", "timerState.tail": "a clock", "timerState.late": "what a stall asks for first",
	"timerState.lagging": "a clock", "timerState.heard": "a clock", "timerState.sent": "a clock", "timerState.tickAt": "a clock", "timerState.tickView": "a clock",
	"complaint.at": "a clock", "block.msg": "sent again by its primary",
}

// sample makes values of every type a machine is made of; two of different salt differ everywhere.
type sample struct {
	tb    testing.TB
	c     *cluster
	salt  uint64
	depth int
}

func (s *sample) header() *Header {
	return newHeader(s.c.m, Header{Epoch: 1, View: smr.View(s.salt), Seq: smr.SeqNo(s.salt), Time: int64(s.salt), Refs: []smr.BundleRef{{ID: smr.BundleID{byte(s.salt)}, Bytes: 9}}})
}

func (s *sample) cert(kind auth.Kind) *Certificate {
	h := s.header()
	v := auth.NewVerifier(s.c.m, s.c.scheme)
	var votes []*auth.Vote
	for id := range smr.NodeID(3) {
		votes = append(votes, s.c.sign(id+1, kind, h.View, h.Seq, h.Digest))
	}
	c, err := v.Certify(votes)
	if err != nil {
		s.tb.Fatal(err)
	}
	return &Certificate{Core: h, Cert: c}
}

// value returns a value of type t in which nothing is zero.
func (s *sample) value(t reflect.Type) reflect.Value {
	v := reflect.New(t).Elem()
	switch t {
	case reflect.TypeFor[*Header]():
		v.Set(reflect.ValueOf(s.header()))
		return v
	case reflect.TypeFor[*Certificate]():
		v.Set(reflect.ValueOf(s.cert(auth.KindPrepare)))
		return v
	case reflect.TypeFor[*auth.Certificate]():
		v.Set(reflect.ValueOf(s.cert(auth.KindPrepare).Cert))
		return v
	case reflect.TypeFor[*auth.Vote]():
		v.Set(reflect.ValueOf(s.c.sign(1, auth.KindPrepare, smr.View(s.salt), 1, smr.Digest{byte(s.salt)})))
		return v
	case reflect.TypeFor[*Timeout]():
		v.Set(reflect.ValueOf(&Timeout{Vote: s.c.sign(1, auth.KindTimeout, smr.View(100+s.salt), 0, smr.Digest{byte(s.salt)}), Lock: s.cert(auth.KindPrepare)}))
		return v
	case reflect.TypeFor[*Proposal]():
		v.Set(reflect.ValueOf(&Proposal{Header: s.header()}))
		return v
	case reflect.TypeFor[protocol.Message](), reflect.TypeFor[*TimeoutCertificate]():
		v.Set(reflect.ValueOf(&TimeoutCertificate{view: smr.View(s.salt)}))
		return v
	case reflect.TypeFor[smr.View]():
		v.SetUint(100 + s.salt) // above the view of the machine: what is kept towards it counts
		return v
	case reflect.TypeFor[time.Time]():
		v.Set(reflect.ValueOf(epochStart.Add(time.Duration(s.salt))))
		return v
	}
	switch t.Kind() {
	case reflect.Bool:
		v.SetBool(s.salt%2 == 1)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(s.salt))
	case reflect.Uint8, reflect.Uint32, reflect.Uint64:
		v.SetUint(s.salt)
	case reflect.Array, reflect.Struct:
		s.fill(v)
	case reflect.Pointer:
		v.Set(reflect.New(t.Elem()))
		s.fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(t, 4, 4)) // tables have an entry for each of four voters
		for i := range 4 {
			v.Index(i).Set(s.value(t.Elem()))
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(t))
		v.SetMapIndex(s.value(t.Key()), s.value(t.Elem()))
	default:
		s.tb.Fatalf("no sample of %s", t)
	}
	return v
}

// fill sets every field and element of v.
func (s *sample) fill(v reflect.Value) {
	s.depth++
	defer func() { s.depth-- }()
	if s.depth > 12 {
		s.tb.Fatalf("%s contains itself", v.Type())
	}
	if v.Kind() == reflect.Array {
		for i := range v.Len() {
			v.Index(i).Set(s.value(v.Type().Elem()))
		}
		return
	}
	for i := range v.NumField() {
		f := open(v.Field(i))
		f.Set(s.value(f.Type()))
	}
}

// open makes an unexported field settable.
func open(f reflect.Value) reflect.Value {
	return reflect.NewAt(f.Type(), unsafe.Pointer(f.UnsafeAddr())).Elem()
}

// full returns a machine in which no field is zero.
func full(t *testing.T) (*cluster, *Replica) {
	c := newCluster(t, 4, 1)
	c.boot()
	r := c.nodes[0].ord.(*Replica)
	s := &sample{tb: t, c: c, salt: 1}
	v := reflect.ValueOf(r).Elem()
	for i := range v.NumField() {
		switch name := v.Type().Field(i).Name; name {
		case "p", "m", "v", "codec", "index", "n", "out":
		default:
			open(v.Field(i)).Set(s.value(v.Field(i).Type()))
		}
	}
	r.view = 1
	return c, r
}

func TestCloneCopiesEveryFieldAndSharesNothingMutable(t *testing.T) {
	_, r := full(t)
	c := r.Clone().(*Replica)
	if !reflect.DeepEqual(r, c) {
		t.Error("the copy differs")
	}
	seen := map[unsafe.Pointer]string{}
	places(reflect.ValueOf(r).Elem(), "Replica", func(p unsafe.Pointer, path string) { seen[p] = path })
	if len(seen) < 20 {
		t.Fatalf("only %d mutable places", len(seen))
	}
	places(reflect.ValueOf(c).Elem(), "Replica", func(p unsafe.Pointer, path string) {
		if at, ok := seen[p]; ok {
			t.Errorf("%s of the copy is %s of the original", path, at)
		}
	})
}

// places calls f with everything mutable that v refers to.
func places(v reflect.Value, path string, f func(unsafe.Pointer, string)) {
	if slices.Contains(shared, v.Type()) || v.Type() == reflect.TypeFor[protocol.Params]() {
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			places(open(v.Field(i)), path+"."+v.Type().Field(i).Name, f)
		}
	case reflect.Pointer:
		if !v.IsNil() {
			f(v.UnsafePointer(), path)
			places(v.Elem(), path, f)
		}
	case reflect.Slice:
		if v.Len() > 0 {
			f(v.UnsafePointer(), path)
		}
		for i := range v.Len() {
			places(v.Index(i), fmt.Sprintf("%s[%d]", path, i), f)
		}
	case reflect.Map:
		f(v.UnsafePointer(), path)
		for it := v.MapRange(); it.Next(); {
			x := reflect.New(v.Type().Elem()).Elem()
			x.Set(it.Value())
			places(x, path+"[]", f)
		}
	case reflect.Interface:
		if !v.IsNil() && !slices.Contains(shared, v.Elem().Type()) {
			x := reflect.New(v.Elem().Type()).Elem()
			x.Set(v.Elem())
			places(x, path, f)
		}
	}
}

func TestTheFingerprintTellsEveryFieldThatIsNotExcused(t *testing.T) {
	c, r := full(t)
	was := r.Fingerprint(nil, true)
	if again := r.Clone().Fingerprint(nil, true); !bytes.Equal(was, again) {
		t.Fatal("the fingerprint of a copy differs")
	}
	s := &sample{tb: t, c: c, salt: 2}
	unused := map[string]bool{}
	for name := range notPrinted {
		unused[name] = true
	}
	tried := 0
	var walk func(at func(*Replica) reflect.Value)
	walk = func(at func(*Replica) reflect.Value) {
		typ := at(r).Type()
		for i := range typ.NumField() {
			name := typ.Name() + "." + typ.Field(i).Name
			field := func(r *Replica) reflect.Value { return open(at(r).Field(i)) }
			if delete(unused, name); notPrinted[name] != "" {
				continue
			}
			x := r.Clone().(*Replica)
			field(x).Set(s.value(field(x).Type()))
			if tried++; bytes.Equal(was, x.Fingerprint(nil, true)) {
				t.Errorf("the fingerprint does not tell %s: print it, or say why not", name)
			}
			if name == "Replica.blocks" || !holds(field(x).Type(), reflect.TypeFor[*block]()) { // blocks are told once, elsewhere their digests
				inside(field, r, walk)
			}
		}
	}
	walk(func(r *Replica) reflect.Value { return reflect.ValueOf(r).Elem() })
	if tried < 50 {
		t.Errorf("only %d fields tried", tried)
	}
	for name := range unused {
		t.Errorf("%s is excused and does not exist", name)
	}
}

// holds reports whether t is made of elements of type elem.
func holds(t, elem reflect.Type) bool {
	for t != elem && (t.Kind() == reflect.Slice || t.Kind() == reflect.Map) {
		t = t.Elem()
	}
	return t == elem
}

// inside walks on into the structs of this package that a field holds, directly or in a container.
func inside(field func(*Replica) reflect.Value, r *Replica, walk func(func(*Replica) reflect.Value)) {
	in := func(v reflect.Value) reflect.Value {
		for {
			switch {
			case v.Kind() == reflect.Pointer:
				v = v.Elem()
			case v.Kind() == reflect.Slice:
				v = v.Index(0)
			case v.Kind() == reflect.Map:
				it := v.MapRange()
				it.Next()
				if v = it.Value(); v.Kind() == reflect.Struct {
					panic("a map of structs: its fields cannot be set one by one")
				}
			default:
				return v
			}
		}
	}
	for t := field(r).Type(); ; t = t.Elem() {
		if slices.Contains(shared, t) {
			return
		}
		if k := t.Kind(); k == reflect.Struct {
			if t.PkgPath() == reflect.TypeFor[Replica]().PkgPath() {
				walk(func(r *Replica) reflect.Value { return in(field(r)) })
			}
			return
		} else if k != reflect.Pointer && k != reflect.Slice && k != reflect.Map {
			return
		}
	}
}

func TestTalliesAreToldOnlyOnRequest(t *testing.T) {
	c := newCluster(t, 4, 1)
	c.boot()
	r := c.nodes[1].ord.(*Replica)
	x := r.Clone().(*Replica)
	var out protocol.Effects
	x.Receive(c.now, 3, &Vote{Vote: c.sign(3, auth.KindPrepare, 0, 1, smr.Digest{5})}, &out)
	if !bytes.Equal(r.Fingerprint(nil, false), x.Fingerprint(nil, false)) {
		t.Error("a lone vote shows")
	}
	if bytes.Equal(r.Fingerprint(nil, true), x.Fingerprint(nil, true)) {
		t.Error("a lone vote does not show")
	}
}
