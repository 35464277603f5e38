// Package sandbox is a payment provider that moves no money: a ledger of
// charges in the service's own database, as durable as everything else there.
// It knows the usual test tokens.
package sandbox

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/services/payments/internal/payment"
)

// The test tokens. Every other token is declined.
const (
	TokenVisa              = "tok_visa"              // succeeds
	TokenTimeout           = "tok_timeout"           // succeeds, but the answer comes late
	TokenDeclined          = "tok_chargeDeclined"    // is declined
	TokenInsufficientFunds = "tok_insufficientFunds" // is declined, too
)

//go:embed migrations/*.sql
var files embed.FS

// Migrations are the steps to the newest schema of the sandbox's ledger.
func Migrations() database.Migrations {
	return database.MigrationsIn(files, "migrations", "sandbox_schema")
}

// Provider is the sandbox.
type Provider struct {
	db   *database.DB
	late time.Duration
}

// New returns the provider whose ledger is in db. It answers TokenTimeout when
// late has passed.
func New(db *database.DB, late time.Duration) *Provider {
	return &Provider{db: db, late: late}
}

// Charge implements payment.Provider: it enters the charge in the ledger and
// returns its id there. A key used before for something else is
// payment.ErrKeyUsed.
//
// With TokenTimeout the first answer comes late. The charge is entered before,
// whether or not anybody still waits.
func (p *Provider) Charge(ctx context.Context, c payment.Charge) (id string, err error) {
	var first bool
	entered := payment.Charge{Key: c.Key, PaymentID: c.PaymentID, Begun: c.Begun} // the ledger has all else
	var declined string
	err = p.db.InTx(ctx, func(tx *database.Tx) error {
		result, err := tx.ExecContext(ctx, `
			INSERT INTO sandbox_charges (key, id, amount, currency, token, order_id, declined, asked_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (key) DO NOTHING`,
			c.Key, "ch_"+uuid.NewString(), c.Amount, c.Currency, c.Token, c.OrderID, decline(c.Token), time.Now().UnixMicro())
		if err != nil {
			return err
		}
		n, err := result.RowsAffected()
		if err != nil {
			return err
		}
		first = n == 1
		return tx.QueryRowContext(ctx, `
			SELECT id, amount, currency, token, order_id, declined FROM sandbox_charges WHERE key = $1`, c.Key).
			Scan(&id, &entered.Amount, &entered.Currency, &entered.Token, &entered.OrderID, &declined)
	})
	if err != nil {
		return "", fmt.Errorf("sandbox: charge %s: %w", c.Key, err)
	}
	if entered != c {
		return "", fmt.Errorf("sandbox: charge %s: %w", c.Key, payment.ErrKeyUsed)
	}
	if first && c.Token == TokenTimeout {
		select {
		case <-time.After(p.late):
		case <-ctx.Done():
			return "", fmt.Errorf("sandbox: charge %s: the answer is late: %w", c.Key, ctx.Err())
		}
	}
	if declined != "" {
		return "", &payment.DeclinedError{Reason: declined}
	}
	return id, nil
}

// Refund implements payment.Provider: it enters the refund in the ledger.
func (p *Provider) Refund(ctx context.Context, r payment.Refund) error {
	err := p.db.InTx(ctx, func(tx *database.Tx) error {
		var amount int64
		err := tx.QueryRowContext(ctx, `SELECT amount FROM sandbox_charges WHERE id = $1 AND declined = ''`, r.ChargeID).Scan(&amount)
		if errors.Is(err, sql.ErrNoRows) {
			return payment.ErrNoCharge
		}
		if err != nil {
			return err
		}
		if amount != r.Amount {
			return fmt.Errorf("the charge %s is of %d, not of %d", r.ChargeID, amount, r.Amount)
		}
		if _, err = tx.ExecContext(ctx, `
			INSERT INTO sandbox_refunds (charge_id, key, asked_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`,
			r.ChargeID, r.Key, time.Now().UnixMicro()); err != nil {
			return err
		}
		var charge string
		err = tx.QueryRowContext(ctx, `SELECT charge_id FROM sandbox_refunds WHERE key = $1`, r.Key).Scan(&charge)
		switch {
		case errors.Is(err, sql.ErrNoRows): // it has gone back by another key
			return nil
		case err == nil && charge != r.ChargeID:
			return payment.ErrKeyUsed
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("sandbox: refund %s: %w", r.Key, err)
	}
	return nil
}

// decline returns why a token is declined, or "".
func decline(token string) string {
	switch token {
	case TokenVisa, TokenTimeout:
		return ""
	case TokenDeclined:
		return "Your card was declined"
	case TokenInsufficientFunds:
		return "Your card has insufficient funds"
	}
	return "The payment token is unknown"
}
