// Package store keeps users and signing keys in the service's database.
package store

import (
	"context"
	"crypto/ed25519"
	"database/sql"
	"embed"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/web/session"
	"github.com/turnstile-go/turnstile/services/auth/internal/user"
)

//go:embed migrations/*.sql
var files embed.FS

// Migrations are the steps to the newest schema.
func Migrations() database.Migrations {
	return database.MigrationsIn(files, "migrations", "auth_schema")
}

var (
	// ErrNotFound says that nobody has an address.
	ErrNotFound = errors.New("user not found")
	// ErrTaken says that somebody has an address already.
	ErrTaken = errors.New("address taken")
)

// Insert adds a new user. It returns ErrTaken if somebody has the address, in
// whatever letter case, or is just getting it.
func Insert(ctx context.Context, tx *database.Tx, u user.User, now time.Time) error {
	_, err := tx.ExecContext(ctx, `
		INSERT INTO users (id, email, email_folded, password, created_at) VALUES ($1, $2, $3, $4, $5)`,
		u.ID, u.Email, user.Fold(u.Email), u.Password, now.UnixMicro())
	if database.IsUnique(err, "users_email", "users.email_folded") {
		return ErrTaken
	}
	if err != nil {
		return fmt.Errorf("insert user %s: %w", u.ID, err)
	}
	return nil
}

// ByEmail returns the user with an address, in whatever letter case, or
// ErrNotFound.
func ByEmail(ctx context.Context, q database.Querier, email string) (user.User, error) {
	var u user.User
	err := q.QueryRowContext(ctx, `SELECT id, email, password FROM users WHERE email_folded = $1`, user.Fold(email)).
		Scan(&u.ID, &u.Email, &u.Password)
	if errors.Is(err, sql.ErrNoRows) {
		return user.User{}, ErrNotFound
	}
	if err != nil {
		return user.User{}, fmt.Errorf("user by address: %w", err)
	}
	return u, nil
}

// ReplacePassword stores another hash of the same password, unless what is
// stored is no longer what u has.
func ReplacePassword(ctx context.Context, tx *database.Tx, u user.User, hash string) error {
	_, err := tx.ExecContext(ctx, `UPDATE users SET password = $1 WHERE id = $2 AND password = $3`, hash, u.ID, u.Password)
	if err != nil {
		return fmt.Errorf("replace the hash of user %s: %w", u.ID, err)
	}
	return nil
}

// FirstKey makes k the first signing key, unless there is one: of several that
// are offered at once, one is kept.
func FirstKey(ctx context.Context, tx *database.Tx, k session.Key, now time.Time) error {
	_, err := tx.ExecContext(ctx, `
		INSERT INTO signing_keys (generation, id, seed, created_at) VALUES (1, $1, $2, $3) ON CONFLICT DO NOTHING`,
		k.ID, base64.StdEncoding.EncodeToString(k.Private.Seed()), now.UnixMicro())
	if err != nil {
		return fmt.Errorf("insert the first signing key: %w", err)
	}
	return nil
}

// Keys lists the signing keys, the newest, which signs, first.
func Keys(ctx context.Context, q database.Querier) ([]session.Key, error) {
	keys, err := database.QueryAll(ctx, q, scanKey, `SELECT id, seed FROM signing_keys ORDER BY generation DESC`)
	if err != nil {
		return nil, fmt.Errorf("list signing keys: %w", err)
	}
	return keys, nil
}

func scanKey(row database.Row) (session.Key, error) {
	var id, text string
	if err := row.Scan(&id, &text); err != nil {
		return session.Key{}, err
	}
	seed, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(seed) != ed25519.SeedSize {
		return session.Key{}, fmt.Errorf("signing key %s is damaged", id)
	}
	return session.Key{ID: id, Private: ed25519.NewKeyFromSeed(seed)}, nil
}
