package event_test

import (
	"context"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"go.opentelemetry.io/otel/trace"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/database/databasetest"
	"github.com/turnstile-go/turnstile/framework/event"
)

type measured struct {
	Key   string  `json:"key"`
	Value float64 `json:"value"`
	Text  string  `json:"text"`
}

func (e measured) Meta() event.Meta {
	return event.Meta{Stream: "pings", Type: "measured", Key: e.Key}
}

type broken struct{ Key string }

func (e broken) Meta() event.Meta           { return event.Meta{Stream: "pings", Type: "broken", Key: e.Key} }
func (broken) MarshalJSON() ([]byte, error) { return nil, errors.New("not today") }

// publish publishes in one transaction.
func publish(t *testing.T, db *database.DB, o *event.Outbox, events ...event.Event) {
	t.Helper()
	if err := db.InTx(t.Context(), func(tx *database.Tx) error {
		for _, e := range events {
			if err := o.Publish(t.Context(), tx, e); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// numbers returns what the outbox has of a key, in order of number, as
// "number:value".
func numbers(t *testing.T, db *database.DB, key string) (all []string) {
	t.Helper()
	rows, err := db.QueryContext(context.Background(), "SELECT seq, body FROM event_outbox WHERE key = $1 ORDER BY seq", key)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var seq int64
		var body string
		if err := rows.Scan(&seq, &body); err != nil {
			t.Fatal(err)
		}
		var e struct{ Data ping }
		if err := json.Unmarshal([]byte(body), &e); err != nil {
			t.Fatal(err)
		}
		all = append(all, fmt.Sprintf("%d:%d", seq, e.Data.Value))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestPublishRefusesWhatCannotBeSent(t *testing.T) {
	onBoth(t, func(t *testing.T, db *database.DB) {
		o := event.NewOutbox(db, "front", ping{}, measured{}, broken{})
		for name, refused := range map[string]struct {
			event event.Event
			says  string
		}{
			"a type that is not declared": {odd{Key: "a"}, "not declared"},
			"no key":                      {ping{}, "key is empty"},
			"a key that is too long":      {ping{Key: strings.Repeat("k", 201)}, "longer than"},
			"a key with a NUL":            {ping{Key: "a\x00b"}, "NUL"},
			"NaN":                         {measured{Key: "a", Value: math.NaN()}, "NaN"},
			"an event that fails to say":  {broken{"a"}, "not today"},
			"a megabyte":                  {measured{Key: "a", Text: strings.Repeat("x", 1_000_000)}, "store the large part"},
		} {
			t.Run(name, func(t *testing.T) {
				ctx := t.Context()
				err := db.InTx(ctx, func(tx *database.Tx) error {
					if err := o.Publish(ctx, tx, ping{Key: "a", Value: 1}); err != nil {
						t.Fatal(err)
					}
					return o.Publish(ctx, tx, refused.event)
				})
				if err == nil || !strings.Contains(err.Error(), refused.says) {
					t.Errorf("the error is %v; it should say %q", err, refused.says)
				}
				if n := count(ctx, db, "event_outbox"); n != 0 {
					t.Errorf("%d events in the outbox", n)
				}
				if n := count(ctx, db, "event_sequence"); n != 0 {
					t.Errorf("%d keys have numbers", n)
				}
			})
		}
		// The largest that is taken fits what brokers take.
		text := strings.Repeat("x", 999_000)
		publish(t, db, o, measured{Key: "large", Text: text})
		var size int
		if err := db.QueryRowContext(t.Context(), "SELECT length(body) FROM event_outbox").Scan(&size); err != nil || size > 1_000_000 {
			t.Errorf("%d bytes, %v", size, err)
		}
	})
}

func TestNumbersHaveNoHoles(t *testing.T) {
	onBoth(t, func(t *testing.T, db *database.DB) {
		ctx := t.Context()
		o := event.NewOutbox(db, "front", ping{})
		publish(t, db, o, ping{"a", 1}, ping{"b", 2}, ping{"a", 3})
		abort := errors.New("abort")
		if err := db.InTx(ctx, func(tx *database.Tx) error {
			if err := o.Publish(ctx, tx, ping{"a", 4}); err != nil {
				return err
			}
			return abort
		}); !errors.Is(err, abort) {
			t.Fatal(err)
		}
		publish(t, db, o, ping{"a", 5}, ping{"a", 6})
		if got := fmt.Sprint(numbers(t, db, "a")); got != "[1:1 2:3 3:5 4:6]" {
			t.Errorf("a has %s", got)
		}
		if got := fmt.Sprint(numbers(t, db, "b")); got != "[1:2]" {
			t.Errorf("b has %s", got)
		}
	})
}

// The number is taken at the commit and not at Publish, so a slow transaction
// holds no other up, and numbers follow commits.
func TestNumbersFollowCommits(t *testing.T) {
	db := databasetest.Postgres(t, event.Migrations())
	ctx := t.Context()
	o := event.NewOutbox(db, "front", ping{})
	published, commit, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		done <- db.InTx(ctx, func(tx *database.Tx) error {
			err := o.Publish(ctx, tx, ping{"a", 1})
			close(published)
			<-commit
			return err
		})
	}()
	receive(t, published, "the first to publish")
	publish(t, db, o, ping{"a", 2})
	close(commit)
	if err := receive(t, done, "the first to commit"); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(numbers(t, db, "a")); got != "[1:2 2:1]" {
		t.Errorf("a has %s", got)
	}
}

// spy counts what goes to a database, and its deadlocks.
type spy struct {
	driver.Connector
	onBegin                       *atomic.Pointer[func(n int64)] // called before the n-th transaction begins
	begins, statements, deadlocks *atomic.Int64
}

func (s spy) Connect(ctx context.Context) (driver.Conn, error) {
	c, err := s.Connector.Connect(ctx)
	return spyConn{fragileConn{c}, s}, err
}

type spyConn struct {
	fragileConn
	spy
}

func (c spyConn) see(err error) {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == "40P01" {
		c.deadlocks.Add(1)
	}
}

func (c spyConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	n := c.begins.Add(1)
	if f := c.onBegin.Load(); f != nil {
		(*f)(n)
	}
	return c.fragileConn.BeginTx(ctx, opts)
}

func (c spyConn) ExecContext(ctx context.Context, q string, args []driver.NamedValue) (driver.Result, error) {
	c.statements.Add(1)
	r, err := c.fragileConn.ExecContext(ctx, q, args)
	c.see(err)
	return r, err
}

func (c spyConn) QueryContext(ctx context.Context, q string, args []driver.NamedValue) (driver.Rows, error) {
	c.statements.Add(1)
	r, err := c.fragileConn.QueryContext(ctx, q, args)
	c.see(err)
	return spyRows{r, c}, err
}

// spyRows sees the errors that come with the rows.
type spyRows struct {
	driver.Rows
	c spyConn
}

func (r spyRows) Next(dest []driver.Value) error {
	err := r.Rows.Next(dest)
	r.c.see(err)
	return err
}

// openSpied opens a database with a spy on it.
func openSpied(t *testing.T, url string) (*database.DB, spy) {
	t.Helper()
	s := spy{onBegin: new(atomic.Pointer[func(int64)]), begins: new(atomic.Int64), statements: new(atomic.Int64), deadlocks: new(atomic.Int64)}
	db, err := database.New(database.Config{URL: url, MaxConns: 20, Wrap: func(c driver.Connector) driver.Connector {
		s := s
		s.Connector = c
		return s
	}}, event.Migrations(), effects())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if err := db.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return db, s
}

// onBothURLs gives a test an empty database of each kind.
func onBothURLs(t *testing.T, test func(t *testing.T, url string)) {
	t.Run("sqlite", func(t *testing.T) { test(t, "sqlite:"+t.TempDir()+"/test.db") })
	t.Run("postgres", func(t *testing.T) { test(t, databasetest.PostgresURL(t)) })
}

// Two transactions that publish for x, y and for y, x do not deadlock, because
// numbers are taken in one order.
func TestPublishersDoNotDeadlock(t *testing.T) {
	onBothURLs(t, func(t *testing.T, url string) {
		db, s := openSpied(t, url)
		o := event.NewOutbox(db, "front", ping{}, pong{})
		const publishers, rounds, keys = 8, 15, 30
		var all sync.WaitGroup
		for p := range publishers {
			all.Go(func() {
				for range rounds {
					var events []event.Event
					for k := range keys {
						if p%2 == 1 {
							k = keys - 1 - k
						}
						events = append(events, ping{fmt.Sprint("k", k), 0}, pong{fmt.Sprint("k", k), 0})
					}
					if err := db.InTx(t.Context(), func(tx *database.Tx) error {
						for _, e := range events {
							if err := o.Publish(t.Context(), tx, e); err != nil {
								return err
							}
						}
						return nil
					}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		if n := s.deadlocks.Load(); n != 0 {
			t.Errorf("%d deadlocks", n)
		}
		if n, want := count(t.Context(), db, "event_outbox"), 2*publishers*rounds*keys; n != want {
			t.Errorf("%d events, want %d", n, want)
		}
		var lasts int
		if err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM event_sequence WHERE last = $1", publishers*rounds).Scan(&lasts); err != nil || lasts != 2*keys {
			t.Errorf("%d keys count right, want %d (%v)", lasts, 2*keys, err)
		}
	})
}

// Scheduled events are stored, whoever dies meanwhile, and numbered when they
// are due, by due time.
func TestScheduledEvents(t *testing.T) {
	onBoth(t, func(t *testing.T, db *database.DB) {
		ctx := t.Context()
		start := time.Now()
		schedule := func(o *event.Outbox, value int, at time.Time) {
			t.Helper()
			if err := db.InTx(ctx, func(tx *database.Tx) error {
				return o.Publish(ctx, tx, ping{"a", value}, event.At(at))
			}); err != nil {
				t.Fatal(err)
			}
		}
		first := event.NewOutbox(db, "front", ping{})
		stop := run(t, event.NewClient(quick, first, nil, event.Telemetry{}, &hand{answers: true}))
		due := map[int]time.Time{
			1: start.Add(300 * time.Millisecond), 2: start.Add(200 * time.Millisecond), 3: start.Add(250 * time.Millisecond),
			4: start.Add(-time.Hour), 5: start.Add(200 * time.Millisecond),
		}
		for value := range 5 {
			schedule(first, value+1, due[value+1])
		}
		publish(t, db, first, ping{"b", 6})
		stop() // before most are due, most likely; nothing hangs on it

		// Another process sees to the rest. It finds all of them due.
		<-time.After(time.Until(start.Add(310 * time.Millisecond)))
		second := event.NewOutbox(db, "front", ping{})
		run(t, event.NewClient(quick, second, nil, event.Telemetry{}, &hand{answers: true}))
		eventually(t, "all scheduled events", func() bool { return len(numbers(t, db, "a")) == 5 })
		if got := fmt.Sprint(numbers(t, db, "a")); got != "[1:4 2:2 3:5 4:3 5:1]" {
			t.Errorf("a has %s, want them by due time, then in the order of the calls", got)
		}
		rows, err := db.QueryContext(ctx, "SELECT at, body FROM event_outbox WHERE key = 'a'")
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		for rows.Next() {
			var at int64
			var body string
			if err := rows.Scan(&at, &body); err != nil {
				t.Fatal(err)
			}
			var e struct {
				Time time.Time
				Data ping
			}
			if err := json.Unmarshal([]byte(body), &e); err != nil {
				t.Fatal(err)
			}
			if d := due[e.Data.Value].Truncate(time.Microsecond); at < d.UnixMicro() || e.Time.Before(d) {
				t.Errorf("%d was due at %v and is published at %v", e.Data.Value, d, e.Time)
			}
		}
		if err := rows.Err(); err != nil {
			t.Error(err)
		}
		if n := count(ctx, db, "event_scheduled"); n != 0 {
			t.Errorf("%d events are still scheduled", n)
		}
	})
}

// The relay marks an event sent when the broker has said so, and not before;
// what was acknowledged shortly before a connection is lost is sent again.
func TestRelaySendsUntilAcknowledged(t *testing.T) {
	onBoth(t, func(t *testing.T, db *database.DB) {
		ctx := t.Context()
		o := event.NewOutbox(db, "front", ping{})
		b := &hand{}
		run(t, event.NewClient(quick, o, nil, event.Telemetry{}, b))
		eventually(t, "a session", func() bool { return b.current() != nil })
		s := b.current()
		unsent := func() int { return count(ctx, db, "event_outbox WHERE sent_at IS NULL") }

		publish(t, db, o, ping{"a", 1})
		p := receive(t, s.published, "a publish")
		if p.stream != "pings" {
			t.Errorf("published on %s", p.stream)
		}
		if n := unsent(); n != 1 {
			t.Errorf("%d events unsent before the acknowledgement, want 1", n)
		}
		p.answer(errors.New("timeout"))
		again := receive(t, s.published, "the second try")
		if string(again.body) != string(p.body) {
			t.Errorf("sent %s and then %s", p.body, again.body)
		}
		again.answer(nil)
		eventually(t, "the mark", func() bool { return unsent() == 0 })

		_ = s.Close()
		eventually(t, "a new session", func() bool { return b.current() != s })
		doubted := receive(t, b.current().published, "what the loss puts in doubt")
		if string(doubted.body) != string(p.body) {
			t.Errorf("sent %s again, want %s", doubted.body, p.body)
		}
		doubted.answer(nil)
		eventually(t, "the mark", func() bool { return unsent() == 0 })
	})
}

func TestTraceReachesTheHandler(t *testing.T) {
	onBoth(t, func(t *testing.T, db *database.DB) {
		sent := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1, 2, 3}, SpanID: trace.SpanID{4, 5}, TraceFlags: trace.FlagsSampled})
		ctx := trace.ContextWithSpanContext(t.Context(), sent)
		o := event.NewOutbox(db, "front", ping{})
		l := event.NewListener(db, "back")
		got := make(chan trace.SpanContext, 10)
		event.Handle(l, func(ctx context.Context, _ *database.Tx, _ *event.Message[ping]) error {
			got <- trace.SpanContextFromContext(ctx)
			return nil
		})
		b := &hand{}
		run(t, event.NewClient(quick, o, l, event.Telemetry{}, b))
		for _, options := range [][]event.PublishOption{nil, {event.At(time.Now())}} {
			if err := db.InTx(ctx, func(tx *database.Tx) error { return o.Publish(ctx, tx, ping{"a", 1}, options...) }); err != nil {
				t.Fatal(err)
			}
			eventually(t, "a session", func() bool { return b.current() != nil })
			p := receive(t, b.current().published, "a publish")
			p.answer(nil)
			b.deliver(t, "pings", p.body, false)
			if s := receive(t, got, "the handler"); s.TraceID() != sent.TraceID() || !s.IsSampled() {
				t.Errorf("the handler's trace is %v, want %v", s.TraceID(), sent.TraceID())
			}
		}
	})
}

func TestRegistrationMistakesPanic(t *testing.T) {
	db := databasetest.SQLite(t)
	for name, mistake := range map[string]func(){
		"a type handled twice": func() {
			l := event.NewListener(db, "back")
			handle := func(context.Context, *database.Tx, *event.Message[ping]) error { return nil }
			event.Handle(l, handle)
			event.Handle(l, handle)
		},
		"an event without a stream": func() { event.NewOutbox(db, "front", nameless{}) },
		"a group with a blank":      func() { event.NewListener(db, "a group") },
		"a pointer": func() {
			event.Handle(event.NewListener(db, "back"), func(context.Context, *database.Tx, *event.Message[*ping]) error { return nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if r := recover(); r == nil || !strings.HasPrefix(fmt.Sprint(r), "event: ") {
					t.Errorf("panic %v", r)
				}
			}()
			mistake()
		})
	}
}

type nameless struct{}

func (nameless) Meta() event.Meta { return event.Meta{Type: "nameless"} }
