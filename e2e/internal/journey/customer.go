package journey

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"
)

// Business has people buy and sell at once. When the second order has been placed it does what is to happen in the
// middle, once, and returns when everybody is done and that is, too.
func Business(t *testing.T, s Site, middle func()) {
	t.Helper()
	placed := make(chan struct{}, 16)
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			c := &customer{s.Person(t)}
			c.enter()
			offered := c.offer(fmt.Sprintf("%s, ticket %d", t.Name(), i))
			buyer := &customer{s.Person(t)}
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

// Purchase has somebody buy a ticket of somebody else, both of whom try again when something breaks, and returns when
// the order is complete and the ticket theirs.
func Purchase(t *testing.T, s Site) {
	t.Helper()
	buyer, offered, o := deal(t, s)
	buyer.settle(o, "tok_visa")
	buyer.AwaitOrder(o, "complete")
	buyer.AwaitTicket(offered.ID, o.ID)
}

// Expire has somebody place an order, does what is to happen then, and waits for the order's end, which must not come
// before its time.
func Expire(t *testing.T, s Site, then func()) {
	t.Helper()
	buyer, offered, o := deal(t, s)
	buyer.AwaitTicket(offered.ID, o.ID)
	then()
	o = buyer.AwaitOrder(o, "cancelled")
	if early := time.Until(o.ExpiresAt); early > 0 {
		t.Errorf("the order was cancelled %v too early", early)
	}
	buyer.AwaitTicket(offered.ID, "")
	if !buyer.Listed(offered) {
		t.Error("the ticket is not on sale again")
	}
}

// deal has somebody order a ticket that somebody else offers.
func deal(t *testing.T, s Site) (buyer *customer, offered Ticket, o Order) {
	t.Helper()
	seller, buyer := &customer{s.Person(t)}, &customer{s.Person(t)}
	seller.enter()
	buyer.enter()
	offered = seller.offer("A ticket to be sold in any weather")
	o, ok := buyer.reserve(offered)
	if !ok {
		t.Fatal("the ticket was not to be had")
	}
	return buyer, offered, o
}

// customer is a person who tries again when something breaks, and finds out then whether it had worked after all.
type customer struct{ *Person }

// insist calls the service until it has an answer that is final: 2xx, or one of the statuses. The pauses grow, and are as
// long as the service says to somebody who asks too often.
func (c *customer) insist(out any, method, path string, in any, statuses ...int) (status int) {
	deadline := time.Now().Add(Patience)
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		status, err := c.Call(out, method, path, in)
		if err == nil {
			return status
		}
		for _, final := range statuses {
			if status == final {
				return status
			}
		}
		wait := status == http.StatusTooManyRequests
		if wait {
			pause = max(pause, retryAfter(err))
		}
		if refused := status >= 400 && status < 500 && !wait; refused || time.Now().Add(pause).After(deadline) {
			c.t.Errorf("%v", err)
			return status
		}
		time.Sleep(pause)
	}
}

// enter signs up, or in if an attempt to sign up has worked unseen.
func (c *customer) enter() {
	if c.insist(nil, http.MethodPost, "/api/users/signup", c.Credentials(), http.StatusConflict) == http.StatusConflict {
		c.insist(nil, http.MethodPost, "/api/users/signin", c.Credentials())
	}
}

// offer sells a ticket. If it was offered unseen before, there are two then.
func (c *customer) offer(title string) (t Ticket) {
	c.insist(&t, http.MethodPost, "/api/tickets", map[string]any{"title": title, "price": "12.50"})
	return t
}

// reserve orders a ticket, as soon as orders has heard of it.
func (c *customer) reserve(offered Ticket) (o Order, ok bool) {
	deadline := time.Now().Add(Patience)
	for time.Now().Before(deadline) {
		switch c.insist(&o, http.MethodPost, "/api/orders", map[string]any{"ticketId": offered.ID}, http.StatusNotFound, http.StatusConflict) {
		case http.StatusCreated:
			return o, true
		case http.StatusNotFound:
		case http.StatusConflict: // nobody else wants it, so it is us who got it
			var mine []Order
			c.insist(&mine, http.MethodGet, "/api/orders", nil)
			for _, o := range mine {
				if o.Ticket.ID == offered.ID {
					return o, true
				}
			}
		default: // it was complained of
			return Order{}, false
		}
		time.Sleep(50 * time.Millisecond)
	}
	c.t.Errorf("ticket %s could not be ordered within %v", offered.ID, Patience)
	return Order{}, false
}

// settle pays an order, as soon as payments has heard of it, unless its time is up.
func (c *customer) settle(o Order, token string) {
	deadline := time.Now().Add(Patience)
	for time.Now().Before(deadline) {
		payment := map[string]any{"orderId": o.ID, "token": token}
		status := c.insist(nil, http.MethodPost, "/api/payments", payment, http.StatusNotFound, http.StatusConflict, http.StatusPaymentRequired)
		if status != http.StatusNotFound {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	c.t.Errorf("order %s could not be paid within %v", o.ID, Patience)
}

// leave cancels an order.
func (c *customer) leave(o Order) {
	c.insist(nil, http.MethodDelete, "/api/orders/"+o.ID, nil)
}
