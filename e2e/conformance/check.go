package conformance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/turnstile-go/turnstile/e2e/internal/journey"
)

// check is a case under way. What breaks its rule fails the test.
type check struct {
	*testing.T
	*suite
}

// member is somebody who has signed up.
type member struct {
	*journey.Person
	id     string
	cookie *http.Cookie // of the session
}

// object is a JSON object.
type object = map[string]any

// answer is what came back, as it came.
type answer struct {
	request string // for people
	status  int
	header  http.Header
	text    string
	took    time.Duration
}

func (a answer) String() string {
	text := a.text
	if len(text) > 600 {
		text = text[:600] + "…"
	}
	return fmt.Sprintf("%s: %d %s", a.request, a.status, text)
}

// option changes a request before it is sent.
type option func(*http.Request)

// header sets a header, or removes it if the value is empty.
func header(name, value string) option {
	return func(r *http.Request) {
		if value == "" {
			r.Header.Del(name)
		} else {
			r.Header.Set(name, value)
		}
	}
}

// try sends a request. A string is sent as it is, anything else as JSON, nil not at all.
func (c *check) try(who *member, method, path string, body any, options ...option) (answer, error) {
	c.Helper()
	var content io.Reader
	said := ""
	switch b := body.(type) {
	case nil:
	case io.Reader:
		content = b
	default:
		text, isText := b.(string)
		if !isText {
			encoded, err := json.Marshal(b)
			if err != nil {
				c.Fatal(err)
			}
			text = string(encoded)
		}
		said = text[:min(len(text), 200)]
		content = strings.NewReader(text)
	}
	request, err := http.NewRequestWithContext(c.Context(), method, c.site.URL+path, content)
	if err != nil {
		c.Fatal(err)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	for _, o := range options {
		o(request)
	}
	began := time.Now()
	response, err := who.Send(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return answer{
		request: strings.TrimSpace(method + " " + path + " " + said), status: response.StatusCode,
		header: response.Header, text: string(text), took: time.Since(began),
	}, err
}

// send is try for a request that must be answered, and is sent again when there were too many for a moment.
func (c *check) send(who *member, method, path string, body any, options ...option) answer {
	c.Helper()
	for {
		a, err := c.try(who, method, path, body, options...)
		if err != nil {
			c.Fatalf("%s %s: %v", method, path, err)
		}
		if a.status != http.StatusTooManyRequests {
			return a
		}
		time.Sleep(c.retryAfter(a))
	}
}

// want is send for a success, which is decoded into out unless that is nil. No member may be there that out does not have.
func (c *check) want(status int, out any, who *member, method, path string, body any, options ...option) answer {
	c.Helper()
	a := c.send(who, method, path, body, options...)
	if a.status != status {
		c.Fatalf("%v; want %d", a, status)
	}
	if out != nil {
		if media := a.header.Get("Content-Type"); media != "application/json" {
			c.Errorf("%v: its Content-Type is %q, want application/json", a, media)
		}
		d := json.NewDecoder(strings.NewReader(a.text))
		d.DisallowUnknownFields()
		if err := d.Decode(out); err != nil {
			c.Fatalf("%v: %v", a, err)
		}
	}
	return a
}

// problem is an error as RFC 9457 and the contract have it.
type problem struct {
	Type, Title, Detail, Instance string
	Status                        int
	Errors                        []struct{ Message, Field string }

	answer answer
}

// fields are those that are to blame, in order.
func (p problem) fields() (names []string) {
	for _, e := range p.Errors {
		names = append(names, e.Field)
	}
	return names
}

// refused is send for an error, which must be a problem as the contract has it.
func (c *check) refused(status int, who *member, method, path string, body any, options ...option) problem {
	c.Helper()
	a := c.send(who, method, path, body, options...)
	if a.status != status {
		c.Fatalf("%v; want %d", a, status)
	}
	return c.problem(a)
}

// problem checks that an answer is one, and returns it.
func (c *check) problem(a answer) problem {
	c.Helper()
	if media := a.header.Get("Content-Type"); media != "application/problem+json" {
		c.Fatalf("%v: its Content-Type is %q, want application/problem+json", a, media)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal([]byte(a.text), &members); err != nil {
		c.Fatalf("%v: %v", a, err)
	}
	for _, name := range []string{"type", "title", "status", "detail", "instance", "errors"} {
		if members[name] == nil {
			c.Errorf("%v: there is no member %q", a, name)
		}
	}
	p := problem{answer: a}
	if err := json.Unmarshal([]byte(a.text), &p); err != nil {
		c.Fatalf("%v: %v", a, err)
	}
	if p.Status != a.status || p.Type == "" || p.Title == "" || p.Detail == "" {
		c.Errorf("%v: a problem has its status, a type, a title and a detail", a)
	}
	if len(p.Errors) == 0 {
		c.Errorf("%v: errors has no entry", a)
	}
	for _, e := range p.Errors {
		if e.Message == "" {
			c.Errorf("%v: an entry of errors has no message", a)
		}
	}
	return p
}

// says checks the first message of a problem.
func (c *check) says(p problem, message string) {
	c.Helper()
	if len(p.Errors) == 0 || p.Errors[0].Message != message {
		c.Errorf("%v; want the message %q", p.answer, message)
	}
}

// blames checks the fields that a problem names, in order.
func (c *check) blames(p problem, fields ...string) {
	c.Helper()
	if !slices.Equal(p.fields(), fields) {
		c.Errorf("%v: it is about the fields %q, want %q", p.answer, p.fields(), fields)
	}
}

// members checks which members a JSON object has.
func (c *check) members(a answer, want ...string) {
	c.Helper()
	var all map[string]json.RawMessage
	if err := json.Unmarshal([]byte(a.text), &all); err != nil {
		c.Fatalf("%v: %v", a, err)
	}
	slices.Sort(want)
	if got := slices.Sorted(maps.Keys(all)); !slices.Equal(got, want) {
		c.Errorf("%v: its members are %q, want %q", a, got, want)
	}
}

// eventually repeats f until it returns nil.
func (c *check) eventually(what string, f func() error) {
	c.Helper()
	journey.Eventually(c.T, what, f)
}

// soon is eventually for what must not take long in a healthy system.
func (c *check) soon(what string, f func() error) {
	c.Helper()
	deadline := time.Now().Add(15 * time.Second)
	c.eventually(what, func() error {
		err := f()
		if err != nil && time.Now().After(deadline) {
			c.Fatalf("%s: not soon: %v", what, err)
		}
		return err
	})
}

const password = "a long enough one"

// credentials are new ones.
func credentials() object {
	return object{"email": uuid.NewString() + "@example.com", "password": password}
}

// person returns somebody who has no account.
func (c *check) person() *member { return &member{Person: c.site.Person(c.T)} }

// member returns somebody who has just signed up.
func (c *check) member() *member {
	c.Helper()
	m := c.person()
	c.enter(m, "/api/users/signup", credentials())
	return m
}

// enter signs up or in.
func (c *check) enter(m *member, path string, credentials object) answer {
	c.Helper()
	a := c.send(m, http.MethodPost, path, credentials)
	var user struct{ ID, Email string }
	if err := json.Unmarshal([]byte(a.text), &user); err != nil || a.status/100 != 2 || user.ID == "" {
		c.Fatalf("%v; want a success with the user's id", a)
	}
	m.id, m.cookie = user.ID, c.sessionCookie(a)
	return a
}

// retryAfter returns how long an answer tells to wait.
func (c *check) retryAfter(a answer) time.Duration {
	c.Helper()
	seconds, err := strconv.Atoi(a.header.Get("Retry-After"))
	if err != nil || seconds < 1 {
		c.Fatalf("%v: Retry-After is %q, want seconds", a, a.header.Get("Retry-After"))
	}
	return time.Duration(seconds) * time.Second
}

// sessionCookie returns the only cookie that an answer sets.
func (c *check) sessionCookie(a answer) *http.Cookie {
	c.Helper()
	cookies := (&http.Response{Header: a.header}).Cookies()
	if len(cookies) != 1 {
		c.Fatalf("%v: it sets the cookies %q, want one", a, a.header.Values("Set-Cookie"))
	}
	return cookies[0]
}

// bearer is m's session in a header instead of the cookie.
func bearer(m *member) option { return header("Authorization", "Bearer "+m.cookie.Value) }

// ticketOf has somebody offer a ticket.
func (c *check) ticketOf(seller *member, title string, price any) (t journey.Ticket) {
	c.Helper()
	c.want(http.StatusCreated, &t, seller, http.MethodPost, "/api/tickets", object{"title": title, "price": price})
	return t
}

// sell has the seller offer a ticket.
func (c *check) sell() journey.Ticket {
	c.Helper()
	return c.ticketOf(c.seller, "A ticket to be found: "+uuid.NewString(), 19.99)
}

// listed reports whether a ticket is among those that can be bought.
func (c *check) listed(t journey.Ticket) bool {
	c.Helper()
	a := c.want(http.StatusOK, nil, c.other, http.MethodGet, "/api/tickets?q="+url.QueryEscape(t.Title), nil)
	return strings.Contains(a.text, t.ID)
}

// order has the buyer order a ticket, as soon as it is known to be there.
func (c *check) order(t journey.Ticket) journey.Order {
	c.Helper()
	return c.buyer.In(c.T).Order(t.ID)
}

// held is order for those who need to see the ticket held.
func (c *check) held(t journey.Ticket) journey.Order {
	c.Helper()
	o := c.order(t)
	c.buyer.In(c.T).AwaitTicket(t.ID, o.ID)
	return o
}

// cancel has the buyer cancel an order.
func (c *check) cancel(id string) {
	c.Helper()
	c.want(http.StatusNoContent, nil, c.buyer, http.MethodDelete, "/api/orders/"+id, nil)
}

// known is a ticket on sale of which orders has heard.
func (c *check) known() journey.Ticket {
	c.Helper()
	t := c.sell()
	c.cancel(c.held(t).ID)
	c.buyer.In(c.T).AwaitTicket(t.ID, "")
	return t
}

// noTicket has the seller offer what is not valid.
func (c *check) noTicket(body any) problem {
	c.Helper()
	return c.refused(http.StatusUnprocessableEntity, c.seller, http.MethodPost, "/api/tickets", body)
}

// payable is an order that the buyer has placed, once it can be paid.
func (c *check) payable() journey.Order {
	c.Helper()
	o := c.order(c.sell())
	c.eventually("the order can be paid", func() error {
		a := c.send(c.other, http.MethodPost, "/api/payments", object{"orderId": o.ID, "token": "tok_visa"})
		if a.status != http.StatusForbidden {
			return fmt.Errorf("%v; want 403", a)
		}
		return nil
	})
	return o
}

// sold is a ticket that the buyer has paid for, with its order.
func (c *check) sold() (journey.Ticket, journey.Order) {
	c.Helper()
	o := c.payable()
	c.want(http.StatusCreated, nil, c.buyer, http.MethodPost, "/api/payments", object{"orderId": o.ID, "token": "tok_visa"})
	buyer := c.buyer.In(c.T)
	o = buyer.AwaitOrder(o, "complete")
	return buyer.AwaitTicket(o.Ticket.ID, o.ID), o
}

// crowd is how many do something at once.
const crowd = 50

// all calls f as often, at once, and returns the answers.
func (c *check) all(f func(i int) (answer, error)) []answer {
	c.Helper()
	answers := make([]answer, crowd)
	begin := make(chan struct{})
	var group sync.WaitGroup
	for i := range crowd {
		group.Go(func() {
			<-begin
			a, err := f(i)
			if err != nil {
				c.Errorf("one of the crowd got no answer: %v", err)
			}
			answers[i] = a
		})
	}
	close(begin)
	group.Wait()
	return answers
}

// statuses counts answers.
func statuses(answers []answer) map[int]int {
	count := map[int]int{}
	for _, a := range answers {
		count[a.status]++
	}
	return count
}

// padded is a JSON object of so many bytes, that begins with the members of an object.
func padded(members object, size int) string {
	text, err := json.Marshal(members)
	if err != nil {
		panic(err) // these are ours
	}
	text = append(bytes.TrimSuffix(text, []byte("}")), `,"padding":"`...)
	return string(text) + strings.Repeat("x", size-len(text)-2) + `"}`
}

// unknown is an id that nothing has.
const unknown = "0190a0a0-0000-7000-8000-000000000000"
