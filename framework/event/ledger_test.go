package event_test

import (
	"cmp"
	"context"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
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
	"github.com/turnstile-go/turnstile/framework/event/admin"
	"github.com/turnstile-go/turnstile/framework/event/eventtest"
)

// The property of this file: whatever happens to the broker, the processes and
// the handlers, every committed event takes effect exactly once in every group,
// in the order of its key's commits. Two services talk: "front" publishes
// pings; "back" applies each and publishes a pong in the same transaction,
// which front applies. A second group, "audit", may share back's database, and
// one of back's replicas may be of an older version that has no handler for
// one of the types.

type ping struct {
	Key   string `json:"key"`
	Value int    `json:"value"`
}

func (e ping) Meta() event.Meta { return event.Meta{Stream: "pings", Type: "ping", Key: e.Key} }

// odd is an event that nobody handles: the cursors pass it.
type odd ping

func (e odd) Meta() event.Meta { return event.Meta{Stream: "pings", Type: "odd", Key: e.Key} }

// novel is an event that only the newer replicas handle.
type novel ping

func (e novel) Meta() event.Meta { return event.Meta{Stream: "pings", Type: "novel", Key: e.Key} }

type pong ping

func (e pong) Meta() event.Meta { return event.Meta{Stream: "pongs", Type: "pong", Key: e.Key} }

// effects are recorded in a table in which nothing is unique.
func effects() database.Migrations {
	table := func(id string) fs.FS {
		return fstest.MapFS{"0001_effect.sql": {Data: []byte("-- +goose Up\nCREATE TABLE effect (id " + id + ", grp TEXT, stream TEXT, key TEXT, seq BIGINT, event_id TEXT, value BIGINT, at BIGINT);")}}
	}
	return database.Migrations{Table: "effect_schema", Postgres: table("BIGSERIAL PRIMARY KEY"), SQLite: table("INTEGER PRIMARY KEY AUTOINCREMENT")}
}

// plan is one schedule.
type plan struct {
	faults   eventtest.Faults
	replicas int
	old      bool // the last replica of back does not know novel events
	audit    bool // a second group listens
	moves    bool // the replicas move, one by one, from one broker to another
	from     uses // where they begin
	config   event.Config
	actions  []action
	// failures says what becomes of the first attempts at the pings of an action.
	failures map[int][]failure
}

type action struct {
	pause time.Duration
	what  string // publish, abort, burst, crash, crashAt, down, wipe, blackout, disconnect, drain, redrive, skip, move
	keys  []string
	value int           // of the first event; the others of the action follow
	after time.Duration // for a scheduled event
	kind  string        // ping, odd or novel
	which int
	steps int
}

// valuesPerAction is what one action's values are apart.
const valuesPerAction = 1000

func (a action) String() string {
	switch a.what {
	case "publish", "abort", "burst":
		return fmt.Sprintf("+%v %s %d %v %s after=%v", a.pause, a.what, a.value, a.keys, a.kind, a.after)
	default:
		return fmt.Sprintf("+%v %s which=%d steps=%d", a.pause, a.what, a.which, a.steps)
	}
}

type failure string

