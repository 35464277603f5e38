// Package store keeps orders, and what is known of tickets, in the service's
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
	"github.com/turnstile-go/turnstile/services/orders/internal/order"
)

//go:embed migrations/*.sql
var files embed.FS

// Migrations are the steps to the newest schema.
func Migrations() database.Migrations {
	return database.MigrationsIn(files, "migrations", "orders_schema")
}

// ErrNotFound says that there is no order, or no ticket, with an id.
var ErrNotFound = errors.New("not found")

// PutTicket records a ticket's state, unless a newer one is known or the ticket
// is deleted.
func PutTicket(ctx context.Context, tx *database.Tx, t order.Ticket) error {
	_, err := tx.ExecContext(ctx, `
		INSERT INTO tickets (id, title, price, user_id, version, deleted)
		VALUES ($1, $2, $3, $4, $5, 0)
		ON CONFLICT (id) DO UPDATE
		SET title = excluded.title, price = excluded.price, user_id = excluded.user_id, version = excluded.version
		WHERE tickets.version < excluded.version AND tickets.deleted = 0`,
		t.ID, t.Title, int64(t.Price), t.UserID, t.Version)
	if err != nil {
		return fmt.Errorf("put ticket %s version %d: %w", t.ID, t.Version, err)
	}
	return nil
}

// DeleteTicket records that a ticket is gone, whether or not it was known.
func DeleteTicket(ctx context.Context, tx *database.Tx, id string, version int64) error {
	_, err := tx.ExecContext(ctx, `
		INSERT INTO tickets (id, title, price, user_id, version, deleted)
		VALUES ($1, '', 0, '', $2, 1)
		ON CONFLICT (id) DO UPDATE SET version = excluded.version, deleted = 1`,
		id, version)
	if err != nil {
		return fmt.Errorf("delete ticket %s: %w", id, err)
	}
	return nil
}

const ticketColumns = "id, title, price, user_id, version"

// Ticket returns a ticket, or ErrNotFound, and whether an order of it is live.
func Ticket(ctx context.Context, q database.Querier, id string) (t order.Ticket, taken bool, err error) {
	var live int
	err = q.QueryRowContext(ctx, `
		SELECT `+ticketColumns+`,
			(SELECT COUNT(*) FROM orders WHERE ticket_id = tickets.id AND status IN ('created', 'complete'))
		FROM tickets WHERE id = $1 AND deleted = 0`,
		id).Scan(&t.ID, &t.Title, &t.Price, &t.UserID, &t.Version, &live)
	if err != nil {
		return order.Ticket{}, false, fmt.Errorf("get ticket %s: %w", id, notFound(err))
	}
	return t, live > 0, nil
}

// LockTicket returns a ticket, or ErrNotFound, and keeps it from being changed
// or deleted until tx ends.
func LockTicket(ctx context.Context, tx *database.Tx, id string) (t order.Ticket, err error) {
	// An update that changes nothing is a lock on both databases. It waits for
	// whoever has the row and then returns what they left.
	err = tx.QueryRowContext(ctx, `
		UPDATE tickets SET version = version WHERE id = $1 AND deleted = 0 RETURNING `+ticketColumns,
		id).Scan(&t.ID, &t.Title, &t.Price, &t.UserID, &t.Version)
	if err != nil {
		return order.Ticket{}, fmt.Errorf("lock ticket %s: %w", id, notFound(err))
	}
	return t, nil
}

const columns = "id, user_id, status, expires_at, version, ticket_id, ticket_title, ticket_price, payment_id"

// Insert adds a new order. It fails with order.ErrTaken if another order of the
// ticket is live.
func Insert(ctx context.Context, tx *database.Tx, o order.Order) error {
	result, err := tx.ExecContext(ctx, `
		INSERT INTO orders (`+columns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
		ON CONFLICT (ticket_id) WHERE status IN ('created', 'complete') DO NOTHING`,
		o.ID, o.UserID, string(o.Status), o.ExpiresAt.UnixMicro(), o.Version,
		o.Ticket.ID, o.Ticket.Title, int64(o.Ticket.Price), o.PaymentID)
	if err != nil {
		return fmt.Errorf("insert order %s: %w", o.ID, err)
	}
	n, err := result.RowsAffected()
	if err != nil {
		return fmt.Errorf("insert order %s: %w", o.ID, err)
	}
	if n == 0 {
		return order.ErrTaken
	}
	return nil
}

// Get returns an order, or ErrNotFound.
func Get(ctx context.Context, q database.Querier, id string) (order.Order, error) {
	o, err := scan(q.QueryRowContext(ctx, `SELECT `+columns+` FROM orders WHERE id = $1`, id))
	if err != nil {
		return order.Order{}, fmt.Errorf("get order %s: %w", id, err)
	}
	return o, nil
}

// Cancel cancels an order that is still Created. It returns the order as it is
// then, and whether this call changed it, or ErrNotFound.
func Cancel(ctx context.Context, tx *database.Tx, id string) (o order.Order, changed bool, err error) {
	return settle(ctx, tx, id, order.Cancelled, "")
}

// Complete completes an order that is still Created, by a payment. It returns
// the order as it is then, and whether this call changed it, or ErrNotFound.
func Complete(ctx context.Context, tx *database.Tx, id, payment string) (o order.Order, changed bool, err error) {
	return settle(ctx, tx, id, order.Complete, payment)
}

// settle takes an order from Created to a final state in one conditional
// write: of several that try, one does.
func settle(ctx context.Context, tx *database.Tx, id string, to order.Status, payment string) (order.Order, bool, error) {
	o, err := scan(tx.QueryRowContext(ctx, `
		UPDATE orders SET status = $2, payment_id = $3, version = version + 1
		WHERE id = $1 AND status = 'created' RETURNING `+columns,
		id, string(to), payment))
	switch {
	case err == nil:
		return o, true, nil
	case errors.Is(err, ErrNotFound):
		// None, or one that is final, which nobody changes any more.
		o, err = Get(ctx, tx, id)
		return o, false, err
	}
	return order.Order{}, false, fmt.Errorf("settle order %s as %s: %w", id, to, err)
}

// Holder returns the id of the order that is Created for a ticket, or
// ErrNotFound.
func Holder(ctx context.Context, q database.Querier, ticket string) (id string, err error) {
	// SQLite uses the index of live orders only where it sees that index's condition.
	err = q.QueryRowContext(ctx, `
		SELECT id FROM orders WHERE ticket_id = $1 AND status IN ('created', 'complete') AND status = 'created'`, ticket).Scan(&id)
	if err != nil {
		return "", fmt.Errorf("order holding ticket %s: %w", ticket, notFound(err))
	}
	return id, nil
}

// List lists at most limit orders of a buyer, newest first, beginning after
// the order with the id after.
func List(ctx context.Context, q database.Querier, user, after string, limit int) ([]order.Order, error) {
	all, err := database.QueryAll(ctx, q, scan, `
		SELECT `+columns+` FROM orders WHERE user_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3`,
		user, after, limit)
	if err != nil {
		return nil, fmt.Errorf("list orders: %w", err)
	}
	return all, nil
}

func scan(row database.Row) (o order.Order, err error) {
	var expires int64
	err = row.Scan(&o.ID, &o.UserID, &o.Status, &expires, &o.Version,
		&o.Ticket.ID, &o.Ticket.Title, &o.Ticket.Price, &o.PaymentID)
	o.ExpiresAt = time.UnixMicro(expires).UTC()
	return o, notFound(err)
}

func notFound(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound
	}
	return err
}
