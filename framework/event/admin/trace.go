package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Path is the way of one event, as far as the ledgers that were asked know it.
type Path struct {
	Event
	Steps  []Step  `json:"steps"`  // by time
	Groups []Stand `json:"groups"` // of every group that listens to the stream
}

// Step is something that happened to an event.
type Step struct {
	At      time.Time `json:"at,omitzero"` // zero if the time was not recorded
	Service string    `json:"service"`     // in whose ledger it is written
	Group   string    `json:"group,omitempty"`
	What    string    `json:"what"` // committed, sent, broker, attempt, applied, parked, letter, redriven, skipped or scheduled
	Text    string    `json:"text"` // for people
}

// Stand is what has become of an event in a group.
type Stand struct {
	Service string `json:"service"`
	Group   string `json:"group"`
	State   string `json:"state"` // applied, passed, skipped, missing, waiting, early, retry or dead
	Text    string `json:"text"`  // for people
}

// The states of a Stand, besides those of what is put aside.
const (
	stateApplied = "applied" // it has had its effect
	statePassed  = "passed"  // the group does not handle its type, or subscribed later
	stateSkipped = "skipped" // an operator gave it up
	stateWaiting = "waiting" // it has not arrived
	stateMissing = "missing" // the group has come past it, and its journal does not have it
)

// Trace follows events from their commit through the relay and the brokers to
// their effect in every group, with every attempt that failed: those that the
// Filter names by ID, by Key, or by Stream, Key and Sequence, in the order of
// their commits; all for its zero value. It returns ErrUnknown if no ledger
// knows any of them.
func Trace(ctx context.Context, ledgers []*Ledger, f Filter) ([]Path, error) {
	places := Filter{Stream: f.Stream, Key: f.Key, Sequence: f.Sequence, Since: f.Since}
	events, err := gatherEvents(ctx, ledgers, f)
	if err != nil {
		return nil, err
	}
	if f.ID != "" {
		// Its place leads to what is written without its id.
		var at place
		if len(events) > 0 {
			at = events[0].place()
		} else if at, err = findPlace(ctx, ledgers, f.ID); err != nil {
			return nil, err
		}
		places = Filter{Stream: at.Stream, Key: at.Key, Sequence: at.Sequence}
	}
	all, err := gatherBooks(ctx, ledgers, places)
	if err != nil {
		return nil, err
	}
	paths := newTracer(all, events).paths(f)
	if len(paths) == 0 && f != (Filter{}) {
		return nil, unknown(ledgers)
	}
	return paths, nil
}

// ErrUnknown says that no ledger that was asked knows an event.
var ErrUnknown = errors.New("no such event is known")

func unknown(ledgers []*Ledger) error {
	var names []string
	for _, l := range ledgers {
		names = append(names, l.service)
	}
	return fmt.Errorf("%w in the ledgers of %s; its producer's must be among them, and what is older than EVENT_ARCHIVE is forgotten", ErrUnknown, strings.Join(names, ", "))
}

// gatherEvents reads the events of all ledgers, in the order of their commits,
// with those that are scheduled at the end.
func gatherEvents(ctx context.Context, ledgers []*Ledger, f Filter) ([]Event, error) {
	lists, err := each(ctx, ledgers, "read the events", func(ctx context.Context, l *Ledger) ([]Event, error) { return l.events(ctx, f) })
	events := slices.Concat(lists...)
	slices.SortStableFunc(events, func(a, b Event) int {
		if a.At.IsZero() != b.At.IsZero() {
			return b.At.Compare(a.At) // what has no time yet is later than what has one
		}
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Sequence, b.Sequence), a.Due.Compare(b.Due))
	})
	return events, err
}

func gatherBooks(ctx context.Context, ledgers []*Ledger, f Filter) ([]*books, error) {
	return each(ctx, ledgers, "read the books", func(ctx context.Context, l *Ledger) (*books, error) { return l.books(ctx, f) })
}

// each asks all ledgers, and returns their answers in the same order.
func each[T any](ctx context.Context, ledgers []*Ledger, doing string, ask func(context.Context, *Ledger) (T, error)) ([]T, error) {
	if len(ledgers) == 0 {
		return nil, errors.New("no ledger is given")
	}
	answers := make([]T, len(ledgers))
	for i, l := range ledgers {
		if slices.ContainsFunc(ledgers[:i], func(other *Ledger) bool { return other.service == l.service }) {
			return nil, fmt.Errorf("two ledgers are said to be of %s: name each service once", l.service)
		}
		var err error
		if answers[i], err = ask(ctx, l); err != nil {
			return nil, l.failed(ctx, doing, err)
		}
	}
	return answers, nil
}

// findPlace looks for an event that no outbox has any more.
func findPlace(ctx context.Context, ledgers []*Ledger, id string) (place, error) {
	all, err := gatherBooks(ctx, ledgers, Filter{ID: id})
	if err != nil {
		return place{}, err
	}
	for _, b := range all {
		for _, e := range b.Effects {
			return e.place, nil
		}
		for _, a := range b.Attempts {
			return a.place, nil
		}
		for _, a := range b.Aside {
			return a.place, nil
		}
		for _, c := range b.Cursors {
			return place{c.Stream, c.Key, c.Applied}, nil
		}
	}
	return place{}, unknown(ledgers)
}

