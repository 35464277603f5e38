// Package faults does harm to a fleet, by a plan that a seed decides: it kills, stops and pauses services and brokers,
// deletes what brokers have kept, slows, cuts and half-opens connections, and restarts the database.
package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/turnstile-go/turnstile/e2e/internal/fleet"
	"github.com/turnstile-go/turnstile/e2e/internal/link"
	"github.com/turnstile-go/turnstile/e2e/internal/process"
)

// Fault is one thing that is done, and undone after a while.
type Fault struct {
	At     time.Duration // since the beginning
	For    time.Duration // 0 if there is nothing to undo
	Kind   Kind
	Target string // whom it concerns; a target has one fault at a time
	What   string // for people

	begin, end func() error
}

// Kind is a kind of faults.
type Kind string

// The kinds of faults.
const (
	Kill     Kind = "kill"      // SIGKILL of a service or a broker, and another start after a while
	Stop     Kind = "stop"      // SIGTERM of a service, and another start after a while
	Pause    Kind = "pause"     // SIGSTOP of a service or a broker, and SIGCONT after a while
	Wipe     Kind = "wipe"      // SIGKILL of a broker, whose messages are deleted, and another start
	Slow     Kind = "slow"      // a connection delays what is sent
	Cut      Kind = "cut"       // connections are closed, and new ones refused
	HalfOpen Kind = "half-open" // connections stay open, and lose what is sent one way or both
	Restart  Kind = "restart"   // the database server quits without a word, and starts again
)

// The time between two faults.
const (
	leastPause = 100 * time.Millisecond
	mostPause  = 350 * time.Millisecond
)

// Plan decides on faults for so long. For the same fleet a seed decides on the same.
func Plan(f *fleet.Fleet, seed uint64, duration time.Duration) []Fault {
	return plan(harms(f), seed, duration)
}

func plan(harms []harm, seed uint64, duration time.Duration) (all []Fault) {
	random := rand.New(rand.NewPCG(seed, 0))
	total := 0
	for _, h := range harms {
		total += h.weight
	}
	busy := map[string]time.Duration{} // until when each target has a fault
	for at := between(random, leastPause, mostPause); at < duration; at += between(random, leastPause, mostPause) {
		for range 20 { // attempts to find one for whom there is time
			h := pick(harms, random.IntN(total))
			x := h.draw(random)
			target := h.targets[random.IntN(len(h.targets))]
			if busy[target.name] > at {
				continue
			}
			lasts := min(x.lasts, duration-at)
			busy[target.name] = at + lasts + h.rest
			what := fmt.Sprintf(x.what, target.name)
			if lasts > 0 {
				what += fmt.Sprintf(" for %v", lasts.Round(time.Millisecond))
			}
			begin, end := x.act(target)
			all = append(all, Fault{At: at, For: lasts, Kind: h.kind, Target: target.name, What: what, begin: begin, end: end})
			break
		}
	}
	return all
}

// harm is what can be done to some targets.
type harm struct {
	kind    Kind
	weight  int // how often it is chosen, compared with others
	targets []target
	rest    time.Duration // for a target, afterwards
	draw    func(*rand.Rand) drawn
}

// drawn is a fault whose target is not chosen yet.
type drawn struct {
	what  string // with %s for the target
	lasts time.Duration
	act   func(target) (begin, end func() error)
}

// target is what can be harmed: one of these.
type target struct {
	name    string
	program *process.Program
	broker  *fleet.Broker
	link    *link.Link
	restart func() error
}

func pick(harms []harm, n int) harm {
	for _, h := range harms {
		if n -= h.weight; n < 0 {
			return h
		}
	}
	panic("faults: no harm has that number")
}

func between(random *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(random.Int64N(int64(most-least)))
}

// rest is how long a target is left in peace after a fault: without it, nothing would ever get done.
const rest = 2500 * time.Millisecond

