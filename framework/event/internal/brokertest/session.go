package brokertest

import (
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/framework/event"
)

// Connect returns a session that ends with t.
func Connect(t *testing.T, b event.Broker) event.Session {
	t.Helper()
	s, err := b.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// Publish stores a message.
func Publish(t *testing.T, s event.Session, stream, body string) {
	t.Helper()
	answer := make(chan error, 1)
	s.Publish(t.Context(), stream, []byte(body), func(err error) { answer <- err })
	if err := <-answer; err != nil {
		t.Fatal(err)
	}
}

// Inbox is what a subscription has received.
type Inbox chan event.Delivery

// Subscribe returns a new subscription's inbox.
func Subscribe(t *testing.T, s event.Session, to event.Subscription) Inbox {
	t.Helper()
	in := make(Inbox, 100)
	if _, err := s.Subscribe(t.Context(), to, func(d event.Delivery) { in <- d }); err != nil {
		t.Fatal(err)
	}
	return in
}

// Next waits for the next delivery.
func (in Inbox) Next(t *testing.T) event.Delivery {
	t.Helper()
	select {
	case d := <-in:
		return d
	case <-time.After(20 * time.Second):
		t.Fatal("nothing is delivered")
		panic("unreachable")
	}
}

// AwaitLost waits until s is known to be lost, which should not take long.
func AwaitLost(t *testing.T, s event.Session, since time.Time) {
	t.Helper()
	select {
	case <-s.Lost():
	case <-time.After(20 * time.Second):
		t.Fatal("the loss of the session is not noticed")
	}
	took := time.Since(since)
	t.Logf("found after %v", took.Round(time.Millisecond))
	if took > 5*time.Second {
		t.Errorf("it took %v to find that the session is dead", took)
	}
}
