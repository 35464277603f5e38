// Package demo proves on the running services what the framework promises. It sells tickets through the gateway, kills
// processes while events are in flight, and then compares what every service committed with what every listener group
// made of it.
package demo

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/console"
	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/dev"
	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/event/admin"
)

const (
	expireEvery = 10               // one order in so many is left to expire
	workers     = 8                // people at the counter
	stepLimit   = 2 * time.Minute  // for anything that should take a moment
	stallLimit  = 30 * time.Second // without any event when none is scheduled, before waiting ends
	poll        = 50 * time.Millisecond
)

// Options says what to do.
type Options struct {
	System  *dev.System
	Console *console.Console
	Orders  int           // to place; at least Rounds
	Window  time.Duration // ORDER_EXPIRATION, as the services have it
	Kill    []string      // whom to kill, one after the other, in the middle of business
	Lines   int           // of the timeline to show; 0 shows all
	Began   time.Time
}

// Rounds is how many rounds of business there are: one in peace, then one for each kill. Every round has an order.
func (o Options) Rounds() int { return 1 + len(o.Kill) }

// FailedError says that the books do not balance, or that business did not end as it should have.
type FailedError struct{ Findings []string }

func (e *FailedError) Error() string { return strings.Join(e.Findings, "\n") }

// demo is one demonstration under way.
type demo struct {
	Options
	databases map[string]*database.DB
	listeners map[string][]string // the groups of each stream
	seller    *person
	buyer     *person
	run       string // makes names unique
	retries   atomic.Int64
	placed    atomic.Int64
	paid      atomic.Int64
	settled   atomic.Int64

	mu     sync.Mutex
	orders []placed
	marks  []mark
}

type placed struct {
	order
	expires bool // left to expire
}

// mark is something in the timeline that is no event.
type mark struct {
	at   time.Time
	text string
}

// Run does it all, in the body of the System's Run. Its error is a *FailedError if what was promised was not kept.
func Run(ctx context.Context, o Options) error {
	d := &demo{Options: o, databases: map[string]*database.DB{}, run: uuid.NewString()[:8]}
	if err := d.check(); err != nil {
		return err
	}
	await, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	if err := o.System.Await(await); err != nil {
		return fmt.Errorf("%s did not get ready: %w", strings.Join(o.System.Unready(), ", "), err)
	}
	for name := range o.System.Descriptions() {
		db, err := database.New(database.Config{URL: "sqlite:" + o.System.Database(name)})
		if err != nil {
			return err
		}
		defer db.Close()
		d.databases[name] = db
	}
	d.say("all services are ready after %s", short(time.Since(o.Began)))

	progress, stop := context.WithCancel(ctx)
	var showing sync.WaitGroup
	showing.Go(func() { d.progress(progress) })
	err := d.business(ctx)
	if err == nil {
		err = d.quiet(ctx)
	}
	stop()
	showing.Wait()
	if err != nil {
		return err
	}
	return d.audit(ctx)
}

// check makes sure that these are the services that the demonstration is about.
func (d *demo) check() error {
	paths := map[string]bool{}
	descriptions := d.System.Descriptions()
	for _, description := range descriptions {
		for _, o := range description.Operations {
			paths[o.Method+" "+strings.TrimSuffix(o.Path, "/")] = true
		}
	}
	for _, path := range []string{"POST /api/users/signup", "POST /api/tickets", "POST /api/orders", "POST /api/payments"} {
		if !paths[path] {
			return fmt.Errorf("the demo sells tickets, and no service of this workspace serves %s", path)
		}
	}
	d.listeners = listeners(descriptions)
	return nil
}

func (d *demo) say(format string, args ...any) { d.Console.Say(console.Plain, format, args...) }

// business sells the tickets, round by round.
func (d *demo) business(ctx context.Context) (err error) {
	retried := func() { d.retries.Add(1) }
	for who, name := range map[**person]string{&d.seller: "seller", &d.buyer: "buyer"} {
		if *who, err = newPerson(d.System.URL(), retried); err != nil {
			return err
		}
		if err := (*who).signUp(ctx, fmt.Sprintf("%s-%s@example.com", name, d.run), uuid.NewString()); err != nil {
			return fmt.Errorf("sign up a %s: %w", name, err)
		}
	}
	d.say("a seller and a buyer have signed up")
	next := 0
	for round := range d.Rounds() {
		count := (d.Orders - next) / (d.Rounds() - round)
		victim := ""
		if round > 0 {
			victim = d.Kill[round-1]
		}
		if err := d.round(ctx, next, count, victim); err != nil {
			return err
		}
		next += count
	}
	d.say("%d orders are placed, %d of them paid; the others expire after %v", d.placed.Load(), d.paid.Load(), d.Window)
	return d.settle(ctx)
}

