// Package stripetest is a Stripe of a test's own: an HTTP server with the little
// of Stripe's API that package stripe uses. It honours idempotency keys as Stripe
// does, keeps books to look into, and fails on request.
package stripetest

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stripe/stripe-go/v85/webhook"
)

// What clients of a [Server] must use.
const (
	Key           = "sk_test_nobody_may_see_this"
	WebhookSecret = "whsec_test"
)

// Tokens, and the PaymentMethods that they become. Others are unknown.
const (
	Visa           = "tok_visa"
	Declined       = "tok_chargeDeclined"
	Insufficient   = "tok_insufficientFunds"
	Authentication = "tok_threeDSecureRequired" // fails because the holder would have to confirm it
	Action         = "tok_action"               // waits for its holder all the same
	Processing     = "tok_processing"           // is processed until Settle
	Late           = "tok_timeout"              // is answered when the client has gone
)

// Fault is what goes wrong with a request.
type Fault int

// The faults. The first four happen before anything is done, the others after
// that.
const (
	NoFault     Fault = iota
	Unavailable       // 503
	TooMany           // 429
	Refused           // the connection is reset
	Broken            // 500, which is the answer to this key from then on
	Lost              // the connection is reset instead of an answer
	Half              // it is reset in the middle of the answer
	Garbage           // the answer is none
	Twice             // the answer comes twice
	Silent            // the answer never comes
)

// Call is a request that the server is asked.
type Call struct {
	Method, Path string
	Key          string // idempotency key
}

// Server is a Stripe of a test's own.
type Server struct {
	URL string
	// Fault, if set, is asked what goes wrong with each request. It may block.
	Fault func(Call) Fault
	// Done, if set, is called when what a request asks for is done, before the answer.
	Done func(Call)

	t      testing.TB
	server *httptest.Server

	mu      sync.Mutex
	answers map[string]*answer // by idempotency key
	intents map[string]*Intent
	refunds map[string]*Refund
	calls   []Call
}

// Intent is a PaymentIntent.
type Intent struct {
	ID       string            `json:"id"`
	Object   string            `json:"object"`
	Amount   int64             `json:"amount"`
	Received int64             `json:"amount_received"`
	Currency string            `json:"currency"`
	Status   string            `json:"status"`
	Secret   string            `json:"client_secret"`
	Metadata map[string]string `json:"metadata"`
	Error    *problem          `json:"last_payment_error"`
}

// Refund is a refund.
type Refund struct {
	ID       string            `json:"id"`
	Object   string            `json:"object"`
	Amount   int64             `json:"amount"`
	Intent   string            `json:"payment_intent"`
	Status   string            `json:"status"`
	Failure  string            `json:"failure_reason,omitempty"`
	Metadata map[string]string `json:"metadata"`
}

type answer struct {
	request string
	status  int // 0 while it is made
	body    []byte
}

type problem struct {
	Type        string  `json:"type"`
	Code        string  `json:"code,omitempty"`
	DeclineCode string  `json:"decline_code,omitempty"`
	Message     string  `json:"message"`
	Param       string  `json:"param,omitempty"`
	Intent      *Intent `json:"payment_intent,omitempty"`
}

// New starts a server that ends with the test.
func New(t testing.TB) *Server {
	s := &Server{t: t, answers: map[string]*answer{}, intents: map[string]*Intent{}, refunds: map[string]*Refund{}}
	s.server = httptest.NewServer(http.HandlerFunc(s.serve))
	s.URL = s.server.URL
	t.Cleanup(s.server.Close)
	t.Cleanup(s.server.CloseClientConnections) // of those that got no answer
	return s
}

// Taken returns the PaymentIntents that have succeeded, by their payments.
func (s *Server) Taken() map[string][]Intent {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := map[string][]Intent{}
	for _, i := range s.intents {
		if i.Status == "succeeded" {
			id := i.Metadata["payment"]
			taken[id] = append(taken[id], *i)
		}
	}
	return taken
}

