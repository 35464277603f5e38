// Package journey is what people do with the application, from outside, by its URL: the same wherever it runs. Whatever
// does not go as it must fails the test.
package journey

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

// Patience is how long people wait for what must happen. It is long because a loaded machine must not fail a test.
const Patience = 2 * time.Minute

// Site is where the application is.
type Site struct {
	URL     string // such as http://127.0.0.1:8080
	Address string // host:port to connect to, whatever the URL says; empty means that of the URL

	// Expiration is the application's ORDER_EXPIRATION; 0 means the default.
	Expiration time.Duration
}

// What the application says on the wire.
type (
	// Ticket is one that is for sale, held by an order, or sold.
	Ticket struct {
		ID      string
		Title   string
		Price   json.Number
		UserID  string
		Version int64
		OrderID string
	}
	// Order holds a ticket.
	Order struct {
		ID        string
		Status    string
		UserID    string
		ExpiresAt time.Time
		Ticket    struct {
			ID, Title string
			Price     json.Number
		}
	}
	// Payment pays for an order.
	Payment struct {
		ID, OrderID, Currency, Status string
		Amount                        int64
	}
)

// Person is somebody with a browser.
type Person struct {
	t      *testing.T
	site   Site
	email  string
	client *http.Client
}

// Person returns somebody who has no account yet.
func (s Site) Person(t *testing.T) *Person {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 16}
	if s.Address != "" {
		transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, s.Address)
		}
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &Person{
		t: t, site: s, email: uuid.NewString() + "@example.com",
		client: &http.Client{Jar: jar, Transport: transport, Timeout: 30 * time.Second},
	}
}

// User returns somebody who has signed up.
func (s Site) User(t *testing.T) *Person {
	t.Helper()
	p := s.Person(t)
	p.Want(http.StatusCreated, nil, http.MethodPost, "/api/users/signup", p.Credentials())
	return p
}

// In returns the same person in another test.
func (p *Person) In(t *testing.T) *Person {
	other := *p
	other.t = t
	return &other
}

// Thief returns somebody with a copy of the person's cookies.
func (p *Person) Thief() *Person {
	p.t.Helper()
	thief := p.site.Person(p.t)
	from, err := url.Parse(p.site.URL)
	if err != nil {
		p.t.Fatal(err)
	}
	thief.client.Jar.SetCookies(from, p.client.Jar.Cookies(from))
	return thief
}

// Credentials are what the person signs up and in with.
func (p *Person) Credentials() map[string]string {
	return map[string]string{"email": p.email, "password": "a long enough one"}
}

// refusal is an answer that is no success.
type refusal struct {
	status     int
	text       string
	retryAfter string // seconds, as the header has them
}

func (r *refusal) Error() string { return fmt.Sprintf("%d %s", r.status, r.text) }

// says returns the status that err is an answer with, 0 if it is none.
func says(err error) int {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.status
	}
	return 0
}

// retryAfter returns when, as the answer that err is says, it is worth trying again.
func retryAfter(err error) time.Duration {
	if r, ok := errors.AsType[*refusal](err); ok {
		if seconds, err := strconv.Atoi(r.retryAfter); err == nil {
			return time.Duration(seconds) * time.Second
		}
	}
	return 0
}

// Call sends a request and decodes the answer into out, unless that is nil. An answer other than 2xx is a *refusal.
func (p *Person) Call(out any, method, path string, in any) (status int, err error) {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return 0, err
		}
		body = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(context.Background(), method, p.site.URL+path, body)
	if err != nil {
		return 0, err
	}
	if in != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := p.client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err
	}
	if response.StatusCode >= 300 {
		return response.StatusCode, fmt.Errorf("%s %s: %w", method, path, &refusal{response.StatusCode, string(text), response.Header.Get("Retry-After")})
	}
	if out != nil {
		if err := json.Unmarshal(text, out); err != nil {
			return 0, fmt.Errorf("%s %s: %w in %s", method, path, err, text)
		}
	}
	return response.StatusCode, nil
}

