package conformance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// key is an option that sends an Idempotency-Key.
func key(value string) option { return header("Idempotency-Key", value) }

func idempotency() []rule {
	const name = "A ticket that is offered once"
	// The POSTs that create something, and another body for each.
	type creation struct {
		name, path  string
		who         func(c *check) *member
		body, other func(c *check) object
	}
	var rules []rule
	for _, of := range []creation{
		{"sign-up", signUp, func(c *check) *member { return c.person() }, func(*check) object { return credentials() },
			func(*check) object { return credentials() }},
		{"offering a ticket", "/api/tickets", func(c *check) *member { return c.seller },
			func(*check) object { return object{"title": name, "price": 19.99} },
			func(*check) object { return object{"title": name, "price": 20} }},
		{"an order", "/api/orders", func(c *check) *member { return c.buyer }, func(c *check) object {
			t := c.known()
			return object{"ticketId": t.ID}
		}, func(c *check) object { return object{"ticketId": c.sell().ID} }},
		{"a payment", "/api/payments", func(c *check) *member { return c.buyer },
			func(c *check) object { return pay(c.payable(), "tok_visa") },
			func(c *check) object { return pay(c.payable(), "tok_visa") }},
	} {
		rules = append(rules,
			rule{of.name + " with a key again is the first answer", func(c *check) {
				who, body, k := of.who(c), of.body(c), uuid.NewString()
				first := c.want(http.StatusCreated, nil, who, http.MethodPost, of.path, body, key(k))
				for range 3 {
					again := c.want(http.StatusCreated, nil, who, http.MethodPost, of.path, body, key(k))
					if again.text != first.text || again.header.Get("Content-Type") != first.header.Get("Content-Type") ||
						again.header.Get("ETag") != first.header.Get("ETag") {
						c.Errorf("%v\nwant %v", again, first)
					}
				}
			}},
			rule{of.name + " with a key and another body is 422", func(c *check) {
				who, k := of.who(c), uuid.NewString()
				c.want(http.StatusCreated, nil, who, http.MethodPost, of.path, of.body(c), key(k))
				c.refused(http.StatusUnprocessableEntity, who, http.MethodPost, of.path, of.other(c), key(k))
			}},
			rule{of.name + " with a key does not care for how the body is written", func(c *check) {
				who, body, k := of.who(c), of.body(c), uuid.NewString()
				first := c.want(http.StatusCreated, nil, who, http.MethodPost, of.path, body, key(k))
				names := []string{}
				for member := range body {
					names = append(names, member)
				}
				slices.Sort(names)
				slices.Reverse(names) // JSON of a map is sorted
				var other strings.Builder
				for _, member := range names {
					value, err := json.Marshal(body[member])
					if err != nil {
						c.Fatal(err)
					}
					text := strings.ReplaceAll(string(value), "19.99", "19.990")
					fmt.Fprintf(&other, ", %q :\n%s ", member, strings.ReplaceAll(text, "e", `\u0065`))
				}
				if again := c.want(http.StatusCreated, nil, who, http.MethodPost, of.path, "{"+other.String()[1:]+"}",
					key(k)); again.text != first.text {
					c.Errorf("%v\nwant %v", again, first)
				}
			}},
			rule{of.name + " that was refused is not kept: the key can be used for a better body", func(c *check) {
				who, k := of.who(c), uuid.NewString()
				c.refused(http.StatusUnprocessableEntity, who, http.MethodPost, of.path, object{}, key(k))
				c.want(http.StatusCreated, nil, who, http.MethodPost, of.path, of.body(c), key(k))
			}},
			rule{of.name + " is checked before the key is: what has no session or is malformed gets no stored answer", func(c *check) {
				who, body, k := of.who(c), of.body(c), uuid.NewString()
				c.want(http.StatusCreated, nil, who, http.MethodPost, of.path, body, key(k))
				c.refused(http.StatusBadRequest, who, http.MethodPost, of.path, "{", key(k))
				if of.path != signUp {
					c.refused(http.StatusUnauthorized, c.nobody, http.MethodPost, of.path, body, key(k))
				}
			}},
		)
	}
	return append(rules,
		rule{"a sign-up that is repeated with a key brings the session, too", func(c *check) {
			in, k := credentials(), uuid.NewString()
			c.want(http.StatusCreated, nil, c.person(), http.MethodPost, signUp, in, key(k))
			again := c.person()
			c.want(http.StatusCreated, nil, again, http.MethodPost, signUp, in, key(k))
			if got := c.whose(again); got != in["email"] {
				c.Errorf("the current user is %q, want %q", got, in["email"])
			}
		}},
		rule{"a key is the caller's own: another's is another key", func(c *check) {
			k, body := uuid.NewString(), object{"title": name, "price": 1}
			one := c.want(http.StatusCreated, nil, c.seller, http.MethodPost, "/api/tickets", body, key(k))
			two := c.want(http.StatusCreated, nil, c.member(), http.MethodPost, "/api/tickets", body, key(k))
			if one.text == two.text {
				c.Errorf("%v: that is somebody else's", two)
			}
		}},
		rule{"a key is one operation's: the same for another one is another key", func(c *check) {
			k, o := uuid.NewString(), c.payable()
			c.want(http.StatusCreated, nil, c.buyer, http.MethodPost, "/api/payments", pay(o, "tok_visa"), key(k))
			c.want(http.StatusCreated, nil, c.buyer, http.MethodPost, "/api/tickets", object{"title": name, "price": 1}, key(k))
		}},
		rule{"while the first request is under way, another with its key is 409 with Retry-After", func(c *check) {
			o, k := c.payable(), uuid.NewString()
			type end struct {
				answer
				err error
				at  time.Time
			}
			ended := make(chan end, 1)
			go func() {
				a, err := c.try(c.buyer, http.MethodPost, "/api/payments", pay(o, "tok_timeout"), key(k))
				ended <- end{a, err, time.Now()}
			}()
			c.underWay(o)
			asked := time.Now()
			meanwhile := c.send(c.buyer, http.MethodPost, "/api/payments", pay(o, "tok_timeout"), key(k))
			first := <-ended
			if first.err != nil || first.status != http.StatusCreated {
				c.Fatalf("%v (%v); want 201", first.answer, first.err)
			}
			if left := first.at.Sub(asked); left < time.Second {
				c.Skipf("tok_timeout was answered after %v, which is too soon to ask in between", first.took)
			}
			if meanwhile.status != http.StatusConflict {
				c.Fatalf("%v; want 409", meanwhile)
			}
			c.problem(meanwhile)
			c.retryAfter(meanwhile)
			again := c.want(http.StatusCreated, nil, c.buyer, http.MethodPost, "/api/payments", pay(o, "tok_timeout"), key(k))
			if list := c.paid(o); again.text != first.text || len(list) != 1 {
				c.Errorf("%v\nwant %v, and of the payments %+v only one", again, first.answer, list)
			}
		}},
		rule{"without a key everything is done again", func(c *check) {
			body := object{"title": name, "price": 1}
			one, two := c.ticketOf(c.seller, name, 1), c.want(http.StatusCreated, nil, c.seller, http.MethodPost, "/api/tickets", body)
			if strings.Contains(two.text, one.ID) {
				c.Errorf("%v: that is the first one", two)
			}
		}},
		rule{"the first answer comes even when it is no longer so", func(c *check) {
			t, k := c.known(), uuid.NewString()
			var first order
			a := c.want(http.StatusCreated, &first, c.buyer, http.MethodPost, "/api/orders", object{"ticketId": t.ID}, key(k))
			c.cancel(first.ID)
			if again := c.want(http.StatusCreated, nil, c.buyer, http.MethodPost, "/api/orders", object{"ticketId": t.ID},
				key(k)); again.text != a.text {
				c.Errorf("%v\nwant %v", again, a)
			}
		}},
		rule{"a declined payment is not kept: the same key can be used for another card", func(c *check) {
			o, k := c.payable(), uuid.NewString()
			c.refused(http.StatusPaymentRequired, c.buyer, http.MethodPost, "/api/payments", pay(o, "tok_chargeDeclined"), key(k))
			c.want(http.StatusCreated, nil, c.buyer, http.MethodPost, "/api/payments", pay(o, "tok_visa"), key(k))
		}},
	)
}
