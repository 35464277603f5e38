package service_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/turnstile-go/turnstile/framework"
	"github.com/turnstile-go/turnstile/framework/event/eventtest"
	"github.com/turnstile-go/turnstile/framework/servicetest"
	"github.com/turnstile-go/turnstile/services/orders"
	"github.com/turnstile-go/turnstile/services/payments"
	"github.com/turnstile-go/turnstile/services/payments/service"
)

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		framework.Main("payments", service.New)
	}
	servicetest.Main(m)
}

// harness is the service, whole, with a peer in the place of all other services.
type harness struct {
	*servicetest.Service
	t    *testing.T
	peer *eventtest.Peer
}

func start(t *testing.T, on servicetest.Database, environ ...string) *harness {
	t.Helper()
	h := &harness{Service: servicetest.Start(t, "payments", service.Assemble, on, environ...), t: t}
	h.peer = eventtest.NewPeer(t, h.Broker, orders.Created{}, orders.Cancelled{}, orders.Completed{}, orders.PaymentRefused{})
	eventtest.Hear[payments.Captured](h.peer)
	eventtest.Hear[payments.Refunded](h.peer)
	h.peer.Start()
	return h
}

// onBoth runs a test on each kind of database.
func onBoth(t *testing.T, test func(t *testing.T, h *harness), environ ...string) {
	servicetest.Each(t, func(t *testing.T, on servicetest.Database) { test(t, start(t, on, environ...)) })
}

type payment struct {
	ID       string `json:"id"`
	OrderID  string `json:"orderId"`
	Amount   int64  `json:"amount"`
	Currency string `json:"currency"`
	Status   string `json:"status"`
}

type input map[string]any

const path = "/api/payments"

// order publishes an order of buyer's at 19.99 and waits until the service
// knows of it.
func (h *harness) order(id string) {
	h.t.Helper()
	h.orderUntil(id, time.Now().Add(time.Hour))
}

func (h *harness) orderUntil(id string, expires time.Time) {
	h.t.Helper()
	h.peer.Publish(orders.Created{ID: id, UserID: "buyer", ExpiresAt: expires, Ticket: orders.Ticket{ID: "t", Price: 1999}})
	h.answers(http.StatusForbidden, "stranger", id)
}

// answers waits until the service answers a payment so: nothing signals that a
// service has heard of something.
func (h *harness) answers(status int, user, order string) {
	h.t.Helper()
	h.Eventually(func() error {
		res, err := h.Send(h.t.Context(), user, "POST", path, input{"orderId": order, "token": "tok_chargeDeclined"})
		if err != nil {
			h.t.Fatal(err)
		}
		if res.Status != status {
			return fmt.Errorf("payment of %s by %s: %v; want %d", order, user, res, status)
		}
		return nil
	})
}

func (h *harness) list(user, query string) (all []payment) {
	h.t.Helper()
	h.Want(http.StatusOK, &all, user, "GET", path+query, nil)
	return all
}

func TestPay(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		h.order("o")
		var paid struct{ ID string }
		res := h.Want(http.StatusCreated, &paid, "buyer", "POST", path, input{"orderId": "o", "token": "tok_visa"})
		if string(res.Body) != `{"id":"`+paid.ID+`"}`+"\n" && string(res.Body) != `{"id":"`+paid.ID+`"}` {
			t.Errorf("paid: %v", res)
		}
		want := payment{ID: paid.ID, OrderID: "o", Amount: 1999, Currency: "usd", Status: "captured"}
		if all := h.list("buyer", "?orderId=o"); len(all) != 1 || all[0] != want {
			t.Errorf("payments: %+v, want %+v", all, want)
		}
		captured := payments.Captured{ID: paid.ID, OrderID: "o", Amount: 1999, Currency: "usd"}
		if all := eventtest.AwaitEqual(h.peer, captured); len(all) != 1 {
			t.Errorf("captured: %+v", all)
		}
		h.Refused(http.StatusConflict, []string{"Order is already paid or being paid"}, "buyer", "POST", path, input{"orderId": "o", "token": "tok_visa"})
		h.peer.Publish(orders.Completed{ID: "o", Ticket: orders.TicketRef{ID: "t"}, Version: 1})
		h.answers(http.StatusConflict, "buyer", "o")
	})
}

