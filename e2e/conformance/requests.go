package conformance

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"

	"github.com/google/uuid"

	"github.com/turnstile-go/turnstile/e2e/internal/journey"
)

// operation is one with a body.
type operation struct {
	name, method, path string
	body               object // valid, but for the things in it that are unknown
	session            bool   // is required
}

// operations are all that have a body. The ticket is one of the seller's.
func operations(ticket string) []operation {
	offer := object{"title": "A ticket", "price": 19.99}
	return []operation{
		{"POST users signup", http.MethodPost, "/api/users/signup", credentials(), false},
		{"POST users signin", http.MethodPost, "/api/users/signin", credentials(), false},
		{"POST tickets", http.MethodPost, "/api/tickets", offer, true},
		{"PUT ticket", http.MethodPut, "/api/tickets/" + ticket, offer, true},
		{"POST orders", http.MethodPost, "/api/orders", object{"ticketId": unknown}, true},
		{"POST payments", http.MethodPost, "/api/payments", object{"orderId": unknown, "token": "tok_visa"}, true},
	}
}

// document is what is looked at in an OpenAPI document.
type document struct {
	OpenAPI string
	Info    struct{ Title, Version string }
	Paths   map[string]map[string]json.RawMessage
}

func documents() (rules []rule) {
	for name, operations := range map[string][]string{
		"users": {"post /api/users/signup", "post /api/users/signin", "post /api/users/signout", "get /api/users/currentuser"},
		"tickets": {"get /api/tickets", "get /api/tickets/mine", "get /api/tickets/{id}", "post /api/tickets",
			"put /api/tickets/{id}", "delete /api/tickets/{id}"},
		"orders":   {"post /api/orders", "get /api/orders", "get /api/orders/{id}", "delete /api/orders/{id}"},
		"payments": {"post /api/payments", "get /api/payments"},
	} {
		rules = append(rules, rule{name + " has an OpenAPI 3.1 document of all its operations", func(c *check) {
			var d document
			a := c.send(c.nobody, http.MethodGet, "/api/"+name+"/openapi.json", nil)
			if err := json.Unmarshal([]byte(a.text), &d); err != nil || a.status != http.StatusOK {
				c.Fatalf("%v (%v); want 200 and JSON", a, err)
			}
			if !strings.HasPrefix(d.OpenAPI, "3.1.") || d.Info.Title == "" || d.Info.Version == "" {
				c.Errorf("it is OpenAPI %q of %+v, want 3.1 with a title and a version", d.OpenAPI, d.Info)
			}
			for _, operation := range operations {
				method, path, _ := strings.Cut(operation, " ")
				if d.Paths[path][method] == nil {
					c.Errorf("there is no %s", operation)
				}
			}
		}}, rule{name + " has a page of documentation", func(c *check) {
			a := c.send(c.nobody, http.MethodGet, "/api/"+name+"/docs", nil)
			if a.status != http.StatusOK || !strings.HasPrefix(a.header.Get("Content-Type"), "text/html") ||
				!strings.Contains(a.text, "<html") {
				c.Errorf("%v of type %q; want 200 and HTML", a, a.header.Get("Content-Type"))
			}
		}})
	}
	return append(rules, rule{"the public keys of sessions are published, and nothing private", func(c *check) {
		var set struct{ Keys []map[string]any }
		c.want(http.StatusOK, &set, c.nobody, http.MethodGet, "/.well-known/jwks.json", nil)
		if len(set.Keys) == 0 {
			c.Error("there is no key")
		}
		for _, key := range set.Keys {
			if key["kty"] != "OKP" || key["crv"] != "Ed25519" || key["kid"] == nil || key["kid"] == "" || key["x"] == nil ||
				key["d"] != nil {
				c.Errorf("the key is %v, want the public half of an Ed25519 key, with an id", key)
			}
		}
	}})
}

var (
	wireTime = regexp.MustCompile(`"expiresAt":\s*"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"`)
	wireID   = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
)

