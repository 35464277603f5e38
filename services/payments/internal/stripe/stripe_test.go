package stripe_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/turnstile-go/turnstile/framework/secret"
	"github.com/turnstile-go/turnstile/services/payments/internal/payment"
	"github.com/turnstile-go/turnstile/services/payments/internal/providertest"
	"github.com/turnstile-go/turnstile/services/payments/internal/stripe"
	"github.com/turnstile-go/turnstile/services/payments/internal/stripe/stripetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start returns a provider with a Stripe of its own.
func start(t *testing.T) (*stripe.Provider, *stripetest.Server) {
	t.Helper()
	server := stripetest.New(t)
	return connect(t, stripe.Config{
		Key: secret.New(stripetest.Key), WebhookSecret: secret.New(stripetest.WebhookSecret), APIBase: server.URL,
	}), server
}

func connect(t *testing.T, cfg stripe.Config) *stripe.Provider {
	t.Helper()
	p, err := stripe.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		if stop(); <-done != nil {
			t.Error("it does not end well")
		}
	})
	return p
}

func TestConformance(t *testing.T) {
	providertest.Run(t, func(t *testing.T) providertest.Subject {
		p, server := start(t)
		return providertest.Subject{
			Provider: p,
			Taken: func() (ids []string) {
				for _, intents := range server.Taken() {
					for _, i := range intents {
						ids = append(ids, i.ID)
					}
				}
				return ids
			},
			Returned: func(charge string) int { return len(server.Refunds()[charge]) },
			Good:     stripetest.Visa, Declined: stripetest.Declined, Late: stripetest.Late, Unknown: "tok_unheard_of",
			Reason: "Your card was declined",
		}
	})
}

// TestFaults: whatever goes wrong on the way, the money is taken once and given
// back once, by somebody who asks until there is an answer.
func TestFaults(t *testing.T) {
	for name, fault := range map[string]stripetest.Fault{
		"unavailable": stripetest.Unavailable, "too many": stripetest.TooMany, "refused": stripetest.Refused,
		"lost": stripetest.Lost, "half": stripetest.Half, "garbage": stripetest.Garbage, "twice": stripetest.Twice,
		"silent": stripetest.Silent,
	} {
		for _, times := range []int{1, 4} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				p, server := start(t)
				var mu sync.Mutex
				paths := map[string]int{} // how often it went wrong there
				server.Fault = func(c stripetest.Call) stripetest.Fault {
					mu.Lock()
					defer mu.Unlock()
					if paths[c.Path]++; paths[c.Path] > times {
						return stripetest.NoFault
					}
					return fault
				}
				id := eventually(t, func(ctx context.Context) (string, error) {
					return p.Charge(ctx, providertest.Charge("a", stripetest.Visa))
				})
				eventually(t, func(ctx context.Context) (string, error) {
					return "", p.Refund(ctx, providertest.Refund("a", id))
				})
				if taken := server.Taken(); len(taken) != 1 || len(taken["a"]) != 1 || taken["a"][0].ID != id {
					t.Errorf("taken: %+v, want %s", taken, id)
				}
				if made := server.Refunds(); len(made) != 1 || len(made[id]) != 1 {
					t.Errorf("given back: %+v", made)
				}
			})
		}
	}
}

// eventually asks until there is an answer. Meanwhile it is never one that is
// final, and says nothing of our key.
func eventually(t *testing.T, ask func(context.Context) (string, error)) string {
	t.Helper()
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
		began := time.Now()
		id, err := ask(ctx)
		cancel()
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("it took %v", took)
		}
		if err == nil {
			return id
		}
		if _, ok := errors.AsType[*payment.DeclinedError](err); ok || errors.Is(err, payment.ErrKeyUsed) || errors.Is(err, payment.ErrNoCharge) {
			t.Fatalf("that is no answer: %v", err)
		}
		if strings.Contains(err.Error(), stripetest.Key) {
			t.Errorf("the key is in %q", err)
		}
	}
	t.Fatal("there is no answer")
	return ""
}

