package admin

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Move is how far the services are on the way from one broker to another.
//
// The way has four steps. All use one broker (settled). They are restarted with
// both, one after the other (joining), until all use both (joined). When Safe
// says so they are restarted with the new one alone (leaving), until none uses
// the old one any more (left), which may be stopped when Safe says so.
type Move struct {
	To        string     `json:"to"`
	Step      string     `json:"step"` // settled, joining, joined, leaving or left
	Safe      bool       `json:"safe"` // to do what Next says; otherwise Missing says what to wait for
	Next      string     `json:"next"` // for people
	Missing   []Obstacle `json:"missing"`
	Processes []Process  `json:"processes"` // that run
	Brokers   []Use      `json:"brokers"`   // that the ledgers know
}

// Obstacle is something that stands in the way of a Move's next step.
type Obstacle struct {
	Service string `json:"service"`
	Group   string `json:"group,omitempty"`
	Stream  string `json:"stream,omitempty"`
	Events  int64  `json:"events,omitempty"` // how many the group still needs from the other brokers
	Text    string `json:"text"`             // for people
}

// Use is a broker in a service's ledger.
type Use struct {
	Service      string    `json:"service"`
	Broker       string    `json:"broker"`
	Since        time.Time `json:"since"`                 // what was sent from then on, it has
	MissingSince time.Time `json:"missingSince,omitzero"` // but for what was sent from then on
	Processes    int       `json:"processes"`             // of the service that use it now
}

// The steps of a Move.
const (
	settled = "settled"
	joining = "joining"
	joined  = "joined"
	leaving = "leaving"
	left    = "left"
)

// Brokers says how far a move to the broker named is, and whether the next step
// is safe; if to is empty, to the one that the services began to use last. It
// needs the ledgers of all services.
//
// Everybody may leave the other brokers when, in every ledger, every process
// uses the new one, it misses nothing, and what was sent before it joined has
// been applied or put aside by every group that listens.
func Brokers(ctx context.Context, ledgers []*Ledger, to string) (*Move, error) {
	all, err := gatherPositions(ctx, ledgers)
	if err != nil {
		return nil, err
	}
	m := &move{Move: Move{To: to, Missing: []Obstacle{}, Processes: []Process{}, Brokers: []Use{}}, all: all}
	if err := m.aim(); err != nil {
		return nil, err
	}
	m.take()
	return &m.Move, nil
}

// move is one that is being looked at.
type move struct {
	Move
	all     []*positions
	others  []string // brokers besides To that somebody uses or has used
	with    []Process
	without []Process
	both    []Process // of those with To, the ones with others, too
}

// aim finds out who uses what, and where the move goes.
func (m *move) aim() error {
	since := map[string]time.Time{} // earliest, by broker
	for _, p := range m.all {
		m.Processes = append(m.Processes, p.Processes...)
		for _, b := range p.Brokers {
			u := Use{Service: p.Service, Broker: b.Name, Since: b.Since, MissingSince: b.MissingSince}
			for _, process := range p.Processes {
				if slices.Contains(process.Brokers, b.Name) {
					u.Processes++
				}
			}
			m.Brokers = append(m.Brokers, u)
			if at, ok := since[b.Name]; !ok || b.Since.Before(at) {
				since[b.Name] = b.Since
			}
		}
	}
	used := map[string]bool{}
	for _, p := range m.Processes {
		for _, b := range p.Brokers {
			used[b] = true
			if _, ok := since[b]; !ok {
				since[b] = time.Now() // it has not been reached yet
			}
		}
	}
	known := slices.SortedFunc(maps.Keys(since), func(a, b string) int { return cmp.Or(since[b].Compare(since[a]), cmp.Compare(a, b)) })
	if m.To == "" {
		m.To = firstThat(known, func(b string) bool { return used[b] || len(used) == 0 })
	}
	if m.To == "" {
		return fmt.Errorf("no ledger of %s knows a broker: has any of the services ever run?", m.services())
	}
	if !slices.Contains(known, m.To) {
		return fmt.Errorf("nobody uses a broker %q; known are %s", m.To, strings.Join(known, ", "))
	}
	m.others = slices.DeleteFunc(known, func(b string) bool { return b == m.To })
	slices.Sort(m.others)
	for _, p := range m.Processes {
		switch {
		case !slices.Contains(p.Brokers, m.To):
			m.without = append(m.without, p)
		default:
			m.with = append(m.with, p)
			if len(p.Brokers) > 1 {
				m.both = append(m.both, p)
			}
		}
	}
	return nil
}

