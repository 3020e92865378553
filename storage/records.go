package storage

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/invariant"
	"github.com/atlas-smr/smr/internal/mutant"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/wire"
)

// tables is the ordered map under the log. Values are sealed; slices handed out are the caller's to
// keep but not to change.
type tables interface {
	set(key, value []byte) error
	delete(key []byte) error
	// deleteRange deletes the keys in [from, to).
	deleteRange(from, to []byte) error
}

// view is a consistent, readable state of the tables.
type view interface {
	// get returns nil for a key that is not there.
	get(key []byte) ([]byte, error)
	// scan calls f for the keys in [from, to) in order until it returns false or an error.
	scan(from, to []byte, f func(key, value []byte) (bool, error)) error
}

// write puts records into t, in order.
func write(t tables, records []protocol.Record, bundles [][]*smr.Bundle) error {
	for i := range records {
		var bs []*smr.Bundle
		if i < len(bundles) {
			bs = bundles[i]
		}
		if err := writeRecord(t, &records[i], bs); err != nil {
			return err
		}
	}
	return nil
}

func writeRecord(t tables, r *protocol.Record, bundles []*smr.Bundle) error {
	switch r.Kind {
	case protocol.RecordState:
		key := stateKey(r.Name)
		return t.set(key, seal(key, appendState(newBody(70+len(r.Data)), r)))
	case protocol.RecordProposal:
		size := 24 + len(r.Data)
		for _, b := range bundles {
			size += len(b.Raw) + 5
		}
		key := proposalKey(r.Seq, r.View, r.Digest)
		return t.set(key, seal(key, appendProposal(newBody(size), r, bundles)))
	case protocol.RecordDecision:
		key := seqKey(tableDecision, r.Seq)
		return t.set(key, seal(key, appendDecision(newBody(60+len(r.Data)), r)))
	case protocol.RecordDrop:
		return t.delete(proposalKey(r.Seq, r.View, r.Digest))
	}
	return fmt.Errorf("unknown kind of record %d", r.Kind)
}

// checkRecords asserts what Append's caller owes.
func checkRecords(records []protocol.Record, bundles [][]*smr.Bundle) {
	for i := range records {
		r := &records[i]
		if r.Kind != protocol.RecordProposal {
			continue
		}
		have := 0
		if i < len(bundles) {
			have = len(bundles[i])
		}
		invariant.Check(have == len(r.Refs), "proposal %d names %d bundles and %d come with it", r.Seq, len(r.Refs), have)
		for j, ref := range r.Refs {
			invariant.Check(bundles[i][j].ID == ref.ID, "bundle %d of proposal %d is another one", j, r.Seq)
		}
	}
}

// size is about what queueing the records costs, in bytes.
func size(records []protocol.Record, bundles [][]*smr.Bundle) int {
	n := 0
	for i := range records {
		n += 64 + len(records[i].Data)
	}
	for _, bs := range bundles {
		for _, b := range bs {
			n += len(b.Raw)
		}
	}
	return n
}

// truncateTo deletes the log at or below upto and remembers it.
func truncateTo(t tables, upto smr.SeqNo) error {
	for _, table := range []byte{tableDecision, tableProposal} {
		if err := t.deleteRange(seqKey(table, 0), seqKey(table, upto+1)); err != nil {
			return err
		}
	}
	return t.set(keyFloor, seal(keyFloor, binary.BigEndian.AppendUint64(newBody(8), uint64(upto))))
}

func writeCert(t tables, seq smr.SeqNo, cert []byte) error {
	key := seqKey(tableCert, seq)
	return t.set(key, seal(key, append(newBody(len(cert)), cert...)))
}

// readFloor returns the sequence number at or below which the log was truncated.
func readFloor(v view) (smr.SeqNo, error) {
	value, err := v.get(keyFloor)
	if err != nil || value == nil {
		return 0, err
	}
	body, err := open(keyFloor, value)
	if err != nil {
		return 0, err
	}
	if len(body) != 8 {
		return 0, corrupt("truncation mark of %d bytes", len(body))
	}
	return smr.SeqNo(binary.BigEndian.Uint64(body)), nil
}

func readCert(v view, seq smr.SeqNo) ([]byte, error) {
	key := seqKey(tableCert, seq)
	value, err := v.get(key)
	if err != nil || value == nil {
		return nil, err
	}
	body, err := open(key, value)
	return bytes.Clone(body), err
}

// recoverLog reads the log above base.
func recoverLog(v view, base protocol.HeaderInfo) (Recovered, error) {
	rec := Recovered{Recovered: protocol.Recovered{Base: base}}
	err := v.scan([]byte{tableState}, []byte{tableState + 1}, func(key, value []byte) (bool, error) {
		body, err := open(key, value)
		if err != nil {
			return false, err
		}
		if len(key) != 2 {
			return false, corrupt("unknown key %s", keyName(key))
		}
		r, err := decodeState(key[1], bytes.Clone(body))
		if err != nil {
			return false, corrupt("%s: %v", keyName(key), err)
		}
		rec.State = append(rec.State, r)
		return true, nil
	})
	if err != nil {
		return rec, err
	}
	above := base.Seq
	if mutant.On(mutant.LogOffByOne) {
		above++
	}
	if err := recoverProposals(v, above, &rec); err != nil {
		return rec, err
	}
	if err := recoverDecisions(v, above, &rec); err != nil {
		return rec, err
	}
	floor, err := readFloor(v)
	if err != nil {
		return rec, err
	}
	if floor > base.Seq {
		return rec, corrupt("the log was truncated at %d and the newest valid checkpoint is at %d: what lies between is lost", floor, base.Seq)
	}
	rec.Fresh = base.Seq == 0 && floor == 0 && len(rec.State)+len(rec.Proposals)+len(rec.Decisions) == 0
	return rec, nil
}

