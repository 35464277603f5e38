package conformance

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/turnstile-go/turnstile/e2e/internal/journey"
)

// payment is one on the wire, with every member.
type payment struct {
	ID       string `json:"id"`
	OrderID  string `json:"orderId"`
	Amount   int64  `json:"amount"`
	Currency string `json:"currency"`
	Status   string `json:"status"`
}

// paid lists the payments of an order.
func (c *check) paid(o journey.Order) (list []payment) {
	c.Helper()
	c.want(http.StatusOK, &list, c.buyer, http.MethodGet, "/api/payments?orderId="+o.ID, nil)
	return list
}

// underWay waits until the buyer's payment of an order is.
func (c *check) underWay(o journey.Order) {
	c.Helper()
	c.eventually("the payment is under way", func() error {
		if len(c.paid(o)) == 0 {
			return fmt.Errorf("there is none")
		}
		return nil
	})
}

// cancelled is an order that the buyer has placed and cancelled, once payments has heard of that.
func (c *check) cancelled() journey.Order {
	c.Helper()
	o := c.payable()
	c.cancel(o.ID)
	c.eventually("payments has heard of it", func() error {
		a := c.send(c.buyer, http.MethodPost, "/api/payments", pay(o, "tok_chargeDeclined")) // nothing is to be paid meanwhile
		if a.status != http.StatusConflict {
			return fmt.Errorf("%v; want 409", a)
		}
		c.problem(a)
		return nil
	})
	return o
}

func pay(o journey.Order, token string) object { return object{"orderId": o.ID, "token": token} }

