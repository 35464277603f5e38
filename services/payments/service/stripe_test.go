package service_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/turnstile-go/turnstile/framework/event/eventtest"
	"github.com/turnstile-go/turnstile/framework/servicetest"
	"github.com/turnstile-go/turnstile/services/orders"
	"github.com/turnstile-go/turnstile/services/payments"
	"github.com/turnstile-go/turnstile/services/payments/internal/stripe/stripetest"
)

const webhook = path + "/webhooks/stripe"

// withStripe is what has the service use a Stripe of the test's own.
func withStripe(server *stripetest.Server, environ ...string) []string {
	return append([]string{
		"PAYMENT_PROVIDER=stripe", "STRIPE_API_BASE=" + server.URL,
		"STRIPE_KEY=" + stripetest.Key, "STRIPE_WEBHOOK_SECRET=" + stripetest.WebhookSecret,
	}, environ...)
}

// tell has Stripe tell the service something, twice.
func (h *harness) tell(event string, object any) {
	h.t.Helper()
	body, signature := stripetest.Event(h.t, event, object)
	for range 2 {
		res := h.Want(http.StatusOK, nil, "", "POST", webhook, string(body), "Stripe-Signature", signature)
		if strings.TrimSpace(string(res.Body)) != `{"received":true}` {
			h.t.Errorf("the webhook answers %v", res)
		}
	}
}

// statuses waits until the payments of an order, newest first, are so.
func (h *harness) statuses(order string, want ...string) (all []payment) {
	h.t.Helper()
	h.Eventually(func() error {
		all = h.list("buyer", "?orderId="+order)
		var got []string
		for _, p := range all {
			got = append(got, p.Status)
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			return fmt.Errorf("payments of %s: %v, want %v", order, got, want)
		}
		return nil
	})
	return all
}

// only returns the one PaymentIntent of a payment.
func only(t *testing.T, server *stripetest.Server, id string) stripetest.Intent {
	t.Helper()
	var found []stripetest.Intent
	for _, i := range server.Intents() {
		if i.Metadata["payment"] == id {
			found = append(found, i)
		}
	}
	if len(found) != 1 {
		t.Fatalf("PaymentIntents of %s: %+v", id, found)
	}
	return found[0]
}

func TestStripe(t *testing.T) {
	server := stripetest.New(t)
	h := start(t, servicetest.SQLite(t), withStripe(server, "PAYMENT_RECOVERY=1h")...)
	h.order("o")
	h.Refused(http.StatusPaymentRequired, []string{"Your card has insufficient funds"}, "buyer", "POST", path,
		input{"orderId": "o", "token": stripetest.Insufficient})
	h.Refused(http.StatusPaymentRequired, []string{"The payment token is unknown"}, "buyer", "POST", path, input{"orderId": "o", "token": "tok_none"})
	var paid struct{ ID string }
	h.Want(http.StatusCreated, &paid, "buyer", "POST", path, input{"orderId": "o", "token": stripetest.Visa})
	intent := only(t, server, paid.ID)
	if intent.Status != "succeeded" || intent.Amount != 1999 || intent.Currency != "usd" || intent.Metadata["order"] != "o" {
		t.Errorf("Stripe has %+v", intent)
	}
	h.tell("payment_intent.succeeded", intent) // which is known
	h.tell("payment_intent.payment_failed", intent)
	h.peer.Publish(orders.PaymentRefused{ID: "o", PaymentID: paid.ID})
	eventtest.AwaitEqual(h.peer, payments.Refunded{ID: paid.ID, OrderID: "o"})
	if made := server.Refunds(); len(made[intent.ID]) != 1 || made[intent.ID][0].Amount != 1999 {
		t.Errorf("refunds: %+v", made)
	}
	if all := eventtest.Heard[payments.Captured](h.peer); len(all) != 1 {
		t.Errorf("captured: %+v", all)
	}
}

// TestParallelPaymentsByStripe: of many payments of one order at once, one is made.
func TestParallelPaymentsByStripe(t *testing.T) {
	server := stripetest.New(t)
	onBoth(t, func(t *testing.T, h *harness) {
		before := len(server.Intents())
		h.order("o")
		statuses := make(chan int, 50)
		for range cap(statuses) {
			go func() {
				res, err := h.Send(h.t.Context(), "buyer", "POST", path, input{"orderId": "o", "token": stripetest.Visa})
				if err != nil {
					t.Error(err)
				}
				statuses <- res.Status
			}()
		}
		count := map[int]int{}
		for range cap(statuses) {
			count[<-statuses]++
		}
		if count[http.StatusCreated] != 1 || count[http.StatusConflict] != cap(statuses)-1 || len(server.Intents()) != before+1 {
			t.Errorf("answers %v, and %d charges", count, len(server.Intents())-before)
		}
	}, withStripe(server)...)
}