// TestStuck: Stripe remembers even that it failed, and what it did nevertheless
// comes to light when the key is forgotten: then it is searched for.
func TestStuck(t *testing.T) {
	p, server := start(t)
	c := providertest.Charge("a", stripetest.Visa)
	id, err := p.Charge(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	server.Forget()
	c.Begun = time.Now().Add(-23*time.Hour - time.Minute)
	if again, err := p.Charge(t.Context(), c); again != id || err != nil {
		t.Errorf("a day later: %q, %v; want %s", again, err, id)
	}
	unknown := providertest.Charge("b", stripetest.Visa)
	unknown.Begun = c.Begun
	again, err := p.Charge(t.Context(), unknown)
	if _, ok := errors.AsType[*payment.DeclinedError](err); err == nil || ok {
		t.Errorf("what may not be found yet: %q, %v", again, err)
	}
	unknown.Begun = time.Now().Add(-24*time.Hour - time.Minute)
	again, err = p.Charge(t.Context(), unknown)
	if _, ok := errors.AsType[*payment.DeclinedError](err); !ok {
		t.Errorf("what was never made: %q, %v", again, err)
	}
	if n := len(server.Intents()); n != 1 {
		t.Errorf("%d PaymentIntents", n)
	}

	// A failure that sticks is no answer, and is not charged another time.
	server.Fault = func(call stripetest.Call) stripetest.Fault {
		if call.Path == "/v1/payment_intents" {
			return stripetest.Broken
		}
		return stripetest.NoFault
	}
	if id, err := p.Charge(t.Context(), providertest.Charge("c", stripetest.Visa)); err == nil {
		t.Errorf("failed: %q", id)
	}
	server.Fault = nil
	again, err = p.Charge(t.Context(), providertest.Charge("c", stripetest.Visa))
	if _, ok := errors.AsType[*payment.DeclinedError](err); err == nil || ok {
		t.Errorf("failed before: %q, %v", again, err)
	}
}

// TestAnswers is what becomes of answers that are no yes and no plain no.
func TestAnswers(t *testing.T) {
	const bank = "Your card has to be confirmed with your bank, which is not possible here; please use another card"
	for token, want := range map[string]string{
		stripetest.Insufficient: "Your card has insufficient funds", stripetest.Authentication: bank, stripetest.Action: bank,
	} {
		p, server := start(t)
		id, err := p.Charge(t.Context(), providertest.Charge("a", token))
		declined, ok := errors.AsType[*payment.DeclinedError](err)
		if !ok || declined.Reason != want {
			t.Errorf("%s: %q, %v; want %q", token, id, err, want)
		}
		// Nobody can complete it behind our back, and the answer stays.
		server.Settle("succeeded")
		if id, err := p.Charge(t.Context(), providertest.Charge("a", token)); len(server.Taken()) > 0 || err == nil {
			t.Errorf("%s: taken %+v; %q, %v", token, server.Taken(), id, err)
		}
	}

	for status, succeeded := range map[string]bool{"succeeded": true, "requires_payment_method": false} {
		p, server := start(t)
		c := providertest.Charge("a", stripetest.Processing)
		id, err := p.Charge(t.Context(), c)
		if _, ok := errors.AsType[*payment.DeclinedError](err); err == nil || ok {
			t.Errorf("while it is processed: %q, %v", id, err)
		}
		server.Settle(status)
		id, err = p.Charge(t.Context(), c)
		if _, ok := errors.AsType[*payment.DeclinedError](err); (err == nil && id != "") != succeeded || ok == succeeded {
			t.Errorf("%s: %q, %v", status, id, err)
		}
	}

	p, server := start(t)
	small := providertest.Charge("a", stripetest.Visa)
	small.Amount = 49
	id, err := p.Charge(t.Context(), small)
	if d, ok := errors.AsType[*payment.DeclinedError](err); !ok || !strings.Contains(errors.Unwrap(d).Error(), "amount_too_small") {
		t.Errorf("an amount that Stripe refuses: %q, %v", id, err)
	}

	slow := providertest.Charge("b", stripetest.Visa)
	slow.OrderID = stripetest.SlowRefund
	if id, err = p.Charge(t.Context(), slow); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := p.Refund(t.Context(), providertest.Refund("b", id)); err == nil {
			t.Error("refunded before it is")
		}
	}
	server.Forget() // a day later
	if err := p.Refund(t.Context(), providertest.Refund("b", id)); err == nil || !strings.Contains(err.Error(), "pending") {
		t.Errorf("refunded before it is, when the key is forgotten: %v", err)
	}
	server.Settle("failed")
	if err := p.Refund(t.Context(), providertest.Refund("b", id)); err == nil || !strings.Contains(err.Error(), "pending") {
		t.Errorf("a new refund after one that failed: %v", err)
	}
	server.Settle("failed")
	err = p.Refund(t.Context(), providertest.Refund("b", id))
	if failed, ok := errors.AsType[*payment.NotReturnedError](err); !ok || failed.Reason != "lost_or_stolen_card" {
		t.Errorf("a refund that failed: %v", err)
	}
}

