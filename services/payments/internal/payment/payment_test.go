package payment_test

import (
	"errors"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/services/payments/internal/payment"
)

func TestBegin(t *testing.T) {
	now := time.Now()
	payable := payment.Order{ID: "o", UserID: "u", Price: 1999, Status: payment.OrderCreated, ExpiresAt: now.Add(time.Millisecond)}
	got, err := payment.Begin("p", payable, "tok", now)
	want := payment.Payment{ID: "p", OrderID: "o", UserID: "u", Amount: 1999, Currency: "usd", Status: payment.Pending, Token: "tok"}
	if got != want || err != nil {
		t.Errorf("Begin = %+v, %v; want %+v", got, err, want)
	}
	for name, test := range map[string]struct {
		change func(*payment.Order)
		want   error
	}{
		"cancelled": {func(o *payment.Order) { o.Status = payment.OrderCancelled }, payment.ErrCancelled},
		"complete":  {func(o *payment.Order) { o.Status = payment.OrderComplete }, payment.ErrPaid},
		"expired":   {func(o *payment.Order) { o.ExpiresAt = now }, payment.ErrExpired},
	} {
		o := payable
		test.change(&o)
		if _, err := payment.Begin("p", o, "tok", now); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}

// TestCharge: whoever asks about a payment asks for the same, and nobody keeps
// the token for longer than that.
func TestCharge(t *testing.T) {
	p := payment.Payment{ID: "p", OrderID: "o", Amount: 1999, Currency: "usd", Status: payment.Pending, Token: "tok"}
	if again := p.Charge(); again != p.Charge() || p.Charge().Key == (payment.Payment{ID: "q"}).Charge().Key {
		t.Errorf("keys: %+v", p.Charge())
	}
	if c := p.Capture("ch"); c.Status != payment.Captured || c.ChargeID != "ch" || c.Token != "" {
		t.Errorf("captured: %+v", c)
	}
	if d := p.Decline("why"); d.Status != payment.Declined || d.Reason != "why" || d.Token != "" {
		t.Errorf("declined: %+v", d)
	}
}
