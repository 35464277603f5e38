package admin

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Report is the outcome of an Audit.
type Report struct {
	Events    int `json:"events"`    // committed
	Effects   int `json:"effects"`   // of them in the groups' journals
	Skipped   int `json:"skipped"`   // effects that operators gave up
	Unsent    int `json:"unsent"`    // events that wait in outboxes
	Scheduled int `json:"scheduled"` // events that are not due

	Lost       []Finding `json:"lost"`       // passed by without an effect, or gone
	Duplicated []Finding `json:"duplicated"` // had more than one effect
	Misordered []Finding `json:"misordered"` // had their effect after a later one of their key
	Waiting    []Finding `json:"waiting"`    // had no effect yet: a key that is behind, or an event that is put aside
	Other      []Finding `json:"other"`      // whatever else should not be

	// From commit to effect, over all effects, in nanoseconds.
	P50 time.Duration `json:"p50"`
	P99 time.Duration `json:"p99"`
	Max time.Duration `json:"max"`
}

// Finding is one thing that an Audit found.
type Finding struct {
	Group    string `json:"group,omitempty"` // empty if it concerns the producer
	Stream   string `json:"stream"`
	Key      string `json:"key"`
	Sequence int64  `json:"sequence,omitempty"`
	Text     string `json:"text"`           // for people, without what Path says
	Path     *Path  `json:"path,omitempty"` // the event's whole history; of the first ten findings of each sort
}

func (f Finding) String() string { return f.Text }

// OK reports whether every event that had an effect had it once and in order,
// and none was lost.
func (r *Report) OK() bool {
	return len(r.Lost)+len(r.Duplicated)+len(r.Misordered)+len(r.Other) == 0
}

// Quiet reports whether nothing is on its way: with OK, that every event has
// had every effect.
func (r *Report) Quiet() bool { return r.Unsent+r.Scheduled+len(r.Waiting) == 0 }

// Audit compares what all services committed with what came of it: every group
// must have applied every event of a type that it handles exactly once, those
// of one key in the order of their numbers. It needs the ledgers of all
// services. It holds for running services, too: what is on its way is waiting,
// not lost. What a group applied is known from its journal (EVENT_JOURNAL); of
// a ledger that has none, only the cursors are looked at.
//
// Events from before since are left out. A zero since means all: then nothing
// may have been pruned from the archive, and the journal must have been kept
// from the beginning.
func Audit(ctx context.Context, ledgers []*Ledger, since time.Time) (*Report, error) {
	// First what was applied, then what was committed: an effect that is found
	// has its event in what is read after it.
	all, err := gatherBooks(ctx, ledgers, Filter{Since: since})
	if err != nil {
		return nil, err
	}
	events, err := gatherEvents(ctx, ledgers, Filter{Since: since})
	if err != nil {
		return nil, err
	}
	a := &audit{tracer: newTracer(all, events), since: since, committed: map[place]Event{}, times: map[groupPlace]int{}}
	a.Lost, a.Duplicated, a.Misordered, a.Waiting, a.Other = []Finding{}, []Finding{}, []Finding{}, []Finding{}, []Finding{}
	a.checkEvents()
	a.checkNumbers()
	a.checkEffects()
	a.checkOutcomes()
	a.findWaiting()
	return &a.Report, nil
}

// audit is one under way.
type audit struct {
	*tracer
	Report
	since     time.Time
	committed map[place]Event
	times     map[groupPlace]int // that an event was applied
}

// groupPlace is an event as a group sees it.
type groupPlace struct {
	Group string `json:"group"`
	place
}

// maxPaths is how many findings of each sort come with the event's history.
const maxPaths = 10

func (a *audit) find(sort *[]Finding, group string, at place, format string, args ...any) {
	f := Finding{Group: group, Stream: at.Stream, Key: at.Key, Sequence: at.Sequence, Text: fmt.Sprintf(format, args...)}
	if group != "" {
		f.Text = group + ": " + f.Text
	}
	if e, ok := a.committed[at]; ok && len(*sort) < maxPaths {
		p := a.path(e)
		f.Path = &p
	}
	*sort = append(*sort, f)
}

func (a *audit) checkEvents() {
	for _, e := range a.events {
		if e.State == scheduled {
			a.Scheduled++
			continue
		}
		a.Events++
		if e.State == unsent {
			a.Unsent++
		}
		at := e.place()
		if twin, twice := a.committed[at]; twice {
			a.find(&a.Other, "", at, "%v: two events have this place: %s of %s and %s of %s", at, twin.ID, twin.Service, e.ID, e.Service)
			continue
		}
		a.committed[at] = e
	}
}