func requests() []rule {
	rules := []rule{
		{"an address that nothing is at is 404", func(c *check) {
			if a := c.send(c.seller, http.MethodGet, "/api/nothing", nil); a.status != http.StatusNotFound { // by whoever is before the services
				c.Errorf("%v; want 404", a)
			}
			for _, path := range []string{"/api/tickets/a/b", "/api/orders/a/b", "/api/payments/a/b",
				"/api/users/nothing"} {
				c.refused(http.StatusNotFound, c.seller, http.MethodGet, path, nil)
			}
		}},
		{"instance is the path of the request", func(c *check) {
			if p := c.refused(http.StatusNotFound, c.nobody, http.MethodGet, "/api/tickets/"+unknown,
				nil); p.Instance != "/api/tickets/"+unknown {
				c.Errorf("%v: instance is %q", p.answer, p.Instance)
			}
		}},
		{"field is there only where one is to blame", func(c *check) {
			p := c.refused(http.StatusNotFound, c.nobody, http.MethodGet, "/api/tickets/"+unknown, nil)
			if strings.Contains(p.answer.text, `"field"`) {
				c.Errorf("%v: nothing is wrong with any field", p.answer)
			}
			c.blames(c.noTicket(object{"title": "", "price": 1}), "title")
		}},
		{"a slash at the end of an address says nothing", func(c *check) {
			c.want(http.StatusOK, nil, c.nobody, http.MethodGet, "/api/tickets/", nil)
			c.want(http.StatusCreated, nil, c.seller, http.MethodPost, "/api/tickets/",
				object{"title": "A ticket with a slash", "price": 1})
			c.want(http.StatusOK, nil, c.seller, http.MethodGet, "/api/orders/", nil)
			c.want(http.StatusOK, nil, c.seller, http.MethodGet, "/api/payments/", nil)
		}},
		{"a GET with If-None-Match is 304 without a body as long as nothing has changed", func(c *check) {
			t, o := c.sell(), c.order(c.sell())
			known := func(who *member, path string) (tag string) {
				tag = c.send(who, http.MethodGet, path, nil).header.Get("ETag")
				for _, match := range []string{tag, "W/" + tag, `"77", ` + tag, "*"} {
					a := c.want(http.StatusNotModified, nil, who, http.MethodGet, path, nil, header("If-None-Match", match))
					if a.text != "" || a.header.Get("ETag") != tag {
						c.Errorf("%v with the ETag %q; want no body, and %q", a, a.header.Get("ETag"), tag)
					}
				}
				c.want(http.StatusOK, nil, who, http.MethodGet, path, nil, header("If-None-Match", `"77"`))
				return tag
			}
			tag := known(c.nobody, pathOf(t))
			c.want(http.StatusOK, nil, c.seller, http.MethodPut, pathOf(t), object{"title": "Another", "price": 2})
			c.want(http.StatusOK, nil, c.nobody, http.MethodGet, pathOf(t), nil, header("If-None-Match", tag))
			tag = known(c.buyer, "/api/orders/"+o.ID)
			c.cancel(o.ID)
			c.want(http.StatusOK, nil, c.buyer, http.MethodGet, "/api/orders/"+o.ID, nil, header("If-None-Match", tag))
		}},
		{"times are RFC 3339 in UTC with milliseconds", func(c *check) {
			a := c.send(c.buyer, http.MethodGet, "/api/orders/"+c.order(c.sell()).ID, nil)
			if !wireTime.MatchString(a.text) {
				c.Errorf("%v: expiresAt is not like 2026-01-02T03:04:05.678Z", a)
			}
		}},
		{"ids are UUIDs of version 7", func(c *check) {
			t := c.sell()
			for what, id := range map[string]string{"user": c.seller.id, "ticket": t.ID, "order": c.order(t).ID} {
				if !wireID.MatchString(id) {
					c.Errorf("the %s has the id %q", what, id)
				}
			}
		}},
		{"a problem never tells what is inside", func(c *check) {
			for _, path := range []string{"/api/tickets/'--", "/api/tickets/%25", "/api/tickets?limit=%00", "/api/orders/%ff",
				"/api/tickets?q=%ff"} {
				a := c.send(c.seller, http.MethodGet, path, nil)
				if a.status >= 500 || a.status >= 400 && inside.MatchString(a.text) {
					c.Errorf("%v", a)
				}
			}
		}},
	}
	for _, of := range []struct{ method, path string }{
		{http.MethodGet, "/api/tickets/"}, {http.MethodGet, "/api/orders/"}, {http.MethodDelete,
			"/api/tickets/"}, {http.MethodDelete, "/api/orders/"},
	} {
		rules = append(rules, rule{fmt.Sprintf("%s %s{id}: an unknown id is 404, and so is a malformed one", of.method,
			strings.TrimPrefix(of.path, "/api/")), func(c *check) {
			for _, id := range []string{uuid.NewString(), unknown, "1", "not-an-id", "%20", "null", "-1", strings.Repeat("a", 300),
				"%F0%9F%8E%AB", unknown + "0"} {
				c.refused(http.StatusNotFound, c.seller, of.method, of.path+id, nil)
			}
		}})
	}
	return append(rules, rule{"PUT tickets/{id}: an unknown id is 404, and so is a malformed one", func(c *check) {
		for _, id := range []string{unknown, "1", "not-an-id", "%20"} {
			c.refused(http.StatusNotFound, c.seller, http.MethodPut, "/api/tickets/"+id, object{"title": "A ticket", "price": 1})
		}
	}})
}

