package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/turnstile-go/turnstile/e2e/internal/faults"
	"github.com/turnstile-go/turnstile/e2e/internal/fleet"
	"github.com/turnstile-go/turnstile/e2e/internal/invariants"
	"github.com/turnstile-go/turnstile/e2e/internal/load"
	"github.com/turnstile-go/turnstile/framework/event/admin"
)

// settings have the services notice and mend everything soon, and give nothing up that an operator would have to look
// at: here is none.
var settings = []string{
	"ORDER_EXPIRATION=10s", "PAYMENT_TIMEOUT=1s", "PAYMENT_RECOVERY=1s", "SANDBOX_DELAY=1500ms",
	"EVENT_JOURNAL=true", "EVENT_ACK_WAIT=5s", "EVENT_HANDLER_TIMEOUT=3s",
	"EVENT_RETRY_FIRST=100ms", "EVENT_RETRY_MOST=2s", "EVENT_ATTEMPTS=1000", "EVENT_GAP_TIMEOUT=1h",
	"HTTP_REQUEST_TIMEOUT=4s", "DRAIN_DELAY=0s", "DRAIN_TIMEOUT=8s", "EVENT_DRAIN_TIMEOUT=5s", "HTTP_DRAIN_TIMEOUT=5s",
	"DATABASE_MAX_CONNS=8", "PASSWORD_MEMORY=64", "PASSWORD_ITERATIONS=1",
}

const (
	starting  = 2 * time.Minute  // for everything to be ready
	settling  = 5 * time.Minute  // after the last fault, until everything is quiet
	stuck     = time.Minute      // of that, without any progress
	mending   = 15 * time.Second // of that, before an operator helps after a broker has lost its messages
	reporting = 3 * time.Second  // between two lines of progress
)

// run is the whole program. It returns the exit code.
func run(ctx context.Context, o options) int {
	dir, err := os.MkdirTemp("", "turnstile-chaos-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos: make the folder of the run:", err)
		return 1
	}
	c := &chaos{options: o, began: time.Now()}
	line, err := c.run(ctx, dir)
	keep := o.keep || err != nil
	if !keep {
		if e := os.RemoveAll(dir); e != nil {
			err = fmt.Errorf("remove the folder of the run: %w", e)
		}
	}
	if keep {
		c.say("databases, messages and logs are kept in %s", dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		if line == "" {
			line = "chaos: failed"
		}
	}
	fmt.Println(line)
	if err != nil {
		return 1
	}
	return 0
}

// chaos is a run under way.
type chaos struct {
	options
	began   time.Time
	fleet   *fleet.Fleet
	load    *load.Load
	ledgers []*admin.Ledger

	mu    sync.Mutex
	kinds map[faults.Kind]int
	last  string    // fault
	wiped time.Time // the first time, if ever
}

// say tells people what happens.
func (c *chaos) say(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(os.Stderr, "%6.1fs  %s\n", time.Since(c.began).Seconds(), fmt.Sprintf(format, args...))
}

// run returns the last line, unless it did not come to a check. An error is a failure.
func (c *chaos) run(ctx context.Context, dir string) (line string, err error) {
	start, cancel := context.WithTimeoutCause(ctx, starting, fmt.Errorf("not within %v", starting))
	defer cancel()
	c.fleet, err = fleet.Start(start, fleet.Options{
		Dir: dir, Brokers: c.brokers, Postgres: c.postgres, Replicas: c.replicas, Env: settings, Say: c.say,
	})
	if err != nil {
		return "", err
	}
	defer func() {
		if e := c.fleet.Stop(); e != nil {
			c.say("not everything ended in order: %v", e)
		}
	}()
	for _, name := range fleet.Names {
		c.ledgers = append(c.ledgers, admin.New(name, c.fleet.Databases()[name]))
	}
	c.harm(ctx)

	// From here on Ctrl-C does not matter; the second one ends the process.
	ctx = context.WithoutCancel(ctx)
	c.say("recovering: %s", c.progress(ctx))
	if err := c.fleet.Recover(); err != nil {
		return "", err
	}
	return c.check(ctx, c.settle(ctx))
}

// harm has people use the application while it is harmed, until the time is up.
func (c *chaos) harm(ctx context.Context) {
	c.kinds = map[faults.Kind]int{}
	plan := faults.Plan(c.fleet, c.seed, c.duration)
	c.load = load.New(c.fleet.URL(), c.people, c.seed)
	c.say("%d people use the application, and %d faults are planned for %v", c.people, len(plan), c.duration)

	ctx, cancel := context.WithTimeout(ctx, c.duration)
	defer cancel()
	var working sync.WaitGroup
	working.Go(func() { c.load.Run(ctx) })
	working.Go(func() {
		tick := time.NewTicker(reporting)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				c.say("%s", c.progress(ctx))
			}
		}
	})
	if err := faults.Run(ctx, plan, c.note); err != nil {
		c.say("not all could be done as planned: %v", err)
	}
	working.Wait()
}

