package event

import (
	"context"
	"time"
)

// Broker is the seam to a message broker: the little that the ledger needs of
// one. Everything else (encoding, order, deduplication, retries, reconnection)
// is written once, above it. A broker may lose, repeat, delay and reorder what
// it was given; it may not alter it.
//
// Every implementation passes the conformance suite eventtest.TestBroker.
type Broker interface {
	// Name tells this broker from others that the ledger has known or will
	// know, in the ledger, in probes and in messages: "stan". It never changes.
	Name() string

	// Connect opens a session. It returns when the session can publish and
	// subscribe, when that has failed, or when ctx is done. The session
	// outlives ctx.
	Connect(ctx context.Context) (Session, error)
}

// Session is one connection's life. It never reconnects by itself: when it is
// lost it closes Lost, fails what is under way, and the Client connects anew.
// Its methods may be called concurrently.
type Session interface {
	// Publish sends body to the stream and calls acked exactly once, from any
	// goroutine: with nil when the broker has stored the body, else with the
	// reason why that is in doubt. It blocks only while the session's window
	// of unacknowledged messages is full; when ctx is done or the session is
	// lost meanwhile, acked gets that error.
	Publish(ctx context.Context, stream string, body []byte, acked func(error))

	// Subscribe joins the durable group of s and calls deliver for every
	// message, from any goroutine. A group that is new to the broker starts
	// with the oldest message stored. stop leaves the group without giving up
	// its position, and returns when no deliver is running or will run.
	Subscribe(ctx context.Context, s Subscription, deliver func(Delivery)) (stop func() error, err error)

	// Lost is closed when the session is dead.
	Lost() <-chan struct{}

	// Close ends the session and keeps the positions of its subscriptions.
	// Closing a lost session, or closing twice, is no error.
	Close() error
}

// Subscription names what a session should deliver.
type Subscription struct {
	Stream string
	Group  string // members of one group share the stream's messages

	// MaxInFlight bounds the messages delivered and not yet acknowledged.
	// Zero means 256.
	MaxInFlight int

	// AckWait is how long the broker waits for an acknowledgement before it
	// delivers again. Zero means 30 s; less than a second is raised to one.
	AckWait time.Duration
}

// Delivery is one message on its way to one member of a group.
type Delivery struct {
	Body []byte

	// Redelivered says that the broker may have delivered this message before.
	Redelivered bool

	// Ack tells the broker to deliver it no more. An error means that it may
	// come again.
	Ack func() error
}