// round sells count tickets and kills the victim, if there is one, when a third of them are ordered.
func (d *demo) round(ctx context.Context, first, count int, victim string) error {
	group, ctx := errgroup.WithContext(ctx)
	var ordered atomic.Int64
	strike := make(chan struct{})
	numbers := make(chan int)
	group.Go(func() error {
		defer close(numbers)
		for i := range count {
			select {
			case numbers <- first + i:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	for range min(workers, count) {
		group.Go(func() error {
			for i := range numbers {
				if err := d.sell(ctx, i, func() {
					if ordered.Add(1) == int64(1+count/3) {
						close(strike)
					}
				}); err != nil {
					return fmt.Errorf("ticket %d: %w", i+1, err)
				}
			}
			return nil
		})
	}
	if victim != "" {
		group.Go(func() error {
			select {
			case <-strike:
				return d.kill(ctx, victim)
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}
	return group.Wait()
}

// sell lists a ticket, orders it, and pays, or leaves the order to expire.
func (d *demo) sell(ctx context.Context, i int, ordered func()) error {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	t, err := d.seller.list(ctx, fmt.Sprintf("Row %d, seat %d", i/20+1, i%20+1), float64(1000+i%9000)/100, uuid.NewString())
	if err != nil {
		return fmt.Errorf("list it: %w", err)
	}
	o, err := d.buyer.order(ctx, t.ID, uuid.NewString())
	if err != nil {
		return fmt.Errorf("order it: %w", err)
	}
	p := placed{order: o, expires: i%expireEvery == 0}
	p.Ticket = t
	d.placed.Add(1)
	ordered()
	if !p.expires {
		if err := d.buyer.pay(ctx, o.ID, uuid.NewString()); err != nil {
			return fmt.Errorf("pay order %s: %w", o.ID, err)
		}
		d.paid.Add(1)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.orders = append(d.orders, p)
	return nil
}

// kill ends the victim with SIGKILL and waits until everything is ready again.
func (d *demo) kill(ctx context.Context, victim string) error {
	f, err := measure(ctx, d.databases, d.listeners)
	if err != nil {
		return err
	}
	at := time.Now()
	if err := d.System.Kill(victim); err != nil {
		return err
	}
	text := fmt.Sprintf("SIGKILL %s with %d effects under way", victim, f.unapplied)
	if slices.Contains(d.System.Brokers(), victim) {
		text = fmt.Sprintf("SIGKILL %s with %d events unsent and %d effects under way", victim, f.unsent, f.unapplied)
	}
	d.mark(at, text)
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	if err := d.System.AwaitRestart(ctx, victim); err != nil {
		return fmt.Errorf("%s did not come back: %w", victim, err)
	}
	d.mark(time.Now(), fmt.Sprintf("%s is back after %s", victim, short(time.Since(at))))
	return nil
}

func (d *demo) mark(at time.Time, text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.marks = append(d.marks, mark{at, text})
}

// settle waits for every order to be complete or cancelled.
func (d *demo) settle(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	deadline := time.Now().Add(d.Window + stepLimit)
	for i := range d.orders {
		group.Go(func() error {
			o := &d.orders[i]
			for {
				now, err := d.buyer.getOrder(ctx, o.ID)
				if err != nil {
					return fmt.Errorf("look at order %s: %w", o.ID, err)
				}
				if o.Status = now.Status; o.Status != "created" {
					d.settled.Add(1)
					return nil
				}
				if time.Now().After(deadline) {
					return &FailedError{[]string{fmt.Sprintf("order %s is still %q, long after its window of %v", o.ID, o.Status, d.Window)}}
				}
				if err := sleep(ctx, poll); err != nil {
					return err
				}
			}
		})
	}
	return group.Wait()
}

// quiet waits until every committed event had its effect everywhere, or nothing has moved for a long time.
func (d *demo) quiet(ctx context.Context) error {
	var last flow
	moved := time.Now()
	for {
		now, err := measure(ctx, d.databases, d.listeners)
		if err != nil {
			return err
		}
		if now != last {
			last, moved = now, time.Now()
		} else if now.quiet() || time.Since(moved) > d.Window+stallLimit {
			return nil // what is missing is for the audit to find
		}
		if err := sleep(ctx, 2*poll); err != nil {
			return err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// progress keeps one line about how far things are.
func (d *demo) progress(ctx context.Context) {
	defer d.Console.Status("")
	for sleep(ctx, 2*poll) == nil {
		f, err := measure(ctx, d.databases, d.listeners)
		if err != nil {
			continue // business will tell
		}
		d.Console.Status(fmt.Sprintf("  %s  %d/%d ordered · %d paid · %d settled · %d events · %d under way · %d scheduled",
			short(time.Since(d.Began)), d.placed.Load(), d.Orders, d.paid.Load(), d.settled.Load(), f.committed, f.unapplied, f.scheduled))
	}
}

// audit compares the books, shows the timeline and gives the verdict.
func (d *demo) audit(ctx context.Context) error {
	var ledgers []*admin.Ledger
	for _, name := range slices.Sorted(maps.Keys(d.databases)) {
		ledgers = append(ledgers, admin.New(name, d.databases[name]))
	}
	r, err := admin.Audit(ctx, ledgers, time.Time{})
	if err != nil {
		return err
	}
	paths, err := admin.Trace(ctx, ledgers, admin.Filter{})
	if err != nil {
		return err
	}
	business, late, err := d.inspect(ctx)
	if err != nil {
		return err
	}
	d.Console.Print(d.timeline(paths))
	if n := d.retries.Load(); n > 0 {
		d.say("requests that got no answer and were sent again: %d", n)
	}
	if late > 0 {
		d.Console.Say(console.Warn, "orders that expired before their payment arrived, which was refused: %d", late)
	}
	return d.judge(r, business)
}

// judge gives the verdict on the books and the business.
func (d *demo) judge(r *admin.Report, business []string) error {
	verdict := fmt.Sprintf("orders=%d events=%d lost=%d duplicated=%d misordered=%d p50=%s p99=%s",
		len(d.orders), r.Events, len(r.Lost), len(r.Duplicated), len(r.Misordered), short(r.P50), short(r.P99))
	if r.OK() && r.Quiet() && len(business) == 0 {
		d.Console.Print(d.Console.Text(console.Good, "demo: ok "+verdict))
		return nil
	}
	if r.Unsent > 0 {
		business = append(business, fmt.Sprintf("%d events are not sent to the broker", r.Unsent))
	}
	if r.Scheduled > 0 {
		business = append(business, fmt.Sprintf("%d events are scheduled and not published", r.Scheduled))
	}
	var findings []string
	for _, f := range []struct {
		what string
		list []string
	}{
		{"lost", words(r.Lost)}, {"applied twice", words(r.Duplicated)}, {"out of order", words(r.Misordered)},
		{"not applied", words(r.Waiting)}, {"wrong", append(words(r.Other), business...)},
	} {
		for i, finding := range f.list {
			if i == 20 {
				findings = append(findings, fmt.Sprintf("%s: and %d more", f.what, len(f.list)-i))
				break
			}
			findings = append(findings, f.what+": "+finding)
		}
	}
	return &FailedError{append(findings, "demo: failed "+verdict)}
}

func words(findings []admin.Finding) (list []string) {
	for _, f := range findings {
		list = append(list, f.String())
	}
	return list
}

// inspect looks at what the services say of the business: no ticket is sold twice or kept back, no money is kept for
// an order that is not complete. late counts the orders that expired although they were paid.
func (d *demo) inspect(ctx context.Context) (findings []string, late int, err error) {
	var mu sync.Mutex
	find := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		findings = append(findings, fmt.Sprintf(format, args...))
	}
	var tardy atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	for _, o := range d.orders {
		group.Go(func() error {
			t, err := d.seller.getTicket(ctx, o.Ticket.ID)
			if err != nil {
				return fmt.Errorf("look at ticket %s: %w", o.Ticket.ID, err)
			}
			list, err := d.buyer.payments(ctx, o.ID)
			if err != nil {
				return fmt.Errorf("look at the payments of order %s: %w", o.ID, err)
			}
			kept := 0
			for _, p := range list {
				if p.Status == "captured" {
					kept++
				}
			}
			switch {
			case o.Status == "complete" && o.expires:
				find("order %s is complete, and nobody paid it", o.ID)
			case o.Status == "complete" && kept != 1:
				find("order %s is complete with %d payments captured", o.ID, kept)
			case o.Status == "complete" && t.OrderID != o.ID:
				find("ticket %s was sold with order %s, but is held by %q", t.ID, o.ID, t.OrderID)
			case o.Status == "cancelled" && kept != 0:
				find("order %s is cancelled, and %d payments are kept", o.ID, kept)
			case o.Status == "cancelled" && t.OrderID != "":
				find("order %s is cancelled, and its ticket %s is held by %q", o.ID, t.ID, t.OrderID)
			case o.Status == "cancelled" && !o.expires:
				tardy.Add(1)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		if is(err, http.StatusNotFound) {
			return []string{err.Error()}, 0, nil
		}
		return nil, 0, err
	}
	slices.Sort(findings)
	return findings, int(tardy.Load()), nil
}

// short writes a duration to a sensible number of digits.
func short(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	case d < 100*time.Millisecond:
		return d.Round(100 * time.Microsecond).String()
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}