// note counts a fault.
func (c *chaos) note(f faults.Fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kinds[f.Kind]++
	c.last = f.What
	if f.Kind == faults.Wipe && c.wiped.IsZero() {
		c.wiped = time.Now()
	}
}

// faults returns how many were done.
func (c *chaos) faults() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, some := range c.kinds {
		n += some
	}
	return n
}

// progress is what was done so far, on a line.
func (c *chaos) progress(ctx context.Context) string {
	s := c.load.Stats()
	line := fmt.Sprintf("faults %d  commands %d (%s)  events %s", c.faults(), s.Commands, shares(s), c.events(ctx))
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last != "" {
		line += "  last: " + c.last
	}
	return line
}

func shares(s load.Stats) string {
	all := max(s.Commands, 1)
	return fmt.Sprintf("%d%% accepted, %d%% refused, %d%% failed", s.Accepted*100/all, s.Refused*100/all, s.Failed*100/all)
}

// events returns how many events were committed, "?" if the databases cannot be read.
func (c *chaos) events(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	sum := int64(0)
	for _, db := range c.fleet.Databases() {
		var n int64
		if err := db.QueryRowContext(ctx, `SELECT COALESCE(SUM(last), 0) FROM event_sequence`).Scan(&n); err != nil {
			return "?"
		}
		sum += n
	}
	return fmt.Sprint(sum)
}

// settle waits until everything is quiet: every event has had its effects, and the business is settled. It returns what
// is not, if that takes too long.
//
// What was sent in the last seconds before a broker lost its messages, the services send again by themselves. Whoever
// could not listen for longer than that has lost what was sent before, and an operator has to have it sent again. If
// nothing arrives any more, not everything has arrived, and a broker has lost its messages, we are that operator.
func (c *chaos) settle(ctx context.Context) error {
	began := time.Now()
	told, moved, helped, last := began, began, false, ""
	for {
		asked := time.Now()
		report, business, err := c.look(ctx)
		now, what := err, ""
		if err == nil {
			if what = restless(report, business); what == "" {
				c.say("quiet after %v", time.Since(began).Round(100*time.Millisecond))
				return nil
			}
			now = fmt.Errorf("not quiet: %s%s", what, waiting(report))
		}
		if what != last {
			last, moved = what, time.Now()
		}
		if time.Since(told) > reporting {
			told = time.Now()
			c.say("not quiet: %s", cmp.Or(what, fmt.Sprint(err)))
		}
		switch {
		case time.Since(began) > settling || time.Since(moved) > stuck:
			return fmt.Errorf("after %v, and %v without progress: %w", time.Since(began).Round(time.Second), time.Since(moved).Round(time.Second), now)
		case !helped && !c.wiped.IsZero() && time.Since(moved) > mending:
			helped = true
			c.replay(ctx)
		}
		time.Sleep(max(500*time.Millisecond, time.Since(asked))) // so that looking takes at most half of a processor
	}
}

// restless says what is not quiet, in numbers; nothing if all is.
func restless(report *admin.Report, business *invariants.Report) string {
	open, unsettled := business.Orders["created"], business.Count(invariants.Unsettled)
	if report.Quiet() && open == 0 && unsettled == 0 {
		return ""
	}
	return fmt.Sprintf("%d events unsent, %d scheduled, %d effects waiting, %d orders open, %d things unsettled",
		report.Unsent, report.Scheduled, len(report.Waiting), open, unsettled)
}

// waiting lists the effects that have not come.
func waiting(report *admin.Report) string {
	text := ""
	for i, f := range report.Waiting {
		if i == 20 {
			return text + "\n  …"
		}
		text += "\n  " + f.Text
	}
	return text
}

// look reads what the databases say. Everything is quiet or it is not: both halves are of about the same time.
func (c *chaos) look(ctx context.Context) (*admin.Report, *invariants.Report, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	report, err := admin.Audit(ctx, c.ledgers, time.Time{})
	if err != nil {
		return nil, nil, err
	}
	business, err := invariants.Check(ctx, c.application(), time.Now())
	return report, business, err
}

func (c *chaos) application() invariants.Application {
	dbs := c.fleet.Databases()
	return invariants.Application{Auth: dbs["auth"], Orders: dbs["orders"], Payments: dbs["payments"], Tickets: dbs["tickets"]}
}

// margin is how long before a broker loses its messages some may have been sent that nobody has got.
const margin = time.Minute