func recoverProposals(v view, base smr.SeqNo, rec *Recovered) error {
	seen := make(map[smr.BundleID]bool)
	return v.scan(seqKey(tableProposal, base+1), []byte{tableProposal + 1}, func(key, value []byte) (bool, error) {
		body, err := open(key, value)
		if err != nil {
			return false, err
		}
		if len(key) != proposalKeyBytes {
			return false, corrupt("unknown key %s", keyName(key))
		}
		p, err := decodeProposal(bytes.Clone(body))
		if err != nil {
			return false, corrupt("%s: %v", keyName(key), err)
		}
		r := protocol.Record{Kind: protocol.RecordProposal, Epoch: p.epoch, View: smr.View(binary.BigEndian.Uint64(key[9:])), Data: p.header}
		r.Seq, _ = keySeq(key)
		copy(r.Digest[:], key[17:])
		for i, raw := range p.bundles {
			b, err := wire.DecodeBundle(raw)
			if err != nil {
				return false, corrupt("%s: bundle %d: %v", keyName(key), i, err)
			}
			r.Refs = append(r.Refs, b.Ref())
			if !seen[b.ID] {
				seen[b.ID] = true
				rec.Bundles = append(rec.Bundles, b)
			}
		}
		rec.Proposals = append(rec.Proposals, r)
		return true, nil
	})
}

// recoverDecisions reads the decisions above base. They must be contiguous and each must name a
// proposal that is there.
func recoverDecisions(v view, base smr.SeqNo, rec *Recovered) error {
	type name struct {
		seq    smr.SeqNo
		digest smr.Digest
	}
	held := make(map[name]bool, len(rec.Proposals))
	for i := range rec.Proposals {
		held[name{rec.Proposals[i].Seq, rec.Proposals[i].Digest}] = true
	}
	next := base + 1
	return v.scan(seqKey(tableDecision, base+1), []byte{tableDecision + 1}, func(key, value []byte) (bool, error) {
		r, err := openDecision(key, value)
		if err != nil {
			return false, err
		}
		if r.Seq != next {
			return false, corrupt("the log holds decision %d but not decision %d", r.Seq, next)
		}
		if !held[name{r.Seq, r.Digest}] {
			return false, corrupt("decision %d names proposal %v, which the log does not hold", r.Seq, r.Digest)
		}
		next++
		r.Data = bytes.Clone(r.Data)
		rec.Decisions = append(rec.Decisions, r)
		return true, nil
	})
}

func openDecision(key, value []byte) (protocol.Record, error) {
	body, err := open(key, value)
	if err != nil {
		return protocol.Record{}, err
	}
	seq, ok := keySeq(key)
	if !ok || len(key) != 9 {
		return protocol.Record{}, corrupt("unknown key %s", keyName(key))
	}
	r, err := decodeDecision(seq, body)
	if err != nil {
		return r, corrupt("%s: %v", keyName(key), err)
	}
	return r, nil
}

// readDecisions is Disk.ReadDecisions on a consistent view.
func readDecisions(v view, after, upto smr.SeqNo, maxBytes int) ([]Entry, smr.SeqNo, error) {
	floor, err := readFloor(v)
	if err != nil || after < floor || upto <= after {
		return nil, floor + 1, err
	}
	var out []Entry
	first, next, total := floor+1, after+1, 0
	err = v.scan(seqKey(tableDecision, next), seqKey(tableDecision, upto+1), func(key, value []byte) (bool, error) {
		r, err := openDecision(key, value)
		if err != nil {
			return false, err
		}
		if r.Seq != next {
			if len(out) == 0 {
				first = r.Seq // the log begins above a checkpoint that was taken over
			}
			return false, nil
		}
		e := Entry{Seq: r.Seq, Epoch: r.Epoch, View: r.View, Digest: r.Digest, Proof: bytes.Clone(r.Data)}
		if err := readProposal(v, &e); err != nil {
			return false, err
		}
		if total += e.Bytes(); total > maxBytes && len(out) > 0 {
			return false, nil
		}
		out = append(out, e)
		next++
		return total < maxBytes, nil
	})
	return out, first, err
}

// readProposal fills in header and bundles of the decided proposal. A proposal decided in a later
// view than its own is found by its digest.
func readProposal(v view, e *Entry) error {
	key := proposalKey(e.Seq, e.View, e.Digest)
	value, err := v.get(key)
	if err != nil {
		return err
	}
	if value == nil {
		err := v.scan(seqKey(tableProposal, e.Seq), seqKey(tableProposal, e.Seq+1), func(k, val []byte) (bool, error) {
			if len(k) == proposalKeyBytes && bytes.Equal(k[17:], e.Digest[:]) {
				key, value = bytes.Clone(k), bytes.Clone(val)
				return false, nil
			}
			return true, nil
		})
		if err != nil {
			return err
		}
	}
	if value == nil {
		return corrupt("decision %d names proposal %v, which the log does not hold", e.Seq, e.Digest)
	}
	body, err := open(key, value)
	if err != nil {
		return err
	}
	p, err := decodeProposal(body)
	if err != nil {
		return corrupt("%s: %v", keyName(key), err)
	}
	e.Header, e.Bundles = p.header, p.bundles
	return nil
}
