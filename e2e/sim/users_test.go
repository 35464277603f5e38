package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/turnstile-go/turnstile/e2e/internal/invariants"
)

// user is somebody who buys and sells.
type user struct {
	name   string
	cookie string // of the session; empty before the first
}

// market is what the users know, all together.
type market struct {
	mu       sync.Mutex
	users    []*user
	tickets  []*offer
	orders   []*order
	commands int
	waiting  sync.WaitGroup // for the commands under way
	promises invariants.Promises
}

type offer struct {
	id     string
	seller *user
}

type order struct {
	id      string
	buyer   *user
	expires time.Time
	final   string // the status, once somebody has seen a final one
}

// command is a request that a user makes, again and again until there is an answer.
type command struct {
	user   *user
	method string
	url    string
	body   any
	want   []int // statuses that make sense, besides 5xx when something fails
	then   func(status int, body []byte, cookies []*http.Cookie)
}

// anything that a user is told to be wrong with a request that may come too late.
var refusals = []int{http.StatusNotFound, http.StatusConflict}

// issue has a user make a request in the background.
func (w *world) issue(c command) {
	w.market.mu.Lock()
	w.market.commands++
	name := fmt.Sprintf("command-%d", w.market.commands)
	w.market.mu.Unlock()
	rng := w.random(name)
	w.market.waiting.Go(func() { w.insist(name, c, rng) })
}

// insist makes a request until it is answered, or the user has had enough.
func (w *world) insist(name string, c command, rng *rand.Rand) {
	for try := 1; try <= 6; try++ {
		time.Sleep(time.Duration(rng.Int64N(int64(2*time.Millisecond))) + 1)
		status, body, cookies, err := w.ask(name, c, rng)
		switch {
		case err == nil && status < 500:
			if !slices.Contains(c.want, status) && (try == 1 || !slices.Contains(refusals, status)) {
				w.problem("%s: %s %s %s %v: answered with %d %s", name, c.user.name, c.method, c.url, c.body, status, body)
			}
			w.market.mu.Lock()
			defer w.market.mu.Unlock()
			c.then(status, body, cookies)
			return
		case err == nil && status == http.StatusInternalServerError && w.calm:
			w.problem("%s: %s %s %s: answered with %d %s though nothing fails", name, c.user.name, c.method, c.url, status, body)
		}
		time.Sleep(time.Duration(rng.Int64N(int64(time.Second))) << min(try, 3))
	}
	w.note(name, "gives up", "")
}

// ask makes the request once.
func (w *world) ask(name string, c command, rng *rand.Rand) (int, []byte, []*http.Cookie, error) {
	ctx, cancel := context.WithTimeout(background, 20*time.Second)
	defer cancel()
	var content io.Reader
	text := ""
	if c.body != nil {
		data, err := json.Marshal(c.body)
		if err != nil {
			return 0, nil, nil, err
		}
		text = string(data)
		content = strings.NewReader(text)
	}
	r, err := http.NewRequestWithContext(ctx, c.method, c.url, content)
	if err != nil {
		return 0, nil, nil, err
	}
	if content != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if c.user.cookie != "" {
		r.Header.Set("Cookie", c.user.cookie)
	}
	w.note(name, "asks", "%s: %s %s %s", c.user.name, c.method, c.url, text)
	res, err := w.network.RoundTrip(r)
	if err == nil && rng.Float64() < w.weather.response {
		err = errors.New("sim: the answer is lost")
	}
	if err != nil {
		w.note(name, "hears", "nothing: %v", err)
		return 0, nil, nil, err
	}
	body, err := io.ReadAll(res.Body)
	w.note(name, "hears", "%d %s", res.StatusCode, body)
	return res.StatusCode, body, res.Cookies(), err
}

// What users do. Each returns false if there is nobody or nothing to do it with.

func (w *world) signUp(u *user) {
	enter := func(_ int, body []byte, cookies []*http.Cookie) {
		for _, c := range cookies {
			u.cookie = c.Name + "=" + c.Value
		}
	}
	credentials := map[string]string{"email": u.name + "@example.com", "password": "sesame-" + u.name}
	w.issue(command{user: u, method: "POST", url: "http://auth/api/users/signup", body: credentials, want: []int{201, 409},
		then: func(status int, body []byte, cookies []*http.Cookie) {
			if status == http.StatusCreated {
				w.market.promises.Users = append(w.market.promises.Users, idIn(body))
				enter(status, body, cookies)
				return
			}
			// An earlier try has succeeded, and its answer was lost.
			w.issueLocked(command{user: u, method: "POST", url: "http://auth/api/users/signin", body: credentials, want: []int{200}, then: enter})
		}})
}

// issueLocked is issue for a command that follows from another's answer.
func (w *world) issueLocked(c command) { w.market.waiting.Go(func() { w.issue(c) }) }

func idIn(body []byte) string {
	var is struct{ ID string }
	_ = json.Unmarshal(body, &is) // empty if it is no object
	return is.ID
}

