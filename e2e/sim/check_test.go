package sim

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/turnstile-go/turnstile/e2e/internal/invariants"
	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/event/admin"
	"github.com/turnstile-go/turnstile/framework/event/eventtest"
)

// heal ends all faults. From here on the system has to come to rest by itself.
func (w *world) heal() {
	w.note("world", "heals", "")
	w.faults.end()
	w.setFaults(eventtest.Faults{})
	for _, name := range brokerNames {
		w.up(name)
	}
	for _, name := range names {
		if p := w.services[name].process; p != nil {
			p.killAfter(-1)
		}
		w.services[name].back = time.Time{}
	}
	w.weather.response = 0
}

// observer reads the disks, at no cost of time, and does what an operator would.
type observer struct {
	dbs     map[string]*database.DB
	ledgers []*admin.Ledger
	app     invariants.Application
}

func (w *world) observe() *observer {
	o := &observer{dbs: map[string]*database.DB{}}
	for _, name := range names {
		d := w.services[name].disk
		db, err := database.New(database.Config{URL: "sqlite::memory:", Wrap: d.mounted(nil)})
		if err != nil {
			panic(err) // the URL is right
		}
		o.dbs[name] = db
		o.ledgers = append(o.ledgers, admin.New(name, db))
	}
	o.app = invariants.Application{Auth: o.dbs["auth"], Orders: o.dbs["orders"], Payments: o.dbs["payments"], Tickets: o.dbs["tickets"]}
	return o
}

func (o *observer) close() {
	for _, db := range o.dbs {
		_ = db.Close() // of a disk that stays
	}
}

// count returns a number that a query finds.
func (o *observer) count(service, query string) (n int) {
	if err := o.dbs[service].QueryRowContext(background, query).Scan(&n); err != nil {
		panic(fmt.Sprintf("sim: %s: %s: %v", service, query, err))
	}
	return n
}

// patience is how long a healthy system may take to come to rest, beyond the time of the orders. Most of it goes to
// messages that were lost without anybody knowing, which a producer sends again when it connects.
const patience = 30 * time.Second

// rest lets the system come to rest and checks that it has.
func (w *world) rest(o *observer) {
	healed := time.Now()
	since := healed // since when there is nothing to do but to wait
	overdue := map[string]bool{}
	for {
		w.revive()
		w.operate(o)
		if w.move.step(w, o, -1) {
			since = time.Now()
		}
		for id, expires := range o.open(w) {
			due := time.UnixMicro(expires)
			if due.Before(healed) {
				due = healed
			}
			if late := time.Since(due); late > invariants.Grace && !overdue[id] {
				overdue[id] = true
				w.problem("order %s is open %v after its time", id, late)
			}
		}
		why, limit := o.busy(), w.window+patience
		if why == "" && w.move != nil && !w.move.done {
			// A process that was killed may be alive, as far as anybody knows, for a minute.
			why, limit = "the move from broker to broker is "+w.move.why, limit+time.Minute
		}
		if why == "" {
			return
		}
		if time.Since(since) > limit && w.wiped {
			// What a broker lost that a group could not take for longer than services send again by themselves.
			w.wiped = false
			w.replay(o)
			since = time.Now()
		}
		if time.Since(since) > limit {
			w.problem("not at rest: %s", why)
			return
		}
		time.Sleep(500 * time.Millisecond)
	}
}

// replay has everything sent again, as an operator does after a broker has lost what it had.
func (w *world) replay(o *observer) {
	streams := map[string][]string{"auth": {"users"}, "tickets": {"tickets"}, "orders": {"orders", "order-expirations"}, "payments": {"payments"}}
	for i, ledger := range o.ledgers {
		for _, stream := range streams[names[i]] {
			w.note("operator", "replays", "%s", stream)
			if _, err := ledger.Replay(background, admin.Filter{Stream: stream, Since: w.began}, nil); err != nil {
				w.problem("replay: %v", err)
			}
		}
	}
}

// open returns when the orders expire that are neither complete nor cancelled.
func (o *observer) open(w *world) map[string]int64 {
	all := map[string]int64{}
	rows, err := o.dbs["orders"].QueryContext(background, `SELECT id, expires_at FROM orders WHERE status = 'created' ORDER BY id`)
	if err != nil {
		w.problem("%v", err)
		return nil
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		var at int64
		if err := rows.Scan(&id, &at); err != nil {
			w.problem("%v", err)
		}
		all[id] = at
	}
	if err := rows.Err(); err != nil {
		w.problem("%v", err)
	}
	return all
}

