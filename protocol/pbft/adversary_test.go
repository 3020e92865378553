package pbft

import (
	"bytes"
	"encoding/binary"
	"math"
	"runtime"
	"testing"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/pb/pbftpb"
)

// takes reports whether the codec takes a certificate on its own, in a heartbeat, or as a lock.
func (b *bench) takes(c *pbftpb.Certificate) bool {
	h := &pbftpb.Heartbeat{Newest: c}
	l := &pbftpb.Timeout{Lock: c, Signature: make([]byte, auth.SignatureBytes)}
	for kind, m := range map[uint8]interface{ MarshalVT() ([]byte, error) }{kindCertificate: c, kindHeartbeat: h, kindTimeout: l} {
		raw, err := m.MarshalVT()
		if err != nil {
			b.tb.Fatal(err)
		}
		if _, err := b.codec.Decode(1, kind, raw); err == nil {
			return true
		}
	}
	return false
}

func TestAdversaryCertificateWithOneSignerRepeated(t *testing.T) {
	for _, n := range []int{4, 7} {
		b := newBench(t, n, smr.NodeID(n))
		good := encodeCertificate(b.cert(auth.KindCommit, b.proposal(0, nil).Header))
		if !b.takes(good) {
			t.Fatal("a genuine certificate is refused")
		}
		head := (n + 7) / 8
		bad := bytes.Clone(good.Certificate)
		for i := range b.m.Quorum() {
			copy(bad[head+i*auth.SignatureBytes:], good.Certificate[head:head+auth.SignatureBytes])
		}
		if b.takes(&pbftpb.Certificate{Commit: true, Core: good.Core, Certificate: bad}) {
			t.Errorf("n = %d: one signer stands for a quorum", n)
		}
	}
}

func TestAdversaryCertificateWithAnAlteredLabel(t *testing.T) {
	b := newBench(t, 4, 4)
	good := encodeCertificate(b.cert(auth.KindCommit, b.proposal(0, nil).Header))
	for name, at := range map[string]int{"epoch": 65, "view": 73, "seq": 81, "time": 121} {
		for _, x := range []uint64{0, 1, 2, maxPosition - 1, maxPosition, maxPosition + 1, math.MaxInt64, 1 << 63, math.MaxUint64} {
			core := bytes.Clone(good.Core)
			binary.BigEndian.PutUint64(core[at:], x)
			if !bytes.Equal(core, good.Core) && b.takes(&pbftpb.Certificate{Commit: true, Core: core, Certificate: good.Certificate}) {
				t.Errorf("%s %d is taken", name, x)
			}
		}
	}
	for i := range coreBytes {
		core := bytes.Clone(good.Core)
		core[i] ^= 1
		if b.takes(&pbftpb.Certificate{Commit: true, Core: core, Certificate: good.Certificate}) {
			t.Errorf("byte %d changed is taken", i)
		}
	}
	if b.takes(&pbftpb.Certificate{Core: good.Core, Certificate: good.Certificate}) {
		t.Error("commits pass for prepares")
	}
}

