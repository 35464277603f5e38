package event_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/database/databasetest"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/event/eventtest"
)

// The property of this file: whatever happens to the broker, the processes and
// the handlers, every committed event takes effect exactly once in every group,
// in the order of its key's commits. Two services talk: "front" publishes
// pings; "back" applies each and publishes a pong in the same transaction,
// which front applies.

type ping struct {
	Key   string `json:"key"`
	Value int    `json:"value"`
}

func (e ping) Meta() event.Meta { return event.Meta{Stream: "pings", Type: "ping", Key: e.Key} }

// odd is an event that nobody handles: the cursors pass it.
type odd ping

func (e odd) Meta() event.Meta { return event.Meta{Stream: "pings", Type: "odd", Key: e.Key} }

type pong ping

func (e pong) Meta() event.Meta { return event.Meta{Stream: "pongs", Type: "pong", Key: e.Key} }

// effects are recorded in a table in which nothing is unique.
func effects() database.Migrations {
	table := func(id string) fs.FS {
		return fstest.MapFS{"0001_effect.sql": {Data: []byte("-- +goose Up\nCREATE TABLE effect (id " + id + ", stream TEXT, key TEXT, seq BIGINT, event_id TEXT, value BIGINT, at BIGINT);")}}
	}
	return database.Migrations{Table: "effect_schema", Postgres: table("BIGSERIAL PRIMARY KEY"), SQLite: table("INTEGER PRIMARY KEY AUTOINCREMENT")}
}

// plan is one schedule.
type plan struct {
	faults   eventtest.Faults
	replicas int
	config   event.Config
	actions  []action
	// failures says what becomes of the first attempts at a ping's value.
	failures map[int][]failure
}

type action struct {
	pause time.Duration
	what  string // publish, abort, crash, crashAt, down, disconnect, drain
	keys  []string
	value int
	after time.Duration // for a scheduled event
	odd   bool
	which int
	steps int
}

func (a action) String() string {
	switch a.what {
	case "publish", "abort":
		return fmt.Sprintf("+%v %s %d %v after=%v odd=%v", a.pause, a.what, a.value, a.keys, a.after, a.odd)
	default:
		return fmt.Sprintf("+%v %s which=%d steps=%d", a.pause, a.what, a.which, a.steps)
	}
}

type failure string

func drawPlan(t *rapid.T) plan {
	probability := func(name string) float64 {
		return rapid.SampledFrom([]float64{0, 0, 0.05, 0.3}).Draw(t, name)
	}
	millis := func(most int, name string) time.Duration {
		return time.Duration(rapid.IntRange(0, most).Draw(t, name)) * time.Millisecond
	}
	p := plan{
		faults: eventtest.Faults{
			Seed:        rapid.Uint64().Draw(t, "seed"),
			LosePublish: probability("losePublish"), LosePublishAck: probability("losePublishAck"),
			LoseAck: probability("loseAck"), Duplicate: probability("duplicate"), Reorder: probability("reorder"),
			Disconnect: rapid.SampledFrom([]float64{0, 0, 0.02}).Draw(t, "disconnect"),
			MaxDelay:   rapid.SampledFrom([]time.Duration{0, time.Millisecond, 50 * time.Millisecond}).Draw(t, "maxDelay"),
		},
		replicas: rapid.IntRange(1, 2).Draw(t, "replicas"),
		config: event.Config{
			Workers: rapid.IntRange(1, 3).Draw(t, "workers"), Batch: rapid.SampledFrom([]int{1, 3, 100}).Draw(t, "batch"),
			MaxInFlight: rapid.SampledFrom([]int{1, 4, 256}).Draw(t, "inFlight"), AckWait: time.Second,
			Attempts: 4, RetryFirst: 10 * time.Millisecond, RetryMost: 100 * time.Millisecond,
			HandlerTimeout: time.Second, DrainTimeout: time.Second, GapTimeout: time.Minute,
		},
		failures: map[int][]failure{},
	}
	whats := []string{"publish", "publish", "publish", "publish", "publish", "abort", "crash", "crashAt", "crashAt", "down", "disconnect", "drain"}
	for i := range rapid.IntRange(1, 40).Draw(t, "actions") {
		a := action{pause: millis(30, "pause"), what: rapid.SampledFrom(whats).Draw(t, "what"), value: i}
		switch a.what {
		case "publish", "abort":
			a.keys = rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c"}), 1, 4).Draw(t, "keys")
			a.odd = rapid.IntRange(0, 5).Draw(t, "odd") == 0
			if rapid.IntRange(0, 3).Draw(t, "scheduled") == 0 {
				a.after = millis(100, "after")
			}
			kinds := []failure{"error", "panic", "retryAfter", "dead", "lateError", "crash"}
			if rapid.IntRange(0, 3).Draw(t, "fails") == 0 {
				p.failures[i] = rapid.SliceOfN(rapid.SampledFrom(kinds), 1, 5).Draw(t, "failures")
			}
		default:
			a.which = rapid.IntRange(0, 3).Draw(t, "which")
			a.steps = rapid.IntRange(0, 60).Draw(t, "steps")
		}
		p.actions = append(p.actions, a)
	}
	return p
}

