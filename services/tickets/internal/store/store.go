// Package store keeps tickets in the service's database.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/services/tickets/internal/ticket"
)

//go:embed migrations/*.sql
var files embed.FS

// Migrations are the steps to the newest schema.
func Migrations() database.Migrations {
	return database.MigrationsIn(files, "migrations", "tickets_schema")
}

// ErrNotFound says that there is no ticket with an id.
var ErrNotFound = errors.New("ticket not found")

const columns = "id, title, price, user_id, version, order_id, sold"

// Insert adds a new ticket.
func Insert(ctx context.Context, tx *database.Tx, t ticket.Ticket) error {
	_, err := tx.ExecContext(ctx, `
		INSERT INTO tickets (id, title, title_folded, price, user_id, version, order_id, sold)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		t.ID, t.Title, ticket.Fold(t.Title), int64(t.Price), t.UserID, t.Version, t.OrderID, flag(t.Sold))
	if err != nil {
		return fmt.Errorf("insert ticket %s: %w", t.ID, err)
	}
	return nil
}

// Get returns a ticket, or ErrNotFound.
func Get(ctx context.Context, q database.Querier, id string) (ticket.Ticket, error) {
	t, err := scan(q.QueryRowContext(ctx, `SELECT `+columns+` FROM tickets WHERE id = $1`, id))
	if err != nil {
		return ticket.Ticket{}, fmt.Errorf("get ticket %s: %w", id, err)
	}
	return t, nil
}

// Lock returns a ticket, or ErrNotFound, and keeps others from changing it
// until tx ends.
func Lock(ctx context.Context, tx *database.Tx, id string) (ticket.Ticket, error) {
	// An update that changes nothing is a lock on both databases. It waits for
	// whoever has the row and then returns what they left.
	t, err := scan(tx.QueryRowContext(ctx, `
		UPDATE tickets SET version = version WHERE id = $1 RETURNING `+columns, id))
	if err != nil {
		return ticket.Ticket{}, fmt.Errorf("lock ticket %s: %w", id, err)
	}
	return t, nil
}

// Save writes back a ticket that the transaction has locked.
func Save(ctx context.Context, tx *database.Tx, t ticket.Ticket) error {
	_, err := tx.ExecContext(ctx, `
		UPDATE tickets SET title = $2, title_folded = $3, price = $4, version = $5, order_id = $6, sold = $7
		WHERE id = $1`,
		t.ID, t.Title, ticket.Fold(t.Title), int64(t.Price), t.Version, t.OrderID, flag(t.Sold))
	if err != nil {
		return fmt.Errorf("save ticket %s: %w", t.ID, err)
	}
	return nil
}

// Delete removes a ticket that the transaction has locked.
func Delete(ctx context.Context, tx *database.Tx, id string) error {
	if _, err := tx.ExecContext(ctx, `DELETE FROM tickets WHERE id = $1`, id); err != nil {
		return fmt.Errorf("delete ticket %s: %w", id, err)
	}
	return nil
}

// ForSale lists at most limit tickets that can be bought, newest first,
// beginning after the ticket with the id after. With a query, only those whose
// title contains it, in whatever letter case.
func ForSale(ctx context.Context, q database.Querier, query, after string, limit int) ([]ticket.Ticket, error) {
	if utf8.RuneCountInString(query) > ticket.MaxTitle {
		return nil, nil // no title is that long, but a pattern can be too long for SQLite
	}
	return list(ctx, q, `
		SELECT `+columns+` FROM tickets
		WHERE order_id = '' AND id < $1 AND title_folded LIKE $2 ESCAPE '!'
		ORDER BY id DESC LIMIT $3`,
		after, "%"+literal.Replace(ticket.Fold(query))+"%", limit)
}

// literal takes the meaning from what means something to LIKE.
var literal = strings.NewReplacer("!", "!!", "%", "!%", "_", "!_")

// Owned lists at most limit tickets of a seller, in every state, newest first,
// beginning after the ticket with the id after.
func Owned(ctx context.Context, q database.Querier, user, after string, limit int) ([]ticket.Ticket, error) {
	return list(ctx, q, `
		SELECT `+columns+` FROM tickets WHERE user_id = $1 AND id < $2
		ORDER BY id DESC LIMIT $3`,
		user, after, limit)
}

// Wait notes that an order waits for a ticket which the transaction has locked.
// Waiting twice is waiting once.
func Wait(ctx context.Context, tx *database.Tx, id, order string) error {
	_, err := tx.ExecContext(ctx, `
		INSERT INTO waiting (ticket_id, order_id) VALUES ($1, $2) ON CONFLICT DO NOTHING`, id, order)
	if err != nil {
		return fmt.Errorf("let order %s wait for ticket %s: %w", order, id, err)
	}
	return nil
}

// StopWaiting forgets that an order waits for a ticket, if it does.
func StopWaiting(ctx context.Context, tx *database.Tx, id, order string) error {
	_, err := tx.ExecContext(ctx, `DELETE FROM waiting WHERE ticket_id = $1 AND order_id = $2`, id, order)
	if err != nil {
		return fmt.Errorf("let order %s wait for ticket %s no longer: %w", order, id, err)
	}
	return nil
}

// Waiting returns the order that has waited for a ticket the longest, or "".
func Waiting(ctx context.Context, q database.Querier, id string) (order string, err error) {
	err = q.QueryRowContext(ctx, `
		SELECT order_id FROM waiting WHERE ticket_id = $1 ORDER BY order_id LIMIT 1`, id).Scan(&order)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return "", fmt.Errorf("orders waiting for ticket %s: %w", id, err)
	}
	return order, nil
}

func list(ctx context.Context, q database.Querier, query string, args ...any) ([]ticket.Ticket, error) {
	all, err := database.QueryAll(ctx, q, scan, query, args...)
	if err != nil {
		return nil, fmt.Errorf("list tickets: %w", err)
	}
	return all, nil
}

func scan(row database.Row) (t ticket.Ticket, err error) {
	var sold int
	err = row.Scan(&t.ID, &t.Title, &t.Price, &t.UserID, &t.Version, &t.OrderID, &sold)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNotFound
	}
	t.Sold = sold != 0
	return t, err
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}