// busy says what is still on its way, or nothing.
func (o *observer) busy() string {
	for _, name := range names {
		for _, what := range []string{"event_outbox WHERE sent_at IS NULL", "event_scheduled", "event_parked", "event_letter"} {
			if n := o.count(name, "SELECT COUNT(*) FROM "+what); n > 0 {
				return fmt.Sprintf("%s has %d rows in %s", name, n, what)
			}
		}
	}
	if n := o.count("orders", "SELECT COUNT(*) FROM orders WHERE status = 'created'"); n > 0 {
		return fmt.Sprintf("%d orders are open", n)
	}
	if n := o.count("payments", "SELECT COUNT(*) FROM payments WHERE status = 'pending' OR refund = 'due'"); n > 0 {
		return fmt.Sprintf("%d payments are pending, or their money is to go back", n)
	}
	report, err := admin.Audit(background, o.ledgers, time.Time{})
	if err != nil {
		return err.Error()
	}
	if !report.Quiet() {
		return fmt.Sprintf("%d unsent, %d scheduled, waiting: %v", report.Unsent, report.Scheduled, report.Waiting)
	}
	return ""
}

// operate does what an operator does about letters: what failed is tried again, and what is nonsense is skipped.
func (w *world) operate(o *observer) {
	for i, ledger := range o.ledgers {
		letters, err := ledger.Letters(background, admin.Filter{})
		if err != nil {
			w.problem("%v", err)
			return
		}
		for _, l := range letters {
			ours := strings.Contains(l.Body, `"source":"stranger"`)
			switch {
			case l.Kind == "dead" && !ours:
				w.note("operator", "redrives", "%v: %s", l, l.Error)
				err = ledger.Redrive(background, l)
			case l.Kind == "dead" && w.forged > 0, l.Kind == "malformed" && w.poison > 0:
				w.note("operator", "skips", "%v: %s", l, l.Error)
				err = ledger.Skip(background, l)
			default:
				w.problem("%s has a letter: %v: %s", names[i], l, l.Error)
				err = ledger.Skip(background, l)
			}
			if err != nil {
				w.note("operator", "fails", "%v: %v", l, err)
			}
		}
	}
}

// check checks the invariants of a system at rest.
func (w *world) check(o *observer) {
	report, err := admin.Audit(background, o.ledgers, time.Time{})
	if err != nil {
		w.problem("%v", err)
		return
	}
	for _, sort := range []struct {
		what     string
		findings []admin.Finding
	}{{"lost", report.Lost}, {"duplicated", report.Duplicated}, {"misordered", report.Misordered}, {"other", report.Other}, {"waiting", report.Waiting}} {
		for _, f := range sort.findings {
			w.problem("%s: %s", sort.what, f.Text)
			w.trace(o, f.Stream, f.Key)
		}
	}
	found, err := invariants.Check(background, o.app, time.Now())
	if err != nil {
		w.problem("%v", err)
		return
	}
	broken, err := invariants.CheckPromises(background, o.app, w.market.promises)
	if err != nil {
		w.problem("%v", err)
	}
	for _, v := range append(found.Violations, broken...) {
		w.problem("%v", v)
		w.trace(o, v.Stream, v.Key)
	}
}

// trace notes the ways of all events of a key.
func (w *world) trace(o *observer, stream, key string) {
	at := stream + " " + key
	if w.traced[at] {
		return
	}
	w.traced[at] = true
	paths, err := admin.Trace(context.Background(), o.ledgers, admin.Filter{Stream: stream, Key: key})
	if err != nil {
		w.note("trace", "fails", "%v", err)
		return
	}
	for _, p := range paths {
		w.note("trace", p.Type, "%s %s number %d", p.Stream, p.Key, p.Sequence)
		for _, s := range p.Steps {
			w.note("trace", s.What, "  at %.6f in %s %s: %s", s.At.Sub(w.began).Seconds(), s.Service, s.Group, s.Text)
		}
		for _, g := range p.Groups {
			w.note("trace", g.State, "  in %s: %s", g.Group, g.Text)
		}
	}
}
