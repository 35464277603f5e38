package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// ticket, order and payment are what the application says on the wire.
type (
	ticket struct {
		ID      string
		Title   string
		Price   json.Number
		UserID  string
		Version int64
		OrderID string
	}
	order struct {
		ID        string
		Status    string
		UserID    string
		ExpiresAt time.Time
		Ticket    struct {
			ID, Title string
			Price     json.Number
		}
	}
	payment struct {
		ID, OrderID, Currency, Status string
		Amount                        int64
	}
)

// person is somebody with a browser.
type person struct {
	t      *testing.T
	system *system
	email  string
	client *http.Client
}

var people atomic.Int64 // so that each has an address of their own

// person returns somebody who has no account yet.
func (s *system) person(t *testing.T) *person {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 16}
	t.Cleanup(transport.CloseIdleConnections)
	return &person{
		t: t, system: s, email: fmt.Sprintf("person%d@example.com", people.Add(1)),
		client: &http.Client{Jar: jar, Transport: transport, Timeout: 30 * time.Second},
	}
}

// user returns somebody who has signed up.
func (s *system) user(t *testing.T) *person {
	t.Helper()
	p := s.person(t)
	p.want(http.StatusCreated, nil, http.MethodPost, "/api/users/signup", p.credentials())
	return p
}

func (p *person) credentials() map[string]string {
	return map[string]string{"email": p.email, "password": "a long enough one"}
}

// refusal is an answer that is no success.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return fmt.Sprintf("%d %s", r.status, r.text) }

// says returns the status that err is an answer with, 0 if it is none.
func says(err error) int {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.status
	}
	return 0
}

// call sends a request and decodes the answer into out, unless that is nil. An answer other than 2xx is a *refusal.
func (p *person) call(out any, method, path string, in any) (status int, err error) {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return 0, err
		}
		body = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(context.Background(), method, p.system.url+path, body)
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
		return response.StatusCode, fmt.Errorf("%s %s: %w", method, path, &refusal{response.StatusCode, string(text)})
	}
	if out != nil {
		if err := json.Unmarshal(text, out); err != nil {
			return 0, fmt.Errorf("%s %s: %w in %s", method, path, err, text)
		}
	}
	return response.StatusCode, nil
}

// want is call for a request whose status is known beforehand.
func (p *person) want(status int, out any, method, path string, in any) {
	p.t.Helper()
	got, err := p.call(out, method, path, in)
	if got != status {
		p.t.Fatalf("%s %s %v: status %d (%v), want %d", method, path, in, got, err, status)
	}
}

// refused is want for an error, with the message that it must have.
func (p *person) refused(status int, message, method, path string, in any) {
	p.t.Helper()
	got, err := p.call(nil, method, path, in)
	if got != status || !strings.Contains(fmt.Sprint(err), `"message":"`+message+`"`) {
		p.t.Errorf("%s %s %v: status %d (%v), want %d %q", method, path, in, got, err, status, message)
	}
}

// sell offers a ticket.
func (p *person) sell(title string) (t ticket) {
	p.t.Helper()
	p.want(http.StatusCreated, &t, http.MethodPost, "/api/tickets", map[string]any{"title": title, "price": 19.99})
	return t
}

// order orders a ticket, as soon as the orders service has heard of it.
func (p *person) order(id string) (o order) {
	p.t.Helper()
	eventually(p.t, "the ticket can be ordered", func() error {
		_, err := p.call(&o, http.MethodPost, "/api/orders", map[string]any{"ticketId": id})
		return p.unless(err, http.StatusNotFound)
	})
	return o
}

// pay pays an order, as soon as the payments service has heard of it.
func (p *person) pay(o order, token string) (status int) {
	p.t.Helper()
	eventually(p.t, "the order can be paid", func() (err error) {
		status, err = p.call(nil, http.MethodPost, "/api/payments", map[string]any{"orderId": o.ID, "token": token})
		if status == http.StatusNotFound || status == 0 {
			return err
		}
		return nil
	})
	return status
}

// unless ends the test for an error that is no answer with one of the statuses.
func (p *person) unless(err error, statuses ...int) error {
	p.t.Helper()
	if err != nil && !slices.Contains(statuses, says(err)) {
		p.t.Fatal(err)
	}
	return err
}

// awaitOrder waits until an order has a status.
func (p *person) awaitOrder(o order, status string) order {
	p.t.Helper()
	eventually(p.t, "order "+o.ID+" is "+status, func() error {
		if _, err := p.call(&o, http.MethodGet, "/api/orders/"+o.ID, nil); err != nil {
			return err
		}
		if o.Status != status {
			return fmt.Errorf("it is %s", o.Status)
		}
		return nil
	})
	return o
}

// awaitTicket waits until a ticket is held by an order, or by none if that is empty.
func (p *person) awaitTicket(id, holder string) (t ticket) {
	p.t.Helper()
	eventually(p.t, "ticket "+id+" is held by order "+holder, func() error {
		t = ticket{}
		if _, err := p.call(&t, http.MethodGet, "/api/tickets/"+id, nil); err != nil {
			return err
		}
		if t.OrderID != holder {
			return fmt.Errorf("it is held by %q", t.OrderID)
		}
		return nil
	})
	return t
}

// listed reports whether a ticket is among those that can be bought.
func (p *person) listed(t ticket) bool {
	p.t.Helper()
	var list []ticket
	p.want(http.StatusOK, &list, http.MethodGet, "/api/tickets?limit=200", nil)
	return slices.ContainsFunc(list, func(l ticket) bool { return l.ID == t.ID })
}
