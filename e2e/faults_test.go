package e2e

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"
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
		"ORDER_EXPIRATION=" + window.String(), "PAYMENT_TIMEOUT=2s", "PAYMENT_RECOVERY=1s",
	}, "--watch=false")

	for _, victim := range append([]string{"broker"}, services...) {
		t.Run("kill "+victim, func(t *testing.T) {
			var back func()
			business(t, s, func() { back = s.kill(t, victim) })
			back()
		})
	}
	t.Run("kill all", func(t *testing.T) {
		business(t, s, func() {
			s.crash(t)
			s.start(t, "--watch=false")
		})
	})
	t.Run("a payment under way", func(t *testing.T) { halfPaid(t, s) })
	t.Run("expiry", func(t *testing.T) { expire(t, s) })
	t.Run("books", func(t *testing.T) {
		b := s.books(t)
		eventually(t, "what a crash left pending is settled", func() error {
			if n := b.pending(); n > 0 {
				return fmt.Errorf("%d payments are pending", n)
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
		s.person(t).want(http.StatusOK, &sales, http.MethodGet, "/api/"+name, nil)
		if sales.Tickets != orders["complete"] {
			t.Errorf("%s has counted %d tickets, and %d were sold", name, sales.Tickets, orders["complete"])
		}
	})
}

// business has people buy and sell at once. When the second order has been placed it does what is to happen in the
// middle, once, and returns when everybody is done and that is, too.
func business(t *testing.T, s *system, middle func()) {
	t.Helper()
	placed := make(chan struct{}, 16)
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			c := &customer{person: s.person(t)}
			c.enter()
			offered := c.offer(fmt.Sprintf("%s, ticket %d", t.Name(), i))
			buyer := &customer{person: s.person(t)}
			buyer.enter()
			o, ok := buyer.reserve(offered)
			placed <- struct{}{}
			if !ok {
				return
			}
			switch i % 4 {
			case 0, 1:
				buyer.settle(o, "tok_visa")
			case 2:
				buyer.settle(o, "tok_chargeDeclined")
				buyer.settle(o, "tok_visa")
			case 3:
				if i > 4 { // the other one is left to expire
					buyer.leave(o)
				}
			}
		})
	}
	<-placed
	<-placed
	middle()
	group.Wait()
}

// halfPaid kills payments after the provider has been asked for money and before it has answered.
func halfPaid(t *testing.T, s *system) {
	seller, buyer := s.user(t), s.user(t)
	o := buyer.order(seller.sell("A ticket paid with a slow card").ID)
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		for { // until payments knows the order; then the answer is that there will be none
			status, _ := buyer.call(nil, http.MethodPost, "/api/payments", map[string]any{"orderId": o.ID, "token": "tok_timeout"})
			if status != http.StatusNotFound {
				return
			}
		}
	}()
	b := s.books(t)
	eventually(t, "the payment is pending", func() error {
		if b.pending() == 0 {
			return errNotYet
		}
		return nil
	})
	back := s.kill(t, "payments")
	<-answered
	back()
	buyer.awaitOrder(o, "complete")
}

// expire places an order, kills who would have to end it, and waits for its end.
func expire(t *testing.T, s *system) {
	seller, buyer := &customer{person: s.person(t)}, &customer{person: s.person(t)}
	seller.enter()
	buyer.enter()
	offered := seller.offer("A ticket that nobody pays for")
	o, ok := buyer.reserve(offered)
	if !ok {
		t.Fatal("the ticket was not to be had")
	}
	buyer.awaitTicket(offered.ID, o.ID)
	orders, broker := s.kill(t, "orders"), s.kill(t, "broker")
	orders()
	broker()
	o = buyer.awaitOrder(o, "cancelled")
	if early := time.Until(o.ExpiresAt); early > 0 {
		t.Errorf("the order was cancelled %v too early", early)
	}
	buyer.awaitTicket(offered.ID, "")
	if !buyer.listed(offered) {
		t.Error("the ticket is not on sale again")
	}
}

// customer is a person who tries again when something breaks, and finds out then whether it had worked after all.
type customer struct{ *person }

// insist calls the service until it has an answer that is final: 2xx, or one of the statuses.
func (c *customer) insist(out any, method, path string, in any, statuses ...int) (status int) {
	deadline := time.Now().Add(patience)
	for {
		status, err := c.call(out, method, path, in)
		if err == nil {
			return status
		}
		for _, final := range statuses {
			if status == final {
				return status
			}
		}
		if time.Now().After(deadline) || status >= 400 && status < 500 {
			c.t.Errorf("%v", err)
			return status
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// enter signs up, or in if an attempt to sign up has worked unseen.
func (c *customer) enter() {
	if c.insist(nil, http.MethodPost, "/api/users/signup", c.credentials(), http.StatusConflict) == http.StatusConflict {
		c.insist(nil, http.MethodPost, "/api/users/signin", c.credentials())
	}
}

// offer sells a ticket. If it was offered unseen before, there are two then.
func (c *customer) offer(title string) (t ticket) {
	c.insist(&t, http.MethodPost, "/api/tickets", map[string]any{"title": title, "price": "12.50"})
	return t
}

// reserve orders a ticket, as soon as orders has heard of it.
func (c *customer) reserve(offered ticket) (o order, ok bool) {
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		switch c.insist(&o, http.MethodPost, "/api/orders", map[string]any{"ticketId": offered.ID}, http.StatusNotFound, http.StatusConflict) {
		case http.StatusCreated:
			return o, true
		case http.StatusConflict: // nobody else wants it, so it is us who got it
			var mine []order
			c.insist(&mine, http.MethodGet, "/api/orders", nil)
			for _, o := range mine {
				if o.Ticket.ID == offered.ID {
					return o, true
				}
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	c.t.Errorf("ticket %s could not be ordered within %v", offered.ID, patience)
	return order{}, false
}

// settle pays an order, as soon as payments has heard of it, unless its time is up.
func (c *customer) settle(o order, token string) {
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		payment := map[string]any{"orderId": o.ID, "token": token}
		status := c.insist(nil, http.MethodPost, "/api/payments", payment, http.StatusNotFound, http.StatusConflict, http.StatusPaymentRequired)
		if status != http.StatusNotFound {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	c.t.Errorf("order %s could not be paid within %v", o.ID, patience)
}

// leave cancels an order.
func (c *customer) leave(o order) {
	c.insist(nil, http.MethodDelete, "/api/orders/"+o.ID, nil)
}
