package e2e

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/e2e/internal/journey"
)

// window is how long an order waits for its payment in the system that is disturbed.
const window = 15 * time.Second

// TestFaults kills every process of the system in the middle of people's business, and then all at once. It ends with
// the books: nothing was lost, doubled or put out of order. The service that the README shows runs, too, and must have
// counted right.
func TestFaults(t *testing.T) {
	t.Parallel()
	build(t)
	dir := t.TempDir()
	name := example(t, "README.md", dir)
	workspace(t, dir, true)
	s := dev(t, dir, []string{
		"ORDER_EXPIRATION=" + window.String(), "PAYMENT_TIMEOUT=4s", "PAYMENT_RECOVERY=1s",
	}, "--watch=false")

	for _, victim := range append([]string{"broker"}, services...) {
		t.Run("kill "+victim, func(t *testing.T) {
			var back func()
			journey.Business(t, s.site(), func() { back = s.kill(t, victim) })
			back()
		})
	}
	t.Run("kill all", func(t *testing.T) {
		journey.Business(t, s.site(), func() {
			s.crash(t)
			s.start(t, "--watch=false")
		})
	})
	t.Run("a payment under way", func(t *testing.T) { halfPaid(t, s) })
	t.Run("expiry", func(t *testing.T) {
		journey.Expire(t, s.site(), func() { // kills who would have to end it
			orders, broker := s.kill(t, "orders"), s.kill(t, "broker")
			orders()
			broker()
		})
	})
	t.Run("books", func(t *testing.T) {
		b := s.books(t)
		journey.Eventually(t, "what a crash left pending is settled", func() error {
			if n := b.pending(""); n > 0 {
				return fmt.Errorf("%d payments are pending, or their money is to go back", n)
			}
			return nil
		})
		b.awaitQuiet(true)
		events := b.check()
		orders := b.checkApplication()
		t.Logf("%d events, orders: %v", events, orders)
		if orders["created"] != 0 {
			t.Errorf("%d orders are neither complete nor cancelled, though their time is up", orders["created"])
		}
		if orders["complete"] == 0 || orders["cancelled"] == 0 {
			t.Errorf("the orders are %v: too few to have checked anything", orders)
		}
		var sales struct{ Tickets int }
		s.site().Person(t).Want(http.StatusOK, &sales, http.MethodGet, "/api/"+name, nil)
		if sales.Tickets != orders["complete"] {
			t.Errorf("%s has counted %d tickets, and %d were sold", name, sales.Tickets, orders["complete"])
		}
	})
}

// halfPaid kills payments after the provider has been asked for money and before it has answered.
func halfPaid(t *testing.T, s *system) {
	seller, buyer := s.site().User(t), s.site().User(t)
	o := buyer.Order(seller.Sell("A ticket paid with a slow card").ID)
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		for { // until payments knows the order; then the answer is that there will be none
			status, _ := buyer.Call(nil, http.MethodPost, "/api/payments", map[string]any{"orderId": o.ID, "token": "tok_timeout"})
			if status != http.StatusNotFound {
				return
			}
		}
	}()
	b := s.books(t)
	journey.Eventually(t, "the payment is pending", func() error {
		if b.pending(o.ID) == 0 {
			return errNotYet
		}
		return nil
	})
	back := s.kill(t, "payments")
	<-answered
	back()
	buyer.AwaitOrder(o, "complete")
}