// Intents returns all PaymentIntents.
func (s *Server) Intents() (all []Intent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range s.intents {
		all = append(all, *i)
	}
	return all
}

// Refunds returns the refunds that were made, by the PaymentIntent.
func (s *Server) Refunds() map[string][]Refund {
	s.mu.Lock()
	defer s.mu.Unlock()
	made := map[string][]Refund{}
	for _, r := range s.refunds {
		made[r.Intent] = append(made[r.Intent], *r)
	}
	return made
}

// Calls returns what the server was asked.
func (s *Server) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Call(nil), s.calls...)
}

// Settle ends what is being processed, as Stripe does by itself: status is
// succeeded or requires_payment_method, of a refund succeeded or failed.
func (s *Server) Settle(status string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range s.intents {
		if i.Status == "processing" || i.Status == "requires_action" {
			i.end(status)
		}
	}
	for _, r := range s.refunds {
		if r.Status == "pending" {
			r.Status = status
			if status == "failed" {
				r.Failure = "lost_or_stolen_card"
			}
		}
	}
}

// Return makes a refund of a part of what a PaymentIntent has taken, as people do
// by hand.
func (s *Server) Return(intent string, amount int64, status string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &Refund{ID: "re_" + rand.Text(), Object: "refund", Amount: amount, Intent: intent, Status: status}
	s.refunds[r.ID] = r
}

// SlowRefund is an order whose money goes back only with Settle.
const SlowRefund = "slow-refund"

func (i *Intent) end(status string) {
	i.Status = status
	if status == "succeeded" {
		i.Received = i.Amount
	} else {
		i.Error = &problem{Type: "card_error", Code: "card_declined", Message: "Your card was declined."}
	}
}

// Forget forgets all idempotency keys, as Stripe does after a day.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.answers)
}

// Event returns a message for our webhook endpoint about an object, and its
// signature.
func Event(t testing.TB, typ string, object any) (body []byte, signature string) {
	t.Helper()
	return EventAt(t, time.Now(), typ, object)
}

// EventAt is Event for a message that is signed at a time.
func EventAt(t testing.TB, at time.Time, typ string, object any) (body []byte, signature string) {
	t.Helper()
	body, err := json.Marshal(map[string]any{
		"id": "evt_" + rand.Text(), "object": "event", "type": typ, "api_version": "2019-05-16", "created": at.Unix(),
		"data": map[string]any{"object": object},
	})
	if err != nil {
		t.Fatal(err)
	}
	signed := webhook.GenerateTestSignedPayload(&webhook.UnsignedPayload{Payload: body, Secret: WebhookSecret, Timestamp: at})
	return body, signed.Header
}

var metadata = regexp.MustCompile(`^metadata\['payment'\]:'([^']+)'$`)

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client has gone
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		s.t.Errorf("stripetest: %s %s: %v", r.Method, r.URL, err)
	}
	call := Call{Method: r.Method, Path: r.URL.Path, Key: r.Header.Get("Idempotency-Key")}
	s.mu.Lock()
	s.calls = append(s.calls, call)
	s.mu.Unlock()
	if r.Method == http.MethodPost && call.Key == "" {
		s.t.Errorf("stripetest: %s has no Idempotency-Key", r.URL)
	}
	fault := NoFault
	if s.Fault != nil {
		fault = s.Fault(call)
	}
	switch fault {
	case Unavailable:
		reply(w, http.StatusServiceUnavailable, wrong("api_error", "", "Try again later.", ""))
		return
	case TooMany:
		reply(w, http.StatusTooManyRequests, wrong("invalid_request_error", "rate_limit", "Too many requests.", ""))
		return
	case Refused:
		cut(w, nil)
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+Key {
		reply(w, http.StatusUnauthorized, wrong("invalid_request_error", "", "Invalid API Key provided: "+r.Header.Get("Authorization"), ""))
		return
	}
	a := s.once(call, form.Encode(), func() (int, any) {
		if fault == Broken {
			return http.StatusInternalServerError, wrong("api_error", "", "Something is wrong on our side.", "")
		}
		return s.do(call, form, r.URL.Query())
	})
	if s.Done != nil {
		s.Done(call)
	}
	late := form.Get("payment_method") == "pm_"+Late && a.first
	switch {
	case fault == Silent || late:
		<-r.Context().Done()
	case fault == Lost:
		cut(w, nil)
	case fault == Half:
		cut(w, fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n%s", a.body))
	case fault == Garbage:
		fmt.Fprintf(w, "<html>%s</html>", r.Header.Get("Authorization"))
	case fault == Twice:
		one := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(a.body), a.body)
		s.keep(w, append(one, one...))
	default:
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Request-Id", "req_"+rand.Text())
		w.WriteHeader(a.status)
		_, _ = w.Write(a.body) // the client may have gone
	}
}