// inside is what nobody is to be told.
var inside = regexp.MustCompile(`(?i)\.go:\d|goroutine|panic|sql|pgx|strconv|unmarshal|\bselect\b|syntax error`)

const limit = 1 << 20 // of bodies

func bodies() (rules []rule) {
	for _, op := range operations("") {
		// who may send it, and the operation on a ticket of this case.
		ready := func(c *check) (operation, *member) {
			c.Helper()
			for _, ready := range operations(c.sell().ID) {
				if ready.name == op.name {
					who := c.nobody
					if ready.session {
						who = c.seller
					}
					return ready, who
				}
			}
			panic("there is no " + op.name) // it is from the same list
		}
		refused := func(status int, bodies ...any) func(*check) {
			return func(c *check) {
				op, who := ready(c)
				for _, body := range bodies {
					c.refused(status, who, op.method, op.path, body)
				}
			}
		}
		typed := func(status int, types ...string) func(*check) {
			return func(c *check) {
				op, who := ready(c)
				for _, media := range types {
					c.refused(status, who, op.method, op.path, op.body, header("Content-Type", media))
				}
			}
		}
		rules = append(rules,
			rule{op.name + ": malformed JSON is 400", refused(http.StatusBadRequest, "{", `{"a":}`, `{"a":1,}`, `{a:1}`, `{"a":1}}`,
				`nul`, `{"a":"`+"\xff"+`"}`, `{"a":01}`)},
			rule{op.name + ": more than one value is 400", refused(http.StatusBadRequest, `{} {}`, `{}[]`, `{}x`)},
			rule{op.name + ": an empty body is 422", refused(http.StatusUnprocessableEntity, "", " \n")},
			rule{op.name + ": an empty object is 422", refused(http.StatusUnprocessableEntity, "{}")},
			rule{op.name + ": what is no object is 422", refused(http.StatusUnprocessableEntity, "[]", `"text"`, "1", "true", "null",
				`[{}]`)},
			rule{op.name + ": a number out of range is 422", func(c *check) {
				op, who := ready(c)
				for name := range op.body {
					body := fmt.Sprintf(`{%q: 1e400}`, name)
					if p := c.refused(http.StatusUnprocessableEntity, who, op.method, op.path, body); len(p.Errors) != len(op.body) {
						c.Errorf("%v: it names %q, want one failure for each member", p.answer, p.fields())
					}
				}
			}},
			rule{op.name + ": a missing Content-Type is 415", typed(http.StatusUnsupportedMediaType, "")},
			rule{op.name + ": a wrong Content-Type is 415", typed(http.StatusUnsupportedMediaType, "text/plain",
				"application/x-www-form-urlencoded",
				"multipart/form-data; boundary=x", "text/json", "application/jsonp", "json", "application/xml", "*/*")},
			rule{op.name + ": a body above 1 MiB is 413", func(c *check) {
				op, who := ready(c)
				body := padded(op.body, limit+1)
				for range 5 { // the answer may come before the body has been sent, and the connection end with it
					a, err := c.try(who, op.method, op.path, body)
					if err != nil {
						continue
					}
					if a.status != http.StatusRequestEntityTooLarge {
						c.Fatalf("%v; want 413", a)
					}
					c.problem(a)
					return
				}
				c.Error("there was no answer, five times")
			}},
		)
	}
	offer := func(name, body string, look func(c *check, got ticket)) rule {
		return rule{name, func(c *check) {
			var got ticket
			c.want(http.StatusCreated, &got, c.seller, http.MethodPost, "/api/tickets", body)
			look(c, got)
		}}
	}
	anything := func(*check, ticket) {}
	return append(rules,
		rule{"a body above 1 MiB that does not say its size is 413", func(c *check) {
			for range 5 {
				body := io.MultiReader(strings.NewReader(padded(object{"title": "A", "price": 1}, limit+1))) // of unknown length
				if a, err := c.try(c.seller, http.MethodPost, "/api/tickets", body); err == nil {
					if a.status != http.StatusRequestEntityTooLarge {
						c.Fatalf("%v; want 413", a)
					}
					c.problem(a)
					return
				}
			}
			c.Error("there was no answer, five times")
		}},
		offer("a body of 1 MiB is not too large", padded(object{"title": "A ticket", "price": 1}, limit), anything),
		offer("unknown members are ignored",
			`{"title": "A", "price": 1, "id": "mine", "version": 7, "userId": "x", "orderId": "y", "a": {"b": [null]}}`, func(c *check,
				got ticket) {
				if got.ID == "mine" || got.Version != 0 || got.UserID != c.seller.id || got.OrderID != "" {
					c.Errorf("the ticket is %+v", got)
				}
			}),
		offer("a member in another letter case does not override the right one",
			`{"TITLE": "wrong", "title": "right", "Title": "wrong", "price": 1, "PRICE": 2}`, func(c *check, got ticket) {
				if got.Title != "right" || got.Price != "1" {
					c.Errorf("the ticket is %+v", got)
				}
			}),
		rule{"a member in another letter case does not stand for the right one", func(c *check) {
			c.blames(c.noTicket(`{"Title": "A", "PRICE": 1}`), "title", "price")
		}},
		rule{"a member twice is not well-formed", func(c *check) {
			c.refused(http.StatusBadRequest, c.seller, http.MethodPost, "/api/tickets", `{"title": "A", "title": "B", "price": 1}`)
		}},
		rule{"Content-Type may name UTF-8", func(c *check) {
			for _, media := range []string{"application/json; charset=utf-8", "application/json;charset=UTF-8", "Application/JSON"} {
				c.want(http.StatusCreated, nil, c.seller, http.MethodPost, "/api/tickets", object{"title": "A", "price": 1},
					header("Content-Type", media))
			}
		}},
		rule{"all failures are named at once, in the order of the fields", func(c *check) {
			for _, of := range []struct {
				path   string
				fields []string
			}{
				{"/api/users/signup", []string{"email", "password"}},
				{"/api/users/signin", []string{"email", "password"}},
				{"/api/tickets", []string{"title", "price"}},
				{"/api/orders", []string{"ticketId"}},
				{"/api/payments", []string{"orderId", "token"}},
			} {
				for _, body := range []string{"{}",
					`{"price": 0, "title": " ", "password": "", "email": "x", "token": "", "orderId": "", "ticketId": ""}`} {
					c.blames(c.refused(http.StatusUnprocessableEntity, c.seller, http.MethodPost, of.path, body), of.fields...)
				}
			}
		}},
		rule{"what is wrong with a text itself is named in its place", func(c *check) {
			for _, title := range []string{`"A\u0000"`, "1", "null"} {
				c.blames(c.noTicket(`{"price": 0, "title": `+title+`}`), "title", "price")
			}
		}},
		rule{"a member of another type is 422", func(c *check) {
			for _, body := range []string{`{"title": 1, "price": 1}`, `{"title": null, "price": 1}`, `{"title": ["A"], "price": 1}`,
				`{"title": {}, "price": 1}`, `{"title": true, "price": 1}`} {
				c.blames(c.noTicket(body), "title")
			}
		}},
		rule{"deep nesting is refused or ignored", func(c *check) {
			body := `{"title": "A", "price": 1, "deep": ` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + "}"
			if a := c.send(c.seller, http.MethodPost, "/api/tickets", body); a.status != http.StatusCreated {
				if p := c.problem(a); p.Status != http.StatusBadRequest && p.Status != http.StatusUnprocessableEntity {
					c.Errorf("%v; want 201, 400 or 422", a)
				}
			}
		}},
	)
}

