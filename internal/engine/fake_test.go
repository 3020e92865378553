package engine

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/quorum"
)

// fake is a tiny ordering for tests: node 1 leads for ever, proposals go to everyone, acks go to
// the leader through the gate, a quorum of acks decides, and the leader says so. It tolerates no
// fault of the leader.
type fake struct {
	p        protocol.Params
	live     map[smr.SeqNo]*fakeSlot
	tip      smr.SeqNo
	chain    smr.Digest // at tip
	decided  smr.SeqNo
	digest   smr.Digest // at decided
	stable   smr.SeqNo
	voted    smr.SeqNo
	on       bool
	heard    smr.SeqNo
	suspects int
}

type fakeSlot struct {
	info    protocol.HeaderInfo
	raw     []byte
	lacking map[smr.BundleID]bool
	done    bool // accepted
	commit  bool
	acks    map[smr.NodeID]bool
}

// fakeMsg kinds: 1 proposal, 2 ack, 3 decide.
type fakeMsg struct {
	kind uint8
	seq  smr.SeqNo
	raw  []byte
}

func (m fakeMsg) Kind() uint8 { return m.kind }
func (m fakeMsg) Size() int   { return len(m.raw) + 16 }

type fakeCodec struct{}

func (fakeCodec) Append(dst []byte, m protocol.Message) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(m.(fakeMsg).seq))
	return append(dst, m.(fakeMsg).raw...)
}

func (fakeCodec) Decode(_ smr.NodeID, kind uint8, p []byte) (protocol.Message, error) {
	if len(p) < 8 || kind < 1 || kind > 3 {
		return nil, errors.New("bad fake message")
	}
	m := fakeMsg{kind: kind, seq: smr.SeqNo(binary.BigEndian.Uint64(p)), raw: p[8:]}
	if kind == 1 {
		h, err := fakeHeader(m.raw)
		if err != nil || h.Seq != m.seq {
			return nil, errors.New("bad fake header")
		}
	}
	return m, nil
}

func (c fakeCodec) VerifyRange(after smr.SeqNo, parent smr.Digest, r protocol.Range) ([]protocol.Decision, error) {
	var out []protocol.Decision
	for i, raw := range r.Headers {
		h, err := fakeHeader(raw)
		if err != nil || h.Seq != after+1+smr.SeqNo(i) || h.Parent != parent {
			return nil, errors.New("broken range")
		}
		parent = h.Digest
		out = append(out, protocol.Decision{HeaderInfo: h, Header: raw})
	}
	if string(r.Proof) != "proof" {
		return nil, errors.New("no proof")
	}
	out[len(out)-1].Proof = new(auth.Certificate)
	return out, nil
}

func (fakeCodec) OpenLock(raw []byte) (protocol.Mark, error) {
	if len(raw) != 8 {
		return protocol.Mark{}, errors.New("bad lock")
	}
	return protocol.Mark{Epoch: 1, Seq: smr.SeqNo(binary.BigEndian.Uint64(raw))}, nil
}

// OpenEvidence reads a vote of seq that its first byte says who signed.
func (fakeCodec) OpenEvidence(id smr.NodeID, raw []byte) (protocol.Mark, error) {
	if len(raw) != 2 || raw[0] != byte(id) {
		return protocol.Mark{}, errors.New("bad evidence")
	}
	return protocol.Mark{Epoch: 1, Seq: smr.SeqNo(raw[1])}, nil
}

func (fakeCodec) Header(raw []byte) (protocol.HeaderInfo, error) { return fakeHeader(raw) }

func fakeHeader(raw []byte) (protocol.HeaderInfo, error) {
	if len(raw) < 40 || (len(raw)-40)%36 != 0 {
		return protocol.HeaderInfo{}, errors.New("bad header")
	}
	h := protocol.HeaderInfo{Epoch: 1, Seq: smr.SeqNo(binary.BigEndian.Uint64(raw)), Digest: sha256.Sum256(raw)}
	copy(h.Parent[:], raw[8:40])
	for b := raw[40:]; len(b) > 0; b = b[36:] {
		h.Refs = append(h.Refs, smr.BundleRef{ID: smr.BundleID(b[:32]), Bytes: binary.BigEndian.Uint32(b[32:])})
	}
	return h, nil
}

func fakeFactory() protocol.Factory {
	return protocol.Factory{
		Name: "fake", Model: quorum.Byzantine,
		New: func(p protocol.Params) protocol.Ordering {
			return &fake{p: p, live: map[smr.SeqNo]*fakeSlot{}}
		},
		NewCodec: func(*auth.Verifier) protocol.Codec { return fakeCodec{} },
	}
}

func (f *fake) leads() bool { return f.p.Self == 1 }

func (f *fake) Start(_ time.Time, r protocol.Recovered, out *protocol.Effects) {
	f.decided, f.digest = r.Base.Seq, r.Base.Digest
	for _, p := range r.Proposals {
		f.voted = max(f.voted, p.Seq)
	}
	for _, d := range r.Decisions {
		f.decided, f.digest = d.Seq, d.Digest
	}
	f.tip, f.chain = f.decided, f.digest
}
func (f *fake) Enable(time.Time, *protocol.Effects) { f.on = true }
func (f *fake) Want() int {
	if f.on && f.leads() && int(f.tip-f.decided) < max(1, f.p.Pipeline) {
		return 1
	}
	return 0
}