func payments() []rule {
	declined := func(token string) rule {
		return rule{"a payment with " + token + " is 402 with the reason, and the order stays payable", func(c *check) {
			o := c.payable()
			p := c.refused(http.StatusPaymentRequired, c.buyer, http.MethodPost, "/api/payments", pay(o, token))
			if p.Errors[0].Message == "" || p.Errors[0].Message == http.StatusText(http.StatusPaymentRequired) {
				c.Errorf("%v: there is no reason", p.answer)
			}
			if list := c.paid(o); len(list) != 1 || list[0].Status != "declined" {
				c.Errorf("the payments are %+v, want a declined one", list)
			}
			c.want(http.StatusCreated, nil, c.buyer, http.MethodPost, "/api/payments", pay(o, "tok_visa"))
			c.buyer.In(c.T).AwaitOrder(o, "complete")
			if list := c.paid(o); len(list) != 2 || list[0].Status != "captured" {
				c.Errorf("the payments are %+v, want a captured one and a declined one", list)
			}
		}}
	}
	return []rule{
		{"a payment is 201 with its id", func(c *check) {
			o := c.payable()
			a := c.want(http.StatusCreated, nil, c.buyer, http.MethodPost, "/api/payments", pay(o, "tok_visa"))
			c.members(a, "id")
			if list := c.paid(o); len(list) != 1 || !strings.Contains(a.text, list[0].ID) {
				c.Errorf("%v, and the payments are %+v", a, list)
			}
		}},
		{"a payment's amount is in cents of us dollars", func(c *check) {
			for price, cents := range map[string]int64{"19.99": 1999, "0.01": 1, "1e6": 100_000_000, "20": 2000} {
				t := c.ticketOf(c.seller, "A ticket for "+price, price)
				o := c.order(t)
				if status := c.buyer.In(c.T).Pay(o, "tok_visa"); status != http.StatusCreated {
					c.Fatalf("paying %s: status %d, want 201", price, status)
				}
				list := c.paid(o)
				if len(list) != 1 || list[0].OrderID != o.ID || list[0].Amount != cents || list[0].Currency != "usd" ||
					list[0].Status != "captured" {
					c.Errorf("the payments for %s are %+v, want one of %d", price, list, cents)
				}
			}
		}},
		{"a payment without an order or a token is 422", func(c *check) {
			c.blames(c.refused(http.StatusUnprocessableEntity, c.buyer, http.MethodPost, "/api/payments", object{"token": "tok_visa"}),
				"orderId")
			c.blames(c.refused(http.StatusUnprocessableEntity, c.buyer, http.MethodPost, "/api/payments", object{"orderId": unknown}),
				"token")
			c.blames(c.refused(http.StatusUnprocessableEntity, c.buyer, http.MethodPost, "/api/payments",
				object{"orderId": 1, "token": []string{}}), "orderId", "token")
		}},
		{"a payment of an unknown order is 404", func(c *check) {
			for _, id := range []string{unknown, "1", "not-an-id", strings.Repeat("x", 1000)} {
				c.refused(http.StatusNotFound, c.buyer, http.MethodPost, "/api/payments", object{"orderId": id, "token": "tok_visa"})
			}
		}},
		{"a payment of somebody else's order is 403", func(c *check) {
			o := c.payable()
			c.refused(http.StatusForbidden, c.other, http.MethodPost, "/api/payments", pay(o, "tok_visa"))
			c.refused(http.StatusForbidden, c.seller, http.MethodPost, "/api/payments", pay(o, "tok_visa"))
		}},
		{"a payment of a cancelled order is 409", func(c *check) {
			c.refused(http.StatusConflict, c.buyer, http.MethodPost, "/api/payments", pay(c.cancelled(), "tok_visa"))
		}},
		{"a second payment is 409", func(c *check) {
			_, o := c.sold()
			for _, token := range []string{"tok_visa", "tok_chargeDeclined", "anything"} {
				c.refused(http.StatusConflict, c.buyer, http.MethodPost, "/api/payments", pay(o, token))
			}
			if list := c.paid(o); len(list) != 1 {
				c.Errorf("the payments are %+v, want one", list)
			}
		}},
		declined("tok_chargeDeclined"),
		declined("tok_insufficientFunds"),
		declined("tok_that_nobody_knows"),
		{"a payment with tok_timeout is answered late, and captured", func(c *check) {
			o := c.payable()
			a := c.send(c.buyer, http.MethodPost, "/api/payments", pay(o, "tok_timeout"))
			if a.status != http.StatusCreated {
				c.Fatalf("%v; want 201", a)
			}
			c.buyer.In(c.T).AwaitOrder(o, "complete")
		}},
		{"money that comes too late for its order goes back", func(c *check) {
			o := c.payable()
			answered := make(chan error, 1)
			go func() {
				_, err := c.try(c.buyer, http.MethodPost, "/api/payments", pay(o, "tok_timeout"))
				answered <- err
			}()
			c.underWay(o)
			c.cancel(o.ID)
			if err := <-answered; err != nil {
				c.Fatal(err)
			}
			c.soon("the money goes back", func() error {
				if list := c.paid(o); len(list) != 1 || list[0].Status != "refunded" {
					return fmt.Errorf("the payments are %+v", list)
				}
				return nil
			})
			c.buyer.In(c.T).AwaitOrder(o, "cancelled")
			c.buyer.In(c.T).AwaitTicket(o.Ticket.ID, "")
		}},
		{"one's own payments are listed, the newest first, and nobody else's", func(c *check) {
			buyer := c.member()
			var paid []string
			for range 2 {
				o := buyer.In(c.T).Order(c.sell().ID)
				if status := buyer.In(c.T).Pay(o, "tok_visa"); status != http.StatusCreated {
					c.Fatalf("paying: status %d, want 201", status)
				}
				paid = append(paid, o.ID)
			}
			var all []payment
			a := c.want(http.StatusOK, &all, buyer, http.MethodGet, "/api/payments", nil)
			if len(all) != 2 || all[0].OrderID != paid[1] || all[1].OrderID != paid[0] {
				c.Fatalf("%v; want those of the orders %q", a, paid)
			}
			var one []payment
			c.want(http.StatusOK, &one, buyer, http.MethodGet, "/api/payments?orderId="+paid[0], nil)
			if !slices.Equal(one, all[1:]) {
				c.Errorf("of one order they are %+v, want %+v", one, all[1:])
			}
		}},
		{"of an order that is unknown or another's there are no payments", func(c *check) {
			_, o := c.sold()
			for _, id := range []string{o.ID, unknown, "x"} {
				if a := c.want(http.StatusOK, nil, c.other, http.MethodGet, "/api/payments?orderId="+id,
					nil); strings.TrimSpace(a.text) != "[]" {
					c.Errorf("%v; want []", a)
				}
			}
		}},
	}
}