// tracer has the books of all ledgers, indexed by place.
type tracer struct {
	all      []*books
	events   []Event
	brokers  map[string][]broker // by service
	cursors  map[lane]cursor
	effects  map[place][]groupRow[effect]
	attempts map[place][]groupRow[attempt]
	aside    map[place][]groupRow[aside]
	letters  map[place][]groupRow[Letter]
	handles  map[handled]bool
}

// groupRow is a row of a group, with the service whose ledger it is in.
type groupRow[T any] struct {
	service string
	row     T
}

func newTracer(all []*books, events []Event) *tracer {
	t := &tracer{
		all: all, events: events, brokers: map[string][]broker{}, cursors: map[lane]cursor{},
		effects: map[place][]groupRow[effect]{}, attempts: map[place][]groupRow[attempt]{},
		aside: map[place][]groupRow[aside]{}, letters: map[place][]groupRow[Letter]{}, handles: map[handled]bool{},
	}
	for _, b := range all {
		t.brokers[b.Service] = b.Brokers
		for _, c := range b.Cursors {
			t.cursors[c.lane] = c
		}
		index(t.effects, b.Service, b.Effects, func(e effect) place { return e.place })
		index(t.attempts, b.Service, b.Attempts, func(a attempt) place { return a.place })
		index(t.aside, b.Service, b.Aside, func(a aside) place { return a.place })
		index(t.letters, b.Service, b.Letters, func(l Letter) place { return place{l.Stream, l.Key, l.Sequence} })
		for _, h := range b.Types {
			t.handles[h] = true
		}
	}
	return t
}

func index[T any](into map[place][]groupRow[T], service string, rows []T, at func(T) place) {
	for _, r := range rows {
		p := at(r)
		into[p] = append(into[p], groupRow[T]{service, r})
	}
}

// paths returns the paths of all events, and of those that no outbox has but
// somebody knows.
func (t *tracer) paths(f Filter) []Path {
	known := map[place]bool{}
	paths := []Path{}
	for _, e := range t.events {
		known[e.place()] = true
		paths = append(paths, t.path(e))
	}
	if f.Type != "" || f.State != "" || !f.Since.IsZero() || len(paths) > 0 && (f.Limit > 0 || f.ID != "") {
		return paths // the books say more than was asked for
	}
	strange := map[place]Event{}
	note := func(p place, id, typ string) {
		if e := strange[p]; !known[p] && p.Key != "" {
			strange[p] = Event{Stream: p.Stream, Key: p.Key, Sequence: p.Sequence, ID: cmp.Or(e.ID, id), Type: cmp.Or(e.Type, typ)}
		}
	}
	for _, b := range t.all {
		for _, e := range b.Effects {
			note(e.place, e.ID, e.Type)
		}
		for _, a := range b.Attempts {
			note(a.place, a.ID, "")
		}
		for _, a := range b.Aside {
			note(a.place, a.ID, a.Type)
		}
		for _, l := range b.Letters {
			note(place{l.Stream, l.Key, l.Sequence}, l.ID, "")
		}
	}
	for _, p := range slices.SortedFunc(maps.Keys(strange), comparePlaces) {
		paths = append(paths, t.path(strange[p]))
	}
	return paths
}

func comparePlaces(a, b place) int {
	return cmp.Or(cmp.Compare(a.Stream, b.Stream), cmp.Compare(a.Key, b.Key), cmp.Compare(a.Sequence, b.Sequence))
}

func (t *tracer) path(e Event) Path {
	p := Path{Event: e, Groups: []Stand{}}
	p.Steps = append(t.ownSteps(e), t.groupSteps(e)...)
	slices.SortStableFunc(p.Steps, func(a, b Step) int { return a.At.Compare(b.At) })
	if e.State == scheduled {
		return p
	}
	for _, b := range t.all {
		for _, s := range b.Subscriptions {
			if s.Stream == e.Stream {
				p.Groups = append(p.Groups, t.stand(b, s, e))
			}
		}
	}
	return p
}

// ownSteps are those of the event in its producer's ledger.
func (t *tracer) ownSteps(e Event) (steps []Step) {
	add := func(at time.Time, what, text string) {
		steps = append(steps, Step{At: at, Service: e.Service, What: what, Text: text})
	}
	switch e.State {
	case scheduled:
		add(e.Due, "scheduled", "is due; it gets its number then")
	case unsent:
		add(e.At, "committed", "committed as number "+fmt.Sprint(e.Sequence)+"; not sent yet, or to be sent again")
	case sent:
		add(e.At, "committed", "committed as number "+fmt.Sprint(e.Sequence))
		add(e.Sent, "sent", "acknowledged by "+t.onBrokers(e))
	}
	return steps
}