func (p plan) String() string {
	return fmt.Sprintf("faults %+v, replicas %d, old %v, audit %v, moves %v from %d, config %+v\nfailures %v\nactions %v",
		p.faults, p.replicas, p.old, p.audit, p.moves, p.from, p.config, p.failures, p.actions)
}

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
			HandlerTimeout: time.Second, DrainTimeout: time.Second,
			GapTimeout: rapid.SampledFrom([]time.Duration{time.Minute, time.Minute, 200 * time.Millisecond}).Draw(t, "gapTimeout"),
		},
		old:      rapid.IntRange(0, 2).Draw(t, "old") == 0,
		audit:    rapid.IntRange(0, 3).Draw(t, "audit") == 0,
		moves:    rapid.IntRange(0, 2).Draw(t, "moves") == 0,
		failures: map[int][]failure{},
	}
	whats := []string{"publish", "publish", "publish", "publish", "publish", "abort", "crash", "crashAt", "crashAt", "down", "wipe", "blackout", "disconnect", "drain", "redrive", "skip"}
	if rapid.IntRange(0, 9).Draw(t, "bursts") == 0 {
		whats = append(whats, "burst")
	}
	if p.moves {
		whats = append(whats, slices.Repeat([]string{"move"}, 8)...)
		p.from = rapid.SampledFrom([]uses{former, both}).Draw(t, "from")
	}
	for i := range rapid.IntRange(1, 40).Draw(t, "actions") {
		a := action{pause: millis(30, "pause"), what: rapid.SampledFrom(whats).Draw(t, "what"), value: i * valuesPerAction, kind: "ping"}
		switch a.what {
		case "burst":
			// More than a turn looks at in one key.
			a.keys = slices.Repeat([]string{"a"}, rapid.IntRange(65, 140).Draw(t, "burst"))
		case "publish", "abort":
			a.keys = rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}), 1, 6).Draw(t, "keys")
			a.kind = rapid.SampledFrom([]string{"ping", "ping", "ping", "ping", "odd", "novel"}).Draw(t, "kind")
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
	plan    plan
	brokers []*eventtest.Broker // the one that they come from and the one that they go to
	dbs     map[string]*database.DB

	mu       sync.Mutex
	attempts map[int]int // at pings, by action
	due      map[int]scheduled
	skipped  map[string]bool // "group stream key number" of what an operator gave up
	problems []string
	running  sync.WaitGroup
	replicas []*replica
}

// scheduled is what is known of a scheduled event.
type scheduled struct {
	due       time.Time
	committed time.Time // zero if its request's process crashed: then only the database knows
}

// replica is one process of a service, or, after a crash, its successor.
type replica struct {
	w       *world
	service string
	old     bool
	uses    uses
	process *process
	ctx     context.Context
	stop    context.CancelFunc
	outbox  *event.Outbox
	done    chan struct{}
}

// uses says which brokers a replica uses, in the order of a move.
type uses int

const (
	former uses = iota
	both
	latter
)

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
	listeners := []*event.Listener{event.NewListener(db, r.service)}
	if r.service == "front" {
		r.outbox = event.NewOutbox(db, r.service, ping{}, odd{}, novel{})
		event.Handle(listeners[0], func(ctx context.Context, tx *database.Tx, m *event.Message[pong]) error {
			return record(ctx, tx, r.service, m.Stream, m.Key, m.Sequence, m.ID, m.Data.Value)
		})
	} else {
		r.outbox = event.NewOutbox(db, r.service, pong{})
		outbox, proc := r.outbox, r.process
		event.Handle(listeners[0], func(ctx context.Context, tx *database.Tx, m *event.Message[ping]) error {
			return w.onPing(ctx, proc, tx, outbox, m)
		})
		if !r.old {
			event.Handle(listeners[0], func(ctx context.Context, tx *database.Tx, m *event.Message[novel]) error {
				return record(ctx, tx, r.service, m.Stream, m.Key, m.Sequence, m.ID, m.Data.Value)
			})
		}
		if w.plan.audit {
			audit := event.NewListener(db, "audit")
			event.Handle(audit, func(ctx context.Context, tx *database.Tx, m *event.Message[ping]) error {
				return record(ctx, tx, "audit", m.Stream, m.Key, m.Sequence, m.ID, m.Data.Value)
			})
			listeners = append(listeners, audit)
		}
	}
	var running sync.WaitGroup
	run := r.ctx
	var brokers []event.Broker
	for i, name := range []string{"former", "latter"} {
		if r.uses == both || r.uses == uses(2*i) {
			brokers = append(brokers, fragileBroker{eventtest.Named(name, w.brokers[i]), r.process})
		}
	}
	for i, l := range listeners {
		outbox := r.outbox
		if i > 0 {
			outbox = event.NewOutbox(db, r.service) // a second relay of the same outbox
		}
		client := event.NewClient(w.plan.config, outbox, l, event.Telemetry{}, brokers...)
		running.Go(func() {
			if err := client.Run(run); err != nil {
				w.problem("%s: Run: %v", r.service, err)
			}
		})
	}
	done := make(chan struct{})
	r.done = done
	w.running.Go(func() {
		defer close(done)
		running.Wait()
	})
}