// Send sends any request with the person's cookies and keeps those that are set.
func (p *Person) Send(r *http.Request) (*http.Response, error) { return p.client.Do(r) }

// Want is Call for a request whose status is known beforehand.
func (p *Person) Want(status int, out any, method, path string, in any) {
	p.t.Helper()
	got, err := p.Call(out, method, path, in)
	if got != status {
		p.t.Fatalf("%s %s %v: status %d (%v), want %d", method, path, in, got, err, status)
	}
}

// Refused is Want for an error, with the message that it must have.
func (p *Person) Refused(status int, message, method, path string, in any) {
	p.t.Helper()
	got, err := p.Call(nil, method, path, in)
	if got != status || !strings.Contains(fmt.Sprint(err), `"message":"`+message+`"`) {
		p.t.Errorf("%s %s %v: status %d (%v), want %d %q", method, path, in, got, err, status, message)
	}
}

// Sell offers a ticket.
func (p *Person) Sell(title string) (t Ticket) {
	p.t.Helper()
	p.Want(http.StatusCreated, &t, http.MethodPost, "/api/tickets", map[string]any{"title": title, "price": 19.99})
	return t
}

// Order orders a ticket, as soon as the orders service has heard of it.
func (p *Person) Order(id string) (o Order) {
	p.t.Helper()
	Eventually(p.t, "the ticket can be ordered", func() error {
		_, err := p.Call(&o, http.MethodPost, "/api/orders", map[string]any{"ticketId": id})
		return p.unless(err, http.StatusNotFound)
	})
	return o
}

// Pay pays an order, as soon as the payments service has heard of it.
func (p *Person) Pay(o Order, token string) (status int) {
	p.t.Helper()
	Eventually(p.t, "the order can be paid", func() (err error) {
		status, err = p.Call(nil, http.MethodPost, "/api/payments", map[string]any{"orderId": o.ID, "token": token})
		if status == http.StatusNotFound || status == 0 {
			return err
		}
		return nil
	})
	return status
}

// unless ends the test for an error that is no answer with one of the statuses.
func (p *Person) unless(err error, statuses ...int) error {
	p.t.Helper()
	if err != nil && !slices.Contains(statuses, says(err)) {
		p.t.Fatal(err)
	}
	return err
}

// AwaitOrder waits until an order has a status.
func (p *Person) AwaitOrder(o Order, status string) Order {
	p.t.Helper()
	Eventually(p.t, "order "+o.ID+" is "+status, func() error {
		if _, err := p.Call(&o, http.MethodGet, "/api/orders/"+o.ID, nil); err != nil {
			return err
		}
		if o.Status != status {
			return fmt.Errorf("it is %s", o.Status)
		}
		return nil
	})
	return o
}

// AwaitTicket waits until a ticket is held by an order, or by none if that is empty.
func (p *Person) AwaitTicket(id, holder string) (t Ticket) {
	p.t.Helper()
	Eventually(p.t, "ticket "+id+" is held by order "+holder, func() error {
		t = Ticket{}
		if _, err := p.Call(&t, http.MethodGet, "/api/tickets/"+id, nil); err != nil {
			return err
		}
		if t.OrderID != holder {
			return fmt.Errorf("it is held by %q", t.OrderID)
		}
		return nil
	})
	return t
}

// Listed reports whether a ticket is among those that can be bought.
func (p *Person) Listed(t Ticket) bool {
	p.t.Helper()
	var list []Ticket
	p.Want(http.StatusOK, &list, http.MethodGet, "/api/tickets?limit=200", nil)
	return slices.ContainsFunc(list, func(l Ticket) bool { return l.ID == t.ID })
}

// Eventually calls check until it returns nil. It is for what no signal tells of.
func Eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(Patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v: %v", what, Patience, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
