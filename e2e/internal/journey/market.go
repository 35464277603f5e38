package journey

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"
)

var errNotYet = errors.New("not yet")

// Market has people do all that they can do, several of them at once, with nothing in their way.
func Market(t *testing.T, s Site) {
	for name, journey := range map[string]func(*testing.T, Site){
		"sell a ticket":                  sellTicket,
		"cancel an order":                cancelOrder,
		"pay after a declined card":      declinedCard,
		"do not buy from themselves":     ownTicket,
		"do not touch a reserved ticket": reservedTicket,
		"want the same ticket":           sameTicket,
		"pay the same order":             sameOrder,
		"cancel what is being paid":      cancelPaying,
		"sign out":                       signOut,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			journey(t, s)
		})
	}
}

// signOut has somebody sign out whose session somebody else has copied: it is of no use to them, in any service.
func signOut(t *testing.T, s Site) {
	user := s.User(t)
	mine := user.Sell("A ticket of somebody who leaves")
	thief := user.Thief()
	others := s.User(t)
	pages := []string{"/api/tickets/mine", "/api/orders", "/api/payments"}
	for _, page := range pages {
		thief.Want(http.StatusOK, nil, http.MethodGet, page, nil)
	}
	for range 2 { // the second time without a session
		user.Want(http.StatusOK, nil, http.MethodPost, "/api/users/signout", nil)
		user.Want(http.StatusUnauthorized, nil, http.MethodGet, "/api/tickets/mine", nil)
	}
	for _, page := range pages {
		awaitEverywhere(t, page+" is refused to a session that was signed out", func() (bool, error) {
			status, err := thief.Call(nil, http.MethodGet, page, nil)
			if status == http.StatusUnauthorized || status == http.StatusOK {
				err = nil
			}
			return status == http.StatusUnauthorized, err
		})
	}
	awaitEverywhere(t, "auth takes the session for nobody's", func() (bool, error) {
		var me struct{ CurrentUser *struct{ ID string } }
		_, err := thief.Call(&me, http.MethodGet, "/api/users/currentuser", nil)
		return me.CurrentUser == nil, err
	})
	thief.Want(http.StatusUnauthorized, nil, http.MethodDelete, "/api/tickets/"+mine.ID, nil)
	others.Want(http.StatusOK, nil, http.MethodGet, "/api/tickets/mine", nil)
	user.Want(http.StatusOK, nil, http.MethodPost, "/api/users/signin", user.Credentials())
	user.Want(http.StatusOK, nil, http.MethodGet, "/api/tickets/mine", nil)
}

// awaitEverywhere waits until something holds twenty times in a row: there may be several processes, which learn of it one
// after the other.
func awaitEverywhere(t *testing.T, what string, holds func() (bool, error)) {
	t.Helper()
	row := 0
	Eventually(t, what, func() error {
		yes, err := holds()
		if err != nil {
			return err
		}
		row++
		if !yes {
			row = 0
		}
		if row < 20 {
			return errNotYet
		}
		return nil
	})
}

func sellTicket(t *testing.T, s Site) {
	seller, buyer, other := s.User(t), s.User(t), s.User(t)
	offered := seller.Sell("A ticket to sell")
	if !other.Listed(offered) {
		t.Error("the ticket is not listed")
	}
	o := buyer.Order(offered.ID)
	if o.Status != "created" || o.Ticket.ID != offered.ID || o.Ticket.Price != "19.99" {
		t.Errorf("the order is %+v, want a created one of the ticket for 19.99", o)
	}
	if left, all := time.Until(o.ExpiresAt), cmp.Or(s.Expiration, 15*time.Minute); left < all/2 || left > all {
		t.Errorf("the order expires in %v, want %v", left, all)
	}
	other.Refused(http.StatusConflict, "Ticket is already reserved", http.MethodPost, "/api/orders", map[string]any{"ticketId": offered.ID})
	other.Want(http.StatusForbidden, nil, http.MethodGet, "/api/orders/"+o.ID, nil)
	if got := buyer.Pay(o, "tok_visa"); got != http.StatusCreated {
		t.Fatalf("paying: status %d, want 201", got)
	}
	buyer.AwaitOrder(o, "complete")
	sold := buyer.AwaitTicket(offered.ID, o.ID)
	if sold.Version <= offered.Version {
		t.Errorf("the sold ticket has version %d, the offered one had %d", sold.Version, offered.Version)
	}
	if other.Listed(offered) {
		t.Error("the sold ticket is still listed")
	}
	buyer.Want(http.StatusConflict, nil, http.MethodDelete, "/api/orders/"+o.ID, nil)
	buyer.Want(http.StatusConflict, nil, http.MethodPost, "/api/payments", map[string]any{"orderId": o.ID, "token": "tok_visa"})
	var paid []Payment
	buyer.Want(http.StatusOK, &paid, http.MethodGet, "/api/payments?orderId="+o.ID, nil)
	if len(paid) != 1 || paid[0].Amount != 1999 || paid[0].Currency != "usd" || paid[0].Status != "captured" {
		t.Errorf("the payments are %+v, want one of 1999 usd, captured", paid)
	}
}