// harms returns what can be done to a fleet.
func harms(f *fleet.Fleet) []harm {
	var services, brokers, connections []target
	for _, s := range f.Services {
		services = append(services, target{name: s.Name, program: s.Program})
		for _, l := range s.Links() {
			connections = append(connections, target{name: l.Name, link: l})
		}
	}
	for _, b := range f.Brokers {
		brokers = append(brokers, target{name: b.Name, program: b.Program, broker: b})
	}
	all := []harm{
		{kind: Kill, weight: 20, targets: services, rest: rest, draw: kill(800 * time.Millisecond)},
		{kind: Stop, weight: 5, targets: services, rest: rest, draw: stop},
		{kind: Pause, weight: 10, targets: services, rest: rest, draw: pause},
		{kind: Kill, weight: 7, targets: brokers, rest: rest, draw: kill(1500 * time.Millisecond)},
		{kind: Pause, weight: 4, targets: brokers, rest: rest, draw: pause},
		{kind: Wipe, weight: 5, targets: brokers, rest: rest, draw: wipe},
		{kind: Slow, weight: 26, targets: connections, rest: rest / 2, draw: slow},
		{kind: Cut, weight: 14, targets: connections, rest: rest / 2, draw: cut},
		{kind: HalfOpen, weight: 12, targets: connections, rest: rest / 2, draw: halfOpen},
	}
	if f.Postgres != nil {
		database := target{name: "PostgreSQL", restart: f.Postgres.Restart}
		all = append(all, harm{kind: Restart, weight: 2, targets: []target{database}, rest: rest, draw: restart})
	}
	return all
}

func kill(most time.Duration) func(*rand.Rand) drawn {
	return func(random *rand.Rand) drawn {
		return drawn{"SIGKILL %s", between(random, time.Millisecond, most), func(t target) (begin, end func() error) {
			return func() error { t.program.Kill(); return nil }, t.program.Start
		}}
	}
}

// grace is how long a service may take to end after SIGTERM.
const grace = 10 * time.Second

func stop(random *rand.Rand) drawn {
	return drawn{"SIGTERM %s", between(random, time.Millisecond, 500*time.Millisecond), func(t target) (begin, end func() error) {
		return func() error { return t.program.Stop(grace) }, t.program.Start
	}}
}

// pause is now and then longer than brokers wait for a sign of life.
func pause(random *rand.Rand) drawn {
	long := between(random, 100*time.Millisecond, 2*time.Second)
	if random.IntN(6) == 0 {
		long = between(random, 4*time.Second, 8*time.Second)
	}
	return drawn{"SIGSTOP %s", long, func(t target) (begin, end func() error) {
		return func() error { t.program.Pause(); return nil }, func() error { t.program.Continue(); return nil }
	}}
}

func wipe(random *rand.Rand) drawn {
	return drawn{"wipe %s", between(random, time.Millisecond, time.Second), func(t target) (begin, end func() error) {
		return t.broker.Wipe, t.program.Start
	}}
}

func slow(random *rand.Rand) drawn {
	delay := between(random, 10*time.Millisecond, 300*time.Millisecond)
	what := fmt.Sprintf("delay of %v between %%s", delay.Round(time.Millisecond))
	return drawn{what, between(random, 500*time.Millisecond, 1500*time.Millisecond), func(t target) (begin, end func() error) {
		return func() error { return t.link.Slow(delay, delay/2) }, t.link.Heal
	}}
}

func cut(random *rand.Rand) drawn {
	return drawn{"cut between %s", between(random, time.Millisecond, 800*time.Millisecond), func(t target) (begin, end func() error) {
		return func() error { t.link.Cut(); return nil }, t.link.Heal
	}}
}

func halfOpen(random *rand.Rand) drawn {
	side := 1 + random.IntN(3)
	what := []string{"", "nothing gets to the second of %s", "nothing gets to the first of %s", "nothing gets through between %s"}[side]
	return drawn{what, between(random, 300*time.Millisecond, 3*time.Second), func(t target) (begin, end func() error) {
		return func() error { return t.link.Swallow(side&1 != 0, side&2 != 0) }, t.link.Heal
	}}
}

func restart(*rand.Rand) drawn {
	return drawn{"restart %s", 0, func(t target) (begin, end func() error) {
		return t.restart, func() error { return nil }
	}}
}

// Run carries a plan out, until its end or until ctx is done. It returns when everything is undone. Done is told of each
// fault just before it is done; calls may overlap. An error says what could not be done, or undone.
func Run(ctx context.Context, faults []Fault, done func(Fault)) error {
	began := time.Now()
	var mu sync.Mutex
	var errs []error
	targets := map[string]*sync.Mutex{}
	var doing sync.WaitGroup
	for _, f := range faults {
		if !sleep(ctx, time.Until(began.Add(f.At))) {
			break
		}
		target := targets[f.Target]
		if target == nil {
			target = &sync.Mutex{}
			targets[f.Target] = target
		}
		doing.Go(func() {
			target.Lock() // what was before may take longer than was planned
			defer target.Unlock()
			if ctx.Err() != nil {
				return
			}
			done(f)
			err := f.begin()
			sleep(ctx, f.For)
			if err = errors.Join(err, f.end()); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("%s: %w", f.What, err))
			}
		})
	}
	doing.Wait()
	return errors.Join(errs...)
}

// sleep reports false if ctx was done first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