func orderOfChecks() []rule {
	edit, stale := object{"title": "Another", "price": 2}, header("If-Match", `"77"`)
	return []rule{
		{"the session comes before the body", func(c *check) {
			for _, op := range operations(c.sell().ID) {
				if op.session {
					c.refused(http.StatusUnauthorized, c.nobody, op.method, op.path, "{")
					c.refused(http.StatusUnauthorized, c.nobody, op.method, op.path, "{}")
					c.refused(http.StatusUnauthorized, c.nobody, op.method, op.path, op.body, header("Content-Type", "text/plain"))
				}
			}
		}},
		{"the session comes before existence", func(c *check) {
			for method, path := range map[string]string{http.MethodGet: "/api/orders/", http.MethodDelete: "/api/tickets/"} {
				c.refused(http.StatusUnauthorized, c.nobody, method, path+unknown, nil)
			}
		}},
		{"the session comes before the query", func(c *check) {
			c.refused(http.StatusUnauthorized, c.nobody, http.MethodGet, "/api/orders?limit=0", nil)
		}},
		{"syntax comes before existence", func(c *check) {
			c.refused(http.StatusBadRequest, c.seller, http.MethodPut, "/api/tickets/"+unknown, "{")
		}},
		{"validation comes before existence", func(c *check) {
			c.refused(http.StatusUnprocessableEntity, c.seller, http.MethodPut, "/api/tickets/"+unknown, object{})
			c.refused(http.StatusUnprocessableEntity, c.seller, http.MethodPost, "/api/payments", object{"orderId": unknown})
		}},
		{"validation comes before ownership", func(c *check) {
			c.refused(http.StatusUnprocessableEntity, c.other, http.MethodPut, "/api/tickets/"+c.sell().ID, object{"title": ""})
		}},
		{"validation comes before state", func(c *check) {
			t := c.sell()
			c.held(t)
			c.refused(http.StatusUnprocessableEntity, c.seller, http.MethodPut, "/api/tickets/"+t.ID, object{"title": ""})
		}},
		{"existence comes before a stale If-Match", func(c *check) {
			c.refused(http.StatusNotFound, c.seller, http.MethodPut, "/api/tickets/"+unknown, edit, stale)
			c.refused(http.StatusNotFound, c.seller, http.MethodDelete, "/api/tickets/"+unknown, nil, stale)
			c.refused(http.StatusNotFound, c.buyer, http.MethodDelete, "/api/orders/"+unknown, nil, stale)
		}},
		{"ownership of a ticket comes before its state", func(c *check) {
			t := c.sell()
			c.held(t)
			c.refused(http.StatusForbidden, c.other, http.MethodPut, "/api/tickets/"+t.ID, edit)
			c.refused(http.StatusForbidden, c.other, http.MethodDelete, "/api/tickets/"+t.ID, nil)
		}},
		{"ownership of an order comes before its state", func(c *check) {
			_, complete := c.sold()
			for _, o := range []journey.Order{complete, c.cancelled()} {
				for _, who := range []*member{c.other, c.seller} {
					c.refused(http.StatusForbidden, who, http.MethodDelete, "/api/orders/"+o.ID, nil)
					c.refused(http.StatusForbidden, who, http.MethodPost, "/api/payments", pay(o, "tok_visa"))
				}
			}
		}},
		{"ownership comes before a stale If-Match", func(c *check) {
			c.refused(http.StatusForbidden, c.other, http.MethodPut, pathOf(c.sell()), edit, stale)
			c.refused(http.StatusForbidden, c.other, http.MethodDelete, pathOf(c.sell()), nil, stale)
			c.refused(http.StatusForbidden, c.other, http.MethodDelete, "/api/orders/"+c.order(c.sell()).ID, nil, stale)
		}},
		{"state comes before a stale If-Match", func(c *check) {
			t := c.sell()
			c.held(t)
			c.refused(http.StatusConflict, c.seller, http.MethodPut, pathOf(t), edit, stale)
			c.refused(http.StatusConflict, c.seller, http.MethodDelete, pathOf(t), nil, stale)
			_, o := c.sold()
			c.refused(http.StatusConflict, c.buyer, http.MethodDelete, "/api/orders/"+o.ID, nil, stale)
		}},
	}
}