func cancelOrder(t *testing.T, s Site) {
	seller, buyer, other := s.User(t), s.User(t), s.User(t)
	offered := seller.Sell("A ticket to let go")
	o := buyer.Order(offered.ID)
	buyer.AwaitTicket(offered.ID, o.ID)
	if other.Listed(offered) {
		t.Error("the reserved ticket is listed")
	}
	other.Want(http.StatusForbidden, nil, http.MethodDelete, "/api/orders/"+o.ID, nil)
	buyer.Want(http.StatusNoContent, nil, http.MethodDelete, "/api/orders/"+o.ID, nil)
	buyer.Want(http.StatusNoContent, nil, http.MethodDelete, "/api/orders/"+o.ID, nil)
	buyer.AwaitOrder(o, "cancelled")
	buyer.AwaitTicket(offered.ID, "")
	if !other.Listed(offered) {
		t.Error("the released ticket is not listed")
	}
	if got := buyer.Pay(o, "tok_visa"); got != http.StatusConflict {
		t.Errorf("paying the cancelled order: status %d, want 409", got)
	}
	again := other.Order(offered.ID)
	other.AwaitTicket(offered.ID, again.ID)
}

func declinedCard(t *testing.T, s Site) {
	seller, buyer := s.User(t), s.User(t)
	offered := seller.Sell("A ticket for somebody with two cards")
	o := buyer.Order(offered.ID)
	if got := buyer.Pay(o, "tok_chargeDeclined"); got != http.StatusPaymentRequired {
		t.Fatalf("paying with a declined card: status %d, want 402", got)
	}
	if got := buyer.Pay(o, "tok_visa"); got != http.StatusCreated {
		t.Fatalf("paying with another card: status %d, want 201", got)
	}
	buyer.AwaitOrder(o, "complete")
	var paid []Payment
	buyer.Want(http.StatusOK, &paid, http.MethodGet, "/api/payments?orderId="+o.ID, nil)
	if len(paid) != 2 || paid[0].Status != "captured" || paid[1].Status != "declined" {
		t.Errorf("the payments are %+v, want a captured one and a declined one", paid)
	}
}

func ownTicket(t *testing.T, s Site) {
	seller, buyer := s.User(t), s.User(t)
	offered := seller.Sell("A ticket of one's own")
	Eventually(t, "orders refuses the seller", func() error {
		status, err := seller.Call(nil, http.MethodPost, "/api/orders", map[string]any{"ticketId": offered.ID})
		if status != http.StatusConflict {
			return fmt.Errorf("status %d (%w), want 409", status, seller.unless(err, http.StatusNotFound))
		}
		return nil
	})
	buyer.Order(offered.ID) // it is still to be had
}