func record(ctx context.Context, tx *database.Tx, grp, stream, key string, seq int64, id string, value int) error {
	_, err := tx.ExecContext(ctx, "INSERT INTO effect (grp, stream, key, seq, event_id, value, at) VALUES ($1, $2, $3, $4, $5, $6, $7)",
		grp, stream, key, seq, id, value, time.Now().UnixMicro())
	return err
}

func (w *world) onPing(ctx context.Context, p *process, tx *database.Tx, outbox *event.Outbox, m *event.Message[ping]) error {
	w.mu.Lock()
	action := m.Data.Value / valuesPerAction
	n := w.attempts[action]
	w.attempts[action]++
	var fail failure
	if plan := w.plan.failures[action]; n < len(plan) {
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
	if err := record(ctx, tx, "back", m.Stream, m.Key, m.Sequence, m.ID, m.Data.Value); err != nil {
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
		for i := range w.plan.replicas {
			r := &replica{w: w, service: service, old: w.plan.old && i > 0, uses: w.plan.from}
			r.start(ctx)
			w.replicas = append(w.replicas, r)
		}
	}
	// A type counts as handled once a member has recorded it.
	for count(ctx, w.dbs["back"], "event_type WHERE type = 'novel'") < 1 {
		time.Sleep(time.Millisecond)
	}
	for _, a := range w.plan.actions {
		time.Sleep(a.pause)
		w.act(ctx, a)
	}
	// From here on nothing fails any more but the planned handlers.
	for _, b := range w.brokers {
		b.SetFaults(eventtest.Faults{})
		b.Up()
	}
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
	switch a.what {
	case "publish", "abort", "burst":
		w.publish(a)
	case "crash":
		w.replicas[a.which%len(w.replicas)].process.crash()
	case "crashAt":
		w.replicas[a.which%len(w.replicas)].process.crashAfter(a.steps)
	case "down":
		b := w.brokers[a.which%len(w.brokers)]
		b.Down()
		if w.plan.moves && a.which > 1 {
			// The next actions take place without it.
			w.running.Go(func() {
				time.Sleep(time.Duration(a.steps) * time.Millisecond)
				b.Up()
			})
			break
		}
		time.Sleep(time.Duration(a.steps) * time.Millisecond)
		b.Up()
	case "wipe":
		w.brokers[a.which%len(w.brokers)].Wipe()
	case "blackout":
		for _, r := range w.replicas {
			r.process.crash()
		}
		w.brokers[a.which%len(w.brokers)].Wipe()
	case "redrive", "skip":
		w.operate(ctx, a)
	case "disconnect":
		w.brokers[a.steps%len(w.brokers)].DisconnectOne(a.which)
	case "drain":
		r := w.replicas[a.which%len(w.replicas)]
		r.stop()
		<-r.done
	case "move":
		w.move(ctx)
	}
	w.revive(ctx)
}

// move takes the replica that is furthest back one step further, as a rolling
// update would, if it is time for that.
func (w *world) move(ctx context.Context) {
	r := slices.MinFunc(w.replicas, func(a, b *replica) int { return cmp.Compare(a.uses, b.uses) })
	if r.uses == latter || r.uses == both && !w.mayLeave(ctx) {
		return
	}
	r.stop()
	<-r.done
	r.uses++
}

// mayLeave reports whether the former broker may be left: everybody uses the
// latter, which misses nothing, and what was sent before it was there has
// arrived.
func (w *world) mayLeave(ctx context.Context) bool {
	if slices.ContainsFunc(w.replicas, func(r *replica) bool { return r.uses == former }) {
		return false
	}
	for _, s := range w.sides() {
		if count(ctx, w.dbs[s.from], "event_broker WHERE broker = 'latter' AND missing_since IS NULL") != 1 {
			return false
		}
		before := w.rows(ctx, w.dbs[s.from], "SELECT key, seq, event_id FROM event_outbox WHERE stream = $1 AND sent_at < (SELECT since FROM event_broker WHERE broker = 'latter')", s.stream)
		for _, e := range before {
			at := w.rows(ctx, w.dbs[s.to], "SELECT key, seq, '' FROM event_cursor WHERE grp = $1 AND stream = $2 AND key = $3 UNION SELECT key, seq, '' FROM event_parked WHERE grp = $1 AND stream = $2 AND key = $3 AND seq = $4", s.group, s.stream, e.key, e.seq)
			if !slices.ContainsFunc(at, func(r row) bool { return r.seq >= e.seq }) {
				return false
			}
		}
	}
	return true
}

// publish is a request to the first process of front, which may crash in the
// middle of it: then only the database knows whether it took place, and check
// asks it.
func (w *world) publish(a action) {
	front := w.replicas[0]
	abort := errors.New("abort")
	due := time.Now().Add(a.after)
	err := w.dbs["front"].InTx(front.ctx, func(tx *database.Tx) error {
		for i, key := range a.keys {
			var options []event.PublishOption
			if a.after > 0 {
				options = append(options, event.At(due))
			}
			e := ping{key, a.value + i}
			if err := front.outbox.Publish(front.ctx, tx, map[string]event.Event{"ping": e, "odd": odd(e), "novel": novel(e)}[a.kind], options...); err != nil {
				return err
			}
		}
		if a.what == "abort" {
			return abort
		}
		return nil
	})
	if a.after > 0 {
		s := scheduled{due: due}
		if err == nil {
			s.committed = time.Now()
		}
		for i := range a.keys {
			w.due[a.value+i] = s
		}
	}
}

// operate does to a dead letter what an operator might, while the services
// work on.
func (w *world) operate(ctx context.Context, a action) {
	db := w.dbs["back"]
	letters, err := admin.New("back", db).Letters(ctx, admin.Filter{})
	if err != nil {
		w.problem("dead letters: %v", err)
		return
	}
	letters = slices.DeleteFunc(letters, func(l admin.Letter) bool { return l.Kind != "dead" })
	if len(letters) == 0 {
		return
	}
	l := letters[a.which%len(letters)]
	w.running.Go(func() { _ = admin.New("back", db).Redrive(ctx, l) }) // it may lose to the other
	if a.what == "redrive" {
		return
	}
	w.running.Go(func() {
		if err := admin.New("back", db).Skip(ctx, l); err == nil {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.skipped[fmt.Sprint(l.Group, l.Stream, l.Key, l.Sequence)] = true
		}
	})
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
		letters, err := admin.New("back", db).Letters(ctx, admin.Filter{})
		if err != nil {
			return false, err.Error()
		}
		for _, l := range letters {
			switch {
			case l.Kind == "dead":
				_ = admin.New("back", db).Redrive(ctx, l)
			case l.Kind == "gap" && w.plan.config.GapTimeout < time.Minute:
				// It closes when the number arrives.
				return false, fmt.Sprintf("%v: %s", l, l.Error)
			default:
				w.problem("%v: %s", l, l.Error)
				_ = admin.New("back", db).Skip(ctx, l)
			}
		}
		for _, table := range []string{"event_parked", "event_scheduled", "event_outbox WHERE sent_at IS NULL", "event_cursor WHERE parked <> 0"} {
			if n := count(ctx, db, table); n != 0 {
				return false, fmt.Sprintf("%s: %d rows in %s", service, n, table)
			}
		}
	}
	for _, side := range w.sides() {
		last, applied := w.positions(ctx, side)
		if last != applied {
			return false, fmt.Sprintf("%s: published %s, applied %s", side.stream, last, applied)
		}
	}
	return true, ""
}

