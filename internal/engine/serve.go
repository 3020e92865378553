package engine

import (
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/protocol/transfer"
	"github.com/atlas-smr/smr/wire"
)

// serving is what one peer costs.
type serving struct {
	budget int // bytes it may still have; refilled by the second
	at     time.Time
	read   uint64 // its log read under way; 0 = none
	states int    // its questions about a checkpoint that are being answered
}

type pendingRead struct {
	to      smr.NodeID
	q       transfer.LogRequest
	widened bool
}

// maxFrameBundles bounds the bundles of one answer in bytes.
const maxFrameBundles = 8 << 20

func (e *Engine) peer(now time.Time, id smr.NodeID) *serving {
	s := e.serve[id]
	if s == nil {
		s = &serving{budget: e.cfg.Limits.ServeBytes, at: now}
		e.serve[id] = s
	}
	if passed := now.Sub(s.at); passed > 0 {
		limit := e.cfg.Limits.ServeBytes
		s.budget = min(limit, s.budget+int(min(passed.Seconds(), 1)*float64(limit)))
		s.at = now
	}
	return s
}

// serveFetch answers a peer that lacks bundles, within its budget.
func (e *Engine) serveFetch(now time.Time, from smr.NodeID, ids []smr.BundleID, out *Output) {
	s := e.peer(now, from)
	var send []*smr.Bundle
	bytes := 0
	seen := make(map[smr.BundleID]bool, len(ids))
	for _, id := range ids {
		x, ok := e.store.get(id)
		if !ok || seen[id] {
			continue
		}
		seen[id] = true
		n := len(x.b.Raw)
		if bytes+n > maxFrameBundles || len(send) == smr.MaxBatchBundles {
			break // it asks again for the rest
		}
		if s.budget < n {
			e.drop(out, from, "fetch-budget")
			break
		}
		s.budget -= n
		bytes += n
		send = append(send, x.b)
		e.lacked(x.b.Client)
	}
	if len(send) > 0 {
		out.Send = append(out.Send, bundlesFrame(send, from))
	}
}

func bundlesFrame(bs []*smr.Bundle, to ...smr.NodeID) Frame {
	return Frame{To: to, Class: wire.ClassForwardedRequests, Kind: wire.KindOnly, Payload: wire.EncodeBundles(bs)}
}

// forwarded takes bundles from another replica: those a live proposal waits for are kept, the rest
// goes to the request workers for admission.
func (e *Engine) forwarded(from smr.NodeID, bs []*smr.Bundle, out *Output) {
	var offer []*smr.Bundle
	for _, b := range bs {
		if e.fetch.wants[b.ID] != nil {
			e.bring(from, []*smr.Bundle{b})
		} else if x, ok := e.store.get(b.ID); (!ok || !x.pooled && !x.decided) && !e.store.recent.has(b.ID) {
			offer = append(offer, b)
		}
	}
	if len(offer) > 0 {
		out.Offer = append(out.Offer, Offer{From: auth.NodeIdentity(from), Bundles: offer})
	}
}

// answerView tells a peer what this replica has seen of it.
func (e *Engine) answerView(from smr.NodeID, q transfer.ViewQuery, out *Output) {
	st := e.ord.Status()
	r := transfer.ViewReply{ID: q.ID, Epoch: st.Epoch, View: st.View, Asker: from, Decided: st.Decided}
	out.Send = append(out.Send, Frame{
		To: []smr.NodeID{from}, Class: wire.ClassViewTransfer, Kind: wire.KindAnswer,
		Payload: transfer.EncodeViewReply(r, e.ord.Lock(), e.ord.Evidence(from)),
	})
}

// serveLog starts reading what a peer asks for; one read a peer at a time, the newest question
// stands.
func (e *Engine) serveLog(now time.Time, from smr.NodeID, q transfer.LogRequest, out *Output) {
	s := e.peer(now, from)
	if s.budget <= 0 {
		e.drop(out, from, "log-budget")
		return
	}
	if s.read != 0 {
		delete(e.reads, s.read)
	}
	q.Upto = min(q.Upto, e.deliver.decided, q.After+transfer.MaxLogEntries)
	if q.Upto <= q.After {
		s.read = 0
		payload, _ := transfer.EncodeLogReply(q, nil, 0)
		out.Send = append(out.Send, Frame{To: []smr.NodeID{from}, Class: wire.ClassLogTransfer, Kind: wire.KindAnswer, Payload: payload})
		return
	}
	e.readLog(from, q, q.MaxBytes, false, out)
}

func (e *Engine) readLog(to smr.NodeID, q transfer.LogRequest, maxBytes int, widened bool, out *Output) {
	e.readID++
	e.reads[e.readID] = pendingRead{to: to, q: q, widened: widened}
	e.serve[to].read = e.readID
	out.ReadLog = append(out.ReadLog, LogRead{To: to, ID: e.readID, After: q.After, Upto: q.Upto, MaxBytes: maxBytes})
}

// widenedRead is how far a read goes on to find the certificate that speaks for what was read.
const widenedRead = 64 << 20

// LogRead takes the answer to a LogRead and sends it to the peer.
func (e *Engine) LogRead(now time.Time, r LogReadResult, out *Output) {
	p, ok := e.reads[r.ID]
	if !ok {
		e.finish(now, out) // superseded
		return
	}
	delete(e.reads, r.ID)
	s := e.peer(now, p.to)
	s.read = 0
	payload, more := transfer.EncodeLogReply(p.q, r.Entries, r.First)
	if more && !p.widened {
		p.q.Upto = min(e.deliver.decided, p.q.After+2*transfer.MaxLogEntries)
		e.readLog(p.to, p.q, widenedRead, true, out)
		e.finish(now, out)
		return
	}
	s.budget -= len(payload)
	out.Send = append(out.Send, Frame{To: []smr.NodeID{p.to}, Class: wire.ClassLogTransfer, Kind: wire.KindAnswer, Payload: payload})
	e.finish(now, out)
}

// serveState has read what a peer asks of a checkpoint; a few questions a peer at a time. The driver
// paces the reading, so that no budget of ordering is touched.
func (e *Engine) serveState(now time.Time, from smr.NodeID, q transfer.StateRequest, out *Output) {
	s := e.peer(now, from)
	if s.states >= 2*e.cfg.Limits.StatePerSource {
		e.drop(out, from, "state-questions")
		return
	}
	s.states++
	out.ReadState = append(out.ReadState, StateRead{To: from, Query: q})
}

// StateRead takes the payload that answers a StateRead and sends it to the peer.
func (e *Engine) StateRead(now time.Time, to smr.NodeID, payload []byte, out *Output) {
	s := e.peer(now, to)
	s.states = max(0, s.states-1)
	out.Send = append(out.Send, Frame{To: []smr.NodeID{to}, Class: wire.ClassStateTransfer, Kind: wire.KindAnswer, Payload: payload})
	e.finish(now, out)
}
