package conformance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/turnstile-go/turnstile/e2e/internal/journey"
)

// order is one on the wire, with every member.
type order struct {
	ID        string    `json:"id"`
	Status    string    `json:"status"`
	UserID    string    `json:"userId"`
	ExpiresAt time.Time `json:"expiresAt"`
	Version   int64     `json:"version"`
	Ticket    struct {
		ID    string      `json:"id"`
		Title string      `json:"title"`
		Price json.Number `json:"price"`
	} `json:"ticket"`
}

func orders() []rule {
	return []rule{
		{"an order is 201, created, with the ticket", func(c *check) {
			t := c.known() // so that the first answer counts
			var got order
			before := time.Now()
			a := c.want(http.StatusCreated, &got, c.buyer, http.MethodPost, "/api/orders", object{"ticketId": t.ID})
			c.members(a, "id", "status", "userId", "expiresAt", "version", "ticket")
			if got.ID == "" || got.Status != "created" || got.UserID != c.buyer.id || got.Version != 0 ||
				got.Ticket.ID != t.ID || got.Ticket.Title != t.Title || got.Ticket.Price != t.Price {
				c.Errorf("%v", a)
			}
			if left, all := got.ExpiresAt.Sub(before), c.site.Expiration; left < all/2 || left > all*3/2 { // clocks differ
				c.Errorf("%v: it expires in %v, want %v", a, left, c.site.Expiration)
			}
		}},
		{"an order of nothing is 422", func(c *check) {
			for _, body := range []string{"{}", `{"ticketId": ""}`, `{"ticketId": " "}`, `{"ticketId": null}`, `{"ticketId": 1}`,
				`{"ticketId": ["x"]}`} {
				c.blames(c.refused(http.StatusUnprocessableEntity, c.buyer, http.MethodPost, "/api/orders", body), "ticketId")
			}
		}},
		{"an order of an unknown ticket is 404", func(c *check) {
			for _, id := range []string{unknown, "1", "not-an-id", strings.Repeat("x", 1000)} {
				c.refused(http.StatusNotFound, c.buyer, http.MethodPost, "/api/orders", object{"ticketId": id})
			}
		}},
		{"an order of a deleted ticket is 404", func(c *check) {
			t := c.known()
			c.want(http.StatusNoContent, nil, c.seller, http.MethodDelete, pathOf(t), nil)
			c.eventually("orders has heard of it", func() error {
				a := c.send(c.buyer, http.MethodPost, "/api/orders", object{"ticketId": t.ID})
				if a.status == http.StatusCreated {
					c.Logf("%v", a) // it had not heard of it yet, and this order is cancelled when it has
				}
				if a.status != http.StatusNotFound {
					return fmt.Errorf("%v; want 404", a)
				}
				return nil
			})
		}},
		{"an order of a reserved ticket is 409", func(c *check) {
			t := c.sell()
			c.order(t)
			for _, who := range []*member{c.other, c.buyer} {
				c.says(c.refused(http.StatusConflict, who, http.MethodPost, "/api/orders", object{"ticketId": t.ID}),
					"Ticket is already reserved")
			}
		}},
		{"an order of a sold ticket is 409", func(c *check) {
			t, _ := c.sold()
			c.refused(http.StatusConflict, c.other, http.MethodPost, "/api/orders", object{"ticketId": t.ID})
		}},
		{"an order of one's own ticket is 409", func(c *check) {
			t := c.sell()
			c.eventually("orders has heard of the ticket", func() error {
				a := c.send(c.seller, http.MethodPost, "/api/orders", object{"ticketId": t.ID})
				if a.status == http.StatusNotFound {
					return fmt.Errorf("%v", a)
				}
				if a.status != http.StatusConflict {
					c.Fatalf("%v; want 409", a)
				}
				c.problem(a)
				return nil
			})
			c.order(t) // others can have it
		}},
		{"an order keeps the ticket as it was when it was ordered", func(c *check) {
			t := c.sell()
			o := c.held(t)
			c.cancel(o.ID)
			c.buyer.In(c.T).AwaitTicket(t.ID, "")
			c.want(http.StatusOK, nil, c.seller, http.MethodPut, pathOf(t), object{"title": "Another", "price": 99})
			c.eventually("a new order has the new ticket", func() error {
				var again order
				if a := c.send(c.buyer, http.MethodPost, "/api/orders", object{"ticketId": t.ID}); a.status != http.StatusCreated ||
					json.Unmarshal([]byte(a.text), &again) != nil {
					return fmt.Errorf("%v", a)
				}
				if again.Ticket.Title == "Another" && again.Ticket.Price == "99" {
					return nil
				}
				c.cancel(again.ID)
				return fmt.Errorf("it has %+v", again.Ticket)
			})
			var got order
			c.want(http.StatusOK, &got, c.buyer, http.MethodGet, "/api/orders/"+o.ID, nil)
			if got.Ticket.Title != t.Title || got.Ticket.Price != t.Price {
				c.Errorf("the old order has %+v, want %+v", got.Ticket, t)
			}
		}},
		{"one's own orders are listed, the newest first, and nobody else's", func(c *check) {
			buyer, seller := c.member(), c.seller
			one, two := c.ticketOf(seller, "one", 1), c.ticketOf(seller, "two", 1)
			first, second := buyer.In(c.T).Order(one.ID), buyer.In(c.T).Order(two.ID)
			var list []order
			c.want(http.StatusOK, &list, buyer, http.MethodGet, "/api/orders", nil)
			if len(list) != 2 || list[0].ID != second.ID || list[1].ID != first.ID {
				c.Errorf("they are %+v, want the two", list)
			}
		}},
		{"an order is seen by who placed it, and by nobody else", func(c *check) {
			o := c.order(c.sell())
			c.want(http.StatusOK, new(order), c.buyer, http.MethodGet, "/api/orders/"+o.ID, nil)
			c.refused(http.StatusForbidden, c.other, http.MethodGet, "/api/orders/"+o.ID, nil)
			c.refused(http.StatusForbidden, c.seller, http.MethodGet, "/api/orders/"+o.ID, nil)
		}},
		{"a cancellation is 204, and the order cancelled", func(c *check) {
			o := c.order(c.sell())
			if a := c.want(http.StatusNoContent, nil, c.buyer, http.MethodDelete, "/api/orders/"+o.ID, nil); a.text != "" {
				c.Errorf("%v; want no body", a)
			}
			var got order
			c.want(http.StatusOK, &got, c.buyer, http.MethodGet, "/api/orders/"+o.ID, nil)
			if got.Status != "cancelled" || got.Version != 1 {
				c.Errorf("the order is %+v, want it cancelled, of version 1", got)
			}
		}},
		{"a second cancellation is 204 and changes nothing", func(c *check) {
			o := c.order(c.sell())
			for range 2 {
				c.cancel(o.ID)
			}
			var got order
			c.want(http.StatusOK, &got, c.buyer, http.MethodGet, "/api/orders/"+o.ID, nil)
			if got.Version != 1 {
				c.Errorf("the order is %+v, want version 1", got)
			}
		}},
		{"somebody else's cancellation is 403", func(c *check) {
			o := c.order(c.sell())
			c.refused(http.StatusForbidden, c.other, http.MethodDelete, "/api/orders/"+o.ID, nil)
			c.refused(http.StatusForbidden, c.seller, http.MethodDelete, "/api/orders/"+o.ID, nil)
		}},
		{"a cancellation of a complete order is 409", func(c *check) {
			_, o := c.sold()
			c.refused(http.StatusConflict, c.buyer, http.MethodDelete, "/api/orders/"+o.ID, nil)
		}},
		{"a cancellation with a stale If-Match is 412 and changes nothing, and with the right one 204", func(c *check) {
			path := "/api/orders/" + c.order(c.sell()).ID
			tag := c.send(c.buyer, http.MethodGet, path, nil).header.Get("ETag")
			c.refused(http.StatusPreconditionFailed, c.buyer, http.MethodDelete, path, nil, header("If-Match", `"77"`))
			var got order
			if c.want(http.StatusOK, &got, c.buyer, http.MethodGet, path, nil); got.Status != "created" {
				c.Errorf("the order is %+v", got)
			}
			c.want(http.StatusNoContent, nil, c.buyer, http.MethodDelete, path, nil, header("If-Match", tag))
		}},
		{"a cancelled order's ticket can be ordered by somebody else", func(c *check) {
			t := c.sell()
			c.cancel(c.order(t).ID)
			var got order
			c.want(http.StatusCreated, &got, c.other, http.MethodPost, "/api/orders", object{"ticketId": t.ID})
			c.other.In(c.T).AwaitTicket(t.ID, got.ID)
			c.want(http.StatusNoContent, nil, c.other, http.MethodDelete, "/api/orders/"+got.ID, nil)
		}},
		{"a cancelled order that is cancelled again does not release another's ticket", func(c *check) {
			t := c.sell()
			old := c.held(t)
			c.cancel(old.ID)
			c.buyer.In(c.T).AwaitTicket(t.ID, "")
			held := c.held(t)
			c.cancel(old.ID)
			another := c.sell()
			c.held(another) // what came of the cancellation, if anything, was before this
			if got := c.buyer.In(c.T).AwaitTicket(t.ID, held.ID); got.Version != 3 {
				c.Errorf("the ticket is %+v, want version 3", got)
			}
		}},
		{"a paid order becomes complete", func(c *check) {
			_, o := c.sold()
			var got order
			c.want(http.StatusOK, &got, c.buyer, http.MethodGet, "/api/orders/"+o.ID, nil)
			if got.Status != "complete" || got.Version != 1 {
				c.Errorf("the order is %+v, want it complete, of version 1", got)
			}
		}},
	}
}

func expiration(neglected journey.Order) []rule {
	ended := func(c *check) journey.Order {
		if c.site.Expiration > time.Minute {
			c.Skipf("orders expire after %v, which is too long to wait", c.site.Expiration)
		}
		return c.buyer.In(c.T).AwaitOrder(neglected, "cancelled")
	}
	return []rule{
		{"an order that is not paid is cancelled when its time is up, and not before", func(c *check) {
			o := ended(c)
			if early := time.Until(o.ExpiresAt); early > 0 {
				c.Errorf("it was cancelled %v too early", early)
			}
		}},
		{"an expired order's ticket is on sale again", func(c *check) {
			o := ended(c)
			if t := c.buyer.In(c.T).AwaitTicket(o.Ticket.ID, ""); !c.listed(t) {
				c.Error("it is not listed")
			}
		}},
		{"a payment of an expired order is 409", func(c *check) {
			c.refused(http.StatusConflict, c.buyer, http.MethodPost, "/api/payments", pay(ended(c), "tok_visa"))
		}},
		{"a cancellation of an expired order is 204", func(c *check) {
			c.cancel(ended(c).ID)
		}},
	}
}