// side is a stream on its way to a group.
type side struct{ from, stream, to, group, types string }

func (w *world) sides() []side {
	sides := []side{{"front", "pings", "back", "back", "'ping', 'novel'"}, {"back", "pongs", "front", "front", "'pong'"}}
	if w.plan.audit {
		sides = append(sides, side{"front", "pings", "back", "audit", "'ping'"})
	}
	return sides
}

func count(ctx context.Context, db *database.DB, table string) (n int) {
	if err := db.QueryRowContext(ctx, "SELECT count(*) FROM "+table).Scan(&n); err != nil {
		return -1
	}
	return n
}

// positions returns what was published on a stream and what was applied, as
// comparable text.
func (w *world) positions(ctx context.Context, s side) (last, applied string) {
	list := func(db *database.DB, q string, args ...any) string {
		rows, err := db.QueryContext(ctx, q, args...)
		if err != nil {
			return q + err.Error() // not the same on both sides
		}
		defer rows.Close()
		var b strings.Builder
		for rows.Next() {
			var key string
			var seq int64
			if err := rows.Scan(&key, &seq); err != nil {
				return q + err.Error()
			}
			fmt.Fprintf(&b, "%s:%d ", key, seq)
		}
		if err := rows.Err(); err != nil {
			return q + err.Error()
		}
		return b.String()
	}
	return list(w.dbs[s.from], "SELECT key, last FROM event_sequence WHERE stream = $1 AND last > 0 ORDER BY key", s.stream),
		list(w.dbs[s.to], "SELECT key, seq FROM event_cursor WHERE stream = $1 AND grp = $2 AND seq > 0 ORDER BY key", s.stream, s.group)
}

