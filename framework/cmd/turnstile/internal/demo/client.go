package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"slices"
	"time"
)

// person is somebody with a browser: a session in a cookie, and the patience to try again.
type person struct {
	gateway string
	client  *http.Client
	retried func() // called for every request that is sent again
}

func newPerson(gateway string, retried func()) (*person, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, fmt.Errorf("make a cookie jar: %w", err)
	}
	return &person{
		gateway: gateway, retried: retried,
		client: &http.Client{Jar: jar, Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}},
	}, nil
}

// answerError is an answer that is no success.
type answerError struct {
	status int
	text   string
}

func (e *answerError) Error() string { return fmt.Sprintf("%d: %s", e.status, e.text) }

// is reports whether err is an answer with one of the statuses.
func is(err error, statuses ...int) bool {
	answer, ok := errors.AsType[*answerError](err)
	return ok && slices.Contains(statuses, answer.status)
}

// call sends one request. A key makes it one that may be sent again.
func (p *person) call(ctx context.Context, method, path, key string, in, out any) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("%s %s: %w", method, path, err)
		}
		body = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, p.gateway+path, body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if in != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if key != "" {
		request.Header.Set("Idempotency-Key", key)
	}
	response, err := p.client.Do(request)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, errors.Unwrap(err)) // a *url.Error, which says the same again
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if response.StatusCode >= 300 {
		var problem struct {
			Errors []struct {
				Message string `json:"message"`
			} `json:"errors"`
		}
		answer := &answerError{status: response.StatusCode, text: string(text)}
		if json.Unmarshal(text, &problem) == nil && len(problem.Errors) > 0 {
			answer.text = problem.Errors[0].Message
		}
		return fmt.Errorf("%s %s: %w", method, path, answer)
	}
	if out != nil {
		if err := json.Unmarshal(text, out); err != nil {
			return fmt.Errorf("%s %s: %w", method, path, err)
		}
	}
	return nil
}

// insist calls try until it succeeds or fails for good: with an answer below 500 that try does not know how to take.
// What did not get through, and what a service could not do now, is tried again; again says that it is.
func (p *person) insist(ctx context.Context, try func(again bool) error) error {
	pause := 25 * time.Millisecond
	for again := false; ; again = true {
		err := try(again)
		if err == nil {
			return nil
		}
		answer, answered := errors.AsType[*answerError](err)
		if answered && answer.status < 500 && answer.status != http.StatusTooManyRequests {
			if _, later := errors.AsType[laterError](err); !later {
				return err
			}
		}
		if _, later := errors.AsType[laterError](err); !later {
			p.retried()
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(pause):
		}
		pause = min(2*pause, 500*time.Millisecond)
	}
}

// laterError is an answer that will be another one once events have arrived.
type laterError struct{ error }

func (e laterError) Unwrap() error { return e.error }

const password = "correct horse battery"

func (p *person) signUp(ctx context.Context, email, key string) error {
	credentials := map[string]string{"email": email, "password": password}
	return p.insist(ctx, func(again bool) error {
		err := p.call(ctx, http.MethodPost, "/api/users/signup", key, credentials, nil)
		if again && is(err, http.StatusConflict) { // the first request got through, the answer did not
			return p.call(ctx, http.MethodPost, "/api/users/signin", "", credentials, nil)
		}
		return err
	})
}

type ticket struct {
	ID      string  `json:"id"`
	Title   string  `json:"title"`
	Price   float64 `json:"price"`
	OrderID string  `json:"orderId"`
}

func (p *person) list(ctx context.Context, title string, price float64, key string) (t ticket, err error) {
	err = p.insist(ctx, func(again bool) error {
		err := p.call(ctx, http.MethodPost, "/api/tickets", key, map[string]any{"title": title, "price": price}, &t)
		if again && is(err, http.StatusConflict) {
			return laterError{err} // the first request is still being worked on
		}
		return err
	})
	return t, err
}

type order struct {
	ID     string `json:"id"`
	Status string `json:"status"`
	Ticket ticket `json:"ticket"`
}

func (p *person) order(ctx context.Context, ticketID, key string) (o order, err error) {
	err = p.insist(ctx, func(again bool) error {
		err := p.call(ctx, http.MethodPost, "/api/orders", key, map[string]string{"ticketId": ticketID}, &o)
		switch {
		case is(err, http.StatusNotFound): // orders has not heard of the ticket yet
			return laterError{err}
		case again && is(err, http.StatusConflict): // the first request may have got through
			var mine []order
			if err := p.call(ctx, http.MethodGet, "/api/orders?limit=200", "", nil, &mine); err != nil {
				return err
			}
			if i := slices.IndexFunc(mine, func(m order) bool { return m.Ticket.ID == ticketID }); i >= 0 {
				o = mine[i]
				return nil
			}
			return laterError{err}
		}
		return err
	})
	return o, err
}

func (p *person) getOrder(ctx context.Context, id string) (o order, err error) {
	err = p.insist(ctx, func(bool) error { return p.call(ctx, http.MethodGet, "/api/orders/"+url.PathEscape(id), "", nil, &o) })
	return o, err
}

func (p *person) getTicket(ctx context.Context, id string) (t ticket, err error) {
	err = p.insist(ctx, func(bool) error {
		t = ticket{}
		return p.call(ctx, http.MethodGet, "/api/tickets/"+url.PathEscape(id), "", nil, &t)
	})
	return t, err
}

type payment struct {
	ID     string `json:"id"`
	Status string `json:"status"`
}

func (p *person) payments(ctx context.Context, orderID string) (list []payment, err error) {
	err = p.insist(ctx, func(bool) error {
		return p.call(ctx, http.MethodGet, "/api/payments?orderId="+url.QueryEscape(orderID), "", nil, &list)
	})
	return list, err
}

func (p *person) pay(ctx context.Context, orderID, key string) error {
	return p.insist(ctx, func(again bool) error {
		err := p.call(ctx, http.MethodPost, "/api/payments", key, map[string]string{"orderId": orderID, "token": "tok_visa"}, nil)
		switch {
		case is(err, http.StatusNotFound): // payments has not heard of the order yet
			return laterError{err}
		case again && is(err, http.StatusConflict): // the first request may have got through
			list, listErr := p.payments(ctx, orderID)
			if listErr != nil {
				return listErr
			}
			if slices.ContainsFunc(list, func(m payment) bool { return m.Status == "captured" }) {
				return nil
			}
			if slices.ContainsFunc(list, func(m payment) bool { return m.Status == "pending" }) {
				return laterError{err}
			}
		}
		return err
	})
}
