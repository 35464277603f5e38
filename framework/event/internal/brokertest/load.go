package brokertest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/database/databasetest"
	"github.com/turnstile-go/turnstile/framework/event"
)

type opened struct {
	Key string `json:"key"`
}

func (e opened) Meta() event.Meta {
	return event.Meta{Stream: "doors", Type: "door.opened", Key: e.Key}
}

type rung opened

func (e rung) Meta() event.Meta { return event.Meta{Stream: "bells", Type: "bell.rung", Key: e.Key} }

type lit opened

func (e lit) Meta() event.Meta { return event.Meta{Stream: "lamps", Type: "lamp.lit", Key: e.Key} }

// signs are what is seen to work, by name, with when it last did.
type signs struct {
	mu     sync.Mutex
	last   map[string]time.Time
	news   chan struct{}              // closed when last changes
	stored map[string]map[string]bool // messages that the server has acknowledged, by stream
}

func (s *signs) see(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last[what] = time.Now()
	close(s.news)
	s.news = make(chan struct{})
}

func (s *signs) keep(stream string, body []byte) {
	s.mu.Lock()
	if s.stored[stream] == nil {
		s.stored[stream] = map[string]bool{}
	}
	s.stored[stream][string(body)] = true
	s.mu.Unlock()
	s.see(stream + " stored")
}

// allStored returns what has been kept so far, by stream. More may come: what is
// in doubt is sent again.
func (s *signs) allStored() map[string]map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[string]map[string]bool{}
	for stream, bodies := range s.stored {
		all[stream] = maps.Clone(bodies)
	}
	return all
}

// await returns when all of what has been seen since then.
func (s *signs) await(t testing.TB, since time.Time, all ...string) {
	t.Helper()
	late := time.After(time.Minute)
	for {
		s.mu.Lock()
		news, last := s.news, maps.Clone(s.last)
		s.mu.Unlock()
		missing := slices.DeleteFunc(slices.Clone(all), func(what string) bool { return last[what].After(since) })
		if len(missing) == 0 {
			return
		}
		select {
		case <-news:
		case <-late:
			t.Fatalf("no sign of %v", missing)
		}
	}
}

// watched is a broker that notes what works: connects that fail, messages that
// are stored, and new ones that are delivered, by stream.
type watched struct {
	event.Broker
	name string
	*signs
}

func (w watched) Connect(ctx context.Context) (event.Session, error) {
	s, err := w.Broker.Connect(ctx)
	if err != nil {
		w.see(w.name + " is refused")
		return nil, err
	}
	return watchedSession{s, w.signs}, nil
}

type watchedSession struct {
	event.Session
	*signs
}

func (w watchedSession) Publish(ctx context.Context, stream string, body []byte, acked func(error)) {
	w.Session.Publish(ctx, stream, body, func(err error) {
		if err == nil {
			w.keep(stream, body)
		}
		acked(err)
	})
}

func (w watchedSession) Subscribe(ctx context.Context, s event.Subscription, deliver func(event.Delivery)) (func() error, error) {
	return w.Session.Subscribe(ctx, s, func(d event.Delivery) {
		if !d.Redelivered {
			w.see(s.Stream + " delivered")
		}
		deliver(d)
	})
}

// KilledUnderLoad is a test: killed under load and started again, a server has
// publishers and subscriptions back within two seconds of being reachable, and
// nothing is lost or done twice. newBroker returns a broker for a client of that
// name.
// While the server is dead, dead is called, if there is one.
func KilledUnderLoad(t *testing.T, server *Process, newBroker func(id string) event.Broker, dead func()) {
	load := startLoad(t, newBroker)
	load.awaitLive(time.Time{})
	for _, refusals := range []int{1, 4, 10} { // the longer it is away, the longer the clients' backoff
		server.Kill()
		for range refusals {
			load.seen.await(t, time.Now(), "front is refused", "back is refused")
		}
		if dead != nil {
			dead()
		}
		server.Start()
		took := load.awaitLive(time.Now())
		t.Logf("after %d refusals and with %d events published: live again in %v", refusals, load.published.Load(), took.Round(time.Millisecond))
		if took > Slowdown*2*time.Second {
			t.Errorf("it took %v from the server's return until publishing and every subscription was live again", took)
		}
	}
	load.finish()
}

// load is a service that publishes all the time, and one that listens.
type load struct {
	t           *testing.T
	seen        *signs
	front, back *database.DB
	outbox      *event.Outbox
	published   atomic.Int64
	end         chan struct{}
	loading     sync.WaitGroup
}

