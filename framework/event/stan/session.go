package stan

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/stan.go"

	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/internal/natsconn"
)

var (
	errLost    = errors.New("the session with NATS Streaming has ended")
	errUnacked = errors.New("NATS Streaming did not acknowledge the message in time")
)

// session is one NATS connection with one NATS Streaming client on it.
type session struct {
	log     *slog.Logger
	conn    stan.Conn
	cut     func()        // closes the TCP connection
	ended   chan error    // why the connection ended by itself
	window  chan struct{} // holds an element for every publish under way
	lost    chan struct{} // closed when the session is of no use any more
	closing chan struct{} // closed by Close
	done    chan struct{} // closed when nothing of the session is running

	mu      sync.Mutex
	closed  bool
	subs    map[*subscription]struct{}
	working sync.WaitGroup // calls of stan.Conn, and publishes to be answered
}

// end notes that the connection has ended by itself. The first reason counts.
func (s *session) end(err error) {
	select {
	case s.ended <- err:
	default:
	}
}

// run sees the session to its end.
func (s *session) run() {
	defer close(s.done)
	select {
	case err := <-s.ended:
		s.log.Warn("the session with NATS Streaming is lost", "error", err)
		s.refuse()
		s.cut()        // frees whatever is stuck in a write
		s.conn.Close() // fails what is under way; it cannot ask the server any more
	case <-s.closing:
		s.refuse()
		s.stopDelivering() // what is being handled may still be acknowledged
		late := time.AfterFunc(natsconn.Patience/2, s.cut)
		if err := s.conn.Close(); err != nil {
			s.log.Debug("the server did not confirm the end of the session", "error", err)
		}
		late.Stop()
	}
	s.working.Wait()
	s.stopDelivering() // also what was subscribing just now
}

// refuse lets nothing new begin.
func (s *session) refuse() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	close(s.lost)
}

// begin is false when the session has ended. Otherwise s.working.Done is due.
func (s *session) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.working.Add(1)
	return true
}

// Publish implements [event.Session].
func (s *session) Publish(ctx context.Context, stream string, body []byte, acked func(error)) {
	if err := s.publish(ctx, stream, body, acked); err != nil {
		acked(fmt.Errorf("publish to %s: %w", stream, err))
	}
}

// publish calls acked unless it returns an error.
func (s *session) publish(ctx context.Context, stream string, body []byte, acked func(error)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case s.window <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.lost:
		return errLost
	}
	if !s.begin() {
		<-s.window
		return errLost
	}
	// The library's own window is as wide, so this does not wait for it.
	_, err := s.conn.PublishAsync(stream, body, func(_ string, err error) {
		defer s.working.Done()
		<-s.window
		if err != nil {
			err = fmt.Errorf("publish to %s: %w", stream, reason(err))
		}
		acked(err)
	})
	if err != nil {
		<-s.window
		s.working.Done()
		if errors.Is(err, nats.ErrMaxPayload) {
			return fmt.Errorf("the message of %d bytes is larger than the server takes (-max_payload): %w", len(body), err)
		}
		return reason(err)
	}
	return nil
}

// reason says in our words what the libraries' errors mean.
func reason(err error) error {
	switch {
	case errors.Is(err, stan.ErrTimeout):
		return errUnacked
	case errors.Is(err, stan.ErrConnectionClosed), errors.Is(err, stan.ErrBadConnection), errors.Is(err, nats.ErrConnectionClosed):
		return errLost
	}
	return err
}

// subscription is a membership in a durable queue group.
type subscription struct {
	stan    stan.Subscription
	deliver func(event.Delivery)

	mu      sync.Mutex // held while deliver runs
	stopped bool
}

func (sub *subscription) handle(m *stan.Msg) {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	if sub.stopped {
		return
	}
	sub.deliver(event.Delivery{Body: m.Data, Redelivered: m.Redelivered, Ack: m.Ack})
}

// stopDelivering returns when no deliver is running or will run.
func (sub *subscription) stopDelivering() {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	sub.stopped = true
}

// Subscribe implements [event.Session]. The server counts AckWait in whole
// seconds: it is rounded up.
func (s *session) Subscribe(ctx context.Context, sub event.Subscription, deliver func(event.Delivery)) (func() error, error) {
	stop, err := s.subscribe(ctx, sub, deliver)
	if err != nil {
		return nil, fmt.Errorf("subscribe group %s to %s: %w", sub.Group, sub.Stream, err)
	}
	return stop, nil
}

func (s *session) subscribe(ctx context.Context, to event.Subscription, deliver func(event.Delivery)) (func() error, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if to.Stream == "" || to.Group == "" {
		return nil, errors.New("a subscription needs a stream and a group")
	}
	if !s.begin() {
		return nil, errLost
	}
	defer s.working.Done()

	sub := &subscription{deliver: deliver}
	var err error
	sub.stan, err = s.conn.QueueSubscribe(to.Stream, to.Group, sub.handle,
		stan.DurableName(to.Group),
		stan.DeliverAllAvailable(),
		stan.SetManualAckMode(),
		stan.MaxInflight(cmp.Or(to.MaxInFlight, 256)),
		stan.AckWait(time.Duration(seconds(cmp.Or(to.AckWait, 30*time.Second)))*time.Second),
	)
	if err != nil {
		return nil, reason(err)
	}
	s.mu.Lock()
	if s.subs == nil {
		s.subs = make(map[*subscription]struct{})
	}
	s.subs[sub] = struct{}{}
	s.mu.Unlock()

	return sync.OnceValue(func() error {
		sub.stopDelivering()
		s.mu.Lock()
		delete(s.subs, sub)
		s.mu.Unlock()
		// Close, never Unsubscribe: that would give up the group's position.
		err := sub.stan.Close()
		if err == nil || errors.Is(reason(err), errLost) {
			return nil // whoever is not connected is no member
		}
		return fmt.Errorf("leave group %s of %s: %w", to.Group, to.Stream, err)
	}), nil
}

// stopDelivering returns when no subscription's deliver is running or will run.
func (s *session) stopDelivering() {
	s.mu.Lock()
	subs := s.subs
	s.subs = nil
	s.mu.Unlock()
	for sub := range subs {
		sub.stopDelivering()
	}
}

// Lost implements [event.Session].
func (s *session) Lost() <-chan struct{} { return s.lost }

// Close implements [event.Session]. It waits for the callbacks that are
// running, but not for acknowledgements: what is under way fails.
func (s *session) Close() error {
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
