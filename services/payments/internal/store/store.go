// Package store keeps payments, and what is known of orders, in the service's
// database.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/services/payments/internal/payment"
)

//go:embed migrations/*.sql
var files embed.FS

// Migrations are the steps to the newest schema.
func Migrations() database.Migrations {
	return database.MigrationsIn(files, "migrations", "payments_schema")
}

// ErrNotFound says that there is no order, or no payment, with an id.
var ErrNotFound = errors.New("not found")

// PutOrder records a new order, unless more is known of it.
func PutOrder(ctx context.Context, tx *database.Tx, o payment.Order) error {
	_, err := tx.ExecContext(ctx, `
		INSERT INTO orders (id, user_id, price, status, expires_at, version)
		VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (id) DO UPDATE
		SET user_id = excluded.user_id, price = excluded.price, status = excluded.status,
			expires_at = excluded.expires_at, version = excluded.version
		WHERE orders.version < excluded.version`,
		o.ID, o.UserID, o.Price, string(o.Status), o.ExpiresAt.UnixMicro(), o.Version)
	if err != nil {
		return fmt.Errorf("put order %s version %d: %w", o.ID, o.Version, err)
	}
	return nil
}

// EndOrder records that an order is final, unless more is known of it. An
// order that is not known stays so: it cannot be paid anyhow.
func EndOrder(ctx context.Context, tx *database.Tx, id string, status payment.OrderStatus, version int64) error {
	_, err := tx.ExecContext(ctx, `
		UPDATE orders SET status = $2, version = $3 WHERE id = $1 AND version < $3`,
		id, string(status), version)
	if err != nil {
		return fmt.Errorf("end order %s as %s: %w", id, status, err)
	}
	return nil
}

// Order returns an order, or ErrNotFound.
func Order(ctx context.Context, q database.Querier, id string) (o payment.Order, err error) {
	var expires int64
	err = q.QueryRowContext(ctx, `
		SELECT id, user_id, price, status, expires_at, version FROM orders WHERE id = $1`, id).
		Scan(&o.ID, &o.UserID, &o.Price, &o.Status, &expires, &o.Version)
	if err != nil {
		return payment.Order{}, fmt.Errorf("get order %s: %w", id, notFound(err))
	}
	o.ExpiresAt = time.UnixMicro(expires).UTC()
	return o, nil
}

const columns = "id, order_id, user_id, amount, currency, status, token, charge_id, reason"

// Insert adds a new payment. It fails with payment.ErrUnderWay if another
// payment of the order is pending or has succeeded.
func Insert(ctx context.Context, tx *database.Tx, p payment.Payment) error {
	result, err := tx.ExecContext(ctx, `
		INSERT INTO payments (`+columns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
		ON CONFLICT (order_id) WHERE status <> 'declined' DO NOTHING`,
		p.ID, p.OrderID, p.UserID, p.Amount, p.Currency, string(p.Status), p.Token, p.ChargeID, p.Reason)
	if err != nil {
		return fmt.Errorf("insert payment %s: %w", p.ID, err)
	}
	n, err := result.RowsAffected()
	if err != nil {
		return fmt.Errorf("insert payment %s: %w", p.ID, err)
	}
	if n == 0 {
		return payment.ErrUnderWay
	}
	return nil
}

// Settle writes back a payment that is captured or declined by now, if the
// stored one is still pending. It returns the stored one as it is then, and
// whether this call changed it.
func Settle(ctx context.Context, tx *database.Tx, p payment.Payment) (now payment.Payment, changed bool, err error) {
	now, err = scan(tx.QueryRowContext(ctx, `
		UPDATE payments SET status = $2, token = $3, charge_id = $4, reason = $5
		WHERE id = $1 AND status = 'pending' RETURNING `+columns,
		p.ID, string(p.Status), p.Token, p.ChargeID, p.Reason))
	if err == nil {
		return now, true, nil
	}
	if errors.Is(err, ErrNotFound) {
		now, err = scan(tx.QueryRowContext(ctx, `SELECT `+columns+` FROM payments WHERE id = $1`, p.ID))
	}
	if err != nil {
		return payment.Payment{}, false, fmt.Errorf("settle payment %s as %s: %w", p.ID, p.Status, err)
	}
	return now, false, nil
}

// Pending lists pending payments with an id below before, oldest first: a
// hundred of them at most.
func Pending(ctx context.Context, q database.Querier, before string) ([]payment.Payment, error) {
	all, err := database.QueryAll(ctx, q, scan, `
		SELECT `+columns+` FROM payments WHERE status = 'pending' AND id < $1 ORDER BY id LIMIT 100`, before)
	if err != nil {
		return nil, fmt.Errorf("list pending payments: %w", err)
	}
	return all, nil
}

// List lists at most limit payments of a user, newest first, beginning after
// the payment with the id after. With an order, only those for it.
func List(ctx context.Context, q database.Querier, user, order, after string, limit int) ([]payment.Payment, error) {
	all, err := database.QueryAll(ctx, q, scan, `
		SELECT `+columns+` FROM payments
		WHERE user_id = $1 AND ($2 = '' OR order_id = $2) AND id < $3
		ORDER BY id DESC LIMIT $4`,
		user, order, after, limit)
	if err != nil {
		return nil, fmt.Errorf("list payments: %w", err)
	}
	return all, nil
}

func scan(row database.Row) (p payment.Payment, err error) {
	err = row.Scan(&p.ID, &p.OrderID, &p.UserID, &p.Amount, &p.Currency, &p.Status, &p.Token, &p.ChargeID, &p.Reason)
	return p, notFound(err)
}

func notFound(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound
	}
	return err
}
