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
	*natsconn.Session
	log  *slog.Logger
	conn stan.Conn
	cut  func() // closes the TCP connection
}

// run sees the session to its end.
func (s *session) run() {
	defer s.Finish()
	if err := s.AwaitEnd(); err != nil {
		s.log.Warn("the session with NATS Streaming is lost", "error", err)
		s.cut()        // frees whatever is stuck in a write
		s.conn.Close() // fails what is under way; it cannot ask the server any more
		return
	}
	s.StopSubscriptions() // what is being handled may still be acknowledged
	late := time.AfterFunc(natsconn.Patience/2, s.cut)
	defer late.Stop()
	if err := s.conn.Close(); err != nil {
		s.log.Debug("the server did not confirm the end of the session", "error", err)
	}
}

// Publish implements [event.Session].
func (s *session) Publish(ctx context.Context, stream string, body []byte, acked func(error)) {
	s.Session.Publish(ctx, stream, acked, func(answer func(error)) error {
		// The library's own window is as wide, so this does not wait for it.
		_, err := s.conn.PublishAsync(stream, body, func(_ string, err error) { answer(reason(err)) })
		if errors.Is(err, nats.ErrMaxPayload) {
			return fmt.Errorf("the message of %d bytes is larger than the server takes (-max_payload): %w", len(body), err)
		}
		return reason(err)
	})
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

// Subscribe implements [event.Session]. The server counts AckWait in whole
// seconds: it is rounded up.
func (s *session) Subscribe(ctx context.Context, to event.Subscription, deliver func(event.Delivery)) (func() error, error) {
	return s.Session.Subscribe(ctx, to.Stream, to.Group, func() (natsconn.Subscription, error) {
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
		return sub, nil
	})
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

// Stop implements [natsconn.Subscription].
func (sub *subscription) Stop() {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	sub.stopped = true
}

// Leave implements [natsconn.Subscription].
func (sub *subscription) Leave() error {
	// Close, never Unsubscribe: that would give up the group's position.
	err := sub.stan.Close()
	if errors.Is(reason(err), errLost) {
		return nil // whoever is not connected is no member
	}
	return err
}