func (f *fake) Propose(now time.Time, b smr.Batch, out *protocol.Effects) {
	raw := binary.BigEndian.AppendUint64(nil, uint64(f.tip+1))
	raw = append(raw, f.chain[:]...)
	for _, r := range b.Refs {
		raw = append(raw, r.ID[:]...)
		raw = binary.BigEndian.AppendUint32(raw, r.Bytes)
	}
	m := fakeMsg{kind: 1, seq: f.tip + 1, raw: raw}
	out.Send = append(out.Send, protocol.Outbound{To: protocol.Everyone, Msg: m, Attach: b.Inline})
	f.Receive(now, f.p.Self, m, out)
}

func (f *fake) Receive(now time.Time, from smr.NodeID, m protocol.Message, out *protocol.Effects) {
	switch x := m.(fakeMsg); x.kind {
	case 1:
		h, _ := fakeHeader(x.raw)
		if h.Seq != f.tip+1 || h.Parent != f.chain || from != 1 {
			f.heard = max(f.heard, h.Seq)
			if h.Seq > f.tip+1 {
				out.Behind = &protocol.Lag{Seq: h.Seq - 1}
			}
			return
		}
		s := &fakeSlot{info: h, raw: x.raw, lacking: map[smr.BundleID]bool{}, acks: map[smr.NodeID]bool{}}
		f.live[h.Seq], f.tip, f.chain = s, h.Seq, h.Digest
		for _, r := range h.Refs {
			s.lacking[r.ID] = true
			out.Hold = append(out.Hold, r.ID)
		}
	case 2:
		if s := f.live[x.seq]; s != nil && f.leads() {
			s.acks[from] = true
			if len(s.acks) >= f.p.Membership.Quorum() && !s.commit {
				out.Send = append(out.Send, protocol.Outbound{To: protocol.Everyone, Msg: fakeMsg{kind: 3, seq: x.seq}})
				s.commit = true
				f.advance(out)
			}
		}
	case 3:
		if s := f.live[x.seq]; s != nil {
			s.commit = true
			f.advance(out)
		} else if x.seq > f.decided {
			out.Behind = &protocol.Lag{Seq: x.seq}
		}
	}
}

func (f *fake) Held(_ time.Time, ids []smr.BundleID, out *protocol.Effects) {
	for seq := f.decided + 1; seq <= f.tip; seq++ {
		s := f.live[seq]
		for _, id := range ids {
			delete(s.lacking, id)
		}
		if len(s.lacking) == 0 && !s.done {
			s.done = true
			out.Persist = append(out.Persist, protocol.Record{
				Kind: protocol.RecordProposal, Epoch: 1, Seq: seq, Digest: s.info.Digest, Data: s.raw, Refs: s.info.Refs,
			})
			if f.on {
				f.voted = max(f.voted, seq)
				out.SendDurable = append(out.SendDurable, protocol.Outbound{To: 1, Msg: fakeMsg{kind: 2, seq: seq}})
			}
		}
	}
	f.advance(out)
}

func (f *fake) advance(out *protocol.Effects) {
	for {
		s := f.live[f.decided+1]
		if s == nil || !s.done || !s.commit {
			return
		}
		f.decided, f.digest = f.decided+1, s.info.Digest
		delete(f.live, f.decided)
		out.Persist = append(out.Persist, protocol.Record{
			Kind: protocol.RecordDecision, Epoch: 1, Seq: f.decided, Digest: f.digest, Data: []byte("proof"),
		})
		out.Decide = append(out.Decide, protocol.Decision{HeaderInfo: s.info, Header: s.raw})
	}
}

func (f *fake) Install(_ time.Time, at smr.SeqNo, p protocol.Proof, out *protocol.Effects) {
	for seq := f.decided + 1; seq <= f.tip; seq++ {
		for _, r := range f.live[seq].info.Refs {
			out.Release = append(out.Release, r.ID)
		}
		delete(f.live, seq)
	}
	f.decided, f.digest = at, p.Decision.Digest
	f.tip, f.chain = at, f.digest
}

func (f *fake) Expire(time.Time, protocol.TimerID, *protocol.Effects)          {}
func (f *fake) Suspect(time.Time, []smr.BundleID, *protocol.Effects)           { f.suspects++ }
func (f *fake) HandOver(time.Time, smr.NodeID, *protocol.Effects)              {}
func (f *fake) Reconfigure(time.Time, *quorum.Membership, *protocol.Effects)   {}
func (f *fake) Connected(time.Time, smr.NodeID, *protocol.Effects)             {}
func (f *fake) Pending(time.Time, bool, *protocol.Effects)                     {}
func (f *fake) Stable(_ time.Time, c auth.CheckpointCert, _ *protocol.Effects) { f.stable = c.Seq() }
func (f *fake) Seen(smr.NodeID) protocol.Mark                                  { return protocol.Mark{} }
func (f *fake) Evidence(smr.NodeID) []byte                                     { return nil }
func (f *fake) Lock() []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(f.decided))
}
func (f *fake) Status() protocol.Status {
	return protocol.Status{
		Epoch: 1, Primary: 1, Leading: f.leads(), Voting: f.on, Tip: f.tip, Prepared: f.decided, Decided: f.decided, Stable: f.stable,
		Chain: f.digest, Voted: protocol.Mark{Epoch: 1, Seq: f.voted}, Locked: protocol.Mark{Epoch: 1, Seq: f.decided},
		InFlight: int(f.tip - f.decided), Timeout: f.p.BaseTimeout,
	}
}
