package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/history"
	"github.com/atlas-smr/smr/internal/pb/adminpb"
	"github.com/atlas-smr/smr/kv"
)

// sampledReads is how many keys are read back one by one, with their versions, beside the scan of all.
const sampledReads = 2000

// isShared reports whether key is one that all clients of the demo share.
func isShared(key string) bool { return strings.HasPrefix(key, "shared/") }

// historyLimit bounds the check of the history.
const historyLimit = 60 * time.Second

// verify reads everything back and judges.
func (d *demo) verify(ctx context.Context, rows []row) (*demoResult, error) {
	g := d.cluster.Genesis
	d.say("reading everything back through quorum reads")
	read, err := d.readBack(ctx, rows)
	if err != nil {
		return nil, err
	}
	views := []history.View{*read}
	stats, dumps, err := d.settle(ctx)
	if err != nil {
		return nil, err
	}
	res := &demoResult{Protocol: g.Protocol, Replicas: len(g.Members), F: g.F, RootsEqual: true, Kills: d.kills}
	for i, end := range dumps.ends {
		if end.Root != dumps.ends[0].Root || end.Seq != dumps.ends[0].Seq {
			res.RootsEqual = false
		}
		st := dumps.stores[i]
		views = append(views, history.View{
			Who: fmt.Sprintf("replica %d", i+1), Keys: st.Len(),
			Read: func(k string) ([]byte, smr.SeqNo, bool) { return history.Lookup(st, k) },
		})
	}
	d.say("dumped each replica's own state: %d keys after batch %d, root %.16s", dumps.stores[0].Len(), dumps.ends[0].Seq, dumps.ends[0].Root)
	events := d.load.history.All()
	v := history.Compare(events, views, func(k string) bool { return !isShared(k) })
	if d.extra > 0 {
		v.Duplicated += d.extra
		v.Find("a replica executed %d ops more than the clients made", d.extra)
	}
	for _, s := range stats {
		d.view = max(d.view, s.View)
	}
	bad, ok, finished := history.Linearizable(events, historyLimit)
	if !ok {
		what := "is not linearizable"
		if !finished {
			what = "could not be checked in time"
		}
		v.Find("the history of key %q %s", bad, what)
	}
	d.say("checked a history of %d calls", len(events))
	for _, text := range v.Examples {
		d.say("WRONG: %s", text)
	}
	res.Requests, res.Acknowledged = d.load.requests.Load(), d.load.acknowledged.Load()
	res.Lost, res.Duplicated, res.Linearizable = v.Lost, v.Duplicated, ok
	res.ViewChanges, res.MaxGapMs = d.view, d.load.maxGap().Milliseconds()
	res.Seconds = float64(time.Since(d.began).Milliseconds()) / 1000
	return res, nil
}

// countOps holds the load for a moment and compares how many ops each replica executed in its life
// with how many the clients made. Only replicas that were never restarted can tell: the others took
// the beginning from a checkpoint. An op executed twice shows here even where it left no trace.
func (d *demo) countOps(ctx context.Context) error {
	if err := d.load.pause(ctx); err != nil {
		return context.Cause(ctx)
	}
	defer d.load.resume()
	stats, err := d.cluster.CaughtUp(ctx)
	if err != nil {
		return err
	}
	made, told := d.load.ordered(), 0
	for i, s := range stats {
		if d.restarted[smr.NodeID(i+1)] {
			continue
		}
		told++
		switch n := s.Counts["ops-executed"]; {
		case n > made:
			d.extra = max(d.extra, int(n-made))
		case n < made:
			return fmt.Errorf("replica %d executed %d ops of the %d that were answered", i+1, n, made)
		}
	}
	d.say("held the clients: %d ops made, and as many executed by each of %d replicas that ran all along", made, told)
	return nil
}

// readBack reads the whole key space through the clients: every key in linearizable scans, and some
// one by one. What it read is part of the history.
func (d *demo) readBack(ctx context.Context, rows []row) (*history.View, error) {
	values, versions := map[string][]byte{}, map[string]smr.SeqNo{}
	h := d.load.history
	for req := kv.Scan("", "", 0); ; {
		d.load.requests.Add(1)
		call := h.Now()
		rep, err := d.load.clients[0].Query(ctx, req)
		if err != nil {
			return nil, fmt.Errorf("scan: %w", err)
		}
		if rep.Status != kv.StatusOK {
			return nil, fmt.Errorf("scan: %s", rep.Status)
		}
		d.load.acknowledged.Add(1)
		ret := h.Now()
		for _, p := range rep.Pairs {
			values[p.Key] = p.Value
			h.Add(history.Event{Client: -1, Req: kv.Get(p.Key), Rep: kv.Reply{Status: kv.StatusOK, Found: true, Value: p.Value}, Call: call, Ret: ret})
		}
		if !rep.More {
			break
		}
		req = req.Next(rep)
	}
	// Keys that the scan did not find are part of the history too, or a lost write would not show.
	at := h.Now()
	for _, r := range rows {
		if _, ok := values[r.key]; !ok {
			h.Add(history.Event{Client: -1, Req: kv.Get(r.key), Rep: kv.Reply{Status: kv.StatusNotFound}, Call: at, Ret: at})
		}
	}
	var (
		mu    sync.Mutex
		first error
		wg    sync.WaitGroup
	)
	step := max(1, len(rows)/sampledReads)
	for id, c := range d.load.clients {
		wg.Go(func() {
			for i := id * step; i < len(rows); i += step * len(d.load.clients) {
				key := rows[i].key
				d.load.requests.Add(1)
				e := history.Event{Client: id, Req: kv.Get(key), Call: h.Now()}
				rep, err := c.Query(ctx, e.Req)
				if err != nil {
					mu.Lock()
					first = fmt.Errorf("get %q: %w", key, err)
					mu.Unlock()
					return
				}
				e.Rep, e.Ret = rep, h.Now()
				h.Add(e)
				d.load.acknowledged.Add(1)
				mu.Lock()
				versions[key] = rep.Version
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if first != nil {
		return nil, first
	}
	return &history.View{Who: "quorum reads", Keys: len(values), Read: func(k string) ([]byte, smr.SeqNo, bool) {
		value, ok := values[k]
		return value, versions[k], ok
	}}, nil
}

// dumps is every replica's own state.
type dumps struct {
	stores []*kv.Store
	ends   []*adminpb.DumpEnd
}

// settle waits until all replicas have executed the same, and dumps them.
func (d *demo) settle(ctx context.Context) ([]*adminpb.StatusReply, *dumps, error) {
	stats, err := d.cluster.CaughtUp(ctx)
	if err != nil {
		return nil, nil, err
	}
	out := &dumps{}
	for i := range stats {
		st, end, err := history.Dump(ctx, d.cluster.Admin(smr.NodeID(i+1)))
		if err != nil {
			return nil, nil, fmt.Errorf("dump of replica %d: %w", i+1, err)
		}
		out.stores, out.ends = append(out.stores, st), append(out.ends, end)
	}
	return stats, out, nil
}
