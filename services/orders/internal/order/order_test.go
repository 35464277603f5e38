package order_test

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/services/orders/internal/order"
)

func TestPlace(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 6_789_000, time.FixedZone("", 3600))
	tk := order.Ticket{ID: "t", Title: "Concert", Price: 1999, UserID: "seller", Version: 4}
	got, err := order.Place("o", "buyer", tk, now, 15*time.Minute)
	want := order.Order{
		ID: "o", UserID: "buyer", Status: order.Created,
		ExpiresAt: time.Date(2026, 1, 2, 2, 19, 5, 6_000_000, time.UTC),
		Ticket:    order.Snapshot{ID: "t", Title: "Concert", Price: 1999},
	}
	if err != nil || got != want {
		t.Errorf("Place = %+v, %v; want %+v", got, err, want)
	}
	if _, err := order.Place("o", "seller", tk, now, time.Minute); !errors.Is(err, order.ErrOwnTicket) {
		t.Errorf("an order of one's own ticket: %v", err)
	}
}

func TestPriceOnTheWire(t *testing.T) {
	for price, want := range map[order.Price]string{1: "0.01", 10: "0.1", 100: "1", 1999: "19.99", 1950: "19.5", 100_000_000: "1000000"} {
		if got, err := json.Marshal(price); string(got) != want || err != nil {
			t.Errorf("%d cents are %s, %v; want %s", price, got, err, want)
		}
		var again order.Price
		if err := json.Unmarshal([]byte(want), &again); again != price || err != nil {
			t.Errorf("%s is read as %d cents, %v", want, again, err)
		}
	}
	for _, text := range []string{`"x"`, "1.999", "1e3", "true", "1.x"} {
		var p order.Price
		if err := json.Unmarshal([]byte(text), &p); err == nil {
			t.Errorf("%s is read as %d cents", text, p)
		}
	}
}
