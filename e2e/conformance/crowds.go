package conformance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/google/uuid"
)

func crowds() []rule {
	// once checks that all answers with 201 are the same, and that the others say that the key is in flight.
	once := func(c *check, answers []answer) {
		c.Helper()
		first := ""
		for _, a := range answers {
			switch {
			case a.status == http.StatusCreated && first == "":
				first = a.text
			case a.status == http.StatusCreated && a.text != first:
				c.Errorf("%v; another answer was %s", a, first)
			case a.status == http.StatusConflict || a.status == http.StatusTooManyRequests:
				c.problem(a)
			case a.status != http.StatusCreated:
				c.Errorf("%v; want 201, or 409 while another one is in flight", a)
			}
		}
		if first == "" {
			c.Errorf("the answers are %v, want a 201", statuses(answers))
		}
	}
	one := func(c *check, answers []answer, most int) {
		c.Helper()
		count := statuses(answers)
		if count[http.StatusCreated] != 1 || count[http.StatusConflict] != most {
			c.Errorf("the answers are %v, want one 201 and %d times 409", count, most)
		}
		for _, a := range answers {
			if a.status != http.StatusCreated {
				c.problem(a)
			}
		}
	}
	return []rule{
		{"of many orders for one ticket exactly one is placed", func(c *check) {
			t := c.known()
			buyers := []*member{c.buyer, c.member(), c.member(), c.member(), c.member()}
			one(c, c.all(func(i int) (answer, error) {
				return c.try(buyers[i%len(buyers)], http.MethodPost, "/api/orders", object{"ticketId": t.ID})
			}), crowd-1)
		}},
		{"of many payments of one order exactly one is made", func(c *check) {
			o := c.payable()
			one(c, c.all(func(int) (answer, error) {
				return c.try(c.buyer, http.MethodPost, "/api/payments", pay(o, "tok_visa"))
			}), crowd-1)
			if list := c.paid(o); len(list) != 1 || list[0].Status != "captured" {
				c.Errorf("the payments are %+v, want one", list)
			}
			c.buyer.In(c.T).AwaitOrder(o, "complete")
		}},
		{"of many sign-ups with one address exactly one is made", func(c *check) {
			in := credentials()
			email := in["email"].(string)
			strangers := c.people()
			answers := c.all(func(i int) (answer, error) {
				as := object{"email": email, "password": fmt.Sprintf("password number %d", i)}
				if i%2 == 1 {
					as["email"] = strings.ToUpper(email)
				}
				return c.try(strangers[i], http.MethodPost, signUp, as)
			})
			count := statuses(answers)
			if count[http.StatusCreated] != 1 ||
				count[http.StatusCreated]+count[http.StatusConflict]+count[http.StatusTooManyRequests] != crowd {
				c.Errorf("the answers are %v, want one 201, and 409 or 429", count)
			}
		}},
		{"many edits of one ticket have every version once", func(c *check) {
			t := c.sell()
			var versions []int
			answers := c.all(func(i int) (answer, error) {
				return c.try(c.seller, http.MethodPut, pathOf(t), object{"title": fmt.Sprintf("Edit %d", i), "price": i + 1})
			})
			for _, a := range answers {
				var got ticket
				if a.status != http.StatusOK || json.Unmarshal([]byte(a.text), &got) != nil {
					c.Fatalf("%v; want 200", a)
				}
				versions = append(versions, int(got.Version))
			}
			slices.Sort(versions)
			for i, version := range versions {
				if version != i+1 {
					c.Fatalf("the versions are %v, want 1 to %d", versions, crowd)
				}
			}
		}},
		{"of many edits with one If-Match exactly one is made", func(c *check) {
			t := c.sell()
			tag := c.send(c.nobody, http.MethodGet, pathOf(t), nil).header.Get("ETag")
			count := statuses(c.all(func(i int) (answer, error) {
				return c.try(c.seller, http.MethodPut, pathOf(t), object{"title": fmt.Sprintf("Edit %d", i), "price": i + 1},
					header("If-Match", tag))
			}))
			if count[http.StatusOK] != 1 || count[http.StatusPreconditionFailed] != crowd-1 {
				c.Errorf("the answers are %v, want one 200 and %d times 412", count, crowd-1)
			}
		}},
		{"of many deletions of one ticket exactly one is made", func(c *check) {
			t := c.sell()
			count := statuses(c.all(func(int) (answer, error) { return c.try(c.seller, http.MethodDelete, pathOf(t), nil) }))
			if count[http.StatusNoContent] != 1 || count[http.StatusNotFound] != crowd-1 {
				c.Errorf("the answers are %v, want one 204 and %d times 404", count, crowd-1)
			}
		}},
		{"many cancellations of one order change it once", func(c *check) {
			o := c.order(c.sell())
			count := statuses(c.all(func(int) (answer, error) {
				return c.try(c.buyer, http.MethodDelete, "/api/orders/"+o.ID, nil)
			}))
			if count[http.StatusNoContent] != crowd {
				c.Errorf("the answers are %v, want 204", count)
			}
			var got order
			c.want(http.StatusOK, &got, c.buyer, http.MethodGet, "/api/orders/"+o.ID, nil)
			if got.Status != "cancelled" || got.Version != 1 {
				c.Errorf("the order is %+v, want it cancelled, of version 1", got)
			}
		}},
		{"an order that is paid and cancelled at once is one of both, and money without an order goes back", func(c *check) {
			o := c.payable()
			answers := c.all(func(i int) (answer, error) {
				if i%2 == 0 {
					return c.try(c.buyer, http.MethodDelete, "/api/orders/"+o.ID, nil)
				}
				return c.try(c.buyer, http.MethodPost, "/api/payments", pay(o, "tok_visa"))
			})
			c.soon("the order is settled", func() error {
				var got order
				c.want(http.StatusOK, &got, c.buyer, http.MethodGet, "/api/orders/"+o.ID, nil)
				kept, list := 0, c.paid(o)
				for _, p := range list {
					if p.Status == "captured" {
						kept++
					}
					if p.Status == "pending" {
						return fmt.Errorf("a payment is pending")
					}
				}
				if got.Status == "complete" && kept == 1 || got.Status == "cancelled" && kept == 0 {
					return nil
				}
				return fmt.Errorf("the order is %s, its payments are %+v; the answers were %v", got.Status, list, statuses(answers))
			})
		}},
		{"many sign-outs of one session are all 200", func(c *check) {
			m := c.member()
			if count := statuses(c.all(func(int) (answer, error) {
				return c.try(c.nobody, http.MethodPost, signOut, nil, bearer(m))
			})); count[http.StatusOK] != crowd {
				c.Errorf("the answers are %v, want 200", count)
			}
		}},
		{"many sign-ups with one Idempotency-Key are one", func(c *check) {
			in, k := credentials(), uuid.NewString()
			strangers := c.people()
			once(c, c.all(func(i int) (answer, error) { return c.try(strangers[i], http.MethodPost, signUp, in, key(k)) }))
		}},
		{"many tickets with one Idempotency-Key are one", func(c *check) {
			who, k := c.member(), uuid.NewString()
			once(c, c.all(func(int) (answer, error) {
				return c.try(who, http.MethodPost, "/api/tickets", object{"title": "One", "price": 1}, key(k))
			}))
			var mine []ticket
			if c.want(http.StatusOK, &mine, who, http.MethodGet, "/api/tickets/mine", nil); len(mine) != 1 {
				c.Errorf("there are %d tickets, want one", len(mine))
			}
		}},
		{"many orders with one Idempotency-Key are one", func(c *check) {
			t, k := c.known(), uuid.NewString()
			once(c, c.all(func(int) (answer, error) {
				return c.try(c.buyer, http.MethodPost, "/api/orders", object{"ticketId": t.ID}, key(k))
			}))
		}},
		{"many payments with one Idempotency-Key are one", func(c *check) {
			o, k := c.payable(), uuid.NewString()
			once(c, c.all(func(int) (answer, error) {
				return c.try(c.buyer, http.MethodPost, "/api/payments", pay(o, "tok_visa"), key(k))
			}))
			if list := c.paid(o); len(list) != 1 || list[0].Status != "captured" {
				c.Errorf("the payments are %+v, want one", list)
			}
		}},
	}
}

// people are as many as a crowd, none of whom has an account.
func (c *check) people() (people []*member) {
	for range crowd {
		people = append(people, c.person())
	}
	return people
}