func firstThat(list []string, is func(string) bool) string {
	if i := slices.IndexFunc(list, is); i >= 0 {
		return list[i]
	}
	return ""
}

func (m *move) services() string {
	var names []string
	for _, p := range m.all {
		names = append(names, p.Service)
	}
	return strings.Join(names, ", ")
}

// take says which step the move is at and what is next.
func (m *move) take() {
	others := strings.Join(m.others, " and ")
	for _, p := range m.all {
		if len(p.Processes) == 0 {
			m.miss(Obstacle{Service: p.Service, Text: fmt.Sprintf("%s: no process has been seen for a minute: start it, or leave its ledger out if the service is no more", p.Service)})
		}
	}
	if len(m.Processes) == 0 {
		m.Step, m.Next = settled, "Start the services: none of them runs."
		return
	}
	if len(m.without) > 0 {
		m.Step = joining
		for _, p := range m.without {
			m.miss(Obstacle{Service: p.Service, Text: fmt.Sprintf("%s: process %s uses only %s", p.Service, p.Name, strings.Join(p.Brokers, " and "))})
		}
		m.Next = fmt.Sprintf("Restart every service with BROKER=%s, one after the other.", strings.Join(append(slices.Clone(m.others), m.To), "+"))
		return
	}
	if len(m.others) > 0 {
		m.drain()
	}
	switch {
	case len(m.others) == 0:
		m.Step = settled
		m.Next = fmt.Sprintf("Everybody uses %s, and nobody has used another broker. To move, restart every service with BROKER=%s+<the new one>.", m.To, m.To)
	case len(m.both) == 0:
		m.Step = left
		m.Next = fmt.Sprintf("Stop %s: nobody uses it any more.", others)
		if len(m.Missing) > 0 {
			m.Next = fmt.Sprintf("Do not stop %s yet. If the numbers below do not fall, restart the services with BROKER=%s again, or replay the streams.",
				others, strings.Join(append(slices.Clone(m.others), m.To), "+"))
		}
	case len(m.both) == len(m.with):
		m.Step = joined
		m.Next = fmt.Sprintf("Restart every service with BROKER=%s, one after the other.", m.To)
		if len(m.Missing) > 0 {
			m.Next = fmt.Sprintf("Do not leave %s yet. If the numbers below do not fall, replay the streams.", others)
		}
	default:
		m.Step = leaving
		for _, p := range m.both {
			m.miss(Obstacle{Service: p.Service, Text: fmt.Sprintf("%s: process %s uses %s, too", p.Service, p.Name, others)})
		}
		m.Next = fmt.Sprintf("Go on restarting services with BROKER=%s.", m.To)
	}
	m.Safe = len(m.Missing) == 0
}

func (m *move) miss(o Obstacle) { m.Missing = append(m.Missing, o) }

// drain finds what keeps the services from doing without the other brokers.
func (m *move) drain() {
	followers := make([]follower, len(m.all))
	for i, p := range m.all {
		followers[i] = newFollower(p)
	}
	for _, producer := range m.all {
		i := slices.IndexFunc(producer.Brokers, func(b broker) bool { return b.Name == m.To })
		if i < 0 {
			m.miss(Obstacle{Service: producer.Service, Text: fmt.Sprintf("%s: has not been connected to %s yet", producer.Service, m.To)})
			continue
		}
		if b := producer.Brokers[i]; !b.MissingSince.IsZero() {
			m.miss(Obstacle{Service: producer.Service, Text: fmt.Sprintf("%s: %s may lack what was sent since %s; it is sent again when the service is connected to it", producer.Service, m.To, b.MissingSince.Format(time.RFC3339))})
		}
		last := map[place]time.Time{} // of each key, its last event
		for _, q := range producer.Sequences {
			last[place{Stream: q.Stream, Key: q.Key}] = q.At
		}
		for i, p := range m.all {
			for _, s := range p.Subscriptions {
				var events int64
				for _, n := range producer.Needed[m.To] {
					in := lane{s.Group, n.Stream, n.Key}
					_, met := followers[i].applied[in]
					if n.Stream != s.Stream || !met && s.missed(Event{At: last[place{Stream: n.Stream, Key: n.Key}]}) {
						continue
					}
					events += followers[i].lacks(in, n.Number)
				}
				if events > 0 {
					m.miss(Obstacle{Service: p.Service, Group: s.Group, Stream: s.Stream, Events: events,
						Text: fmt.Sprintf("%s: group %s has yet to take %d events of %s that were sent before %s joined", p.Service, s.Group, events, s.Stream, m.To)})
				}
			}
		}
	}
}
