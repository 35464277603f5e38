package sandbox_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/database/databasetest"
	"github.com/turnstile-go/turnstile/services/payments/internal/payment"
	"github.com/turnstile-go/turnstile/services/payments/internal/sandbox"
)

func charge(key, token string) payment.Charge {
	return payment.Charge{Key: key, Amount: 1999, Currency: payment.Currency, Token: token, OrderID: "o"}
}

func count(t *testing.T, db *database.DB) (n int) {
	t.Helper()
	if err := db.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM sandbox_charges`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestTokens(t *testing.T) {
	provider := sandbox.New(databasetest.SQLite(t, sandbox.Migrations()), 0)
	for token, reason := range map[string]string{
		sandbox.TokenVisa: "", sandbox.TokenTimeout: "",
		sandbox.TokenDeclined:          "Your card was declined",
		sandbox.TokenInsufficientFunds: "Your card has insufficient funds",
		"tok_unheard_of":               "The payment token is unknown",
	} {
		for range 2 { // the answer stays the same
			id, err := provider.Charge(t.Context(), charge("key "+token, token))
			if reason == "" {
				if id == "" || err != nil {
					t.Errorf("%s: %q, %v", token, id, err)
				}
				continue
			}
			if declined, ok := errors.AsType[*payment.DeclinedError](err); !ok || declined.Reason != reason {
				t.Errorf("%s: %q, %v; want %q", token, id, err, reason)
			}
		}
	}
}

// TestOneKeyOneCharge: asked at once or again, by this process or the next,
// the sandbox takes the money once.
func TestOneKeyOneCharge(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		ids := make(chan string, 20)
		var group errgroup.Group
		for range cap(ids) {
			group.Go(func() error {
				id, err := sandbox.New(db, 0).Charge(context.Background(), charge("key", sandbox.TokenVisa))
				ids <- id
				return err
			})
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		close(ids)
		first := <-ids
		for id := range ids {
			if id != first {
				t.Errorf("charges %s and %s", first, id)
			}
		}
		other := charge("key", sandbox.TokenVisa)
		other.Amount++
		if id, err := sandbox.New(db, 0).Charge(t.Context(), other); err == nil {
			t.Errorf("another amount with the same key: %s", id)
		}
		if n := count(t, db); n != 1 {
			t.Errorf("%d charges", n)
		}
	}, sandbox.Migrations())
}

// TestLateAnswer: the money is taken although the answer comes too late, and
// to ask again tells.
func TestLateAnswer(t *testing.T) {
	db := databasetest.SQLite(t, sandbox.Migrations())
	provider := sandbox.New(db, time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	answer := make(chan error)
	go func() {
		_, err := provider.Charge(ctx, charge("key", sandbox.TokenTimeout))
		answer <- err
	}()
	for count(t, db) == 0 { // entered before the answer
		select {
		case err := <-answer:
			t.Fatalf("answered early: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	cancel()
	if err := <-answer; !errors.Is(err, context.Canceled) {
		t.Errorf("a late answer: %v", err)
	}
	if id, err := provider.Charge(t.Context(), charge("key", sandbox.TokenTimeout)); id == "" || err != nil {
		t.Errorf("asked again: %q, %v", id, err)
	}
	if n := count(t, db); n != 1 {
		t.Errorf("%d charges", n)
	}
}
