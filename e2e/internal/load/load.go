// Package load is people who use the application, all at once and for as long as they are let: they sign up, sell,
// edit and withdraw tickets, order those of others, pay, cancel, and forget. They take it as it comes that the
// application does not answer, and remember what they were promised.
package load

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/cookiejar"
	"slices"
	"sync"
	"time"

	"github.com/turnstile-go/turnstile/e2e/internal/invariants"
)

// Load is a number of people. Create it with New.
type Load struct {
	// Address is where to connect to, host:port, whatever the URL says; empty means that of the URL. Set it before Run.
	Address string
	// Patience is how long people wait for an answer. Set it before Run.
	Patience time.Duration

	url    string
	people int
	seed   uint64

	mu        sync.Mutex
	stats     Stats
	promises  invariants.Promises
	surprises []string
	failures  []string
}

// Stats counts commands: requests that change something.
type Stats struct {
	Commands int // sent
	Accepted int // answered with 2xx
	Refused  int // answered with a refusal that the rules of the business allow
	Failed   int // answered with 5xx or not at all: what came of them nobody knows

	Reads      int // of lists
	Unanswered int // of them, answered with anything but 200 or not at all
}

// New returns people who will use the application at url, and wait 3 s for an answer. Seed decides what they want.
func New(url string, people int, seed uint64) *Load {
	return &Load{Patience: 3 * time.Second, url: url, people: people, seed: seed}
}

// Stats returns what was counted so far.
func (l *Load) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stats
}

// Promises returns what people were told. It is complete when Run has returned.
func (l *Load) Promises() invariants.Promises {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.promises
}

// Surprises returns answers that must not be given, whatever fails: the first ten.
func (l *Load) Surprises() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.surprises)
}

// Failures returns the first ten commands and reads that failed, and how.
func (l *Load) Failures() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.failures)
}

// Run has people use the application until ctx is done. Then it lets them wait for the answers that they still expect.
func (l *Load) Run(ctx context.Context) {
	transport := &http.Transport{MaxIdleConnsPerHost: l.people}
	if l.Address != "" {
		transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, l.Address)
		}
	}
	defer transport.CloseIdleConnections()
	var group sync.WaitGroup
	for i := range l.people {
		p := &person{load: l, number: i, transport: transport, random: rand.New(rand.NewPCG(l.seed, uint64(i)))}
		group.Go(func() { p.live(ctx) })
	}
	group.Wait()
}

// count notes how a command ended, and a surprise if its answer must not be given.
func (l *Load) count(what string, status int, text string, allowed []int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stats.Commands++
	switch {
	case status >= 200 && status < 300:
		l.stats.Accepted++
	case status == 0 || status >= 500:
		l.stats.Failed++
		l.failed(what, status, text)
	default:
		l.stats.Refused++
		if !slices.Contains(allowed, status) && len(l.surprises) < 10 {
			l.surprises = append(l.surprises, fmt.Sprintf("%s was answered with %d %s", what, status, text))
		}
	}
}

// countRead notes how a read ended.
func (l *Load) countRead(what string, status int, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stats.Reads++
	if status != http.StatusOK {
		l.stats.Unanswered++
		l.failed(what, status, text)
	}
}

func (l *Load) failed(what string, status int, text string) {
	if len(l.failures) < 10 {
		l.failures = append(l.failures, fmt.Sprintf("%s at %s: %d %s", what, time.Now().UTC().Format("15:04:05.000"), status, text))
	}
}

func (l *Load) promise(to func(*invariants.Promises)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	to(&l.promises)
}

// person is somebody with a browser. What they know is what they were told.
type person struct {
	load      *Load
	number    int
	lives     int // accounts, one after the other
	random    *rand.Rand
	transport *http.Transport

	client  *http.Client
	tickets []string // that they sell
	orders  []string // that they mean to pay or to cancel
}

// live does one thing after the other until ctx is done.
func (p *person) live(ctx context.Context) {
	for ctx.Err() == nil {
		if p.client == nil || p.chance(1) {
			p.enter(ctx)
		} else {
			p.step()
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(20+p.random.IntN(120)) * time.Millisecond):
		}
	}
}

// chance is true in so many of a hundred cases.
func (p *person) chance(percent int) bool { return p.random.IntN(100) < percent }

// step does what people do once they have an account.
func (p *person) step() {
	switch n := p.random.IntN(100); {
	case n < 30:
		p.sell()
	case n < 36 && len(p.tickets) > 0:
		p.edit(p.any(p.tickets))
	case n < 40 && len(p.tickets) > 0:
		p.withdraw(p.any(p.tickets))
	case n < 50 && len(p.orders) > 0:
		p.cancel(p.any(p.orders))
	case n < 80 && len(p.orders) > 0:
		p.pay(p.any(p.orders))
	default:
		p.order()
	}
}

func (p *person) any(ids []string) string { return ids[p.random.IntN(len(ids))] }

