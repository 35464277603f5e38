package brokertest

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/framework/event"
)

// HungServer is a test: a server that hangs is found out, also by a session that
// is stuck in writing to it, and costs no publish its answer. Acknowledgements
// must be waited for much longer than that takes.
func HungServer(t *testing.T, newBroker func(url string) event.Broker) {
	for _, tt := range []struct {
		name  string
		count int
		size  int
	}{
		{"idle", 0, 0},
		{"waiting for acknowledgements", 100, 100},
		{"stuck in a write", 100, 1_000_000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := StartProcess(t)
			s := Connect(t, newBroker(server.URL))
			Publish(t, s, "tickets", "first")
			Subscribe(t, s, event.Subscription{Stream: "tickets", Group: "orders"})
			server.Hang()
			hung := time.Now()
			var answered, acked atomic.Int32
			var publishers sync.WaitGroup
			for range tt.count {
				publishers.Go(func() {
					s.Publish(t.Context(), "tickets", make([]byte, tt.size), func(err error) {
						answered.Add(1)
						if err == nil {
							acked.Add(1)
						}
					})
				})
			}
			AwaitLost(t, s, hung)
			if err := s.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
			publishers.Wait()
			if answered.Load() != int32(tt.count) || acked.Load() > 0 {
				t.Errorf("of %d publishes %d were answered, %d of them with success", tt.count, answered.Load(), acked.Load())
			}
		})
	}
}

// CloseHungServer is a test: Close does not wait for a server that hangs.
func CloseHungServer(t *testing.T, newBroker func(url string) event.Broker) {
	server := StartProcess(t)
	s := Connect(t, newBroker(server.URL))
	server.Hang()
	start := time.Now()
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("close took %v", took)
	}
}
