package e2e

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"
)

// TestMarket walks through what people do, with nothing in their way, and then shuts the system down in every way.
func TestMarket(t *testing.T) {
	t.Parallel()
	build(t)
	dir := t.TempDir()
	workspace(t, dir, true)
	s := dev(t, dir, nil, "--watch=false")

	t.Run("people", func(t *testing.T) {
		t.Run("sell a ticket", func(t *testing.T) { t.Parallel(); sellTicket(t, s) })
		t.Run("cancel an order", func(t *testing.T) { t.Parallel(); cancelOrder(t, s) })
		t.Run("pay after a declined card", func(t *testing.T) { t.Parallel(); declinedCard(t, s) })
		t.Run("do not buy from themselves", func(t *testing.T) { t.Parallel(); ownTicket(t, s) })
		t.Run("do not touch a reserved ticket", func(t *testing.T) { t.Parallel(); reservedTicket(t, s) })
		t.Run("want the same ticket", func(t *testing.T) { t.Parallel(); sameTicket(t, s) })
		t.Run("pay the same order", func(t *testing.T) { t.Parallel(); sameOrder(t, s) })
	})
	b := s.books(t)
	b.awaitQuiet(false) // orders need not expire
	if events := b.check(); events < 20 {
		t.Errorf("the books have %d events: too few to have checked anything", events)
	}
	b.checkApplication()
	if t.Failed() {
		return
	}

	user := s.user(t)
	kept := user.sell("A ticket that outlives the system")
	for _, end := range []struct {
		how string
		end func(*testing.T)
	}{{"crash", s.crash}, {"stop", s.stop}} {
		t.Run("state survives a "+end.how, func(t *testing.T) {
			end.end(t)
			s.start(t, "--watch=false")
			user := *user
			user.t = t
			if !user.listed(kept) {
				t.Error("the ticket is not listed any more")
			}
			user.want(http.StatusOK, nil, http.MethodGet, "/api/tickets/mine", nil) // the session still counts
			user.want(http.StatusOK, nil, http.MethodPost, "/api/users/signin", user.credentials())
		})
	}
	t.Run("reset deletes it", func(t *testing.T) {
		s.stop(t)
		s.start(t, "--watch=false", "--reset")
		user := *user
		user.t = t
		user.want(http.StatusNotFound, nil, http.MethodGet, "/api/tickets/"+kept.ID, nil)
		user.want(http.StatusUnauthorized, nil, http.MethodPost, "/api/users/signin", user.credentials())
	})
}

func sellTicket(t *testing.T, s *system) {
	seller, buyer, other := s.user(t), s.user(t), s.user(t)
	offered := seller.sell("A ticket to sell")
	if !other.listed(offered) {
		t.Error("the ticket is not listed")
	}
	o := buyer.order(offered.ID)
	if o.Status != "created" || o.Ticket.ID != offered.ID || o.Ticket.Price != "19.99" {
		t.Errorf("the order is %+v, want a created one of the ticket for 19.99", o)
	}
	if left := time.Until(o.ExpiresAt); left < 10*time.Minute || left > 15*time.Minute {
		t.Errorf("the order expires in %v, want 15 minutes", left)
	}
	other.refused(http.StatusConflict, "Ticket is already reserved", http.MethodPost, "/api/orders", map[string]any{"ticketId": offered.ID})
	other.want(http.StatusForbidden, nil, http.MethodGet, "/api/orders/"+o.ID, nil)
	if got := buyer.pay(o, "tok_visa"); got != http.StatusCreated {
		t.Fatalf("paying: status %d, want 201", got)
	}
	buyer.awaitOrder(o, "complete")
	sold := buyer.awaitTicket(offered.ID, o.ID)
	if sold.Version <= offered.Version {
		t.Errorf("the sold ticket has version %d, the offered one had %d", sold.Version, offered.Version)
	}
	if other.listed(offered) {
		t.Error("the sold ticket is still listed")
	}
	buyer.want(http.StatusConflict, nil, http.MethodDelete, "/api/orders/"+o.ID, nil)
	buyer.want(http.StatusConflict, nil, http.MethodPost, "/api/payments", map[string]any{"orderId": o.ID, "token": "tok_visa"})
	var paid []payment
	buyer.want(http.StatusOK, &paid, http.MethodGet, "/api/payments?orderId="+o.ID, nil)
	if len(paid) != 1 || paid[0].Amount != 1999 || paid[0].Currency != "usd" || paid[0].Status != "captured" {
		t.Errorf("the payments are %+v, want one of 1999 usd, captured", paid)
	}
}

func cancelOrder(t *testing.T, s *system) {
	seller, buyer, other := s.user(t), s.user(t), s.user(t)
	offered := seller.sell("A ticket to let go")
	o := buyer.order(offered.ID)
	buyer.awaitTicket(offered.ID, o.ID)
	if other.listed(offered) {
		t.Error("the reserved ticket is listed")
	}
	other.want(http.StatusForbidden, nil, http.MethodDelete, "/api/orders/"+o.ID, nil)
	buyer.want(http.StatusNoContent, nil, http.MethodDelete, "/api/orders/"+o.ID, nil)
	buyer.want(http.StatusNoContent, nil, http.MethodDelete, "/api/orders/"+o.ID, nil)
	buyer.awaitOrder(o, "cancelled")
	buyer.awaitTicket(offered.ID, "")
	if !other.listed(offered) {
		t.Error("the released ticket is not listed")
	}
	if got := buyer.pay(o, "tok_visa"); got != http.StatusConflict {
		t.Errorf("paying the cancelled order: status %d, want 409", got)
	}
	again := other.order(offered.ID)
	other.awaitTicket(offered.ID, again.ID)
}

