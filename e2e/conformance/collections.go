package conformance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/turnstile-go/turnstile/e2e/internal/journey"
)

// collection is an address with many things.
type collection struct {
	name, path string
	who        func(c *check) *member
	fill       func(c *check) of3
}

// of3 is who finds three things by a query and nothing else, though there are others between them.
type of3 struct {
	who   *member
	query string
	ids   []string // the newest first
}

func lists() []collection {
	buyer := func(c *check) *member { return c.buyer }
	return []collection{
		{"tickets", "/api/tickets", func(c *check) *member { return c.nobody }, func(c *check) of3 {
			mark := uuid.NewString()
			found := of3{who: c.nobody, query: "q=" + mark}
			for i := range 3 {
				c.sell()
				found.add(c.ticketOf(c.seller, fmt.Sprintf("%s number %d", mark, i), 1).ID)
			}
			return found
		}},
		{"tickets mine", "/api/tickets/mine", func(c *check) *member { return c.seller }, func(c *check) of3 {
			found := of3{who: c.member()}
			for range 3 {
				c.sell()
				found.add(c.ticketOf(found.who, "One of three", 1).ID)
			}
			return found
		}},
		{"orders", "/api/orders", buyer, func(c *check) of3 {
			found := of3{who: c.member()}
			for range 3 {
				c.order(c.sell())
				found.add(found.who.In(c.T).Order(c.sell().ID).ID)
			}
			return found
		}},
		{"payments", "/api/payments", buyer, func(c *check) of3 {
			o, other := c.payable(), c.payable()
			for range 3 {
				for _, of := range []journey.Order{other, o} {
					c.refused(http.StatusPaymentRequired, c.buyer, http.MethodPost, "/api/payments", pay(of, "tok_chargeDeclined"))
				}
			}
			found := of3{who: c.buyer, query: "orderId=" + o.ID}
			for _, p := range slices.Backward(c.paid(o)) {
				found.add(p.ID)
			}
			return found
		}},
	}
}

// add puts in what is newer.
func (f *of3) add(id string) { f.ids = slices.Insert(f.ids, 0, id) }

var next = regexp.MustCompile(`^<([^>]+)>;\s*rel="?next"?$`)

// page gets one, and returns the address of the next one, "" on the last.
func (c *check) page(who *member, address string) (ids []string, after string) {
	c.Helper()
	a := c.want(http.StatusOK, nil, who, http.MethodGet, address, nil)
	var things []struct{ ID string }
	if err := json.Unmarshal([]byte(a.text), &things); err != nil || !strings.HasPrefix(a.text, "[") {
		c.Fatalf("%v (%v); want a plain array", a, err)
	}
	for _, thing := range things {
		ids = append(ids, thing.ID)
	}
	link := a.header.Get("Link")
	if link == "" {
		return ids, ""
	}
	match := next.FindStringSubmatch(link)
	if match == nil {
		c.Fatalf("%v: Link is %q, want one with rel=\"next\"", a, link)
	}
	base, err := url.Parse(c.site.URL + address)
	if err != nil {
		c.Fatal(err)
	}
	to, err := base.Parse(match[1])
	if err != nil {
		c.Fatalf("%v: Link is %q: %v", a, link, err)
	}
	return ids, to.RequestURI()
}