func TestAdversaryOverLongBitmapTrailingBitsAndNoSignatures(t *testing.T) {
	for _, n := range []int{4, 7} {
		b := newBench(t, n, smr.NodeID(n))
		good := encodeCertificate(b.cert(auth.KindPrepare, b.proposal(0, nil).Header))
		head := (n + 7) / 8
		sigs := good.Certificate[head:]
		change := func(f func(raw []byte) []byte) []byte { return f(bytes.Clone(good.Certificate)) }
		for name, raw := range map[string][]byte{
			"a bitmap a byte too long": append(append(bytes.Clone(good.Certificate[:head]), 0), sigs...),
			"a bitmap of a megabyte":   make([]byte, 1<<20-1024),
			"a trailing bit":           change(func(r []byte) []byte { r[head-1] |= 0x80; return r }),
			"all voters":               change(func(r []byte) []byte { r[0] = 0xff >> (8 - n); return r }),
			"a voter too few":          change(func(r []byte) []byte { r[0] &^= 1; return r }),
			"no signatures":            good.Certificate[:head],
			"nothing":                  {},
			"f+1 signatures":           good.Certificate[:head+b.m.Weak()*auth.SignatureBytes],
			"a signature too many":     append(bytes.Clone(good.Certificate), sigs[:auth.SignatureBytes]...),
		} {
			c := &pbftpb.Certificate{Core: good.Core, Certificate: raw}
			payload, err := c.MarshalVT()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.codec.Decode(1, kindCertificate, payload); err == nil {
				t.Errorf("n = %d: %s is taken", n, name)
			}
			if name != "a bitmap of a megabyte" {
				continue
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, _ = b.codec.Decode(1, kindCertificate, payload)
			runtime.ReadMemStats(&after)
			if allocs := after.TotalAlloc - before.TotalAlloc; allocs > uint64(len(payload))+64<<10 {
				t.Errorf("refusing %s allocates %d bytes", name, allocs)
			}
		}
	}
}

func TestAdversaryNewViewFromTooFewViewChangesOrADuplicate(t *testing.T) {
	for _, n := range []int{4, 7} {
		b := newBench(t, n, smr.NodeID(n))
		lock := b.cert(auth.KindPrepare, b.proposal(0, nil).Header)
		good := func() *pbftpb.TimeoutCertificate {
			locks := make([]*Certificate, b.m.Quorum())
			locks[len(locks)-1] = lock
			return encodeTimeoutCertificate(b.timeoutCert(0, locks...))
		}
		takes := func(p *pbftpb.TimeoutCertificate) bool {
			raw, err := p.MarshalVT()
			if err != nil {
				t.Fatal(err)
			}
			_, err = b.codec.Decode(2, kindTimeoutCertificate, raw)
			return err == nil
		}
		if !takes(good()) {
			t.Fatal("a genuine one is refused")
		}
		for name, spoil := range map[string]func(p *pbftpb.TimeoutCertificate){
			"f+1 view changes":               func(p *pbftpb.TimeoutCertificate) { p.Shares = p.Shares[len(p.Shares)-b.m.Weak():] },
			"one short of a quorum":          func(p *pbftpb.TimeoutCertificate) { p.Shares = p.Shares[1:] },
			"a duplicate hiding the highest": func(p *pbftpb.TimeoutCertificate) { p.Shares[len(p.Shares)-1], p.Lock = p.Shares[0], nil },
			"without the highest lock":       func(p *pbftpb.TimeoutCertificate) { p.Lock = nil },
			"the highest lock denied": func(p *pbftpb.TimeoutCertificate) {
				s := p.Shares[len(p.Shares)-1]
				s.Locked, s.LockView, s.LockSeq, s.LockDigest, p.Lock = false, 0, 0, nil, nil
			},
			"in another's name":         func(p *pbftpb.TimeoutCertificate) { p.Shares[0].Signature = p.Shares[1].Signature },
			"unsigned":                  func(p *pbftpb.TimeoutCertificate) { p.Shares[0].Signature = nil },
			"of another view":           func(p *pbftpb.TimeoutCertificate) { p.View++ },
			"of a voter that is not":    func(p *pbftpb.TimeoutCertificate) { p.Shares[len(p.Shares)-1].Voter = uint32(n) },
			"of a voter beyond numbers": func(p *pbftpb.TimeoutCertificate) { p.Shares[len(p.Shares)-1].Voter = math.MaxUint32 },
			"the crash-fault quorum":    func(p *pbftpb.TimeoutCertificate) { p.Shares = p.Shares[len(p.Shares)-min(n/2+1, b.m.Quorum()-1):] },
		} {
			p := good()
			if spoil(p); takes(p) {
				t.Errorf("n = %d: %s opens a view", n, name)
			}
		}
	}
}

// size is about what a replica keeps of what others said.
func (b *bench) size() int {
	n := len(b.r.blocks) + len(b.r.slots) + len(b.r.ahead) + len(b.r.wanted) + len(b.r.bundle) + len(b.r.bySeq)
	for _, e := range b.r.early {
		n += e.bytes
	}
	return n
}

func TestAdversaryAncientViewChangesLeaveNoState(t *testing.T) {
	b := newBench(t, 4, 4)
	var old []*Timeout
	for v := range smr.View(200) {
		old = append(old, b.timeout(2, v, nil))
	}
	b.receive(3, b.timeoutCert(500, nil, nil, nil))
	if b.r.view != 501 {
		t.Fatalf("view %d", b.r.view)
	}
	before, log := b.size(), len(b.log)
	told := 0
	for range 3 {
		for _, x := range old {
			told += len(b.receive(2, x).Send)
		}
	}
	if b.size() != before || len(b.log) != log || b.r.view != 501 || b.r.timedOut {
		t.Errorf("state of %d bytes, %d records, view %d", b.size()-before, len(b.log)-log, b.r.view)
	}
	if told > 1 {
		t.Errorf("600 ancient view changes at one time got %d answers", told)
	}
}

func TestAdversaryViewsAndSequenceNumbersAMillionAheadLeaveNoState(t *testing.T) {
	b := newBench(t, 4, 4)
	first := b.proposal(0, nil)
	b.receive(1, first)
	before, log := b.size(), len(b.log)
	for i := range 300 {
		far := uint64(1_000_000 + i)
		for _, seq := range []smr.SeqNo{smr.SeqNo(far), maxPosition - smr.SeqNo(i)} {
			h := newHeader(b.m, Header{Epoch: 1, Seq: seq, Time: b.now.UnixNano()})
			b.receive(1, &Proposal{Header: h, Signature: b.sign(1, auth.KindProposal, 0, seq, h.Digest).Signature()})
			b.receive(2, &Vote{Vote: b.sign(2, auth.KindPrepare, 0, seq, h.Digest)})
			b.receive(2, &Vote{Vote: b.sign(2, auth.KindCommit, 0, seq, h.Digest)})
		}
	}
	if b.size() != before || len(b.log) != log {
		t.Errorf("sequence numbers far ahead left state: %d", b.size()-before)
	}
	for i := range 3000 {
		v := smr.View(1_000_000 + i)
		b.receive(2, b.timeout(2, v, nil))
		b.receive(2, &Complaint{Vote: b.sign(2, auth.KindComplaint, v, math.MaxUint64, smr.Digest{})})
		b.receive(2, &Vote{Vote: b.sign(2, auth.KindPrepare, v, smr.SeqNo(1+i%8), smr.Digest{9})})
	}
	if b.r.view != 0 || b.r.timedOut || b.r.own != nil {
		t.Errorf("one replica moved another to view %d", b.r.view)
	}
	if kept := b.size() - before; kept > 4<<20 {
		t.Errorf("views far ahead left %d bytes", kept)
	}
}