func declinedCard(t *testing.T, s *system) {
	seller, buyer := s.user(t), s.user(t)
	offered := seller.sell("A ticket for somebody with two cards")
	o := buyer.order(offered.ID)
	if got := buyer.pay(o, "tok_chargeDeclined"); got != http.StatusPaymentRequired {
		t.Fatalf("paying with a declined card: status %d, want 402", got)
	}
	if got := buyer.pay(o, "tok_visa"); got != http.StatusCreated {
		t.Fatalf("paying with another card: status %d, want 201", got)
	}
	buyer.awaitOrder(o, "complete")
	var paid []payment
	buyer.want(http.StatusOK, &paid, http.MethodGet, "/api/payments?orderId="+o.ID, nil)
	if len(paid) != 2 || paid[0].Status != "captured" || paid[1].Status != "declined" {
		t.Errorf("the payments are %+v, want a captured one and a declined one", paid)
	}
}

func ownTicket(t *testing.T, s *system) {
	seller, buyer := s.user(t), s.user(t)
	offered := seller.sell("A ticket of one's own")
	eventually(t, "orders refuses the seller", func() error {
		status, err := seller.call(nil, http.MethodPost, "/api/orders", map[string]any{"ticketId": offered.ID})
		if status != http.StatusConflict {
			return fmt.Errorf("status %d (%w), want 409", status, seller.unless(err, http.StatusNotFound))
		}
		return nil
	})
	buyer.order(offered.ID) // it is still to be had
}

func reservedTicket(t *testing.T, s *system) {
	seller, buyer := s.user(t), s.user(t)
	offered := seller.sell("A ticket to leave alone")
	path := "/api/tickets/" + offered.ID
	seller.want(http.StatusOK, &offered, http.MethodPut, path, map[string]any{"title": "A better title", "price": "25"})
	if offered.Version != 1 || offered.Title != "A better title" || offered.Price != "25" {
		t.Errorf("the edited ticket is %+v, want version 1 with its new title and price", offered)
	}
	o := buyer.order(offered.ID)
	buyer.awaitTicket(offered.ID, o.ID)
	edit := map[string]any{"title": "Too late", "price": 1}
	seller.refused(http.StatusConflict, "Cannot edit a reserved ticket", http.MethodPut, path, edit)
	seller.want(http.StatusConflict, nil, http.MethodDelete, path, nil)
	buyer.want(http.StatusForbidden, nil, http.MethodPut, path, edit)
	s.person(t).want(http.StatusUnauthorized, nil, http.MethodPut, path, edit)
	buyer.want(http.StatusNoContent, nil, http.MethodDelete, "/api/orders/"+o.ID, nil)
	buyer.awaitTicket(offered.ID, "")
	seller.want(http.StatusNoContent, nil, http.MethodDelete, path, nil)
	seller.want(http.StatusNotFound, nil, http.MethodGet, path, nil)
}

// crowd is how many want the same thing at once.
const crowd = 50

// all calls f as often, at once, and returns how often each status was the answer.
func all(f func(i int) int) map[int]int {
	var mu sync.Mutex
	var group sync.WaitGroup
	statuses := map[int]int{}
	begin := make(chan struct{})
	for i := range crowd {
		group.Go(func() {
			<-begin
			status := f(i)
			mu.Lock()
			defer mu.Unlock()
			statuses[status]++
		})
	}
	close(begin)
	group.Wait()
	return statuses
}

func sameTicket(t *testing.T, s *system) {
	seller := s.user(t)
	buyers := []*person{s.user(t), s.user(t), s.user(t), s.user(t), s.user(t)}
	first, offered := seller.sell("A ticket before"), seller.sell("A ticket that everybody wants")
	buyers[0].order(first.ID)
	eventually(t, "orders knows the ticket", func() error { // and none of the crowd's requests comes too early
		_, err := seller.call(nil, http.MethodPost, "/api/orders", map[string]any{"ticketId": offered.ID})
		if says(err) != http.StatusConflict {
			return errNotYet
		}
		return nil
	})
	statuses := all(func(i int) int {
		status, err := buyers[i%len(buyers)].call(nil, http.MethodPost, "/api/orders", map[string]any{"ticketId": offered.ID})
		if status == 0 {
			t.Error(err)
		}
		return status
	})
	if statuses[http.StatusCreated] != 1 || statuses[http.StatusConflict] != crowd-1 {
		t.Errorf("the answers are %v, want one 201 and %d times 409", statuses, crowd-1)
	}
}

func sameOrder(t *testing.T, s *system) {
	seller, buyer := s.user(t), s.user(t)
	o := buyer.order(seller.sell("A ticket for an impatient buyer").ID)
	if got := buyer.pay(o, "tok_insufficientFunds"); got != http.StatusPaymentRequired { // payments knows the order now
		t.Fatalf("paying without funds: status %d, want 402", got)
	}
	statuses := all(func(int) int {
		status, err := buyer.call(nil, http.MethodPost, "/api/payments", map[string]any{"orderId": o.ID, "token": "tok_visa"})
		if status == 0 {
			t.Error(err)
		}
		return status
	})
	if statuses[http.StatusCreated] != 1 || statuses[http.StatusConflict] != crowd-1 {
		t.Errorf("the answers are %v, want one 201 and %d times 409", statuses, crowd-1)
	}
	buyer.awaitOrder(o, "complete")
}
