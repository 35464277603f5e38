package jetstream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/turnstile-go/turnstile/framework/event"
)

// fetchTime is how long one request for messages lasts.
const fetchTime = 30 * time.Second

// subscription is a member of a listener group. It asks the server for as many
// messages as it may hold, so that others get those that it has no room for.
type subscription struct {
	consumer  jetstream.Consumer
	deliver   func(event.Delivery)
	end       func(error)   // of the session
	most      int           // messages open at once
	ackWait   time.Duration // after which a message is delivered again
	renewal   time.Duration // how long the server waits without a sign of life from us
	heartbeat time.Duration

	mu   sync.Mutex
	open map[*message]struct{} // arrived, and neither acknowledged nor overdue
	room chan struct{}         // has an element when open has shrunk

	cancel  context.CancelFunc
	running sync.WaitGroup
}

// message is one that has arrived.
type message struct {
	jetstream.Msg
	at time.Time
}

// start receives until ctx is done or Stop is called.
func (sub *subscription) start(ctx context.Context) {
	ctx, sub.cancel = context.WithCancel(ctx)
	arrived := make(chan *message, sub.most)
	sub.running.Go(func() {
		defer close(arrived)
		if err := sub.receive(ctx, arrived); err != nil && ctx.Err() == nil {
			sub.end(err)
		}
	})
	sub.running.Go(func() {
		for m := range arrived {
			sub.hand(ctx, m)
		}
	})
	sub.running.Go(func() { sub.renew(ctx) })
}

// Stop implements [natsconn.Subscription]. What is not acknowledged is left to the
// other members at once.
func (sub *subscription) Stop() {
	sub.cancel()
	sub.running.Wait()
	sub.mu.Lock()
	defer sub.mu.Unlock()
	for m := range sub.open {
		if m.Nak() != nil {
			break // the connection is lost, and the server finds out
		}
	}
	clear(sub.open)
}

// Leave implements [natsconn.Subscription]. The server counts no members: it gives
// messages to those who ask.
func (sub *subscription) Leave() error { return nil }

// receive fetches messages whenever there is room for one. The error says why
// there will be no more.
func (sub *subscription) receive(ctx context.Context, arrived chan<- *message) error {
	for {
		free := sub.free()
		if free == 0 {
			select {
			case <-sub.room:
				continue
			case <-ctx.Done():
				return nil
			}
		}
		if err := sub.fetch(ctx, free, arrived); err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// fetch makes one request for at most n messages.
func (sub *subscription) fetch(ctx context.Context, n int, arrived chan<- *message) error {
	ctx, cancel := context.WithTimeout(ctx, max(fetchTime, 4*sub.heartbeat))
	defer cancel()
	batch, err := sub.consumer.Fetch(n, jetstream.FetchContext(ctx), jetstream.FetchHeartbeat(sub.heartbeat))
	if err != nil {
		return fmt.Errorf("ask JetStream for messages: %w", err)
	}
	for msg := range batch.Messages() {
		m := &message{msg, time.Now()}
		sub.mu.Lock()
		sub.open[m] = struct{}{}
		sub.mu.Unlock()
		arrived <- m // there is room: it holds no more than open does
	}
	err = batch.Error()
	switch {
	case err == nil, ctx.Err() != nil, errors.Is(err, jetstream.ErrConsumerLeadershipChanged):
		return nil
	case errors.Is(err, jetstream.ErrNoHeartbeat):
		return fmt.Errorf("the subscription is dead: no sign of life for %v (%w)", 2*sub.heartbeat, err)
	}
	return fmt.Errorf("the subscription is dead: %w", err)
}

// hand delivers m, unless it is too late for it.
func (sub *subscription) hand(ctx context.Context, m *message) {
	sub.mu.Lock()
	_, open := sub.open[m]
	sub.mu.Unlock()
	if !open || ctx.Err() != nil {
		return
	}
	meta, err := m.Metadata()
	sub.deliver(event.Delivery{
		Body:        m.Data(),
		Redelivered: err != nil || meta.NumDelivered > 1,
		Ack: func() error {
			// In this order: whoever asks for the next has acknowledged this one.
			err := m.Ack()
			sub.release(m)
			return err
		},
	})
}

// renew keeps the server from delivering again what is being worked on, for as
// long as the subscriber has for that. What is overdue takes up no room any
// more: it comes again.
func (sub *subscription) renew(ctx context.Context) {
	pace := sub.renewal / 4
	ticker := time.NewTicker(pace)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		var renewed, overdue []*message
		sub.mu.Lock()
		for m := range sub.open {
			switch age := time.Since(m.at); {
			case age >= sub.ackWait:
				overdue = append(overdue, m)
			case age >= pace && age < sub.ackWait-sub.renewal+pace:
				renewed = append(renewed, m)
			}
		}
		sub.mu.Unlock()
		for _, m := range overdue {
			sub.release(m)
		}
		for _, m := range renewed {
			if m.InProgress() != nil {
				break // the connection is lost
			}
		}
	}
}

func (sub *subscription) free() int {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	return max(0, sub.most-len(sub.open))
}

func (sub *subscription) release(m *message) {
	sub.mu.Lock()
	delete(sub.open, m)
	sub.mu.Unlock()
	select {
	case sub.room <- struct{}{}:
	default:
	}
}
