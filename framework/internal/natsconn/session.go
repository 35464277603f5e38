package natsconn

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Session is what the sessions of all brokers do alike: it bounds how many
// publishes are under way, knows its subscriptions, and ends once.
//
// Its owner waits for AwaitEnd, then ends the connection, so that everything
// under way is answered, and then calls Finish.
type Session struct {
	over    error           // what a call gets that comes too late
	window  chan struct{}   // holds an element for every publish under way
	ended   chan error      // why the session ended by itself
	closing chan struct{}   // closed by Close
	done    chan struct{}   // closed when nothing of the session is running
	alive   context.Context // done when the session is of no use any more
	expire  context.CancelFunc

	mu      sync.Mutex // held while alive ends
	subs    map[Subscription]struct{}
	working sync.WaitGroup // calls that use the connection, and publishes to be answered
}

// Subscription is stopped with its session, if not before.
type Subscription interface {
	// Stop returns when nothing is being delivered or will be. It may be called
	// again.
	Stop()

	// Leave tells the server, after Stop, if there is anything to tell.
	Leave() error
}

// NewSession returns a session with at most window publishes under way, whose
// methods return over when it has ended.
func NewSession(over error, window int) *Session {
	s := &Session{
		over:    over,
		window:  make(chan struct{}, window),
		ended:   make(chan error, 1),
		closing: make(chan struct{}),
		done:    make(chan struct{}),
		subs:    map[Subscription]struct{}{},
	}
	s.alive, s.expire = context.WithCancel(context.Background())
	return s
}

// End notes that the session has ended by itself. The first reason counts, which
// is not nil.
func (s *Session) End(reason error) {
	select {
	case s.ended <- reason:
	default:
	}
}

// AwaitEnd returns the reason when the session has ended by itself, or nil when
// it is being closed. From then on nothing new begins.
func (s *Session) AwaitEnd() (reason error) {
	select {
	case reason = <-s.ended:
	case <-s.closing:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	return reason
}

// Finish waits until all that had begun is done, and all subscriptions are
// stopped. Then Close returns.
func (s *Session) Finish() {
	s.working.Wait()
	s.StopSubscriptions() // also what was subscribing just now
	close(s.done)
}

// Context is done when the session is lost.
func (s *Session) Context() context.Context { return s.alive }

// Lost is closed when the session is lost.
func (s *Session) Lost() <-chan struct{} { return s.alive.Done() }

// Close ends the session. It waits for the callbacks that are running, but not
// for acknowledgements: what is under way fails.
func (s *Session) Close() error {
	s.mu.Lock()
	select {
	case <-s.closing:
	default:
		close(s.closing)
	}
	s.mu.Unlock()
	<-s.done
	return nil
}

// begin lets a call use the connection until it calls done.
func (s *Session) begin(ctx context.Context) (done func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.alive.Err() != nil {
		return nil, s.over
	}
	s.working.Add(1)
	return s.working.Done, nil
}

// Publish calls send as soon as there is room in the window. Unless send fails, it
// has answer called once, with what became of the message. Either way acked is told.
func (s *Session) Publish(ctx context.Context, stream string, acked func(error), send func(answer func(error)) error) {
	tell := func(err error) {
		if err != nil {
			err = fmt.Errorf("publish to %s: %w", stream, err)
		}
		acked(err)
	}
	done, err := s.enter(ctx)
	if err != nil {
		tell(err)
		return
	}
	answer := func(err error) {
		defer done()
		<-s.window
		tell(err)
	}
	if err := send(answer); err != nil {
		answer(err)
	}
}

// enter takes a place in the window and begins.
func (s *Session) enter(ctx context.Context) (done func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case s.window <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.alive.Done():
		return nil, s.over
	}
	if done, err = s.begin(ctx); err != nil {
		<-s.window
	}
	return done, err
}

// Subscribe calls join, which asks the server for the stream's messages. leave
// ends that; only its first call counts.
func (s *Session) Subscribe(ctx context.Context, stream, group string, join func() (Subscription, error)) (leave func() error, err error) {
	sub, err := s.subscribe(ctx, stream, group, join)
	if err != nil {
		return nil, fmt.Errorf("subscribe group %s to %s: %w", group, stream, err)
	}
	return sync.OnceValue(func() error {
		sub.Stop()
		s.mu.Lock()
		delete(s.subs, sub)
		s.mu.Unlock()
		if err := sub.Leave(); err != nil {
			return fmt.Errorf("leave group %s of %s: %w", group, stream, err)
		}
		return nil
	}), nil
}

func (s *Session) subscribe(ctx context.Context, stream, group string, join func() (Subscription, error)) (Subscription, error) {
	done, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if stream == "" || group == "" {
		return nil, errors.New("a subscription needs a stream and a group")
	}
	sub, err := join()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subs[sub] = struct{}{}
	return sub, nil
}

// StopSubscriptions stops every subscription.
func (s *Session) StopSubscriptions() {
	s.mu.Lock()
	subs := s.subs
	s.subs = map[Subscription]struct{}{}
	s.mu.Unlock()
	for sub := range subs {
		sub.Stop()
	}
}