// TestRefundInParts: what people have refunded by hand counts as far as it has gone.
func TestRefundInParts(t *testing.T) {
	p, server := start(t)
	id, err := p.Charge(t.Context(), providertest.Charge("a", stripetest.Visa))
	if err != nil {
		t.Fatal(err)
	}
	server.Return(id, 1000, "succeeded")
	server.Return(id, 999, "pending")
	if err := p.Refund(t.Context(), providertest.Refund("a", id)); err == nil || !strings.Contains(err.Error(), "pending") {
		t.Errorf("a half that has gone and one that is pending: %v", err)
	}
	server.Settle("succeeded")
	if err := p.Refund(t.Context(), providertest.Refund("a", id)); err != nil {
		t.Errorf("both halves have gone: %v", err)
	}
}

// TestAnswerAboutSomethingElse: an answer that belongs to another request settles
// nothing.
func TestAnswerAboutSomethingElse(t *testing.T) {
	right := `{"id": "x", "status": "succeeded", "amount": 1999, "currency": "usd", "metadata": {"payment": "a"}}`
	for _, change := range [][2]string{
		{"", ""}, {`"payment": "a"`, `"payment": "b"`}, {`{"payment": "a"}`, `{}`}, {"1999", "1998"}, {"usd", "eur"},
	} {
		answer := strings.Replace(right, change[0], change[1], 1)
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(answer)) }))
		t.Cleanup(server.Close)
		p := connect(t, stripe.Config{Key: secret.New("sk_test_x"), WebhookSecret: secret.New("w"), APIBase: server.URL})
		id, err := p.Charge(t.Context(), providertest.Charge("a", "pm_card"))
		if _, ok := errors.AsType[*payment.DeclinedError](err); ok || (err == nil) != (answer == right) {
			t.Errorf("charge: %s is taken for %q, %v", answer, id, err)
		}
		if !strings.Contains(change[0], "payment") && answer != right {
			continue // a refund's amount is whatever was left
		}
		if err := p.Refund(t.Context(), providertest.Refund("a", "x")); (err == nil) != (answer == right) {
			t.Errorf("refund: %s is taken for %v", answer, err)
		}
	}
}

// TestKey: a key that is not accepted settles nothing, and is not shown.
func TestKey(t *testing.T) {
	server := stripetest.New(t)
	p := connect(t, stripe.Config{Key: secret.New("sk_test_wrong_one"), WebhookSecret: secret.New("w"), APIBase: server.URL})
	id, err := p.Charge(t.Context(), providertest.Charge("a", stripetest.Visa))
	if _, ok := errors.AsType[*payment.DeclinedError](err); err == nil || ok || strings.Contains(err.Error(), "wrong_one") || !strings.Contains(err.Error(), "STRIPE_KEY") {
		t.Errorf("charge: %q, %v", id, err)
	}
	if err := p.Refund(t.Context(), providertest.Refund("a", "pi_1")); err == nil || errors.Is(err, payment.ErrNoCharge) || strings.Contains(err.Error(), "wrong_one") {
		t.Errorf("refund: %v", err)
	}
}