// TestConfig: without time for the provider, or for those who ask it again, no
// payment is ever settled.
func TestConfig(t *testing.T) {
	for _, name := range []string{"PAYMENT_RECOVERY", "PAYMENT_TIMEOUT"} {
		cfg := service.Config{Recovery: time.Second, ProviderTimeout: time.Second}
		*map[string]*time.Duration{"PAYMENT_RECOVERY": &cfg.Recovery, "PAYMENT_TIMEOUT": &cfg.ProviderTimeout}[name] = 0
		if err := service.Assemble(&framework.Service{}, cfg); err == nil || !strings.Contains(err.Error(), name+" is 0s") {
			t.Errorf("without %s: %v", name, err)
		}
	}
}

func TestChecksInOrder(t *testing.T) {
	h := start(t, servicetest.SQLite(t))
	h.order("o")
	const noOrder, noToken = "OrderId is required", "Token is required"
	h.Refused(http.StatusUnauthorized, nil, "", "POST", path, input{})
	h.Refused(http.StatusUnauthorized, nil, "", "GET", path, nil)
	for _, test := range []struct {
		body     any
		messages []string
	}{
		{input{}, []string{noOrder, noToken}},
		{input{"orderId": 7, "token": " "}, []string{noOrder, noToken}},
		{input{"orderId": "unknown"}, []string{noToken}},
		{input{"token": "tok_visa"}, []string{noOrder}},
		{input{"orderId": "o", "token": strings.Repeat("x", 501)}, []string{"Token is too long"}},
	} {
		h.Refused(http.StatusUnprocessableEntity, test.messages, "buyer", "POST", path, test.body)
	}
	h.Refused(http.StatusNotFound, []string{"Order not found"}, "buyer", "POST", path, input{"orderId": "unknown", "token": strings.Repeat("é", 500)})
	h.Refused(http.StatusForbidden, nil, "stranger", "POST", path, input{"orderId": "o", "token": "tok_visa"})

	h.orderUntil("expired", time.Now())
	h.Refused(http.StatusForbidden, nil, "stranger", "POST", path, input{"orderId": "expired", "token": "tok_visa"})
	h.Refused(http.StatusConflict, []string{"Order has expired"}, "buyer", "POST", path, input{"orderId": "expired", "token": "tok_visa"})

	h.peer.Publish(orders.Cancelled{ID: "o", Reason: orders.ByUser, Ticket: orders.TicketRef{ID: "t"}, Version: 1})
	h.answers(http.StatusConflict, "buyer", "o")
	h.Refused(http.StatusConflict, []string{"Cannot pay for a cancelled order"}, "buyer", "POST", path, input{"orderId": "o", "token": "tok_visa"})
}

// TestDeclined: a declined payment says why and leaves the order payable.
func TestDeclined(t *testing.T) {
	h := start(t, servicetest.SQLite(t))
	h.order("o")
	for token, reason := range map[string]string{
		"tok_chargeDeclined":    "Your card was declined",
		"tok_insufficientFunds": "Your card has insufficient funds",
		"tok_unheard_of":        "The payment token is unknown",
	} {
		h.Refused(http.StatusPaymentRequired, []string{reason}, "buyer", "POST", path, input{"orderId": "o", "token": token})
	}
	h.Want(http.StatusCreated, nil, "buyer", "POST", path, input{"orderId": "o", "token": "tok_visa"})
	var statuses []string
	for _, p := range h.list("buyer", "") {
		statuses = append(statuses, p.Status)
	}
	if want := []string{"captured", "declined", "declined", "declined"}; !slices.Equal(statuses, want) {
		t.Errorf("payments: %v, want %v", statuses, want)
	}
}