// numbers checks that the outboxes have an event for every number given.
func (a *audit) checkNumbers() {
	type owner struct{ service, stream, key string }
	have, lowest := map[owner]int64{}, map[owner]int64{}
	last := map[owner]int64{}
	for _, b := range a.all {
		for _, s := range b.Sequences {
			last[owner{b.Service, s.Stream, s.Key}] = s.Last
		}
	}
	for _, e := range a.events {
		o := owner{e.Service, e.Stream, e.Key}
		if e.State == scheduled || e.Sequence > last[o] {
			continue // it is from after the numbers were read
		}
		have[o]++
		if low, ok := lowest[o]; !ok || e.Sequence < low {
			lowest[o] = e.Sequence
		}
	}
	for _, b := range a.all {
		for _, s := range b.Sequences {
			o := owner{b.Service, s.Stream, s.Key}
			from := int64(1)
			if !a.since.IsZero() {
				if from = lowest[o]; from == 0 {
					continue
				}
			}
			if want := s.Last - from + 1; have[o] != want {
				a.find(&a.Lost, "", place{s.Stream, s.Key, 0}, "%s %s: %d numbers were given, but the outbox of %s has %d events", s.Stream, s.Key, want, b.Service, have[o])
			}
		}
	}
}

// effects checks what the journals have.
func (a *audit) checkEffects() {
	var took []time.Duration
	for _, b := range a.all {
		high := map[lane]int64{}
		for _, done := range b.Effects {
			at := done.place
			e, known := a.committed[at]
			switch {
			case !known && !a.since.IsZero():
				continue // from before
			case !known:
				a.find(&a.Other, done.Group, at, "applied %v (%s), which nobody committed", at, done.ID)
				continue
			case e.ID != done.ID:
				a.find(&a.Other, done.Group, at, "applied %s as %v, which is %s", done.ID, at, e.ID)
			case !a.handles[handled{done.Group, at.Stream, done.Type}]:
				a.find(&a.Other, done.Group, at, "applied %v, a %s, which it does not handle", at, done.Type)
			}
			key, in := groupPlace{done.Group, at}, lane{done.Group, at.Stream, at.Key}
			if a.times[key]++; a.times[key] == 2 {
				a.find(&a.Duplicated, done.Group, at, "%v (%s)", at, done.Type)
			}
			if a.times[key] == 1 {
				if at.Sequence < high[in] {
					a.find(&a.Misordered, done.Group, at, "%v (%s) after number %d", at, done.Type, high[in])
				}
				a.Effects++
				took = append(took, max(0, done.At.Sub(e.At)))
			}
			high[in] = max(high[in], at.Sequence)
		}
	}
	slices.Sort(took)
	if n := len(took); n > 0 {
		a.P50, a.P99, a.Max = took[n*50/100], took[n*99/100], took[n-1]
	}
}

// outcomes checks that what a group has come past had its effect.
func (a *audit) checkOutcomes() {
	for _, e := range a.events {
		if e.State == scheduled {
			continue
		}
		at := e.place()
		for _, b := range a.all {
			for _, s := range b.Subscriptions {
				if s.Stream != e.Stream || a.times[groupPlace{s.Group, at}] > 0 {
					continue
				}
				switch a.stand(b, s, e).State {
				case stateSkipped:
					a.Skipped++
				case stateMissing:
					a.find(&a.Lost, s.Group, at, "%v (%s)", at, e.Type)
				}
			}
		}
	}
}

// waiting finds what had no effect yet.
func (a *audit) findWaiting() {
	for _, b := range a.all {
		for _, w := range b.Aside {
			a.find(&a.Waiting, w.Group, w.place, "%v is put aside: %s", w.place, describeAside(w))
		}
		for _, l := range b.Letters {
			if l.Kind != dead { // that is put aside
				at := place{l.Stream, l.Key, l.Sequence}
				a.find(&a.Other, l.Group, at, "%v has a letter (%s): %s", at, l.Kind, firstLine(l.Error))
			}
		}
	}
	for _, b := range a.all {
		for _, q := range b.Sequences {
			for _, group := range a.all {
				for _, s := range group.Subscriptions {
					if s.Stream == q.Stream {
						a.findBehind(s, q)
					}
				}
			}
		}
	}
}

// findBehind compares how far a group is in a key with the key's last number.
func (a *audit) findBehind(s subscription, q sequence) {
	c, met := a.cursors[lane{s.Group, q.Stream, q.Key}]
	if c.Applied >= q.Last || !met && s.missed(Event{At: q.At}) {
		return
	}
	a.find(&a.Waiting, s.Group, place{q.Stream, q.Key, c.Applied + 1}, "%s %s is at number %d of %d", q.Stream, q.Key, c.Applied, q.Last)
}