type made struct {
	*answer
	first bool
}

// once answers a request with an idempotency key as it was answered before.
func (s *Server) once(call Call, request string, do func() (int, any)) made {
	request = call.Path + "?" + request
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.answers[call.Key]; a != nil && call.Method == http.MethodPost {
		switch {
		case a.request != request:
			return made{answer: encode(http.StatusBadRequest, wrong("idempotency_error", "", "Keys for idempotent requests can only be used with the same parameters.", ""))}
		case a.status == 0:
			return made{answer: encode(http.StatusConflict, wrong("idempotency_error", "idempotency_key_in_use", "Another request is under way.", ""))}
		}
		return made{answer: a}
	}
	a := &answer{request: request}
	if call.Method == http.MethodPost {
		s.answers[call.Key] = a
	}
	s.mu.Unlock()
	time.Sleep(time.Millisecond) // others with the same key come meanwhile
	s.mu.Lock()
	done := encode(do())
	a.status, a.body = done.status, done.body
	if a.status == http.StatusBadRequest || a.status == http.StatusNotFound {
		delete(s.answers, call.Key) // what is not valid is not remembered
	}
	return made{answer: a, first: true}
}

// do is what Stripe does. The lock is held.
func (s *Server) do(call Call, form, query url.Values) (int, any) {
	path := strings.TrimPrefix(call.Path, "/v1/")
	switch {
	case call.Method == http.MethodPost && path == "payment_methods":
		token := form.Get("card[token]")
		switch token {
		case Visa, Declined, Insufficient, Authentication, Action, Processing, Late:
			return http.StatusOK, map[string]string{"id": "pm_" + token, "object": "payment_method"}
		}
		return http.StatusBadRequest, wrong("invalid_request_error", "resource_missing", "No such token: '"+token+"'", "card[token]")
	case call.Method == http.MethodPost && path == "payment_intents":
		return s.pay(form)
	case path == "payment_intents/search":
		found := map[string]any{"object": "search_result", "url": call.Path, "has_more": false, "data": []any{}}
		if m := metadata.FindStringSubmatch(query.Get("query")); m != nil {
			for _, i := range s.intents {
				if i.Metadata["payment"] == m[1] {
					found["data"] = []any{i}
				}
			}
		}
		return http.StatusOK, found
	case strings.HasPrefix(path, "payment_intents/"):
		id, action, _ := strings.Cut(strings.TrimPrefix(path, "payment_intents/"), "/")
		i := s.intents[id]
		switch {
		case i == nil:
			return http.StatusNotFound, wrong("invalid_request_error", "resource_missing", "No such payment_intent: '"+id+"'", "intent")
		case action == "cancel" && i.Status == "succeeded":
			return http.StatusBadRequest, wrong("invalid_request_error", "payment_intent_unexpected_state", "It has succeeded.", "")
		case action == "cancel":
			i.Status = "canceled"
		}
		return http.StatusOK, i
	case call.Method == http.MethodPost && path == "refunds":
		return s.refund(form)
	case path == "refunds":
		return http.StatusOK, map[string]any{
			"object": "list", "url": call.Path, "has_more": false, "data": s.refundsOf(query.Get("payment_intent")),
		}
	case strings.HasPrefix(path, "refunds/"):
		return http.StatusOK, s.refunds[strings.TrimPrefix(path, "refunds/")]
	}
	return http.StatusNotFound, wrong("invalid_request_error", "", "Unrecognized request URL", "")
}

