package engine

import (
	"errors"
	"testing"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/protocol/transfer"
	"github.com/atlas-smr/smr/wire"
)

// seeds returns one honest frame of each kind.
func seeds(t testing.TB) (*Decoder, []Frame) {
	s := newShuttle(t, 4, fakeFactory(), nil)
	v := auth.NewVerifier(s.m, s.scheme)
	vote, err := v.Sign(2, s.scheme.Signer(2), v.Statement(auth.KindRoot, 0, 7, smr.Digest{7}))
	if err != nil {
		t.Fatal(err)
	}
	var votes []*auth.Vote
	for id := range smr.NodeID(3) {
		x, _ := v.Sign(id+1, s.scheme.Signer(uint64(id+1)), vote.Statement())
		votes = append(votes, x)
	}
	cert, err := v.Certify(votes)
	if err != nil {
		t.Fatal(err)
	}
	bs := []*smr.Bundle{s.bundle(1), s.bundle(2)}
	head := make([]byte, 40)
	head[7] = 1
	for _, b := range bs {
		head = append(head, b.ID[:]...)
		head = append(head, 0, 0, byte(len(b.Raw)>>8), byte(len(b.Raw)))
	}
	q := transfer.LogRequest{ID: 1, After: 0, Upto: 1, MaxBytes: 1000}
	log, _ := transfer.EncodeLogReply(q, []transfer.LogEntry{{Header: head, Bundles: [][]byte{bs[0].Raw, bs[1].Raw}, Proof: []byte("proof")}}, 1)
	codec := fakeCodec{}
	return NewDecoder(v, codec, s.scheme), []Frame{
		{Class: wire.ClassProtocol, Kind: 2, Payload: encodeOrdering(codec, 1, fakeMsg{kind: 2, seq: 3}, bs)},
		{Class: wire.ClassForwardedRequests, Payload: wire.EncodeBundles(bs)},
		{Class: wire.ClassFetch, Payload: encodeFetch([]smr.BundleID{{1}, {2}})},
		{Class: wire.ClassCheckpoint, Kind: wire.KindRootVote, Payload: transfer.EncodeRootVote(vote)},
		{Class: wire.ClassCheckpoint, Kind: wire.KindRootCert, Payload: transfer.EncodeRootCert(auth.CheckpointCert{Cert: cert})},
		{Class: wire.ClassViewTransfer, Kind: wire.KindQuery, Payload: transfer.EncodeViewQuery(transfer.ViewQuery{ID: 4})},
		{Class: wire.ClassViewTransfer, Kind: wire.KindAnswer, Payload: transfer.EncodeViewReply(transfer.ViewReply{ID: 4, Asker: 1}, make([]byte, 8), []byte{1, 9})},
		{Class: wire.ClassLogTransfer, Kind: wire.KindQuery, Payload: transfer.EncodeLogRequest(q)},
		{Class: wire.ClassLogTransfer, Kind: wire.KindAnswer, Payload: log},
	}
}

func TestTheDecoderTakesWhatCorrectPeersSendAndNothingElse(t *testing.T) {
	d, frames := seeds(t)
	for _, f := range frames {
		m, err := d.Decode(2, f.Class, f.Kind, f.Payload)
		if err != nil || m.Size() < 0 {
			t.Errorf("%s %d: %v", f.Class, f.Kind, err)
		}
		if _, err := d.Decode(2, f.Class, 99, f.Payload); !errors.Is(err, ErrFrame) {
			t.Errorf("%s: kind 99 gives %v", f.Class, err)
		}
		if len(f.Payload) > 40 { // truncated
			if _, err := d.Decode(2, f.Class, f.Kind, f.Payload[:len(f.Payload)-1]); err == nil {
				t.Errorf("%s %d: truncated, but taken", f.Class, f.Kind)
			}
		}
	}
	for _, class := range []wire.Class{0, wire.ClassOrderedRequest, wire.ClassForwardedProtocol, wire.ClassStateTransfer, wire.ClassHandshake, 77} {
		if _, err := d.Decode(2, class, 0, nil); !errors.Is(err, ErrFrame) {
			t.Errorf("class %s: %v", class, err)
		}
	}
	if _, err := d.Decode(3, wire.ClassCheckpoint, wire.KindRootVote, frames[3].Payload); !errors.Is(err, auth.ErrSignature) {
		t.Errorf("another's root vote: %v", err)
	}
}

func TestABundleWithABadSignatureIsRefusedWhereverItTravels(t *testing.T) {
	d, frames := seeds(t)
	for _, i := range []int{0, 1, 8} {
		p := append([]byte(nil), frames[i].Payload...)
		// Flip a byte of the last bundle's signature: found from the back by trying every byte, all
		// of which must be refused or leave bundles untouched.
		refused := 0
		for at := range p {
			p[at] ^= 1
			if _, err := d.Decode(2, frames[i].Class, frames[i].Kind, p); err != nil {
				refused++
			}
			p[at] ^= 1
		}
		if refused < len(p)/2 {
			t.Errorf("%s: only %d of %d flipped bytes are refused", frames[i].Class, refused, len(p))
		}
	}
}

func FuzzDecoder(f *testing.F) {
	d, frames := seeds(f)
	for _, x := range frames {
		f.Add(uint8(x.Class), x.Kind, x.Payload)
	}
	f.Fuzz(func(t *testing.T, class, kind uint8, payload []byte) {
		m, err := d.Decode(2, wire.Class(class), kind, payload)
		if err != nil {
			if !errors.Is(err, ErrFrame) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		if m.Size() < 0 {
			t.Fatal("negative size")
		}
	})
}
