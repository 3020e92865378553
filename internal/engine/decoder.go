package engine

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/pb/wirepb"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/protocol/transfer"
	"github.com/atlas-smr/smr/wire"
)

// ErrFrame is wrapped by every refusal of a frame: a correct peer would not have sent it.
var ErrFrame = errors.New("bad frame")

// Inbound is a decoded and verified frame from a node. Only a Decoder makes one. It is immutable.
type Inbound interface {
	// Size is about what keeping it costs, in bytes.
	Size() int
}

type (
	orderingMessage struct {
		origin  smr.NodeID // who made it; the sender unless relayed
		msg     protocol.Message
		bundles []*smr.Bundle
	}
	forwardedBundles struct {
		bundles []*smr.Bundle
		bytes   int
	}
	fetchBundles struct{ ids []smr.BundleID }
	rootVote     struct{ vote *auth.Vote }
	rootCert     struct{ cert auth.CheckpointCert }
	viewQuery    struct{ q transfer.ViewQuery }
	viewReply    struct{ r transfer.ViewReply }
	logRequest   struct{ q transfer.LogRequest }
	logReply     struct{ r *transfer.LogReply }
	stateRequest struct{ q transfer.StateRequest }
	stateReply   struct{ r *transfer.StateReply }
)

func (m orderingMessage) Size() int {
	n := m.msg.Size()
	for _, b := range m.bundles {
		n += len(b.Raw)
	}
	return n
}
func (m forwardedBundles) Size() int { return m.bytes }
func (m fetchBundles) Size() int     { return 32 * len(m.ids) }
func (rootVote) Size() int           { return 256 }
func (rootCert) Size() int           { return 1024 }
func (viewQuery) Size() int          { return 64 }
func (viewReply) Size() int          { return 128 }
func (logRequest) Size() int         { return 64 }
func (m logReply) Size() int         { return m.r.Bytes }
func (stateRequest) Size() int       { return 64 }
func (m stateReply) Size() int       { return m.r.Size() }

// Decoder decodes and verifies frames of every class between nodes. It is immutable and safe for
// concurrent use: network workers run it before the loop.
type Decoder struct {
	verifier *auth.Verifier
	codec    protocol.Codec
	scheme   auth.Scheme
}

// NewDecoder returns the decoder for the voters of v. scheme verifies bundle signatures; nil
// verifies none.
func NewDecoder(v *auth.Verifier, codec protocol.Codec, scheme auth.Scheme) *Decoder {
	return &Decoder{verifier: v, codec: codec, scheme: scheme}
}

// Decode reads and verifies everything in a frame from the authenticated node from, attached
// bundles included. The result may alias payload, which must not change afterwards. Errors wrap
// ErrFrame.
func (d *Decoder) Decode(from smr.NodeID, class wire.Class, kind uint8, payload []byte) (Inbound, error) {
	if len(payload) > class.MaxFrameBytes() {
		return nil, fmt.Errorf("%w: %s of %d bytes", ErrFrame, class, len(payload))
	}
	m, err := d.decode(from, class, kind, payload)
	if err != nil {
		return nil, fmt.Errorf("%w: %s from node %d: %w", ErrFrame, class, from, err)
	}
	return m, nil
}

func (d *Decoder) decode(from smr.NodeID, class wire.Class, kind uint8, payload []byte) (Inbound, error) {
	switch class {
	case wire.ClassProtocol:
		var p wirepb.ProtocolMessage
		if err := unpack(&p, protocolSchema, payload); err != nil {
			return nil, err
		}
		return d.ordering(from, kind, &p)
	case wire.ClassForwardedProtocol:
		return d.relayed(payload)
	case wire.ClassForwardedRequests:
		if kind != wire.KindOnly {
			return nil, errKind
		}
		bundles, err := wire.DecodeBundles(payload)
		if err != nil {
			return nil, err
		}
		return forwardedBundles{bundles: d.own(bundles, len(payload)), bytes: len(payload)}, d.verify(bundles)
	case wire.ClassFetch:
		return decodeFetch(kind, payload)
	case wire.ClassCheckpoint, wire.ClassViewTransfer, wire.ClassLogTransfer, wire.ClassStateTransfer:
		return d.transfer(from, class, kind, payload)
	}
	return nil, errors.New("no such class between nodes")
}

var errKind = errors.New("unknown kind")

func (d *Decoder) transfer(from smr.NodeID, class wire.Class, kind uint8, payload []byte) (Inbound, error) {
	switch {
	case class == wire.ClassCheckpoint && kind == wire.KindRootVote:
		v, err := transfer.DecodeRootVote(d.verifier, from, payload)
		return rootVote{v}, err
	case class == wire.ClassCheckpoint && kind == wire.KindRootCert:
		c, err := transfer.DecodeRootCert(d.verifier, payload)
		return rootCert{c}, err
	case class == wire.ClassViewTransfer && kind == wire.KindQuery:
		q, err := transfer.DecodeViewQuery(payload)
		return viewQuery{q}, err
	case class == wire.ClassViewTransfer && kind == wire.KindAnswer:
		r, err := transfer.DecodeViewReply(d.codec, payload)
		return viewReply{r}, err
	case class == wire.ClassLogTransfer && kind == wire.KindQuery:
		q, err := transfer.DecodeLogRequest(payload)
		return logRequest{q}, err
	case class == wire.ClassLogTransfer && kind == wire.KindAnswer:
		r, err := transfer.DecodeLogReply(d.verifier, d.codec, d.scheme, payload)
		if err != nil {
			return nil, err
		}
		return logReply{r}, nil
	case class == wire.ClassStateTransfer && kind == wire.KindQuery:
		q, err := transfer.DecodeStateRequest(payload)
		return stateRequest{q}, err
	case class == wire.ClassStateTransfer && kind == wire.KindAnswer:
		r, err := transfer.DecodeStateReply(payload)
		if err != nil {
			return nil, err
		}
		return stateReply{r}, nil
	}
	return nil, errKind
}