// enter signs up with a new account, or in if that has worked unseen.
func (p *person) enter(ctx context.Context) {
	p.lives++
	p.tickets, p.orders = nil, nil
	jar, err := cookiejar.New(nil)
	if err != nil {
		panic(err) // it has no options that could be wrong
	}
	p.client = &http.Client{Jar: jar, Transport: p.transport, Timeout: p.load.Patience}
	credentials := map[string]any{"email": fmt.Sprintf("person%d.%d@example.com", p.number, p.lives), "password": "a long enough one"}
	var user struct{ ID string }
	for ctx.Err() == nil {
		// Whoever insists, while auth cannot do it, is told to slow down.
		switch p.command(&user, http.MethodPost, "/api/users/signup", credentials, http.StatusConflict, http.StatusTooManyRequests) {
		case http.StatusCreated:
			p.load.promise(func(to *invariants.Promises) { to.Users = append(to.Users, user.ID) })
			return
		case http.StatusConflict:
			if p.command(nil, http.MethodPost, "/api/users/signin", credentials, http.StatusTooManyRequests) == http.StatusOK {
				return
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	p.client = nil
}

func (p *person) sell() {
	var t struct{ ID string }
	offer := map[string]any{"title": fmt.Sprintf("Seat %d", p.random.IntN(1000)), "price": 1 + p.random.IntN(100)}
	if p.command(&t, http.MethodPost, "/api/tickets", offer) == http.StatusCreated {
		p.tickets = append(p.tickets, t.ID)
		p.load.promise(func(to *invariants.Promises) { to.Offered = append(to.Offered, t.ID) })
	}
}

func (p *person) edit(ticket string) {
	offer := map[string]any{"title": fmt.Sprintf("Better seat %d", p.random.IntN(1000)), "price": 1 + p.random.IntN(100)}
	if p.command(nil, http.MethodPut, "/api/tickets/"+ticket, offer, http.StatusNotFound, http.StatusConflict) == http.StatusNotFound {
		p.tickets = without(p.tickets, ticket) // withdrawn, unseen
	}
}

func (p *person) withdraw(ticket string) {
	switch p.command(nil, http.MethodDelete, "/api/tickets/"+ticket, nil, http.StatusNotFound, http.StatusConflict) {
	case http.StatusNoContent:
		p.load.promise(func(to *invariants.Promises) { to.Withdrawn = append(to.Withdrawn, ticket) })
		p.tickets = without(p.tickets, ticket)
	case http.StatusNotFound, http.StatusConflict:
		p.tickets = without(p.tickets, ticket)
	}
}

// order orders a ticket: any, or one of those that are for sale the longest, which others want, too.
func (p *person) order() {
	var tickets []struct{ ID string } // newest first
	status, text, err := p.send(&tickets, http.MethodGet, "/api/tickets?limit=100", nil)
	if err != nil {
		status, text = 0, err.Error()
	}
	p.load.countRead("GET /api/tickets", status, text)
	if status != http.StatusOK || len(tickets) == 0 {
		return
	}
	if p.chance(40) {
		tickets = tickets[max(0, len(tickets)-5):]
	}
	wanted := tickets[p.random.IntN(len(tickets))].ID
	var o struct{ ID string }
	status = p.command(&o, http.MethodPost, "/api/orders", map[string]any{"ticketId": wanted}, http.StatusNotFound, http.StatusConflict)
	if status != http.StatusCreated {
		return
	}
	p.load.promise(func(to *invariants.Promises) { to.Ordered = append(to.Ordered, o.ID) })
	if !p.chance(15) { // or forgets it, and it expires
		p.orders = append(p.orders, o.ID)
	}
}

func (p *person) pay(order string) {
	token := "tok_visa"
	switch n := p.random.IntN(100); {
	case n < 8:
		token = "tok_chargeDeclined"
	case n < 14:
		token = "tok_insufficientFunds"
	case n < 20:
		token = "tok_timeout"
	}
	var payment struct{ ID string }
	status := p.command(&payment, http.MethodPost, "/api/payments", map[string]any{"orderId": order, "token": token},
		http.StatusPaymentRequired, http.StatusNotFound, http.StatusConflict)
	switch status {
	case http.StatusCreated:
		p.load.promise(func(to *invariants.Promises) { to.Paid = append(to.Paid, payment.ID) })
		p.orders = without(p.orders, order)
	case http.StatusConflict: // paid, cancelled or expired
		p.orders = without(p.orders, order)
	}
}

func (p *person) cancel(order string) {
	switch p.command(nil, http.MethodDelete, "/api/orders/"+order, nil, http.StatusConflict) {
	case http.StatusNoContent:
		p.load.promise(func(to *invariants.Promises) { to.Cancelled = append(to.Cancelled, order) })
		p.orders = without(p.orders, order)
	case http.StatusConflict: // complete
		p.orders = without(p.orders, order)
	}
}

func without(ids []string, id string) []string {
	return slices.DeleteFunc(ids, func(other string) bool { return other == id })
}

// command sends a request that changes something and returns the status of the answer, 0 if there was none. Of the
// refusals those are allowed that are given.
func (p *person) command(out any, method, path string, in any, allowed ...int) int {
	status, text, err := p.send(out, method, path, in)
	if err != nil {
		status, text = 0, err.Error()
	}
	p.load.count(method+" "+path, status, text, allowed)
	return status
}

// send sends a request, and decodes the answer into out unless that is nil. It goes on when the run is over: what is
// on its way is answered.
func (p *person) send(out any, method, path string, in any) (status int, text string, err error) {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return 0, "", err
		}
		body = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(context.Background(), method, p.load.url+path, body)
	if err != nil {
		return 0, "", err
	}
	if in != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := p.client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, "", err
	}
	if out != nil && response.StatusCode < 300 {
		err = json.Unmarshal(answer, out)
	}
	return response.StatusCode, string(answer), err
}