// allowed is which methods there are at an address.
var allowed = []struct {
	path    string
	methods []string
}{
	{"/api/users/signup", []string{"POST"}},
	{"/api/users/signin", []string{"POST"}},
	{"/api/users/signout", []string{"POST"}},
	{"/api/users/currentuser", []string{"GET"}},
	{"/api/users/openapi.json", []string{"GET"}},
	{"/.well-known/jwks.json", []string{"GET"}},
	{"/api/tickets", []string{"GET", "POST"}},
	{"/api/tickets/mine", []string{"GET"}},
	{"/api/tickets/" + unknown, []string{"GET", "PUT", "DELETE"}},
	{"/api/orders", []string{"GET", "POST"}},
	{"/api/orders/" + unknown, []string{"GET", "DELETE"}},
	{"/api/payments", []string{"GET", "POST"}},
}

// allows checks the Allow header.
func (c *check) allows(a answer, methods []string) {
	c.Helper()
	has := map[string]bool{}
	for method := range strings.SplitSeq(strings.Join(a.header.Values("Allow"), ","), ",") {
		has[strings.TrimSpace(method)] = true
	}
	for _, method := range methods {
		if !has[method] {
			c.Errorf("%v: Allow is %q, want it to have %s", a, a.header.Values("Allow"), method)
		}
		delete(has, method)
	}
	for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
		if has[method] {
			c.Errorf("%v: Allow is %q, and there is no %s", a, a.header.Values("Allow"), method)
		}
	}
}