// world runs a plan.
type world struct {
	plan   plan
	broker *eventtest.Broker
	dbs    map[string]*database.DB

	mu       sync.Mutex
	attempts map[int]int // of pings, by value
	wanted   map[string][]int
	problems []string
	running  sync.WaitGroup
	replicas []*replica
}

// replica is one process of a service, or, after a crash, its successor.
type replica struct {
	w       *world
	service string
	process *process
	ctx     context.Context
	stop    context.CancelFunc
	outbox  *event.Outbox
	done    chan struct{}
}

func (w *world) problem(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.problems = append(w.problems, fmt.Sprintf(format, args...))
}

func (r *replica) start(ctx context.Context) {
	var processCtx context.Context
	r.process, processCtx = newProcess(ctx)
	r.ctx, r.stop = context.WithCancel(processCtx)
	w, db := r.w, r.w.dbs[r.service]
	l := event.NewListener(db, r.service)
	if r.service == "front" {
		r.outbox = event.NewOutbox(db, r.service, ping{}, odd{})
		event.Handle(l, func(ctx context.Context, tx *database.Tx, m *event.Message[pong]) error {
			return record(ctx, tx, m.Stream, m.Key, m.Sequence, m.ID, m.Data.Value)
		})
	} else {
		outbox := event.NewOutbox(db, r.service, pong{})
		r.outbox = outbox
		proc := r.process
		event.Handle(l, func(ctx context.Context, tx *database.Tx, m *event.Message[ping]) error {
			return w.onPing(ctx, proc, tx, outbox, m)
		})
	}
	client := event.NewClient(w.plan.config, fragileBroker{w.broker, r.process}, r.outbox, l, event.Telemetry{})
	done := make(chan struct{})
	r.done = done
	run := r.ctx
	w.running.Go(func() {
		defer close(done)
		if err := client.Run(run); err != nil {
			w.problem("%s: Run: %v", r.service, err)
		}
	})
}

func record(ctx context.Context, tx *database.Tx, stream, key string, seq int64, id string, value int) error {
	_, err := tx.ExecContext(ctx, "INSERT INTO effect (stream, key, seq, event_id, value, at) VALUES ($1, $2, $3, $4, $5, $6)",
		stream, key, seq, id, value, time.Now().UnixMicro())
	return err
}

func (w *world) onPing(ctx context.Context, p *process, tx *database.Tx, outbox *event.Outbox, m *event.Message[ping]) error {
	w.mu.Lock()
	n := w.attempts[m.Data.Value]
	w.attempts[m.Data.Value]++
	var fail failure
	if plan := w.plan.failures[m.Data.Value]; n < len(plan) {
		fail = plan[n]
	}
	w.mu.Unlock()
	switch fail {
	case "error":
		return errors.New("planned")
	case "panic":
		panic("planned")
	case "retryAfter":
		return event.RetryAfter(errors.New("planned"), 20*time.Millisecond)
	case "dead":
		return event.Dead(errors.New("planned"))
	case "crash":
		p.crash()
	}
	if err := record(ctx, tx, m.Stream, m.Key, m.Sequence, m.ID, m.Data.Value); err != nil {
		return err
	}
	if err := outbox.Publish(ctx, tx, pong{m.Key, m.Data.Value}); err != nil {
		return err
	}
	if fail == "lateError" {
		return errors.New("planned, after the effect")
	}
	return nil
}

