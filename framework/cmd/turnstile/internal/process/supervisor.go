package process

import (
	"context"
	"sync"
	"time"
)

// Phase is what a supervised program is doing.
type Phase int

// The phases of a supervised program.
const (
	Stopped  Phase = iota // not started yet, or stopped for good
	Starting              // started, not ready
	Up                    // ready
	Stopping              // asked to end; another start may follow
	Crashed               // ended by itself or could not be started; the next start waits
)

// State is what is known about a supervised program.
type State struct {
	Phase Phase
	PID   int           // while it runs
	Ready Ready         // in phase Up
	Exit  Exit          // in phase Crashed, unless Err is set
	Err   error         // in phase Crashed: why it could not be started
	Retry time.Duration // in phase Crashed: how long until the next start
}

// Supervisor keeps one program running.
type Supervisor struct {
	// Command is asked before every start.
	Command func() Command
	// Observe is told every change of state, in order, from the goroutine of Run.
	Observe func(State)
	// Grace is how long the program may take to end after SIGTERM before it is killed.
	Grace time.Duration
	// Backoff is the wait after the first crash; it doubles with each further one up to BackoffMax, and starts over
	// after Restart and after the program was up for BackoffMax.
	Backoff, BackoffMax time.Duration

	once    sync.Once
	restart chan struct{}
	mu      sync.Mutex
	current *Process // nil while none runs
}

func (s *Supervisor) init() {
	s.once.Do(func() { s.restart = make(chan struct{}, 1) })
}

// Run keeps the program running until ctx is done; then it stops the program and returns.
func (s *Supervisor) Run(ctx context.Context) {
	s.init()
	delay := s.Backoff
	for ctx.Err() == nil {
		select {
		case <-s.restart: // this very start is the one that was asked for
		default:
		}
		crash, up, again := s.cycle(ctx)
		if again {
			delay = s.Backoff
			continue
		}
		if ctx.Err() != nil {
			break
		}
		if up >= s.BackoffMax {
			delay = s.Backoff
		}
		crash.Retry = delay
		s.Observe(crash)
		timer := time.NewTimer(delay)
		select {
		case <-ctx.Done():
		case <-s.restart:
			delay = s.Backoff
		case <-timer.C:
			delay = min(2*delay, s.BackoffMax)
		}
		timer.Stop()
	}
	s.Observe(State{Phase: Stopped})
}

// cycle runs the program once. It returns again if it ended because of Restart, else the crash, if it ended by itself,
// and for how long it was up before.
func (s *Supervisor) cycle(ctx context.Context) (crash State, up time.Duration, again bool) {
	p, err := Start(s.Command())
	if err != nil {
		return State{Phase: Crashed, Err: err}, 0, false
	}
	s.set(p)
	defer s.set(nil)
	s.Observe(State{Phase: Starting, PID: p.PID()})
	var since time.Time
	for {
		select {
		case r := <-p.Ready():
			since = time.Now()
			s.Observe(State{Phase: Up, PID: p.PID(), Ready: r})
		case <-p.Done():
			if !since.IsZero() {
				up = time.Since(since)
			}
			return State{Phase: Crashed, Exit: p.Exit()}, up, false
		case <-s.restart:
			s.Observe(State{Phase: Stopping, PID: p.PID()})
			p.Stop(s.Grace)
			return State{}, 0, true
		case <-ctx.Done():
			s.Observe(State{Phase: Stopping, PID: p.PID()})
			p.Stop(s.Grace)
			return State{}, 0, false
		}
	}
}

func (s *Supervisor) set(p *Process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = p
}

// Restart stops the program, waits for its end and starts it anew; if it is waiting after a crash, the wait is over.
// Restart itself does not wait. It may be called at any time, before Run too.
func (s *Supervisor) Restart() {
	s.init()
	select {
	case s.restart <- struct{}{}:
	default: // one is asked for already
	}
}

// Kill ends the running program with SIGKILL. Run takes it for a crash. It reports whether a program was running.
func (s *Supervisor) Kill() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		return false
	}
	s.current.Kill()
	return true
}