// replay does what an operator does after a broker has lost its messages: turnstile events replay.
func (c *chaos) replay(ctx context.Context) {
	since := c.wiped.Add(-margin)
	c.say("a broker was wiped, and not everything arrives by itself. As an operator would, we replay all since %s", since.Format(time.TimeOnly))
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for _, l := range c.ledgers {
		events, err := l.Events(ctx, admin.Filter{Since: since})
		if err != nil {
			c.say("%v", err)
			continue
		}
		streams := map[string]bool{}
		for _, e := range events {
			streams[e.Stream] = true
		}
		for _, stream := range slices.Sorted(maps.Keys(streams)) {
			p, err := l.Replay(ctx, admin.Filter{Stream: stream, Since: since}, nil)
			if err != nil {
				c.say("%v", err)
				continue
			}
			c.say("%d events of %s were sent again", p.Marked, stream)
		}
	}
}

// check compares everything, and returns the last line. An error says what is wrong, with the history of the events.
func (c *chaos) check(ctx context.Context, unsettled error) (line string, err error) {
	report, business, err := c.look(ctx)
	if err != nil {
		return "", errors.Join(err, unsettled)
	}
	broken, err := invariants.CheckPromises(ctx, c.application(), c.load.Promises())
	if err != nil {
		return "", err
	}
	s := c.load.Stats()
	c.say("commands: %d, %s; orders: %v", s.Commands, shares(s), business.Orders)
	c.say("faults: %v", c.kinds)
	c.say("effects: %d, p50 %v, p99 %v from commit", report.Effects, report.P50.Round(time.Millisecond), report.P99.Round(time.Millisecond))

	wrong := slices.Concat(business.Violations, broken)
	business.Violations = wrong
	lost := len(report.Lost) + len(report.Waiting) + business.Count(invariants.Lost)
	other := len(report.Other) + business.Count(invariants.Divergent) + len(c.load.Surprises())
	ok := unsettled == nil && report.OK() && len(wrong) == 0 && len(c.load.Surprises()) == 0
	verdict := "ok"
	if !ok {
		verdict = "failed"
	}
	line = fmt.Sprintf("chaos: %s faults=%d commands=%d events=%d lost=%d duplicated=%d misordered=%d doublesold=%d unsettled=%d",
		verdict, c.faults(), s.Commands, report.Events, lost, len(report.Duplicated), len(report.Misordered),
		business.Count(invariants.DoubleSold), business.Count(invariants.Unsettled)+business.Orders["created"])
	if ok {
		return line, nil
	}
	line += fmt.Sprintf(" other=%d", other)
	return line, errors.Join(unsettled, c.explain(ctx, report, wrong))
}

// explain says what was found, with the whole history of what it was found in.
func (c *chaos) explain(ctx context.Context, report *admin.Report, wrong []invariants.Violation) error {
	var errs []error
	for _, of := range []struct {
		sort     string
		findings []admin.Finding
	}{{"lost", report.Lost}, {"not arrived", report.Waiting}, {"duplicated", report.Duplicated}, {"misordered", report.Misordered}, {"wrong", report.Other}} {
		for _, f := range of.findings {
			text := of.sort + ": " + f.Text
			if f.Path != nil {
				text += history([]admin.Path{*f.Path})
			}
			errs = append(errs, errors.New(text))
		}
	}
	for _, v := range wrong {
		text := v.String()
		paths, err := admin.Trace(ctx, c.ledgers, admin.Filter{Stream: v.Stream, Key: v.Key})
		if err != nil {
			text += "\n  " + err.Error()
		}
		errs = append(errs, errors.New(text+history(paths)))
	}
	for _, s := range c.load.Surprises() {
		errs = append(errs, errors.New("surprising: "+s))
	}
	return errors.Join(errs...)
}

// history is what is known of events, line by line.
func history(paths []admin.Path) string {
	var b strings.Builder
	for _, p := range paths {
		fmt.Fprintf(&b, "\n  %s %s number %d: %s %s of %s", p.Stream, p.Key, p.Sequence, p.Type, p.ID, p.Service)
		for _, s := range p.Steps {
			at := strings.Repeat(" ", len("15:04:05.000"))
			if !s.At.IsZero() {
				at = s.At.UTC().Format("15:04:05.000")
			}
			fmt.Fprintf(&b, "\n    %s %-9s %-9s %s", at, cmp.Or(s.Group, s.Service), s.What, s.Text)
		}
		for _, g := range p.Groups {
			fmt.Fprintf(&b, "\n    %12s %-9s %-9s %s", "now", g.Group, g.State, g.Text)
		}
	}
	return b.String()
}