// ordering decodes a message that origin made.
func (d *Decoder) ordering(origin smr.NodeID, kind uint8, p *wirepb.ProtocolMessage) (Inbound, error) {
	if p.Kind != uint32(kind) {
		return nil, errKind
	}
	if smr.Epoch(p.Epoch) != d.verifier.Membership().Epoch() {
		return nil, fmt.Errorf("epoch %d, want %d", p.Epoch, d.verifier.Membership().Epoch())
	}
	bundles := make([]*smr.Bundle, len(p.Bundles))
	total := 0
	for i, raw := range p.Bundles {
		b, err := wire.DecodeBundle(raw)
		if err != nil {
			return nil, err
		}
		bundles[i] = b
		total += len(raw)
	}
	msg, err := d.codec.Decode(origin, kind, p.Payload)
	if err != nil {
		return nil, err
	}
	if err := d.verify(bundles); err != nil {
		return nil, err
	}
	return orderingMessage{origin: origin, msg: msg, bundles: d.own(bundles, total)}, nil
}

// selfSigned is what a codec implements whose messages, of the given kind, are signed by their
// origin; only those may be relayed.
type selfSigned interface{ Signed(kind uint8) bool }

func (d *Decoder) relayed(payload []byte) (Inbound, error) {
	var f wirepb.ForwardedProtocol
	if err := unpack(&f, relayedSchema, payload); err != nil {
		return nil, err
	}
	s, ok := d.codec.(selfSigned)
	if f.Message == nil || f.Message.Kind > 255 || !ok || d.verifier.Scheme() == nil || !s.Signed(uint8(f.Message.Kind)) {
		return nil, errors.New("relayed message is not signed by its origin")
	}
	return d.ordering(smr.NodeID(f.Origin), uint8(f.Message.Kind), f.Message)
}

func (d *Decoder) verify(bundles []*smr.Bundle) error {
	if d.scheme == nil || len(bundles) == 0 {
		return nil
	}
	if wire.VerifyBundles(d.scheme, d.verifier.Membership().Cluster(), bundles) != nil {
		return errors.New("bundle signature")
	}
	return nil
}

// own gives each bundle memory of its own when they share a frame, so that one small bundle that
// is kept does not keep the whole frame.
func (d *Decoder) own(bundles []*smr.Bundle, frame int) []*smr.Bundle {
	for i, b := range bundles {
		if 2*len(b.Raw) < frame {
			if c, err := wire.DecodeBundle(bytes.Clone(b.Raw)); err == nil {
				bundles[i] = c
			}
		}
	}
	return bundles
}

// MaxFetchIDs bounds the bundles asked for in one message.
const MaxFetchIDs = 4096

func decodeFetch(kind uint8, payload []byte) (Inbound, error) {
	if kind != wire.KindOnly {
		return nil, errKind
	}
	var p wirepb.FetchBundles
	if err := unpack(&p, fetchSchema, payload); err != nil {
		return nil, err
	}
	m := fetchBundles{ids: make([]smr.BundleID, len(p.Ids))}
	for i, id := range p.Ids {
		if len(id) != len(smr.BundleID{}) {
			return nil, fmt.Errorf("id of %d bytes", len(id))
		}
		m.ids[i] = smr.BundleID(id)
	}
	return m, nil
}

// What the messages may hold: see wire.Schema.
var (
	protocolSchema = wire.Schema{Fields: wire.Fields(1, 2, 3, 4), Repeats: []wire.Repeat{
		{Field: 3, Most: smr.MaxBatchBundles, Least: wire.LeastBundleBytes},
	}}
	relayedSchema = wire.Schema{Fields: wire.Fields(1, 2), Repeats: []wire.Repeat{{Field: 2, Most: 1, In: []wire.Schema{protocolSchema}}}}
	fetchSchema   = wire.Schema{Fields: wire.Fields(1), Repeats: []wire.Repeat{{Field: 1, Most: MaxFetchIDs, Least: len(smr.BundleID{})}}}
)

// unpack reads a message that its schema allows. It may alias payload.
func unpack(m interface{ UnmarshalVTUnsafe([]byte) error }, s wire.Schema, payload []byte) error {
	if _, err := s.Check(payload); err != nil {
		return err
	}
	return m.UnmarshalVTUnsafe(payload)
}

// encodeOrdering returns the payload of an ordering's message with attached bundles.
func encodeOrdering(codec protocol.Codec, epoch smr.Epoch, m protocol.Message, attach []*smr.Bundle) []byte {
	p := wirepb.ProtocolMessage{Kind: uint32(m.Kind()), Payload: codec.Append(nil, m), Epoch: uint64(epoch)}
	for _, b := range attach {
		p.Bundles = append(p.Bundles, b.Raw)
	}
	return must(p.MarshalVT())
}

func encodeFetch(ids []smr.BundleID) []byte {
	p := wirepb.FetchBundles{Ids: make([][]byte, len(ids))}
	for i := range ids {
		p.Ids[i] = ids[i][:]
	}
	return must(p.MarshalVT())
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err) // messages of integers and byte slices always encode
	}
	return b
}