func (s *Server) pay(form url.Values) (int, any) {
	amount, err := strconv.ParseInt(form.Get("amount"), 10, 64)
	if err != nil || amount < 50 {
		return http.StatusBadRequest, wrong("invalid_request_error", "amount_too_small", "Amount must be at least $0.50 usd", "amount")
	}
	i := &Intent{
		ID: "pi_" + rand.Text(), Object: "payment_intent", Amount: amount, Currency: form.Get("currency"), Secret: "pi_secret_" + rand.Text(),
		Metadata: map[string]string{"payment": form.Get("metadata[payment]"), "order": form.Get("metadata[order]")},
	}
	s.intents[i.ID] = i
	declined := func(code, decline, message string) (int, any) {
		i.end("requires_payment_method")
		i.Error = &problem{Type: "card_error", Code: code, DeclineCode: decline, Message: message}
		e := *i.Error
		e.Intent = i
		return http.StatusPaymentRequired, map[string]any{"error": e}
	}
	switch strings.TrimPrefix(form.Get("payment_method"), "pm_") {
	case Declined:
		return declined("card_declined", "generic_decline", "Your card was declined.")
	case Insufficient:
		return declined("card_declined", "insufficient_funds", "Your card has insufficient funds.")
	case Authentication:
		return declined("card_declined", "authentication_not_handled", "This requires authentication.")
	case Action:
		i.Status = "requires_action"
	case Processing:
		i.Status = "processing"
	default:
		i.end("succeeded")
	}
	return http.StatusOK, i
}

func (s *Server) refund(form url.Values) (int, any) {
	i := s.intents[form.Get("payment_intent")]
	if i == nil {
		return http.StatusNotFound, wrong("invalid_request_error", "resource_missing", "No such payment_intent", "payment_intent")
	}
	left := i.Amount
	for _, r := range s.refundsOf(i.ID) {
		if r.Status != "failed" {
			left -= r.Amount
		}
	}
	if left == 0 {
		return http.StatusBadRequest, wrong("invalid_request_error", "charge_already_refunded", "It has been refunded.", "")
	}
	r := &Refund{
		ID: "re_" + rand.Text(), Object: "refund", Amount: left, Intent: i.ID, Status: "succeeded",
		Metadata: map[string]string{"payment": form.Get("metadata[payment]")},
	}
	if i.Metadata["order"] == SlowRefund {
		r.Status = "pending"
	}
	s.refunds[r.ID] = r
	return http.StatusOK, r
}

func (s *Server) refundsOf(intent string) []*Refund {
	all := []*Refund{}
	for _, r := range s.refunds {
		if r.Intent == intent {
			all = append(all, r)
		}
	}
	return all
}

func wrong(typ, code, message, param string) any {
	return map[string]any{"error": problem{Type: typ, Code: code, Message: message, Param: param}}
}

func encode(status int, v any) *answer {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err) // of our own types
	}
	return &answer{status: status, body: body}
}

func reply(w http.ResponseWriter, status int, v any) {
	a := encode(status, v)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // the client may have gone
}

// keep leaves the connection open after some bytes.
func (s *Server) keep(w http.ResponseWriter, text []byte) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	_, _ = conn.Write(text)
}

// cut ends the connection after some bytes.
func cut(w http.ResponseWriter, text []byte) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return // it has ended
	}
	_, _ = conn.Write(text)
	_ = conn.Close()
}