func (w *world) offer(u *user, price int) {
	w.issue(command{user: u, method: "POST", url: "http://tickets/api/tickets", want: []int{201, 401},
		body: map[string]any{"title": "seat of " + u.name, "price": float64(price) / 100},
		then: func(status int, body []byte, _ []*http.Cookie) {
			if status == http.StatusCreated {
				id := idIn(body)
				w.market.tickets = append(w.market.tickets, &offer{id, u})
				w.market.promises.Offered = append(w.market.promises.Offered, id)
			}
		}})
}

func (w *world) edit(t *offer, price int) {
	w.issue(command{user: t.seller, method: "PUT", url: "http://tickets/api/tickets/" + t.id, want: []int{200, 401, 404, 409},
		body: map[string]any{"title": fmt.Sprintf("better seat %d", price), "price": float64(price) / 100},
		then: func(int, []byte, []*http.Cookie) {}})
}

func (w *world) withdraw(t *offer) {
	w.issue(command{user: t.seller, method: "DELETE", url: "http://tickets/api/tickets/" + t.id, want: []int{204, 401, 404, 409},
		then: func(status int, _ []byte, _ []*http.Cookie) {
			if status == http.StatusNoContent {
				w.market.promises.Withdrawn = append(w.market.promises.Withdrawn, t.id)
			}
		}})
}

func (w *world) order(u *user, t *offer) {
	w.issue(command{user: u, method: "POST", url: "http://orders/api/orders", want: []int{201, 401, 404, 409},
		body: map[string]string{"ticketId": t.id},
		then: func(status int, body []byte, _ []*http.Cookie) {
			if status != http.StatusCreated {
				return
			}
			if t.seller == u {
				w.problem("%s ordered an own ticket: %s", u.name, body)
			}
			w.learn(u, body)
			w.market.promises.Ordered = append(w.market.promises.Ordered, idIn(body))
		}})
}

// learn takes notice of an order that a user is shown.
func (w *world) learn(u *user, body []byte) {
	var seen struct {
		ID, Status string
		ExpiresAt  time.Time
	}
	if err := json.Unmarshal(body, &seen); err != nil || seen.ID == "" {
		w.problem("%s was shown an order that is none: %s", u.name, body)
		return
	}
	i := slices.IndexFunc(w.market.orders, func(o *order) bool { return o.id == seen.ID })
	if i < 0 {
		i = len(w.market.orders)
		w.market.orders = append(w.market.orders, &order{id: seen.ID, buyer: u, expires: seen.ExpiresAt})
	}
	o := w.market.orders[i]
	if o.final != "" && o.final != seen.Status {
		w.problem("order %s was %s, and is %s now", o.id, o.final, seen.Status)
	}
	if seen.Status != "created" {
		o.final = seen.Status
	}
}

func (w *world) look(o *order) {
	w.issue(command{user: o.buyer, method: "GET", url: "http://orders/api/orders/" + o.id, want: []int{200, 401},
		then: func(status int, body []byte, _ []*http.Cookie) {
			if status == http.StatusOK {
				w.learn(o.buyer, body)
			}
		}})
}

// browse shows a user all own orders, also those whose answer was lost, and what is for sale.
func (w *world) browse(u *user) {
	w.issue(command{user: u, method: "GET", url: "http://orders/api/orders", want: []int{200, 401},
		then: func(status int, body []byte, _ []*http.Cookie) {
			var all []json.RawMessage
			if status == http.StatusOK && json.Unmarshal(body, &all) == nil {
				for _, o := range all {
					w.learn(u, o)
				}
			}
		}})
	w.issue(command{user: u, method: "GET", url: "http://tickets/api/tickets", want: []int{200, 401},
		then: func(status int, body []byte, _ []*http.Cookie) {
			var all []struct{ ID, OrderID string }
			if status == http.StatusOK && json.Unmarshal(body, &all) == nil {
				for _, t := range all {
					if t.OrderID != "" {
						w.problem("ticket %s is for sale, and order %s has it", t.ID, t.OrderID)
					}
				}
			}
		}})
}

func (w *world) cancel(o *order) {
	w.issue(command{user: o.buyer, method: "DELETE", url: "http://orders/api/orders/" + o.id, want: []int{204, 401, 409},
		then: func(status int, _ []byte, _ []*http.Cookie) {
			if status == http.StatusNoContent {
				w.market.promises.Cancelled = append(w.market.promises.Cancelled, o.id)
				o.final = "cancelled"
			}
		}})
}

func (w *world) pay(o *order, token string) {
	w.issue(command{user: o.buyer, method: "POST", url: "http://payments/api/payments", want: []int{201, 401, 402, 404, 409},
		body: map[string]string{"orderId": o.id, "token": token},
		then: func(status int, body []byte, _ []*http.Cookie) {
			if status == http.StatusCreated {
				w.market.promises.Paid = append(w.market.promises.Paid, idIn(body))
			}
		}})
}

var tokens = []string{"tok_visa", "tok_visa", "tok_visa", "tok_timeout", "tok_chargeDeclined", "tok_insufficientFunds", "tok_unknown"}
