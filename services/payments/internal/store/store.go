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

	"github.com/google/uuid"

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

const columns = "id, order_id, user_id, amount, currency, status, token, charge_id, reason, refund, request, tries"

// Insert adds a new payment that somebody asks the provider about until the time
// until. It fails with payment.ErrUnderWay if another payment of the order is
// pending or has succeeded.
func Insert(ctx context.Context, tx *database.Tx, p payment.Payment, until time.Time) error {
	result, err := tx.ExecContext(ctx, `
		INSERT INTO payments (`+columns+`, next_try) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
		ON CONFLICT (order_id) WHERE status <> 'declined' DO NOTHING`,
		p.ID, p.OrderID, p.UserID, p.Amount, p.Currency, string(p.Status), p.Token, p.ChargeID, p.Reason, string(p.Return),
		p.Request, p.Tries, until.UnixMicro())
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

// Get returns a payment, or ErrNotFound.
func Get(ctx context.Context, q database.Querier, id string) (payment.Payment, error) {
	p, err := scan(q.QueryRowContext(ctx, `SELECT `+columns+` FROM payments WHERE id = $1`, id))
	if err != nil {
		return payment.Payment{}, fmt.Errorf("get payment %s: %w", id, err)
	}
	return p, nil
}

// Live returns the payment of an order that is pending or has succeeded, or
// ErrNotFound.
func Live(ctx context.Context, q database.Querier, order string) (payment.Payment, error) {
	p, err := scan(q.QueryRowContext(ctx, `SELECT `+columns+` FROM payments WHERE order_id = $1 AND status <> 'declined'`, order))
	if err != nil {
		return payment.Payment{}, fmt.Errorf("get the payment of order %s: %w", order, err)
	}
	return p, nil
}

// Settle writes back a payment that is captured or declined by now, if the
// stored one is still pending. It returns the stored one as it is then, and
// whether this call changed it, or ErrNotFound.
func Settle(ctx context.Context, tx *database.Tx, p payment.Payment) (now payment.Payment, changed bool, err error) {
	return change(ctx, tx, p.ID, `
		UPDATE payments SET status = $2, token = $3, charge_id = $4, reason = $5
		WHERE id = $1 AND status = 'pending' RETURNING `+columns,
		string(p.Status), p.Token, p.ChargeID, p.Reason)
}

// GiveBack notes that the money of a payment is to go back, unless that is noted
// already, and that somebody asks the provider for that until the time until. It
// is the money of the charge, whatever the payment said of that before; a payment
// that is pending it leaves alone. It returns the payment as it is then, and
// whether this call changed it, or ErrNotFound.
func GiveBack(
	ctx context.Context, tx *database.Tx, id, charge string, until time.Time,
) (now payment.Payment, changed bool, err error) {
	return change(ctx, tx, id, `
		UPDATE payments SET refund = 'due', charge_id = $2, tries = 0, next_try = $3
		WHERE id = $1 AND status <> 'pending' AND refund = '' RETURNING `+columns,
		charge, until.UnixMicro())
}

// Returned notes that money which was to go back has gone. It returns the payment
// as it is then, and whether this call changed it, or ErrNotFound.
func Returned(ctx context.Context, tx *database.Tx, id string) (now payment.Payment, changed bool, err error) {
	return change(ctx, tx, id, `UPDATE payments SET refund = 'done' WHERE id = $1 AND refund = 'due' RETURNING `+columns)
}

// NotReturned notes that a refund has failed, and why, also if it was thought to
// have succeeded. It returns the payment as it is then, and whether this call
// changed it, or ErrNotFound.
func NotReturned(ctx context.Context, tx *database.Tx, id, reason string) (now payment.Payment, changed bool, err error) {
	return change(ctx, tx, id, `
		UPDATE payments SET refund = 'failed', reason = $2
		WHERE id = $1 AND refund IN ('due', 'done') RETURNING `+columns, reason)
}

// ReturnedByHand notes that somebody has given money back whose refund had
// failed. It returns the payment as it is then, and whether this call changed it,
// or ErrNotFound.
func ReturnedByHand(ctx context.Context, tx *database.Tx, id string) (now payment.Payment, changed bool, err error) {
	return change(ctx, tx, id, `UPDATE payments SET refund = 'hand' WHERE id = $1 AND refund = 'failed' RETURNING `+columns)
}

// Kept lists payments whose refunds have failed: the oldest first, a hundred at
// most.
func Kept(ctx context.Context, q database.Querier) ([]payment.Payment, error) {
	all, err := database.QueryAll(ctx, q, scan, `SELECT `+columns+` FROM payments WHERE refund = 'failed' ORDER BY id LIMIT 100`)
	if err != nil {
		return nil, fmt.Errorf("list failed refunds: %w", err)
	}
	return all, nil
}

// change runs a conditional write of a payment.
func change(ctx context.Context, tx *database.Tx, id, update string, args ...any) (now payment.Payment, changed bool, err error) {
	now, err = scan(tx.QueryRowContext(ctx, update, append([]any{id}, args...)...))
	switch {
	case err == nil:
		return now, true, nil
	case errors.Is(err, ErrNotFound): // none, or one that is past this
		now, err = Get(ctx, tx, id)
		return now, false, err
	}
	return payment.Payment{}, false, fmt.Errorf("update payment %s: %w", id, err)
}

// Unsettled lists payments about which the provider is to be asked and nobody
// does at the time at: those that wait longest first, a hundred at most.
func Unsettled(ctx context.Context, q database.Querier, at time.Time) ([]payment.Payment, error) {
	all, err := database.QueryAll(ctx, q, scan, `
		SELECT `+columns+` FROM payments
		WHERE (status = 'pending' OR refund = 'due') AND next_try <= $1 ORDER BY next_try LIMIT 100`, at.UnixMicro())
	if err != nil {
		return nil, fmt.Errorf("list unsettled payments: %w", err)
	}
	return all, nil
}

// Backlog is how many payments wait, and when the oldest of them was begun; zero
// if there is none.
type Backlog struct {
	Payments int64
	Oldest   time.Time
}

// Backlogs are the payments that are not settled.
type Backlogs struct {
	Pending Backlog // which the provider is asked for
	Due     Backlog // whose money the provider is to give back
	Failed  Backlog // whose money somebody has to give back
}

// Unfinished counts the payments that are not settled.
func Unfinished(ctx context.Context, q database.Querier) (b Backlogs, err error) {
	var pending, due, failed uuid.NullUUID
	err = q.QueryRowContext(ctx, `
		SELECT COUNT(*) FILTER (WHERE status = 'pending'), MIN(id) FILTER (WHERE status = 'pending'),
			COUNT(*) FILTER (WHERE status <> 'pending'), MIN(id) FILTER (WHERE status <> 'pending'),
			(SELECT COUNT(*) FROM payments WHERE refund = 'failed'), (SELECT MIN(id) FROM payments WHERE refund = 'failed')
		FROM payments WHERE status = 'pending' OR refund = 'due'`).
		Scan(&b.Pending.Payments, &pending, &b.Due.Payments, &due, &b.Failed.Payments, &failed)
	if err != nil {
		return Backlogs{}, fmt.Errorf("count unsettled payments: %w", err)
	}
	b.Pending.Oldest, b.Due.Oldest, b.Failed.Oldest = begun(pending), begun(due), begun(failed)
	return b, nil
}

// begun is the time that a payment's id has in it.
func begun(id uuid.NullUUID) time.Time {
	if !id.Valid {
		return time.Time{}
	}
	return time.Unix(id.UUID.Time().UnixTime())
}

// Claim notes that somebody asks the provider about an unsettled payment until
// the time until, and reports whether it may: nobody else has asked since the
// payment was listed.
func Claim(ctx context.Context, tx *database.Tx, p payment.Payment, until time.Time) (bool, error) {
	result, err := tx.ExecContext(ctx, `
		UPDATE payments SET tries = tries + 1, next_try = $3
		WHERE id = $1 AND tries = $2 AND (status = 'pending' OR refund = 'due')`,
		p.ID, p.Tries, until.UnixMicro())
	if err != nil {
		return false, fmt.Errorf("claim payment %s: %w", p.ID, err)
	}
	n, err := result.RowsAffected()
	if err != nil {
		return false, fmt.Errorf("claim payment %s: %w", p.ID, err)
	}
	return n == 1, nil
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
	err = row.Scan(&p.ID, &p.OrderID, &p.UserID, &p.Amount, &p.Currency, &p.Status, &p.Token, &p.ChargeID, &p.Reason,
		&p.Return, &p.Request, &p.Tries)
	return p, notFound(err)
}

func notFound(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound
	}
	return err
}