func methods() (rules []rule) {
	for _, at := range allowed {
		name := strings.ReplaceAll(strings.TrimPrefix(at.path, "/api/"), unknown, "{id}")
		rules = append(rules, rule{name + ": another method is 405 with Allow", func(c *check) {
			for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"} {
				if strings.Contains(strings.Join(at.methods, " "), method) || method == "DELETE" && at.path == "/api/tickets/mine" ||
					method == "PUT" && at.path == "/api/tickets/mine" {
					continue // mine might be an id there
				}
				c.allows(c.refused(http.StatusMethodNotAllowed, c.seller, method, at.path, nil).answer, at.methods)
			}
		}}, rule{name + ": OPTIONS tells what is allowed", func(c *check) {
			a := c.send(c.nobody, http.MethodOptions, at.path, nil)
			if a.status/100 != 2 {
				c.Fatalf("%v; want a success", a)
			}
			if at.path != "/api/tickets/mine" {
				c.allows(a, at.methods)
			}
		}})
		if at.methods[0] != "GET" {
			continue
		}
		rules = append(rules, rule{name + ": HEAD is GET without the body", func(c *check) {
			get := c.send(c.buyer, http.MethodGet, at.path, nil)
			head := c.send(c.buyer, http.MethodHead, at.path, nil)
			if head.status != get.status || head.text != "" || head.header.Get("Content-Type") != get.header.Get("Content-Type") {
				c.Errorf("%v of type %q; want what GET says (%d, %q) and no body", head, head.header.Get("Content-Type"), get.status,
					get.header.Get("Content-Type"))
			}
			if got, want := head.header.Get("ETag"), get.header.Get("ETag"); got != want {
				c.Errorf("%v: its ETag is %q, that of GET %q", head, got, want)
			}
		}})
	}
	return append(rules, rule{"HEAD changes nothing, whatever comes with it", func(c *check) {
		t := c.sell()
		c.send(c.seller, http.MethodHead, "/api/tickets/"+t.ID, nil, header("X-HTTP-Method-Override", "DELETE"))
		c.want(http.StatusOK, nil, c.seller, http.MethodGet, "/api/tickets/"+t.ID, nil)
	}})
}

