package sandbox_test

import (
	"errors"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/database/databasetest"
	"github.com/turnstile-go/turnstile/services/payments/internal/payment"
	"github.com/turnstile-go/turnstile/services/payments/internal/providertest"
	"github.com/turnstile-go/turnstile/services/payments/internal/sandbox"
)

func TestConformance(t *testing.T) {
	for name, open := range map[string]func(testing.TB, ...database.Migrations) *database.DB{
		"sqlite": databasetest.SQLite, "postgres": databasetest.Postgres,
	} {
		t.Run(name, func(t *testing.T) {
			providertest.Run(t, func(t *testing.T) providertest.Subject {
				db := open(t, sandbox.Migrations())
				return providertest.Subject{
					Provider: sandbox.New(db, time.Hour),
					Taken: func() []string {
						return ids(t, db, `SELECT id FROM sandbox_charges WHERE declined = '' AND id <> $1`, "")
					},
					Returned: func(charge string) int {
						return len(ids(t, db, `SELECT charge_id FROM sandbox_refunds WHERE charge_id = $1`, charge))
					},
					Good: sandbox.TokenVisa, Declined: sandbox.TokenDeclined, Late: sandbox.TokenTimeout, Unknown: "tok_none",
					Reason: "Your card was declined",
				}
			})
		})
	}
}

func ids(t *testing.T, db *database.DB, query, arg string) []string {
	t.Helper()
	all, err := database.QueryAll(t.Context(), db, func(row database.Row) (id string, err error) { return id, row.Scan(&id) }, query, arg)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestTokens(t *testing.T) {
	provider := sandbox.New(databasetest.SQLite(t, sandbox.Migrations()), 0)
	for token, reason := range map[string]string{
		sandbox.TokenVisa: "", sandbox.TokenTimeout: "",
		sandbox.TokenDeclined:          "Your card was declined",
		sandbox.TokenInsufficientFunds: "Your card has insufficient funds",
	} {
		id, err := provider.Charge(t.Context(), providertest.Charge(token, token))
		declined, ok := errors.AsType[*payment.DeclinedError](err)
		if reason == "" && (id == "" || err != nil) || reason != "" && (!ok || declined.Reason != reason) {
			t.Errorf("%s: %q, %v; want %q", token, id, err, reason)
		}
	}
}

// TestRefundOfAnotherAmount: all of a charge goes back, or nothing.
func TestRefundOfAnotherAmount(t *testing.T) {
	provider := sandbox.New(databasetest.SQLite(t, sandbox.Migrations()), 0)
	id, err := provider.Charge(t.Context(), providertest.Charge("a", sandbox.TokenVisa))
	if err != nil {
		t.Fatal(err)
	}
	r := providertest.Refund("a", id)
	if r.Amount--; provider.Refund(t.Context(), r) == nil {
		t.Error("a part of the money went back")
	}
}
