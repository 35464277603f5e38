package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/turnstile-go/turnstile/e2e/internal/faults"
	"github.com/turnstile-go/turnstile/e2e/internal/fleet"
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
	starting  = 10 * time.Minute // for everything to be built and ready
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
	c.say("everything is in %s", dir)
	line, err := c.run(ctx, dir)
	keep := o.keep || err != nil
	if !keep {
		if e := os.RemoveAll(dir); e != nil {
			err = fmt.Errorf("remove the folder of the run: %w", e)
		}
	}
	if keep {
		c.say("databases, messages and logs are kept there")
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
	last  string // fault
	wipes []time.Time
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
	if f.Kind == faults.Wipe {
		c.wipes = append(c.wipes, time.Now())
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