func reservedTicket(t *testing.T, s Site) {
	seller, buyer := s.User(t), s.User(t)
	offered := seller.Sell("A ticket to leave alone")
	path := "/api/tickets/" + offered.ID
	seller.Want(http.StatusOK, &offered, http.MethodPut, path, map[string]any{"title": "A better title", "price": "25"})
	if offered.Version != 1 || offered.Title != "A better title" || offered.Price != "25" {
		t.Errorf("the edited ticket is %+v, want version 1 with its new title and price", offered)
	}
	o := buyer.Order(offered.ID)
	buyer.AwaitTicket(offered.ID, o.ID)
	edit := map[string]any{"title": "Too late", "price": 1}
	seller.Refused(http.StatusConflict, "Cannot edit a reserved ticket", http.MethodPut, path, edit)
	seller.Want(http.StatusConflict, nil, http.MethodDelete, path, nil)
	buyer.Want(http.StatusForbidden, nil, http.MethodPut, path, edit)
	s.Person(t).Want(http.StatusUnauthorized, nil, http.MethodPut, path, edit)
	buyer.Want(http.StatusNoContent, nil, http.MethodDelete, "/api/orders/"+o.ID, nil)
	buyer.AwaitTicket(offered.ID, "")
	seller.Want(http.StatusNoContent, nil, http.MethodDelete, path, nil)
	seller.Want(http.StatusNotFound, nil, http.MethodGet, path, nil)
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

func sameTicket(t *testing.T, s Site) {
	seller := s.User(t)
	buyers := []*Person{s.User(t), s.User(t), s.User(t), s.User(t), s.User(t)}
	first, offered := seller.Sell("A ticket before"), seller.Sell("A ticket that everybody wants")
	buyers[0].Order(first.ID)
	Eventually(t, "orders knows the ticket", func() error { // and none of the crowd's requests comes too early
		_, err := seller.Call(nil, http.MethodPost, "/api/orders", map[string]any{"ticketId": offered.ID})
		if says(err) != http.StatusConflict {
			return errNotYet
		}
		return nil
	})
	statuses := all(func(i int) int {
		status, err := buyers[i%len(buyers)].Call(nil, http.MethodPost, "/api/orders", map[string]any{"ticketId": offered.ID})
		if status == 0 {
			t.Error(err)
		}
		return status
	})
	if statuses[http.StatusCreated] != 1 || statuses[http.StatusConflict] != crowd-1 {
		t.Errorf("the answers are %v, want one 201 and %d times 409", statuses, crowd-1)
	}
}

func sameOrder(t *testing.T, s Site) {
	seller, buyer := s.User(t), s.User(t)
	o := buyer.Order(seller.Sell("A ticket for an impatient buyer").ID)
	if got := buyer.Pay(o, "tok_insufficientFunds"); got != http.StatusPaymentRequired { // payments knows the order now
		t.Fatalf("paying without funds: status %d, want 402", got)
	}
	statuses := all(func(int) int {
		status, err := buyer.Call(nil, http.MethodPost, "/api/payments", map[string]any{"orderId": o.ID, "token": "tok_visa"})
		if status == 0 {
			t.Error(err)
		}
		return status
	})
	if statuses[http.StatusCreated] != 1 || statuses[http.StatusConflict] != crowd-1 {
		t.Errorf("the answers are %v, want one 201 and %d times 409", statuses, crowd-1)
	}
	buyer.AwaitOrder(o, "complete")
}

// cancelPaying has somebody cancel an order while the payment provider takes its time. Whichever is faster, the money is
// kept for a complete order alone.
func cancelPaying(t *testing.T, s Site) {
	seller, buyer := s.User(t), s.User(t)
	offered := seller.Sell("A ticket for somebody who cannot decide")
	o := buyer.Order(offered.ID)
	var paying sync.WaitGroup
	paying.Go(func() {
		if got := buyer.Pay(o, "tok_timeout"); got != http.StatusCreated && got != http.StatusServiceUnavailable {
			t.Errorf("paying: status %d, want 201, or 503 while nothing is known", got)
		}
	})
	defer paying.Wait()
	var paid []Payment
	Eventually(t, "the payment is begun", func() error {
		if _, err := buyer.Call(&paid, http.MethodGet, "/api/payments?orderId="+o.ID, nil); err != nil || len(paid) == 0 {
			return errors.Join(errNotYet, err)
		}
		return nil
	})
	order, money := "cancelled", "refunded"
	switch status, err := buyer.Call(nil, http.MethodDelete, "/api/orders/"+o.ID, nil); status {
	case http.StatusNoContent:
		buyer.AwaitTicket(offered.ID, "")
	case http.StatusConflict: // the payment was faster
		order, money = "complete", "captured"
	default:
		t.Fatal(err)
	}
	Eventually(t, "the money is "+money, func() error {
		paid = nil
		if _, err := buyer.Call(&paid, http.MethodGet, "/api/payments?orderId="+o.ID, nil); err != nil || len(paid) != 1 || paid[0].Status != money {
			return errors.Join(fmt.Errorf("the payments are %+v", paid), err)
		}
		return nil
	})
	buyer.AwaitOrder(o, order)
}