// startLoad begins, and ends with t at the latest.
func startLoad(t *testing.T, newBroker func(id string) event.Broker) *load {
	table := fstest.MapFS{"0001_effect.sql": {Data: []byte("-- +goose Up\nCREATE TABLE effect (stream TEXT, key TEXT, seq BIGINT);")}}
	l := &load{
		t:     t,
		seen:  &signs{last: map[string]time.Time{}, news: make(chan struct{}), stored: map[string]map[string]bool{}},
		front: databasetest.SQLite(t, event.Migrations()),
		back:  databasetest.SQLite(t, event.Migrations(), database.Migrations{Table: "effect_schema", SQLite: table}),
		end:   make(chan struct{}),
	}
	listener := event.NewListener(l.back, "back")
	event.Handle(listener, func(ctx context.Context, tx *database.Tx, m *event.Message[opened]) error {
		return record(ctx, tx, l.seen, m.Stream, m.Key, m.Sequence)
	})
	event.Handle(listener, func(ctx context.Context, tx *database.Tx, m *event.Message[rung]) error {
		return record(ctx, tx, l.seen, m.Stream, m.Key, m.Sequence)
	})
	event.Handle(listener, func(ctx context.Context, tx *database.Tx, m *event.Message[lit]) error {
		return record(ctx, tx, l.seen, m.Stream, m.Key, m.Sequence)
	})
	l.outbox = event.NewOutbox(l.front, "front", opened{}, rung{}, lit{})
	broker := func(id string) event.Broker {
		return watched{newBroker(id), id, l.seen}
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for _, c := range []*event.Client{
		event.NewClient(event.Config{}, l.outbox, nil, event.Telemetry{}, broker("front")),
		event.NewClient(event.Config{}, event.NewOutbox(l.back, "back"), listener, event.Telemetry{}, broker("back")),
	} {
		running.Go(func() {
			if err := c.Run(ctx); err != nil {
				t.Errorf("run: %v", err)
			}
		})
	}
	l.loading.Go(func() { l.publish(ctx) })
	t.Cleanup(func() {
		stop()
		l.loading.Wait()
		running.Wait()
	})
	return l
}

func (l *load) publish(ctx context.Context) {
	pace := time.NewTicker(10 * time.Millisecond)
	defer pace.Stop()
	for {
		select {
		case <-pace.C:
		case <-l.end:
			return
		case <-ctx.Done():
			return
		}
		n := l.published.Load()
		e := opened{Key: fmt.Sprint(n / 3 % 7)}
		err := l.front.InTx(ctx, func(tx *database.Tx) error {
			return l.outbox.Publish(ctx, tx, []event.Event{e, rung(e), lit(e)}[n%3])
		})
		if err != nil {
			if ctx.Err() == nil {
				l.t.Errorf("publish: %v", err)
			}
			return
		}
		l.published.Add(1)
	}
}

var streams = []string{"doors", "bells", "lamps"}

// awaitLive returns how long after since all streams were published to and listened to.
func (l *load) awaitLive(since time.Time) time.Duration {
	l.t.Helper()
	var live []string
	for _, stream := range streams {
		live = append(live, stream+" stored", stream+" delivered")
	}
	l.seen.await(l.t, since, live...)
	return time.Since(since)
}

// finish publishes no more, and checks that every event has had its effect, once and in order.
func (l *load) finish() {
	t := l.t
	t.Helper()
	close(l.end)
	l.loading.Wait()

	ended, total := time.Now(), l.published.Load()
	for late := time.After(Slowdown * time.Minute); ; {
		l.seen.mu.Lock()
		news := l.seen.news
		l.seen.mu.Unlock()
		var n int64
		if err := l.back.QueryRowContext(t.Context(), "SELECT count(*) FROM effect").Scan(&n); err != nil {
			t.Fatal(err)
		}
		if n == total {
			break
		}
		if n > total {
			t.Fatalf("%d events took effect %d times", total, n)
		}
		select {
		case <-news:
		case <-late:
			t.Fatalf("%d of %d events took effect", n, total)
		}
	}
	t.Logf("all %d events took effect %v after the last was published", total, time.Since(ended).Round(time.Millisecond))
	rows, err := l.back.QueryContext(t.Context(), "SELECT stream, key, seq FROM effect ORDER BY rowid")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	next := map[string]int64{}
	for rows.Next() {
		var stream, key string
		var seq int64
		if err := rows.Scan(&stream, &key, &seq); err != nil {
			t.Fatal(err)
		}
		if next[stream+key]++; seq != next[stream+key] {
			t.Fatalf("%s %s: number %d took effect where %d was due", stream, key, seq, next[stream+key])
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
}

func record(ctx context.Context, tx *database.Tx, seen *signs, stream, key string, seq int64) error {
	_, err := tx.ExecContext(ctx, "INSERT INTO effect (stream, key, seq) VALUES ($1, $2, $3)", stream, key, seq)
	tx.AfterCommit(func() { seen.see(stream + " took effect") })
	return err
}