// TestLateAnswer: a provider that answers late is waited for; one that answers
// too late leaves the payment pending, and the order is not charged again.
func TestLateAnswer(t *testing.T) {
	t.Run("in time", func(t *testing.T) {
		h := start(t, servicetest.SQLite(t), "SANDBOX_DELAY=50ms")
		h.order("o")
		h.Want(http.StatusCreated, nil, "buyer", "POST", path, input{"orderId": "o", "token": "tok_timeout"})
	})
	t.Run("too late", func(t *testing.T) {
		h := start(t, servicetest.SQLite(t), "SANDBOX_DELAY=1h", "PAYMENT_TIMEOUT=100ms", "PAYMENT_RECOVERY=1h")
		h.order("o")
		res := h.Want(http.StatusServiceUnavailable, nil, "buyer", "POST", path, input{"orderId": "o", "token": "tok_timeout"})
		if res.Header.Get("Retry-After") == "" {
			t.Errorf("%v has no Retry-After", res.Header)
		}
		h.Refused(http.StatusConflict, nil, "buyer", "POST", path, input{"orderId": "o", "token": "tok_visa"})
		if all := h.list("buyer", ""); len(all) != 1 || all[0].Status != "pending" {
			t.Errorf("payments: %+v", all)
		}
		metrics := string(h.Want(http.StatusOK, nil, "", "GET", h.AdminURLs[0]+"/metrics", nil).Body)
		for _, line := range []string{
			`turnstile_payments_unsettled{state="pending"} 1`, `turnstile_payments_unsettled{state="refund"} 0`,
			`turnstile_payments_unsettled_age_seconds{state="pending"} `, `turnstile_payments_unsettled_age_seconds{state="refund"} 0`,
		} {
			if !strings.Contains(metrics, "\n"+line) {
				t.Errorf("/metrics has no %s: %s", line, metrics)
			}
		}
	})
}

// TestRecovery: a payment that was left pending is settled by and by, with one
// charge and one event.
func TestRecovery(t *testing.T) {
	servicetest.Each(t, func(t *testing.T, on servicetest.Database) {
		h := start(t, on, "SANDBOX_DELAY=1h", "PAYMENT_TIMEOUT=2s", "PAYMENT_RECOVERY=50ms")
		h.order("o")
		h.Want(http.StatusServiceUnavailable, nil, "buyer", "POST", path, input{"orderId": "o", "token": "tok_timeout"})
		var all []payment
		h.Eventually(func() error {
			if all = h.list("buyer", ""); len(all) != 1 || all[0].Status != "captured" {
				return fmt.Errorf("payments: %+v", all)
			}
			return nil
		})
		told := eventtest.AwaitEqual(h.peer, payments.Captured{ID: all[0].ID, OrderID: "o", Amount: 1999, Currency: "usd"})
		if len(told) != 1 {
			t.Errorf("told of %d times", len(told))
		}
	})
}

// TestRefund: money that came too late goes back at once and for good, whoever
// hears of it how often.
func TestRefund(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		h.order("o")
		var paid struct{ ID string }
		h.Want(http.StatusCreated, &paid, "buyer", "POST", path, input{"orderId": "o", "token": "tok_visa"})
		h.peer.Publish(orders.Cancelled{ID: "o", Reason: orders.ByUser, Ticket: orders.TicketRef{ID: "t"}, Version: 1})
		for range 3 {
			h.peer.Publish(orders.PaymentRefused{ID: "o", PaymentID: paid.ID})
		}
		eventtest.AwaitEqual(h.peer, payments.Refunded{ID: paid.ID, OrderID: "o"})
		if all := h.list("buyer", ""); len(all) != 1 || all[0].Status != "refunded" || all[0].Amount != 1999 {
			t.Errorf("payments: %+v", all)
		}
		h.Refused(http.StatusConflict, []string{"Cannot pay for a cancelled order"}, "buyer", "POST", path, input{"orderId": "o", "token": "tok_visa"})

		// What is published next is heard after whatever the repetitions did.
		h.order("o2")
		h.Want(http.StatusCreated, &paid, "buyer", "POST", path, input{"orderId": "o2", "token": "tok_visa"})
		h.peer.Publish(orders.PaymentRefused{ID: "o2", PaymentID: paid.ID})
		eventtest.AwaitEqual(h.peer, payments.Refunded{ID: paid.ID, OrderID: "o2"})
		if all := eventtest.Heard[payments.Refunded](h.peer); len(all) != 2 {
			t.Errorf("refunded: %+v", all)
		}
	}, "PAYMENT_RECOVERY=1h")
}

