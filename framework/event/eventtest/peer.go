package eventtest

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/database/databasetest"
	"github.com/turnstile-go/turnstile/framework/event"
)

// Peer stands for all other services in the test of one: it publishes their
// events and hears what the service under test publishes. Events go the whole
// way, through an outbox, the broker and a listener.
type Peer struct {
	t        testing.TB
	broker   event.Broker
	db       *database.DB
	outbox   *event.Outbox
	listener *event.Listener

	mu    sync.Mutex
	heard []event.Event
	more  chan struct{} // closed when something was heard
}

// NewPeer returns a peer that publishes events of these types, given as zero
// values. Say with [Hear] what it listens to, then start it.
func NewPeer(t testing.TB, b event.Broker, publishes ...event.Event) *Peer {
	t.Helper()
	db := databasetest.SQLite(t, event.Migrations())
	return &Peer{
		t: t, broker: b, db: db, more: make(chan struct{}),
		outbox: event.NewOutbox(db, "peer", publishes...), listener: event.NewListener(db, "peer"),
	}
}

// Hear has the peer listen to events of type E. It comes before Start.
func Hear[E event.Event](p *Peer) {
	event.Handle(p.listener, func(_ context.Context, tx *database.Tx, m *event.Message[E]) error {
		tx.AfterCommit(func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.heard = append(p.heard, m.Data)
			close(p.more)
			p.more = make(chan struct{})
		})
		return nil
	})
}

// Start lets the peer work until the test ends.
func (p *Peer) Start() {
	client := event.NewClient(event.Config{}, p.outbox, p.listener, event.Telemetry{}, p.broker)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- client.Run(ctx) }()
	p.t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			p.t.Errorf("eventtest: the peer: %v", err)
		}
	})
}

// Publish publishes the events in one transaction and does not wait for their
// effect.
func (p *Peer) Publish(events ...event.Event) {
	p.t.Helper()
	ctx := p.t.Context()
	err := p.db.InTx(ctx, func(tx *database.Tx) error {
		for _, e := range events {
			if err := p.outbox.Publish(ctx, tx, e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		p.t.Errorf("eventtest: publish: %v", err) // not Fatal: any goroutine may publish
	}
}

// Heard returns the events that were heard so far of type E, those of one key
// in order.
func Heard[E event.Event](p *Peer) []E {
	heard, _ := hear[E](p)
	return heard
}

// Await returns the first event of type E that was heard and is as wanted. It
// waits for it, and fails the test after a minute.
func Await[E event.Event](p *Peer, wanted func(E) bool) E {
	p.t.Helper()
	late := time.After(time.Minute)
	for {
		heard, more := hear[E](p)
		if i := slices.IndexFunc(heard, wanted); i >= 0 {
			return heard[i]
		}
		select {
		case <-more:
		case <-late:
			p.t.Fatalf("eventtest: no such %T within a minute, but these: %+v", *new(E), heard)
		}
	}
}

// AwaitEqual is [Await] for the event that equals want. It returns all events of
// the same type and key that were heard so far, oldest first: what led to want,
// and what has followed it.
func AwaitEqual[E interface {
	event.Event
	comparable
}](p *Peer, want E) (history []E) {
	p.t.Helper()
	late := time.After(time.Minute)
	for {
		heard, more := hear[E](p)
		heard = slices.DeleteFunc(heard, func(e E) bool { return e.Meta() != want.Meta() })
		if slices.Contains(heard, want) {
			return heard
		}
		select {
		case <-more:
		case <-late:
			p.t.Fatalf("eventtest: no %+v within a minute, but of its key: %+v", want, heard)
		}
	}
}

func hear[E event.Event](p *Peer) (heard []E, more <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.heard {
		if e, ok := e.(E); ok {
			heard = append(heard, e)
		}
	}
	return heard, p.more
}