// TestWebhook: what Stripe tells by itself settles what is not settled, changes
// nothing else, and has to be signed.
func TestWebhook(t *testing.T) {
	server := stripetest.New(t)
	h := start(t, servicetest.SQLite(t), withStripe(server, "PAYMENT_RECOVERY=1h", "HTTP_BODY_LIMIT=10000")...)
	begin := func(order, token string) (id string) {
		h.order(order)
		h.Want(http.StatusServiceUnavailable, nil, "buyer", "POST", path, input{"orderId": order, "token": token})
		return h.list("buyer", "?orderId="+order)[0].ID
	}

	late := begin("late", stripetest.Processing)
	failing := begin("failing", stripetest.Processing)
	before := only(t, server, failing)
	server.Settle("succeeded")
	h.tell("payment_intent.processing", before)
	h.statuses("late", "pending")
	intent := only(t, server, late)
	wrong := intent
	wrong.Received = 1
	h.tell("payment_intent.succeeded", wrong)
	h.statuses("late", "pending")
	h.tell("payment_intent.succeeded", intent)
	h.statuses("late", "captured")
	captured := payments.Captured{ID: late, OrderID: "late", Amount: 1999, Currency: "usd"}
	h.tell("payment_intent.canceled", intent)
	if all := eventtest.AwaitEqual(h.peer, captured); len(all) != 1 {
		t.Errorf("captured: %+v", all)
	}
	h.statuses("late", "captured")

	// One that failed leaves its order payable. What was taken for it after all goes back.
	h.tell("payment_intent.payment_failed", before)
	h.statuses("failing", "declined")
	h.Want(http.StatusCreated, nil, "buyer", "POST", path, input{"orderId": "failing", "token": stripetest.Visa})
	h.tell("payment_intent.succeeded", only(t, server, failing))
	h.statuses("failing", "captured", "refunded")
	eventtest.AwaitEqual(h.peer, payments.Refunded{ID: failing, OrderID: "failing"})
	if made := server.Refunds(); len(made) != 1 || len(made[before.ID]) != 1 {
		t.Errorf("refunds: %+v", made)
	}

	// A refund may take a while.
	h.order(stripetest.SlowRefund)
	var slow struct{ ID string }
	h.Want(http.StatusCreated, &slow, "buyer", "POST", path, input{"orderId": stripetest.SlowRefund, "token": stripetest.Visa})
	h.peer.Publish(orders.PaymentRefused{ID: stripetest.SlowRefund, PaymentID: slow.ID})
	intent = only(t, server, slow.ID)
	h.Eventually(func() error {
		if len(server.Refunds()[intent.ID]) == 0 {
			return fmt.Errorf("the refund was not asked for")
		}
		return nil
	})
	refund := server.Refunds()[intent.ID][0]
	h.tell("refund.created", refund)
	h.statuses(stripetest.SlowRefund, "captured")
	server.Settle("succeeded")
	h.tell("refund.updated", server.Refunds()[intent.ID][0])
	h.statuses(stripetest.SlowRefund, "refunded")
	if all := eventtest.AwaitEqual(h.peer, payments.Refunded{ID: slow.ID, OrderID: stripetest.SlowRefund}); len(all) != 1 {
		t.Errorf("refunded: %+v", all)
	}

	// News of what we do not know or did not ask for.
	h.tell("payment_intent.succeeded", stripetest.Intent{ID: "pi_other", Metadata: map[string]string{"payment": "unknown"}})
	h.tell("payment_intent.succeeded", stripetest.Intent{ID: "pi_other"})
	h.tell("refund.updated", stripetest.Refund{ID: "re_other", Status: "succeeded", Metadata: map[string]string{"payment": late}})
	h.tell("customer.created", map[string]string{"id": "cus_1"})
	h.statuses("late", "captured")

	body, signature := stripetest.Event(t, "payment_intent.succeeded", intent)
	for name, headers := range map[string][]string{
		"none": nil, "another": {"Stripe-Signature", strings.Replace(signature, "v1=", "v1=00", 1)},
	} {
		t.Run("signature "+name, func(t *testing.T) {
			h.Refused(http.StatusBadRequest, []string{"The signature is not valid"}, "", "POST", webhook, string(body), headers...)
		})
	}
	h.Refused(http.StatusBadRequest, nil, "", "POST", webhook, string(body)+" ", "Stripe-Signature", signature)
	h.Refused(http.StatusRequestEntityTooLarge, nil, "", "POST", webhook, string(body)+strings.Repeat(" ", 10000), "Stripe-Signature", signature)
}