func (w *world) check(ctx context.Context) {
	w.compare(ctx)
	w.checkOrder(ctx)
}

// compare holds, row by row, what was committed against what took effect.
func (w *world) compare(ctx context.Context) {
	for _, s := range w.sides() {
		committed := w.rows(ctx, w.dbs[s.from], "SELECT key, seq, event_id FROM event_outbox WHERE stream = $1 AND type IN ("+s.types+") ORDER BY key, seq", s.stream)
		committed = slices.DeleteFunc(committed, func(r row) bool { return w.skipped[fmt.Sprint(s.group, s.stream, r.key, r.seq)] })
		applied := w.rows(ctx, w.dbs[s.to], "SELECT key, seq, event_id FROM effect WHERE stream = $1 AND grp = $2 ORDER BY key, id", s.stream, s.group)
		if got, want := fmt.Sprint(applied), fmt.Sprint(committed); got != want {
			w.problem("%s to %s:\ncommitted %s\napplied   %s", s.stream, s.group, want, got)
		}
	}
	// The numbers of a key have no holes, whatever was aborted.
	for _, service := range []string{"front", "back"} {
		next := map[string]int64{}
		for _, r := range w.rows(ctx, w.dbs[service], "SELECT key, seq, event_id FROM event_outbox ORDER BY key, seq") {
			if next[r.key]++; r.seq != next[r.key] {
				w.problem("%s %s: number %d is missing", service, r.key, next[r.key])
			}
		}
	}
}

// checkOrder holds the numbers of front's events against the order of its
// requests, which came one after the other, and against what was scheduled.
func (w *world) checkOrder(ctx context.Context) {
	rows, err := w.dbs["front"].QueryContext(ctx, "SELECT key, seq, at, body FROM event_outbox ORDER BY key, seq")
	if err != nil {
		w.problem("%v", err)
		return
	}
	defer rows.Close()
	last := map[string]int{}           // by key, the value of the immediate event before
	waited := map[string][]scheduled{} // by key, the scheduled events so far
	for rows.Next() {
		var key, body string
		var seq, at int64
		if err := rows.Scan(&key, &seq, &at, &body); err != nil {
			w.problem("%v", err)
			return
		}
		var e struct{ Data ping }
		if err := json.Unmarshal([]byte(body), &e); err != nil {
			w.problem("%v", err)
			return
		}
		s, isScheduled := w.due[e.Data.Value]
		if !isScheduled {
			if before, ok := last[key]; ok && before >= e.Data.Value {
				w.problem("%s: %d was committed after %d, and has a lower number, %d", key, before, e.Data.Value, seq)
			}
			last[key] = e.Data.Value
			continue
		}
		if at < s.due.UnixMicro() {
			w.problem("%s: %d is published at %d, before it is due at %d", key, e.Data.Value, at, s.due.UnixMicro())
		}
		for _, before := range waited[key] {
			if s.due.Before(before.due) && !s.committed.IsZero() && s.committed.Before(s.due) {
				w.problem("%s: %d is due at %v and numbered after what is due at %v", key, e.Data.Value, s.due, before.due)
			}
		}
		waited[key] = append(waited[key], s)
	}
	if err := rows.Err(); err != nil {
		w.problem("%v", err)
	}
}