func TestConfig(t *testing.T) {
	good := stripe.Config{Key: secret.New("sk_live_x"), WebhookSecret: secret.New("w"), APIBase: "https://api.stripe.com"}
	if _, err := stripe.New(good); err != nil {
		t.Error(err)
	}
	for name, test := range map[string]struct {
		change func(*stripe.Config)
		says   []string
	}{
		"nothing":        {func(c *stripe.Config) { *c = stripe.Config{} }, []string{"STRIPE_KEY", "STRIPE_WEBHOOK_SECRET", "STRIPE_API_BASE"}},
		"no URL":         {func(c *stripe.Config) { c.APIBase = "api.stripe.com" }, []string{"STRIPE_API_BASE", "https://"}},
		"live over http": {func(c *stripe.Config) { c.APIBase = "http://api.stripe.com" }, []string{"STRIPE_API_BASE", "https"}},
	} {
		cfg := good
		test.change(&cfg)
		_, err := stripe.New(cfg)
		for _, says := range test.says {
			if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "sk_live_x") {
				t.Errorf("%s: %v; want %q in it", name, err, says)
			}
		}
	}
}

func TestNews(t *testing.T) {
	p, _ := start(t)
	of := map[string]string{"payment": "a"}
	intent := stripetest.Intent{
		ID: "pi_1", Object: "payment_intent", Amount: 1999, Received: 1999, Currency: "usd", Status: "succeeded", Metadata: of,
	}
	refund := stripetest.Refund{ID: "re_1", Object: "refund", Intent: "pi_1", Status: "succeeded", Metadata: of}
	failed := &payment.News{PaymentID: "a", Result: payment.NotTaken, Reason: "The payment could not be made in time"}
	with := func(r stripetest.Refund, status string) stripetest.Refund { r.Status = status; return r }
	others, othersRefund := intent, refund
	others.Metadata, othersRefund.Metadata = nil, nil
	for _, test := range []struct {
		event  string
		object any
		want   *payment.News
	}{
		{"payment_intent.succeeded", intent, &payment.News{
			PaymentID: "a", Result: payment.Taken, ChargeID: "pi_1", Amount: 1999, Currency: "usd",
		}},
		{"payment_intent.payment_failed", intent, failed},
		{"payment_intent.canceled", intent, failed},
		{"refund.updated", refund, &payment.News{PaymentID: "a", Result: payment.Returned}},
		{"charge.refund.updated", refund, &payment.News{PaymentID: "a", Result: payment.Returned}},
		{"refund.failed", with(refund, "failed"), &payment.News{PaymentID: "a", Result: payment.NotReturned, Reason: "failed"}},
		{"refund.updated", with(refund, "pending"), nil},
		{"payment_intent.created", intent, nil},
		{"customer.created", map[string]string{"id": "cus_1"}, nil},
		{"payment_intent.succeeded", others, nil},
		{"refund.updated", othersRefund, nil},
	} {
		body, signature := stripetest.Event(t, test.event, test.object)
		got, err := p.News(body, signature)
		if err != nil || (got == nil) != (test.want == nil) || got != nil && *got != *test.want {
			t.Errorf("%s: %+v, %v; want %+v", test.event, got, err, test.want)
		}
	}
}

// TestSignature: nobody but Stripe is believed.
func TestSignature(t *testing.T) {
	p, _ := start(t)
	body, signature := stripetest.Event(t, "payment_intent.succeeded", stripetest.Intent{ID: "pi_1", Metadata: map[string]string{"payment": "a"}})
	at, sum, _ := strings.Cut(signature, ",")
	if _, err := p.News(body, at+",v1=00,v1=ff00,"+sum); err != nil {
		t.Errorf("one signature of several: %v", err)
	}
	old, oldSignature := stripetest.EventAt(t, time.Now().Add(-6*time.Minute), "payment_intent.succeeded", stripetest.Intent{})
	for name, message := range map[string]struct {
		body      []byte
		signature string
	}{
		"none":         {body, ""},
		"garbage":      {body, "garbage"},
		"no time":      {body, sum},
		"another time": {body, "t=1," + sum},
		"another body": {append(slices.Clone(body), ' '), signature},
		"another kind": {body, strings.Replace(signature, "v1=", "v0=", 1)},
		"too old":      {old, oldSignature},
		"short":        {body, signature[:len(signature)-2]},
	} {
		if n, err := p.News(message.body, message.signature); !errors.Is(err, stripe.ErrSignature) {
			t.Errorf("%s: %+v, %v", name, n, err)
		}
	}
}