func collections() (rules []rule) {
	for _, of := range lists() {
		bad := func(query string) func(c *check) {
			return func(c *check) {
				for value := range strings.SplitSeq(query, " ") {
					c.refused(http.StatusUnprocessableEntity, of.who(c), http.MethodGet, of.path+"?"+value, nil)
				}
			}
		}
		rules = append(rules,
			rule{of.name + ": Link leads through all of it, newest first, with nothing twice and nothing else", func(c *check) {
				want := of.fill(c)
				address := of.path + "?limit=1&" + want.query
				var got []string
				for range want.ids {
					var ids []string
					if ids, address = c.page(want.who, address); len(ids) != 1 {
						c.Fatalf("a page has %d things, want 1", len(ids))
					}
					got = append(got, ids...)
					if address == "" {
						break
					}
				}
				if !slices.Equal(got, want.ids) || address != "" {
					c.Errorf("the ids are %q, and then %q; want %q, and then nothing", got, address, want.ids)
				}
			}},
			rule{of.name + ": the last page has no Link", func(c *check) {
				want := of.fill(c)
				for _, limit := range []int{3, 200} { // of which the first is full
					ids, after := c.page(want.who, fmt.Sprintf("%s?limit=%d&%s", of.path, limit, want.query))
					if !slices.Equal(ids, want.ids) || after != "" {
						c.Errorf("with the limit %d the ids are %q, and then %q; want %q, and then nothing", limit, ids, after, want.ids)
					}
				}
			}},
			rule{of.name + ": a limit out of range is 422", bad("limit=0 limit=201 limit=-1 limit=99999999999999999999")},
			rule{of.name + ": a limit that is no number is 422", bad("limit=abc limit=1.5 limit=1e1 limit=0x10 limit=%20 limit=10%20")},
			rule{of.name + ": a query of which something would have to be dropped is 422",
				bad("limit=%zz cursor=%zz limit= cursor= limit=1&limit=2 limit=1&limit=abc")},
			rule{of.name + ": an invalid cursor is 422",
				bad("cursor=x cursor=null cursor=MQ cursor=bnVsbA cursor=%7B%7D cursor=" + unknown +
					" cursor=" + strings.Repeat("A", 200))},
			rule{of.name + ": a limit and a cursor that are both wrong are both named", func(c *check) {
				c.blames(c.refused(http.StatusUnprocessableEntity, of.who(c), http.MethodGet, of.path+"?cursor=x&limit=0", nil),
					"limit", "cursor")
			}},
			rule{of.name + ": the least limit is 1 and the greatest 200", func(c *check) {
				c.want(http.StatusOK, nil, of.who(c), http.MethodGet, of.path+"?limit=1", nil)
				c.want(http.StatusOK, nil, of.who(c), http.MethodGet, of.path+"?limit=200", nil)
			}},
		)
	}
	found := func(c *check, query string) (titles []string) {
		c.Helper()
		var list []ticket
		c.want(http.StatusOK, &list, c.nobody, http.MethodGet, "/api/tickets?limit=200&q="+url.QueryEscape(query), nil)
		for _, t := range list {
			titles = append(titles, t.Title)
		}
		return titles
	}
	return append(rules,
		rule{"an empty collection is an empty array", func(c *check) {
			for _, path := range []string{"/api/tickets/mine", "/api/orders", "/api/payments"} {
				if a := c.want(http.StatusOK, nil, c.other, http.MethodGet, path, nil); strings.TrimSpace(a.text) != "[]" {
					c.Errorf("%v; want []", a)
				}
			}
		}},
		rule{"the default limit is 50", func(c *check) {
			who := c.member()
			c.all(func(int) (answer, error) {
				return c.try(who, http.MethodPost, "/api/tickets", object{"title": "One of many", "price": 1})
			})
			c.ticketOf(who, "One more", 1)
			first, after := c.page(who, "/api/tickets/mine")
			if len(first) != 50 || after == "" {
				c.Fatalf("the first page has %d things (next: %q), want 50 and a next one", len(first), after)
			}
			if second, after := c.page(who, after); len(second) != 1 || after != "" {
				c.Errorf("the second page has %d things (next: %q), want 1 and no next one", len(second), after)
			}
		}},
		rule{"a thing that comes meanwhile moves nothing from page to page", func(c *check) {
			mark := uuid.NewString()
			one, two := c.ticketOf(c.seller, mark+" one", 1), c.ticketOf(c.seller, mark+" two", 1)
			first, after := c.page(c.nobody, "/api/tickets?limit=1&q="+mark)
			c.ticketOf(c.seller, mark+" three", 1)
			second, _ := c.page(c.nobody, after)
			if !slices.Equal(first, []string{two.ID}) || !slices.Equal(second, []string{one.ID}) {
				c.Errorf("the pages are %q and %q, want %q and %q", first, second, two.ID, one.ID)
			}
		}},
		rule{"q is literal text", func(c *check) {
			mark := uuid.NewString()
			for _, title := range []string{"100% _sure_ ", `a\b 'c' "d" `, "a*b?[c] "} {
				c.ticketOf(c.seller, title+mark, 1)
			}
			c.ticketOf(c.seller, "1000 xsurex "+mark, 1)
			for query, want := range map[string]int{
				"% _sure_ " + mark: 1, "100% _sur% " + mark: 0, "_ " + mark: 1, "%" + mark: 0, `a\b 'c' "d" ` + mark: 1,
				"*b?[c] " + mark: 1, ".*" + mark: 0,
			} {
				if got := found(c, query); len(got) != want {
					c.Errorf("q=%s finds %q, want %d", query, got, want)
				}
			}
		}},
		rule{"q is the same in every letter case", func(c *check) {
			mark := strings.ToUpper(uuid.NewString())
			c.ticketOf(c.seller, "Ein ÜBERfluss Σίσυφος "+mark, 1)
			for _, query := range []string{"überFLUSS σίσυφος " + mark, strings.ToLower(mark)} {
				if got := found(c, query); len(got) != 1 {
					c.Errorf("q=%s finds %q, want one", query, got)
				}
			}
		}},
		rule{"q that nothing matches finds nothing", func(c *check) {
			if got := found(c, uuid.NewString()); len(got) != 0 {
				c.Errorf("it finds %q", got)
			}
		}},
	)
}