// row is an event, committed or applied.
type row struct {
	key string
	seq int64
	id  string
}

func (w *world) rows(ctx context.Context, db *database.DB, q string, args ...any) (all []row) {
	rows, err := db.QueryContext(ctx, q, args...)
	if err != nil {
		w.problem("%v", err)
		return nil
	}
	defer rows.Close()
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.key, &r.seq, &r.id); err != nil {
			w.problem("%v", err)
		}
		all = append(all, r)
	}
	if err := rows.Err(); err != nil {
		w.problem("%v", err)
	}
	return all
}

func newWorld(p plan, open func(name string) (*database.DB, error)) (*world, error) {
	w := &world{plan: p, brokers: []*eventtest.Broker{eventtest.NewBroker(p.faults)}, dbs: map[string]*database.DB{}, attempts: map[int]int{}, due: map[int]scheduled{}, skipped: map[string]bool{}}
	if p.moves {
		w.brokers = append(w.brokers, eventtest.NewBroker(p.faults))
	}
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

func simulate(t *testing.T, schema string, p plan) (problems []string) {
	synctest.Test(t, func(t *testing.T) {
		w, err := newWorld(p, func(string) (*database.DB, error) {
			return database.New(database.Config{URL: "sqlite::memory:", Wrap: func(c driver.Connector) driver.Connector { return fragile{c, schema} }})
		})
		if err != nil {
			t.Fatal(err)
		}
		w.run(context.Background(), 2*time.Minute)
		for _, b := range w.brokers {
			b.Close()
		}
		for _, db := range w.dbs {
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		}
		problems = w.problems
	})
	return problems
}

// schemaOf returns the migrations as one script, which costs a schedule less
// than taking them one by one.
func schemaOf(t *testing.T, migrations ...database.Migrations) string {
	var b strings.Builder
	for _, m := range migrations {
		files, err := fs.Glob(m.SQLite, "*.sql")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files { // sorted
			script, err := fs.ReadFile(m.SQLite, name)
			if err != nil {
				t.Fatal(err)
			}
			up, _, _ := strings.Cut(string(script), "-- +goose Down")
			b.WriteString(up + "\n")
		}
	}
	return b.String()
}

// TestLedger runs random schedules in virtual time. More of them:
//
//	go test ./event -run TestLedger -rapid.checks 10000
func TestLedger(t *testing.T) {
	schema := schemaOf(t, event.Migrations(), effects())
	rapid.Check(t, func(rt *rapid.T) {
		p := drawPlan(rt)
		if problems := simulate(t, schema, p); len(problems) > 0 {
			rt.Fatalf("%v\n%s", p, strings.Join(problems, "\n"))
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
			return database.New(database.Config{URL: databasetest.PostgresURL(t), MaxConns: 20, Wrap: func(c driver.Connector) driver.Connector { return fragile{Connector: c} }}, event.Migrations(), effects())
		})
		if err != nil {
			t.Fatal(err)
		}
		w.run(t.Context(), 30*time.Second)
		for _, b := range w.brokers {
			b.Close()
		}
		for _, db := range w.dbs {
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		}
		if len(w.problems) > 0 {
			t.Fatalf("example %d\n%v\n%s", int(seed)+example, p, strings.Join(w.problems, "\n"))
		}
	}
}