// TestNoWebhook: there is nobody else to hear from.
func TestNoWebhook(t *testing.T) {
	h := start(t, servicetest.SQLite(t))
	body, signature := stripetest.Event(t, "payment_intent.succeeded", stripetest.Intent{})
	h.Refused(http.StatusNotFound, nil, "", "POST", webhook, string(body), "Stripe-Signature", signature)
}

// TestFailedRefund: a refund can fail after it has succeeded. The money is then
// still here, people are told until somebody has given it back in another way,
// and Stripe does not give it back beside them.
func TestFailedRefund(t *testing.T) {
	server := stripetest.New(t)
	h := start(t, servicetest.SQLite(t), withStripe(server, "PAYMENT_RECOVERY=10ms", "PAYMENT_TIMEOUT=1s")...)
	pay := func(order string) (id string, intent stripetest.Intent) {
		h.order(order)
		var paid struct{ ID string }
		h.Want(http.StatusCreated, &paid, "buyer", "POST", path, input{"orderId": order, "token": stripetest.Visa})
		h.peer.Publish(orders.Cancelled{ID: order, Reason: orders.ByUser, Ticket: orders.TicketRef{ID: "t"}, Version: 1})
		h.peer.Publish(orders.PaymentRefused{ID: order, PaymentID: paid.ID})
		return paid.ID, only(t, server, paid.ID)
	}
	type kept struct {
		ID, OrderID, ChargeID, Reason string
		Amount                        int64
	}
	operator := func(status int, method, page, body string) (all []kept) {
		t.Helper()
		res, err := h.Send(t.Context(), "", method, h.AdminURLs[0]+"/debug/refunds/"+page, body)
		if err != nil || res.Status != status {
			t.Fatalf("%s %s: %v, %v; want %d", method, page, res, err, status)
		}
		if status == http.StatusOK {
			if err := json.Unmarshal(res.Body, &all); err != nil {
				t.Fatal(err)
			}
		}
		return all
	}
	metric := func(state string) (value string) {
		t.Helper()
		res, err := h.Send(t.Context(), "", "GET", h.AdminURLs[0]+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(res.Body)) {
			if strings.HasPrefix(line, "turnstile_payments_unsettled{") && strings.Contains(line, `state="`+state+`"`) {
				_, value, _ = strings.Cut(strings.TrimSpace(line), "} ")
			}
		}
		return value
	}

	done, intent := pay("done")
	h.statuses("done", "refunded")
	refund := server.Refunds()[intent.ID][0]
	refund.Status, refund.Failure = "failed", "expired_or_canceled_card"
	h.tell("refund.failed", refund)
	h.statuses("done", "captured")
	slow, _ := pay(stripetest.SlowRefund)
	h.Eventually(func() error {
		if metric("refund") != "1" {
			return fmt.Errorf("the refund is not under way: %q", metric("refund"))
		}
		return nil
	})
	server.Settle("failed")
	h.Eventually(func() error { // by Recovery, without any news
		if metric("refund_failed") != "2" || metric("refund") != "0" {
			return fmt.Errorf("failed %q, under way %q", metric("refund_failed"), metric("refund"))
		}
		return nil
	})
	server.Forget()
	asked := len(server.Calls())
	want := []kept{
		{done, "done", intent.ID, "expired_or_canceled_card", 1999},
		{slow, stripetest.SlowRefund, only(t, server, slow).ID, "lost_or_stolen_card", 1999},
	}
	if all := operator(http.StatusOK, "GET", "", ""); !slices.Equal(all, want) {
		t.Errorf("an operator sees %+v, want %+v", all, want)
	}
	for range 2 {
		if all := operator(http.StatusOK, "POST", "returned", `{"id": "`+done+`"}`); !slices.Equal(all, want[1:]) {
			t.Errorf("then an operator sees %+v, want %+v", all, want[1:])
		}
	}
	h.statuses("done", "refunded")
	h.tell("refund.updated", refund) // late news
	operator(http.StatusBadRequest, "POST", "returned", `{}`)
	operator(http.StatusNotFound, "POST", "returned", `{"id": "unknown"}`)
	h.order("kept")
	var paid struct{ ID string }
	h.Want(http.StatusCreated, &paid, "buyer", "POST", path, input{"orderId": "kept", "token": stripetest.Visa})
	operator(http.StatusConflict, "POST", "returned", `{"id": "`+paid.ID+`"}`)
	for _, call := range server.Calls()[asked:] {
		if strings.HasPrefix(call.Path, "/v1/refunds") {
			t.Errorf("Stripe was asked to give back what had failed: %+v", call)
		}
	}
	if h.statuses("done", "refunded"); metric("refund_failed") != "1" {
		t.Errorf("refunds that failed: %q, want 1", metric("refund_failed"))
	}
}