// run carries the plan out and then lets the system become quiet.
func (w *world) run(ctx context.Context, patience time.Duration) {
	for _, service := range []string{"front", "back"} {
		for range w.plan.replicas {
			r := &replica{w: w, service: service}
			r.start(ctx)
			w.replicas = append(w.replicas, r)
		}
	}
	for _, a := range w.plan.actions {
		time.Sleep(a.pause)
		w.act(ctx, a)
	}
	// From here on nothing fails any more but the planned handlers.
	w.broker.SetFaults(eventtest.Faults{})
	w.broker.Up()
	for _, r := range w.replicas {
		r.process.crashAfter(-1)
	}
	deadline := time.Now().Add(patience)
	for pause := time.Millisecond; ; pause = min(2*pause, time.Second) {
		w.revive(ctx)
		quiet, why := w.quiet(ctx)
		if quiet {
			break
		}
		if time.Now().After(deadline) {
			w.problem("not quiet after %v: %s", patience, why)
			break
		}
		time.Sleep(pause)
	}
	for _, r := range w.replicas {
		r.stop()
	}
	w.running.Wait()
	w.check(ctx)
}

func (w *world) act(ctx context.Context, a action) {
	front := w.replicas[0]
	switch a.what {
	case "publish", "abort":
		// The request's own process may crash in the middle of it: then only
		// the database knows whether it took place, and check asks it.
		abort := errors.New("abort")
		_ = w.dbs["front"].InTx(front.ctx, func(tx *database.Tx) error {
			for _, key := range a.keys {
				var options []event.PublishOption
				if a.after > 0 {
					options = append(options, event.At(time.Now().Add(a.after)))
				}
				var e event.Event = ping{key, a.value}
				if a.odd {
					e = odd{key, a.value}
				}
				if err := front.outbox.Publish(front.ctx, tx, e, options...); err != nil {
					return err
				}
			}
			if a.what == "abort" {
				return abort
			}
			return nil
		})
	case "crash":
		w.replicas[a.which%len(w.replicas)].process.crash()
	case "crashAt":
		w.replicas[a.which%len(w.replicas)].process.crashAfter(a.steps)
	case "down":
		w.broker.Down()
		time.Sleep(time.Duration(a.steps) * time.Millisecond)
		w.broker.Up()
	case "disconnect":
		w.broker.DisconnectOne(a.which)
	case "drain":
		r := w.replicas[a.which%len(w.replicas)]
		r.stop()
		<-r.done
	}
	w.revive(ctx)
}

// revive starts a successor for every process that has ended.
func (w *world) revive(ctx context.Context) {
	for _, r := range w.replicas {
		if r.ctx.Err() != nil {
			r.start(ctx)
		}
	}
}

// quiet reports whether everything committed was applied. Dead letters are
// redriven on the way, as an operator would.
func (w *world) quiet(ctx context.Context) (bool, string) {
	for service, db := range w.dbs {
		letters, err := event.DeadLetters(ctx, db)
		if err != nil {
			return false, err.Error()
		}
		for _, l := range letters {
			if l.Kind == "dead" {
				_ = event.Redrive(ctx, db, l)
			} else {
				w.problem("%v: %s", l, l.Error)
				_ = event.Skip(ctx, db, l)
			}
		}
		for _, table := range []string{"event_parked", "event_scheduled", "event_outbox WHERE sent_at IS NULL"} {
			if n := count(ctx, db, table); n != 0 {
				return false, fmt.Sprintf("%s: %d rows in %s", service, n, table)
			}
		}
	}
	for _, side := range []struct{ from, stream, to string }{{"front", "pings", "back"}, {"back", "pongs", "front"}} {
		last, applied := w.positions(ctx, side.from, side.stream, side.to)
		if last != applied {
			return false, fmt.Sprintf("%s: published %s, applied %s", side.stream, last, applied)
		}
	}
	return true, ""
}

func count(ctx context.Context, db *database.DB, table string) (n int) {
	if err := db.QueryRowContext(ctx, "SELECT count(*) FROM "+table).Scan(&n); err != nil {
		return -1
	}
	return n
}

// positions returns what was published on a stream and what was applied, as
// comparable text.
func (w *world) positions(ctx context.Context, from, stream, to string) (last, applied string) {
	list := func(db *database.DB, q string) string {
		rows, err := db.QueryContext(ctx, q, stream)
		if err != nil {
			return err.Error()
		}
		defer rows.Close()
		var b strings.Builder
		for rows.Next() {
			var key string
			var seq int64
			if err := rows.Scan(&key, &seq); err != nil {
				return err.Error()
			}
			fmt.Fprintf(&b, "%s:%d ", key, seq)
		}
		return b.String()
	}
	return list(w.dbs[from], "SELECT key, last FROM event_sequence WHERE stream = $1 AND last > 0 ORDER BY key"),
		list(w.dbs[to], "SELECT key, seq FROM event_cursor WHERE stream = $1 AND seq > 0 ORDER BY key")
}

