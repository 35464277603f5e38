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
	mu   sync.Mutex
	last map[string]time.Time
	news chan struct{} // closed when last changes
}

func (s *signs) see(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last[what] = time.Now()
	close(s.news)
	s.news = make(chan struct{})
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
			w.see(stream + " stored")
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
	table := fstest.MapFS{"0001_effect.sql": {Data: []byte("-- +goose Up\nCREATE TABLE effect (stream TEXT, key TEXT, seq BIGINT);")}}
	front := databasetest.SQLite(t, event.Migrations())
	back := databasetest.SQLite(t, event.Migrations(), database.Migrations{Table: "effect_schema", SQLite: table})
	seen := &signs{last: map[string]time.Time{}, news: make(chan struct{})}

	listener := event.NewListener(back, "back")
	event.Handle(listener, func(ctx context.Context, tx *database.Tx, m *event.Message[opened]) error {
		return record(ctx, tx, seen, m.Stream, m.Key, m.Sequence)
	})
	event.Handle(listener, func(ctx context.Context, tx *database.Tx, m *event.Message[rung]) error {
		return record(ctx, tx, seen, m.Stream, m.Key, m.Sequence)
	})
	event.Handle(listener, func(ctx context.Context, tx *database.Tx, m *event.Message[lit]) error {
		return record(ctx, tx, seen, m.Stream, m.Key, m.Sequence)
	})
	outbox := event.NewOutbox(front, "front", opened{}, rung{}, lit{})
	broker := func(id string) event.Broker {
		return watched{newBroker(id), id, seen}
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	for _, c := range []*event.Client{
		event.NewClient(event.Config{}, outbox, nil, event.Telemetry{}, broker("front")),
		event.NewClient(event.Config{}, event.NewOutbox(back, "back"), listener, event.Telemetry{}, broker("back")),
	} {
		running.Go(func() {
			if err := c.Run(ctx); err != nil {
				t.Errorf("run: %v", err)
			}
		})
	}

	var published atomic.Int64
	endLoad := make(chan struct{})
	var loading sync.WaitGroup
	loading.Go(func() {
		pace := time.NewTicker(10 * time.Millisecond)
		defer pace.Stop()
		for {
			select {
			case <-pace.C:
			case <-endLoad:
				return
			}
			n := published.Load()
			e := opened{Key: fmt.Sprint(n / 3 % 7)}
			err := front.InTx(ctx, func(tx *database.Tx) error {
				return outbox.Publish(ctx, tx, []event.Event{e, rung(e), lit(e)}[n%3])
			})
			if err != nil {
				t.Errorf("publish: %v", err)
				return
			}
			published.Add(1)
		}
	})

	live := []string{
		"doors stored", "bells stored", "lamps stored",
		"doors delivered", "bells delivered", "lamps delivered",
	}
	seen.await(t, time.Time{}, live...)
	for _, refusals := range []int{1, 4, 10} { // the longer it is away, the longer the clients' backoff
		server.Kill()
		for range refusals {
			seen.await(t, time.Now(), "front is refused", "back is refused")
		}
		if dead != nil {
			dead()
		}
		server.Start()
		reachable := time.Now()
		seen.await(t, reachable, live...)
		took := time.Since(reachable)
		t.Logf("after %d refusals and with %d events published: live again in %v", refusals, published.Load(), took.Round(time.Millisecond))
		if took > Slowdown*2*time.Second {
			t.Errorf("it took %v from the server's return until publishing and every subscription was live again", took)
		}
	}
	close(endLoad)
	loading.Wait()

	ended, total := time.Now(), published.Load()
	for late := time.After(Slowdown * time.Minute); ; {
		seen.mu.Lock()
		news := seen.news
		seen.mu.Unlock()
		var n int64
		if err := back.QueryRowContext(ctx, "SELECT count(*) FROM effect").Scan(&n); err != nil {
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
	rows, err := back.QueryContext(ctx, "SELECT stream, key, seq FROM effect ORDER BY rowid")
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
