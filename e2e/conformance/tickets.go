package conformance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/turnstile-go/turnstile/e2e/internal/journey"
)

// ticket is one on the wire, with every member.
type ticket struct {
	ID      string      `json:"id"`
	Title   string      `json:"title"`
	Price   json.Number `json:"price"`
	UserID  string      `json:"userId"`
	Version int64       `json:"version"`
	OrderID string      `json:"orderId"`
}

func pathOf(t journey.Ticket) string { return "/api/tickets/" + t.ID }

func tickets() []rule {
	rules := []rule{
		{"offering a ticket is 201 with the ticket, of version 0", func(c *check) {
			var got ticket
			a := c.want(http.StatusCreated, &got, c.seller, http.MethodPost, "/api/tickets",
				object{"title": "A concert", "price": 19.99})
			c.members(a, "id", "title", "price", "userId", "version")
			if got.ID == "" || got.Title != "A concert" || got.Price != "19.99" || got.UserID != c.seller.id || got.Version != 0 {
				c.Errorf("%v", a)
			}
		}},
		{"a title is required", func(c *check) {
			for _, body := range []string{`{"price": 1}`, `{"title": "", "price": 1}`, `{"title": " \t\n", "price": 1}`,
				`{"title": "\u2003", "price": 1}`} {
				p := c.noTicket(body)
				c.says(p, "Title is required")
				c.blames(p, "title")
			}
		}},
		{"a title has at most 200 code points", func(c *check) {
			for _, letter := range []string{"x", "ü", "\U0001f3ab"} {
				c.ticketOf(c.seller, strings.Repeat(letter, 200), 1)
				c.blames(c.refused(http.StatusUnprocessableEntity, c.seller, http.MethodPost, "/api/tickets",
					object{"title": strings.Repeat(letter, 201), "price": 1}), "title")
			}
		}},
		{"a title is kept as it is", func(c *check) {
			for _, title := range []string{"  padded  ", "Ünïcödé 🎫 \u202e", `<script>alert("1")</script>`, "'; --", "line\nline",
				"%s%n", "${jndi:x}", "null"} {
				t := c.ticketOf(c.seller, title, 1)
				var got ticket
				c.want(http.StatusOK, &got, c.nobody, http.MethodGet, pathOf(t), nil)
				if t.Title != title || got.Title != title {
					c.Errorf("%q is %q, and then %q", title, t.Title, got.Title)
				}
			}
		}},
		{"a price that is not above 0 is 422", func(c *check) {
			for _, price := range []string{"0", "-1", "0.00", "-0.01", `"0"`, `"-5"`, "0e5"} {
				p := c.noTicket(`{"title": "A", "price": ` + price + `}`)
				c.says(p, "Price must be greater than 0")
				c.blames(p, "price")
			}
		}},
		{"what is no price is 422", func(c *check) {
			for _, price := range []string{`"NaN"`, `"Infinity"`, `"-Infinity"`, `""`, `"abc"`, "null", "true", "[]", "{}", "[1]",
				`"1,5"`, `"0x10"`, `" 1"`, `"1 "`, `"1_000"`, `"$5"`} {
				c.blames(c.noTicket(`{"title": "A", "price": `+price+`}`), "price")
			}
		}},
		{"a price of more than two places is 422", func(c *check) {
			for _, price := range []string{"0.001", "19.999", `"19.999"`, "1e-3", "1.0000000000001"} {
				c.blames(c.noTicket(`{"title": "A", "price": `+price+`}`), "price")
			}
		}},
		{"a price above a million is 422", func(c *check) {
			for _, price := range []string{"1000000.01", "1000001", "1e7", "1e400", `"1e400"`, "99999999999999999999",
				"9007199254740993"} {
				c.blames(c.noTicket(`{"title": "A", "price": `+price+`}`), "price")
			}
		}},
		{"anybody sees a ticket", func(c *check) {
			t := c.sell()
			a := c.want(http.StatusOK, nil, c.nobody, http.MethodGet, pathOf(t), nil)
			c.members(a, "id", "title", "price", "userId", "version")
		}},
		{"a ticket on sale is listed, the newest first, without orderId", func(c *check) {
			first, second := c.sell(), c.sell()
			a := c.want(http.StatusOK, nil, c.nobody, http.MethodGet, "/api/tickets", nil)
			one, two := strings.Index(a.text, first.ID), strings.Index(a.text, second.ID)
			if one < 0 || two < 0 || two > one {
				c.Errorf("the first is at %d and the second at %d", one, two)
			}
			if strings.Contains(a.text, `"orderId"`) {
				c.Error("a listed ticket has an orderId")
			}
		}},
		{"a reserved ticket is not listed, and can be seen with its order", func(c *check) {
			t := c.sell()
			o := c.held(t)
			if c.listed(t) {
				c.Error("it is listed")
			}
			var got ticket
			c.want(http.StatusOK, &got, c.nobody, http.MethodGet, pathOf(t), nil)
			if got.OrderID != o.ID {
				c.Errorf("its order is %q, want %q", got.OrderID, o.ID)
			}
		}},
		{"a released ticket is listed again", func(c *check) {
			t := c.sell()
			o := c.held(t)
			c.cancel(o.ID)
			c.other.In(c.T).AwaitTicket(t.ID, "")
			if !c.listed(t) {
				c.Error("it is not listed")
			}
		}},
		{"a sold ticket is not listed, and can be seen with its order", func(c *check) {
			t, o := c.sold()
			if c.listed(t) {
				c.Error("it is listed")
			}
			if t.OrderID != o.ID {
				c.Errorf("its order is %q, want %q", t.OrderID, o.ID)
			}
		}},
		{"reserving and releasing raise the version by one each", func(c *check) {
			t := c.sell()
			o := c.held(t)
			held := c.buyer.In(c.T).AwaitTicket(t.ID, o.ID)
			c.cancel(o.ID)
			if free := c.buyer.In(c.T).AwaitTicket(t.ID, ""); t.Version != 0 || held.Version != 1 || free.Version != 2 {
				c.Errorf("the versions are %d, %d and %d, want 0, 1 and 2", t.Version, held.Version, free.Version)
			}
		}},
		{"one's own tickets are listed in every state, and nobody else's", func(c *check) {
			seller := c.member()
			of := func(title string) journey.Ticket { return c.ticketOf(seller, title, 1) }
			free, reserved := of("free"), of("reserved")
			c.held(reserved)
			c.sell()
			var mine []ticket
			c.want(http.StatusOK, &mine, seller, http.MethodGet, "/api/tickets/mine", nil)
			if len(mine) != 2 || mine[0].ID != reserved.ID || mine[0].OrderID == "" || mine[1].ID != free.ID {
				c.Errorf("they are %+v, want the reserved and the free one", mine)
			}
		}},
		{"an edit is 200 with the next version", func(c *check) {
			t := c.sell()
			var got ticket
			c.want(http.StatusOK, &got, c.seller, http.MethodPut, pathOf(t), object{"title": "Better", "price": "25.50"})
			if got.ID != t.ID || got.Title != "Better" || got.Price != "25.5" || got.Version != 1 {
				c.Errorf("the ticket is %+v", got)
			}
			var seen ticket
			if c.want(http.StatusOK, &seen, c.nobody, http.MethodGet, pathOf(t), nil); seen != got {
				c.Errorf("it is seen as %+v, want %+v", seen, got)
			}
		}},
		{"an edit that changes nothing leaves the version", func(c *check) {
			t := c.sell()
			for _, price := range []string{"19.99", `"19.99"`, "19.990", "1999e-2"} {
				var got ticket
				c.want(http.StatusOK, &got, c.seller, http.MethodPut, pathOf(t), fmt.Sprintf(`{"title": %q, "price": %s}`, t.Title, price))
				if got.Version != 0 {
					c.Errorf("with the price %s the version is %d, want 0", price, got.Version)
				}
			}
		}},
		{"an edit that is not valid is 422", func(c *check) {
			t := c.sell()
			c.says(c.refused(http.StatusUnprocessableEntity, c.seller, http.MethodPut, pathOf(t), object{"price": 1}),
				"Title is required")
			c.says(c.refused(http.StatusUnprocessableEntity, c.seller, http.MethodPut, pathOf(t), object{"title": "A", "price": -1}),
				"Price must be greater than 0")
		}},
		{"somebody else's edit is 403", func(c *check) {
			c.refused(http.StatusForbidden, c.other, http.MethodPut, pathOf(c.sell()), object{"title": "A", "price": 1})
		}},
		{"an edit of a reserved ticket is 409", func(c *check) {
			t := c.sell()
			c.held(t)
			c.says(c.refused(http.StatusConflict, c.seller, http.MethodPut, pathOf(t), object{"title": "A", "price": 1}),
				"Cannot edit a reserved ticket")
		}},
		{"an edit of a sold ticket is 409", func(c *check) {
			t, _ := c.sold()
			c.refused(http.StatusConflict, c.seller, http.MethodPut, pathOf(t), object{"title": "A", "price": 1})
		}},
		{"ETag is there, and another one with another version", func(c *check) {
			t := c.sell()
			first := c.send(c.nobody, http.MethodGet, pathOf(t), nil).header.Get("ETag")
			second := c.send(c.seller, http.MethodPut, pathOf(t), object{"title": "Better", "price": 1}).header.Get("ETag")
			third := c.send(c.nobody, http.MethodGet, pathOf(t), nil).header.Get("ETag")
			if first == "" || first == second || second != third {
				c.Errorf("they are %q, %q and %q", first, second, third)
			}
		}},
		{"an edit with the right If-Match is 200", func(c *check) {
			t := c.sell()
			tag := c.send(c.nobody, http.MethodGet, pathOf(t), nil).header.Get("ETag")
			for i, match := range []string{tag, "*", `"77", *`} {
				if i == 2 {
					match = `"77", ` + c.send(c.nobody, http.MethodGet, pathOf(t), nil).header.Get("ETag")
				}
				c.want(http.StatusOK, nil, c.seller, http.MethodPut, pathOf(t), object{"title": fmt.Sprint("Better ", i), "price": 1},
					header("If-Match", match))
			}
		}},
		{"an edit with a stale If-Match is 412 and changes nothing", func(c *check) {
			t := c.sell()
			tag := c.send(c.nobody, http.MethodGet, pathOf(t), nil).header.Get("ETag")
			c.want(http.StatusOK, nil, c.seller, http.MethodPut, pathOf(t), object{"title": "First", "price": 1},
				header("If-Match", tag))
			for _, match := range []string{tag, `"77"`, `W/"1"`, "garbage", `"`} {
				c.refused(http.StatusPreconditionFailed, c.seller, http.MethodPut, pathOf(t), object{"title": "Second", "price": 1},
					header("If-Match", match))
			}
			var got ticket
			c.want(http.StatusOK, &got, c.nobody, http.MethodGet, pathOf(t), nil)
			if got.Title != "First" || got.Version != 1 {
				c.Errorf("the ticket is %+v", got)
			}
		}},
		{"a deletion is 204, and the ticket is gone", func(c *check) {
			t := c.sell()
			if a := c.want(http.StatusNoContent, nil, c.seller, http.MethodDelete, pathOf(t), nil); a.text != "" {
				c.Errorf("%v; want no body", a)
			}
			c.refused(http.StatusNotFound, c.nobody, http.MethodGet, pathOf(t), nil)
			c.refused(http.StatusNotFound, c.seller, http.MethodDelete, pathOf(t), nil)
			c.refused(http.StatusNotFound, c.seller, http.MethodPut, pathOf(t), object{"title": "A", "price": 1})
			if c.listed(t) {
				c.Error("it is listed")
			}
		}},
		{"a deletion with the right If-Match is 204", func(c *check) {
			for _, match := range []string{"", "*", `"77", `} {
				t := c.sell()
				if match != "*" {
					match += c.send(c.nobody, http.MethodGet, pathOf(t), nil).header.Get("ETag")
				}
				c.want(http.StatusNoContent, nil, c.seller, http.MethodDelete, pathOf(t), nil, header("If-Match", match))
			}
		}},
		{"a deletion with a stale If-Match is 412, and the ticket is there", func(c *check) {
			t := c.sell()
			tag := c.send(c.nobody, http.MethodGet, pathOf(t), nil).header.Get("ETag")
			c.want(http.StatusOK, nil, c.seller, http.MethodPut, pathOf(t), object{"title": "First", "price": 1})
			for _, match := range []string{tag, `"77"`, "garbage"} {
				c.refused(http.StatusPreconditionFailed, c.seller, http.MethodDelete, pathOf(t), nil, header("If-Match", match))
			}
			c.want(http.StatusOK, nil, c.nobody, http.MethodGet, pathOf(t), nil)
		}},
		{"somebody else's deletion is 403", func(c *check) {
			c.refused(http.StatusForbidden, c.other, http.MethodDelete, pathOf(c.sell()), nil)
		}},
		{"a deletion of a reserved ticket is 409", func(c *check) {
			t := c.sell()
			c.held(t)
			c.refused(http.StatusConflict, c.seller, http.MethodDelete, pathOf(t), nil)
		}},
		{"a deletion of a sold ticket is 409", func(c *check) {
			t, _ := c.sold()
			c.refused(http.StatusConflict, c.seller, http.MethodDelete, pathOf(t), nil)
		}},
	}
	for spelling, want := range map[string]json.Number{
		"19.99": "19.99", `"19.99"`: "19.99", "19.990": "19.99", `"1e3"`: "1000", "1e3": "1000", "1E+2": "100", "0.01": "0.01",
		"1000000": "1000000", "1000000.00": "1000000", "1999e-2": "19.99", "19.9": "19.9", "20.00": "20",
	} {
		rules = append(rules, rule{"the price " + spelling + " is " + want.String(), func(c *check) {
			var got ticket
			c.want(http.StatusCreated, &got, c.seller, http.MethodPost, "/api/tickets", `{"title": "A", "price": `+spelling+`}`)
			if got.Price != want {
				c.Errorf("it is %s", got.Price)
			}
		}})
	}
	return rules
}