// check compares, row by row, what was committed with what took effect.
func (w *world) check(ctx context.Context) {
	for _, side := range []struct{ from, stream, typ, to string }{{"front", "pings", "ping", "back"}, {"back", "pongs", "pong", "front"}} {
		read := func(db *database.DB, q string, args ...any) map[string][]string {
			all := map[string][]string{}
			rows, err := db.QueryContext(ctx, q, args...)
			if err != nil {
				w.problem("%v", err)
				return nil
			}
			defer rows.Close()
			for rows.Next() {
				var key, id string
				var seq int64
				if err := rows.Scan(&key, &seq, &id); err != nil {
					w.problem("%v", err)
				}
				all[key] = append(all[key], fmt.Sprintf("%d:%s", seq, id))
			}
			return all
		}
		committed := read(w.dbs[side.from], "SELECT key, seq, event_id FROM event_outbox WHERE stream = $1 AND type = $2 ORDER BY key, seq", side.stream, side.typ)
		applied := read(w.dbs[side.to], "SELECT key, seq, event_id FROM effect WHERE stream = $1 ORDER BY key, id", side.stream)
		if got, want := fmt.Sprint(applied), fmt.Sprint(committed); got != want {
			w.problem("%s:\ncommitted %s\napplied   %s", side.stream, want, got)
		}
		// The numbers of a key have no holes, whatever was aborted.
		for key, ids := range read(w.dbs[side.from], "SELECT key, seq, event_id FROM event_outbox WHERE stream = $1 ORDER BY key, seq", side.stream) {
			for i, id := range ids {
				if !strings.HasPrefix(id, fmt.Sprintf("%d:", i+1)) {
					w.problem("%s %s: number %d is %s", side.stream, key, i+1, id)
				}
			}
		}
	}
}

func newWorld(p plan, open func(name string) (*database.DB, error)) (*world, error) {
	w := &world{plan: p, broker: eventtest.NewBroker(p.faults), dbs: map[string]*database.DB{}, attempts: map[int]int{}}
	for _, name := range []string{"front", "back"} {
		db, err := open(name)
		if err != nil {
			return nil, err
		}
		if err := db.Start(context.Background()); err != nil {
			return nil, err
		}
		w.dbs[name] = db
	}
	return w, nil
}

func simulate(t *testing.T, p plan) (problems []string) {
	synctest.Test(t, func(t *testing.T) {
		w, err := newWorld(p, func(string) (*database.DB, error) {
			return database.New(database.Config{URL: "sqlite::memory:", Wrap: func(c driver.Connector) driver.Connector { return fragile{c} }}, event.Migrations(), effects())
		})
		if err != nil {
			t.Fatal(err)
		}
		w.run(context.Background(), 2*time.Minute)
		w.broker.Close()
		for _, db := range w.dbs {
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		}
		problems = w.problems
	})
	return problems
}

// TestLedger runs random schedules in virtual time. More of them:
//
//	go test ./event -run TestLedger -rapid.checks 10000
func TestLedger(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := drawPlan(rt)
		if problems := simulate(t, p); len(problems) > 0 {
			rt.Fatalf("faults %+v, replicas %d, config %+v\nfailures %v\nactions %v\n%s",
				p.faults, p.replicas, p.config, p.failures, p.actions, strings.Join(problems, "\n"))
		}
	})
}

// TestLedgerOnPostgres runs a few random schedules in real time, with the true
// concurrency of two processes on one server.
func TestLedgerOnPostgres(t *testing.T) {
	var example int
	gen := rapid.Custom(drawPlan)
	seed := uint64(rand.Uint32())
	if f := flag.Lookup("rapid.seed"); f != nil && f.Value.String() != "0" {
		_, _ = fmt.Sscan(f.Value.String(), &seed)
	}
	for example = range 6 {
		p := gen.Example(int(seed) + example)
		p.replicas = 2
		w, err := newWorld(p, func(string) (*database.DB, error) {
			return database.New(database.Config{URL: databasetest.PostgresURL(t), MaxConns: 20, Wrap: func(c driver.Connector) driver.Connector { return fragile{c} }}, event.Migrations(), effects())
		})
		if err != nil {
			t.Fatal(err)
		}
		w.run(t.Context(), 30*time.Second)
		w.broker.Close()
		for _, db := range w.dbs {
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		}
		if len(w.problems) > 0 {
			t.Fatalf("example %d\nfaults %+v, config %+v\nfailures %v\nactions %v\n%s", int(seed)+example,
				p.faults, p.config, p.failures, p.actions, strings.Join(w.problems, "\n"))
		}
	}
}