// TestRepeated: whoever repeats a request carries on with the payment that it has
// begun, and gets the answer to the first.
func TestRepeated(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		pay := func(status int, to any, key string) servicetest.Response {
			t.Helper()
			return h.Want(status, to, "buyer", "POST", path, input{"orderId": "o", "token": "tok_timeout"}, "Idempotency-Key", key)
		}
		h.order("o")
		pay(http.StatusServiceUnavailable, nil, "one")
		h.Refused(http.StatusConflict, []string{"Order is already paid or being paid"}, "buyer", "POST", path, input{"orderId": "o", "token": "tok_visa"})
		pay(http.StatusConflict, nil, "two")
		h.Refused(http.StatusConflict, []string{"Order is already paid or being paid"}, "buyer", "POST", path,
			input{"orderId": "o", "token": "tok_chargeDeclined"}, "Idempotency-Key", "one")
		pending := h.list("buyer", "")
		var first, again struct{ ID string }
		pay(http.StatusCreated, &first, "one") // the sandbox is late once
		h.peer.Publish(orders.Completed{ID: "o", Ticket: orders.TicketRef{ID: "t"}, Version: 1})
		h.answers(http.StatusConflict, "buyer", "o")
		if res := pay(http.StatusCreated, &again, "one"); res.Header.Get("Idempotent-Replayed") != "true" {
			t.Errorf("repeated: %v with %v", res, res.Header)
		}
		if len(pending) != 1 || first.ID != pending[0].ID || again != first {
			t.Errorf("payments %+v, %+v and %+v are not one", pending, first, again)
		}
		if all := h.list("buyer", ""); len(all) != 1 || all[0].Status != "captured" {
			t.Errorf("payments: %+v", all)
		}
	}, "SANDBOX_DELAY=1h", "PAYMENT_TIMEOUT=2s", "PAYMENT_RECOVERY=1h")
}

// TestRepeatedAfterARefund: whose money goes back has not paid, whoever repeats
// what.
func TestRepeatedAfterARefund(t *testing.T) {
	h := start(t, servicetest.SQLite(t), "SANDBOX_DELAY=1h", "PAYMENT_TIMEOUT=1s", "PAYMENT_RECOVERY=50ms")
	pay := func(status int) {
		t.Helper()
		h.Want(status, nil, "buyer", "POST", path, input{"orderId": "o", "token": "tok_timeout"}, "Idempotency-Key", "one")
	}
	h.order("o")
	pay(http.StatusServiceUnavailable)
	h.statuses("o", "captured") // by Recovery
	h.peer.Publish(orders.Cancelled{ID: "o", Reason: orders.Expired, Ticket: orders.TicketRef{ID: "t"}, Version: 1})
	h.peer.Publish(orders.PaymentRefused{ID: "o", PaymentID: h.list("buyer", "")[0].ID})
	h.statuses("o", "refunded")
	pay(http.StatusConflict)
}

// TestRepeatedAfterADecline: what was declined is tried anew.
func TestRepeatedAfterADecline(t *testing.T) {
	h := start(t, servicetest.SQLite(t))
	h.order("o")
	for range 2 {
		h.Want(http.StatusPaymentRequired, nil, "buyer", "POST", path, input{"orderId": "o", "token": "tok_chargeDeclined"}, "Idempotency-Key", "one")
	}
	if all := h.list("buyer", ""); len(all) != 2 {
		t.Errorf("payments: %+v", all)
	}
}

