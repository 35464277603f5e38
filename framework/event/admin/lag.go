package admin

import (
	"cmp"
	"context"
	"slices"
	"time"
)

// GroupLag is how far a group is behind in a stream.
type GroupLag struct {
	Service string    `json:"service"` // in whose ledger the group keeps its cursors
	Group   string    `json:"group"`
	Stream  string    `json:"stream"`
	Events  int64     `json:"events"`          // committed and not applied
	Keys    int       `json:"keys"`            // in which there are any
	Oldest  time.Time `json:"oldest,omitzero"` // commit of the oldest of them; zero if there is none, or it is older than the archive
	Top     []KeyLag  `json:"top"`             // the keys that have been behind for longest
}

// KeyLag is how far a group is behind in a key.
type KeyLag struct {
	Key       string    `json:"key"`
	Committed int64     `json:"committed"`       // the last number given
	Applied   int64     `json:"applied"`         // the last number applied
	Aside     int       `json:"aside"`           // how many of those between are put aside
	Oldest    time.Time `json:"oldest,omitzero"` // commit of the first that is not applied
}

// lagChunk is how many events are looked up at a time.
const lagChunk = 1000

// Lag compares what was committed with how far every group is, by stream. It
// needs the ledgers of the producers and of the listeners: of a stream whose
// producer's is not there nothing can be said, and that is left out. A Filter's
// Group, Stream and Key pick; its Limit is how many keys to name of each group.
func Lag(ctx context.Context, ledgers []*Ledger, f Filter) ([]GroupLag, error) {
	all, err := gatherPositions(ctx, ledgers)
	if err != nil {
		return nil, err
	}
	lags := []GroupLag{}
	wanted := map[string][]place{} // by the producer's service: the first of each key that is not applied
	for _, b := range all {
		listener := newFollower(b)
		for _, s := range b.Subscriptions {
			if f.Group != "" && s.Group != f.Group || f.Stream != "" && s.Stream != f.Stream {
				continue
			}
			lag, known := GroupLag{Service: b.Service, Group: s.Group, Stream: s.Stream, Top: []KeyLag{}}, false
			for _, producer := range all {
				for _, q := range producer.Sequences {
					if q.Stream != s.Stream || f.Key != "" && q.Key != f.Key {
						continue
					}
					known = true
					in := lane{s.Group, q.Stream, q.Key}
					applied, met := listener.applied[in]
					if applied >= q.Last || !met && s.missed(Event{At: q.At}) {
						continue
					}
					lag.Events += q.Last - applied
					lag.Keys++
					lag.Top = append(lag.Top, KeyLag{Key: q.Key, Committed: q.Last, Applied: applied, Aside: len(listener.aside[in])})
					wanted[producer.Service] = append(wanted[producer.Service], place{q.Stream, q.Key, applied + 1})
				}
			}
			if known {
				lags = append(lags, lag)
			}
		}
	}
	times, err := commits(ctx, ledgers, wanted)
	if err != nil {
		return nil, err
	}
	for i := range lags {
		lags[i].rank(times, f.Limit)
	}
	return lags, nil
}

// rank puts the keys in order and keeps the first few.
func (g *GroupLag) rank(times map[place]time.Time, limit int) {
	for i, k := range g.Top {
		at := times[place{g.Stream, k.Key, k.Applied + 1}]
		g.Top[i].Oldest = at
		if !at.IsZero() && (g.Oldest.IsZero() || at.Before(g.Oldest)) {
			g.Oldest = at
		}
	}
	// One whose first event the archive has forgotten goes before all others.
	slices.SortFunc(g.Top, func(a, b KeyLag) int { return cmp.Or(a.Oldest.Compare(b.Oldest), cmp.Compare(a.Key, b.Key)) })
	if limit > 0 && len(g.Top) > limit {
		g.Top = g.Top[:limit]
	}
}

// commits returns when events were committed, by place.
func commits(ctx context.Context, ledgers []*Ledger, wanted map[string][]place) (map[place]time.Time, error) {
	times := map[place]time.Time{}
	for _, l := range ledgers {
		places := wanted[l.service]
		slices.SortFunc(places, comparePlaces)
		for some := range slices.Chunk(slices.Compact(places), lagChunk) {
			events, err := l.committed(ctx, some)
			if err != nil {
				return nil, l.failed(ctx, "read the age of events", err)
			}
			for _, e := range events {
				times[e.place()] = e.At
			}
		}
	}
	return times, nil
}

func gatherPositions(ctx context.Context, ledgers []*Ledger) ([]*positions, error) {
	return each(ctx, ledgers, "read the positions", func(ctx context.Context, l *Ledger) (*positions, error) { return l.positions(ctx) })
}

// follower is how far the groups of a ledger are.
type follower struct {
	applied map[lane]int64
	aside   map[lane][]int64 // numbers that wait
}

func newFollower(p *positions) follower {
	f := follower{applied: map[lane]int64{}, aside: map[lane][]int64{}}
	for _, c := range p.Cursors {
		f.applied[c.lane] = c.Applied
	}
	for _, a := range p.Aside {
		in := lane{a.Group, a.Stream, a.Key}
		f.aside[in] = append(f.aside[in], a.Sequence)
	}
	return f
}

// lacks counts the numbers up to last that the group has neither applied nor
// put aside.
func (f follower) lacks(in lane, last int64) int64 {
	lacks := last - f.applied[in]
	for _, n := range f.aside[in] {
		if n > f.applied[in] && n <= last {
			lacks--
		}
	}
	return max(0, lacks)
}