// onBrokers says which brokers have the event, by what the outbox knows.
func (t *tracer) onBrokers(e Event) string {
	var has, lack []string
	for _, b := range t.brokers[e.Service] {
		switch {
		case e.Sent.Before(b.Since):
		case !b.MissingSince.IsZero() && !e.Sent.Before(b.MissingSince):
			lack = append(lack, b.Name)
		default:
			has = append(has, b.Name)
		}
	}
	text := "a broker"
	if has != nil {
		text = strings.Join(has, " and ")
	}
	if lack != nil {
		text += "; " + strings.Join(lack, " and ") + " may lack it"
	}
	return text
}

// groupSteps are those of the event in the groups' ledgers.
func (t *tracer) groupSteps(e Event) (steps []Step) {
	at := e.place()
	for _, a := range t.attempts[at] {
		switch {
		case a.row.ID != "" && e.ID != "" && a.row.ID != e.ID: // of a forked history
		case a.row.Number == 0 && a.row.Error == redriven:
			steps = append(steps, Step{a.row.At, a.service, a.row.Group, "redriven", a.row.Error})
		case a.row.Number == 0:
			steps = append(steps, Step{a.row.At, a.service, a.row.Group, "skipped", a.row.Error})
		default:
			steps = append(steps, Step{a.row.At, a.service, a.row.Group, "attempt", fmt.Sprintf("attempt %d failed: %s", a.row.Number, firstLine(a.row.Error))})
		}
	}
	for _, a := range t.aside[at] {
		steps = append(steps, Step{a.row.At, a.service, a.row.Group, "parked", "put aside"})
	}
	for _, l := range t.letters[at] {
		if l.row.Kind != dead { // that is in what is put aside
			steps = append(steps, Step{l.row.At, l.service, l.row.Group, "letter", l.row.Kind + ": " + firstLine(l.row.Error)})
		}
	}
	for _, a := range t.effects[at] {
		steps = append(steps, Step{a.row.At, a.service, a.row.Group, "applied", fmt.Sprintf("took effect %s after the commit", brief(a.row.At.Sub(e.At)))})
		if e.At.IsZero() {
			steps[len(steps)-1].Text = "took effect"
		}
	}
	return steps
}

func describeAside(a aside) string {
	switch a.State {
	case dead:
		return fmt.Sprintf("dead after %s: %s", attempts(a.Attempts), firstLine(a.Error))
	case retry:
		return fmt.Sprintf("%s failed, the next is at %s: %s", attempts(a.Attempts), a.Due.Format(time.RFC3339), firstLine(a.Error))
	}
	return "waits for its predecessors"
}

func attempts(n int) string {
	if n == 1 {
		return "1 attempt"
	}
	return fmt.Sprintf("%d attempts", n)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// brief writes a duration to a sensible number of digits.
func brief(d time.Duration) string {
	switch {
	case d < 0:
		return "0s" // clocks differ
	case d < 100*time.Millisecond:
		return d.Round(100 * time.Microsecond).String()
	case d < time.Minute:
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// stand says what has become of the event in a group, whose ledger has b.
func (t *tracer) stand(b *books, s subscription, e Event) Stand {
	stand := func(state, format string, args ...any) Stand {
		return Stand{b.Service, s.Group, state, fmt.Sprintf(format, args...)}
	}
	at := e.place()
	if a, ok := inGroup(t.aside[at], func(a aside) bool { return a.Group == s.Group }); ok {
		return stand(a.State, "%s", describeAside(a))
	}
	if a, ok := inGroup(t.effects[at], func(a effect) bool { return a.Group == s.Group }); ok {
		return stand(stateApplied, "at %s", a.At.Format(time.RFC3339Nano))
	}
	c := t.cursors[lane{s.Group, e.Stream, e.Key}]
	if c.Applied < e.Sequence {
		return stand(stateWaiting, "has not arrived: the group has come to number %d of the key", c.Applied)
	}
	if a, ok := inGroup(t.attempts[at], func(a attempt) bool { return a.Group == s.Group && a.wasSkipped() }); ok {
		return stand(stateSkipped, "%s at %s", skipped, a.At.Format(time.RFC3339))
	}
	switch {
	case e.Type != "" && !t.handles[handled{s.Group, e.Stream, e.Type}]:
		return stand(statePassed, "the group does not handle %s", e.Type)
	case s.missed(e):
		return stand(statePassed, "the group subscribed later, at %s", s.Since.Format(time.RFC3339))
	case b.Journal:
		return stand(stateMissing, "the group has come past it, to number %d, and its journal does not have it", c.Applied)
	}
	return stand(stateApplied, "time not recorded (EVENT_JOURNAL is off)")
}

// inGroup returns the first row that is.
func inGroup[T any](rows []groupRow[T], is func(T) bool) (row T, ok bool) {
	for _, r := range rows {
		if is(r.row) {
			return r.row, true
		}
	}
	return row, false
}

// missed reports whether the event may have been gone from the broker when the
// group subscribed.
func (s subscription) missed(e Event) bool { return !e.At.IsZero() && e.At.Before(s.Since.Add(-skew)) }

func (a attempt) wasSkipped() bool { return a.Number == 0 && a.Error == skipped }