// TestParallelPayments: of many payments of one order at once, one is made.
func TestParallelPayments(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		const tries = 50
		h.order("o")
		var paid, refused atomic.Int32
		var group errgroup.Group
		for i := range tries {
			group.Go(func() error {
				res, err := h.Send(t.Context(), "buyer", "POST", path, input{"orderId": "o", "token": "tok_visa"})
				switch {
				case err != nil:
					return err
				case res.Status == http.StatusCreated:
					paid.Add(1)
				case res.Status == http.StatusConflict:
					refused.Add(1)
				default:
					return fmt.Errorf("payment %d: %v", i, res)
				}
				return nil
			})
		}
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
		if p, r := paid.Load(), refused.Load(); p != 1 || r != tries-1 {
			t.Errorf("%d paid, %d refused", p, r)
		}
		all := h.list("buyer", "")
		if len(all) != 1 {
			t.Fatalf("payments: %+v", all)
		}
		eventtest.AwaitEqual(h.peer, payments.Captured{ID: all[0].ID, OrderID: "o", Amount: 1999, Currency: "usd"})
	})
}

func TestList(t *testing.T) {
	h := start(t, servicetest.SQLite(t))
	var ids []string
	for i := range 3 {
		id := fmt.Sprint("o", i)
		h.order(id)
		res := h.Want(http.StatusCreated, nil, "buyer", "POST", path, input{"orderId": id, "token": "tok_visa"})
		var p payment
		if err := json.Unmarshal(res.Body, &p); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, p.ID)
	}
	next := path + "?limit=2"
	for i, want := range [][]string{{ids[2], ids[1]}, {ids[0]}} {
		var page []payment
		res := h.Want(http.StatusOK, &page, "buyer", "GET", next, nil)
		var found []string
		for _, p := range page {
			found = append(found, p.ID)
		}
		link := res.Header.Get("Link")
		if !slices.Equal(found, want) || (link != "") != (i == 0) {
			t.Errorf("page %d: %v, link %q; want %v", i, found, link, want)
		}
		next = strings.TrimSuffix(strings.TrimPrefix(link, "<"), `>; rel="next"`)
	}
	if all := h.list("buyer", "?orderId=o1"); len(all) != 1 || all[0].ID != ids[1] {
		t.Errorf("of o1: %+v", all)
	}
	for _, none := range []struct{ user, query string }{{"buyer", "?orderId=unknown"}, {"stranger", ""}, {"stranger", "?orderId=o1"}} {
		if all := h.list(none.user, none.query); all == nil || len(all) > 0 {
			t.Errorf("%+v: %+v", none, all)
		}
	}
	h.Refused(http.StatusUnprocessableEntity, nil, "buyer", "GET", path+"?limit=0", nil)
}

// TestBuyerLeaves: a payment is carried on although nobody waits for it.
func TestBuyerLeaves(t *testing.T) {
	h := start(t, servicetest.SQLite(t), "SANDBOX_DELAY=4s") // time to leave
	h.order("o")
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan struct{})
	go func() {
		defer close(left)
		if res, err := h.Send(ctx, "buyer", "POST", path, input{"orderId": "o", "token": "tok_timeout"}); err == nil {
			t.Errorf("answered before the buyer left: %v", res)
		}
	}()
	var all []payment
	h.Eventually(func() error {
		if all = h.list("buyer", ""); len(all) == 0 {
			return errors.New("the payment is not begun")
		}
		return nil
	})
	leave()
	<-left
	if len(all) != 1 || all[0].Status != "pending" {
		t.Fatalf("payments: %+v", all)
	}
	eventtest.AwaitEqual(h.peer, payments.Captured{ID: all[0].ID, OrderID: "o", Amount: 1999, Currency: "usd"})
	if all = h.list("buyer", ""); len(all) != 1 || all[0].Status != "captured" {
		t.Errorf("payments: %+v", all)
	}
}

func TestRevokedSession(t *testing.T) {
	servicetest.Each(t, func(t *testing.T, on servicetest.Database) {
		start(t, on).HonorsRevocation("/api/payments")
	})
}