func origins() []rule {
	evil := header("Origin", "https://evil.example")
	offer := object{"title": "A ticket from elsewhere", "price": 1}
	var rules []rule
	for _, op := range operations(unknown) {
		rules = append(rules, rule{op.name + " with the cookie is refused from another origin", func(c *check) {
			c.refused(http.StatusForbidden, c.member(), op.method, op.path, op.body, evil) // whose session might be another after it
		}})
	}
	for name, path := range map[string]string{"DELETE ticket": "/api/tickets/", "DELETE order": "/api/orders/"} {
		rules = append(rules, rule{name + " with the cookie is refused from another origin", func(c *check) {
			c.refused(http.StatusForbidden, c.seller, http.MethodDelete, path+unknown, nil, evil)
		}})
	}
	return append(rules,
		rule{"what is refused from another origin is not done", func(c *check) {
			t := c.sell()
			o := c.order(c.sell())
			c.refused(http.StatusForbidden, c.seller, http.MethodPut, pathOf(t), offer, evil)
			c.refused(http.StatusForbidden, c.seller, http.MethodDelete, pathOf(t), nil, evil)
			c.refused(http.StatusForbidden, c.buyer, http.MethodDelete, "/api/orders/"+o.ID, nil, evil)
			var gotTicket ticket
			var gotOrder order
			c.want(http.StatusOK, &gotTicket, c.seller, http.MethodGet, pathOf(t), nil)
			c.want(http.StatusOK, &gotOrder, c.buyer, http.MethodGet, "/api/orders/"+o.ID, nil)
			if gotTicket.Version != 0 || gotOrder.Version != 0 {
				c.Errorf("the ticket is %+v and the order %+v, want both of version 0", gotTicket, gotOrder)
			}
		}},
		rule{"an unsafe request with the cookie is refused from no origin", func(c *check) {
			c.refused(http.StatusForbidden, c.seller, http.MethodPost, "/api/tickets", offer, header("Origin", "null"))
		}},
		rule{"an unsafe request with the cookie is refused when the browser says it is cross-site", func(c *check) {
			for _, site := range []string{"cross-site", "same-site"} {
				c.refused(http.StatusForbidden, c.seller, http.MethodPost, "/api/tickets", offer, header("Sec-Fetch-Site", site))
			}
		}},
		rule{"signing out with the cookie is refused from another origin", func(c *check) {
			m := c.member()
			c.refused(http.StatusForbidden, m, http.MethodPost, signOut, nil, evil)
			c.want(http.StatusOK, nil, m, http.MethodGet, "/api/tickets/mine", nil)
		}},
		rule{"a safe request with the cookie is not refused from another origin", func(c *check) {
			c.want(http.StatusOK, nil, c.seller, http.MethodGet, "/api/tickets/mine", nil, evil)
		}},
		rule{"an unsafe request with the cookie is not refused from its own origin", func(c *check) {
			c.want(http.StatusCreated, nil, c.seller, http.MethodPost, "/api/tickets", offer, header("Sec-Fetch-Site", "same-origin"))
			c.want(http.StatusCreated, nil, c.seller, http.MethodPost, "/api/tickets", offer, header("Origin", c.site.URL))
		}},
		rule{"a request with a bearer token is not refused from another origin", func(c *check) {
			c.want(http.StatusCreated, nil, c.nobody, http.MethodPost, "/api/tickets", offer, evil, bearer(c.seller))
		}},
	)
}
