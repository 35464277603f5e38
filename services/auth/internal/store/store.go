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

const (
	base64Digits = `'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'`

	// costOf is how a stored hash begins, up to its salt: what users_cost indexes.
	costOf = `rtrim(rtrim(rtrim(password, ` + base64Digits + `), '$'), ` + base64Digits + `)`

	// maxCosts bounds what Costs lists, should hashes be damaged by the thousand.
	maxCosts = 100
)

// Costs lists how stored hashes begin, up to the salt, each once: that tells
// their cost. It takes one look into the index for each, however many users there
// are.
func Costs(ctx context.Context, q database.Querier) ([]string, error) {
	var all []string
	for last := ""; len(all) < maxCosts; all = append(all, last) {
		err := q.QueryRowContext(ctx, `SELECT `+costOf+` FROM users WHERE `+costOf+` > $1 ORDER BY `+costOf+` LIMIT 1`, last).Scan(&last)
		if errors.Is(err, sql.ErrNoRows) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("list the costs of stored hashes: %w", err)
		}
	}
	return all, nil
}

// SigningKey is a key that sessions are signed with from some time on.
type SigningKey struct {
	session.Key
	SignsFrom time.Time
}

// FirstKey makes k the first signing key, unless there is one, of whatever
// generation: of several that are offered at once, one is kept.
func FirstKey(ctx context.Context, tx *database.Tx, k SigningKey) error {
	return insertKey(ctx, tx, k, `INSERT INTO signing_keys (generation, id, seed, created_at, signs_from)
		SELECT 1, $1, $2, CAST($3 AS BIGINT), CAST($4 AS BIGINT) WHERE NOT EXISTS (SELECT 1 FROM signing_keys)
		ON CONFLICT DO NOTHING`)
}

// InsertKey adds a signing key. The keys must be locked.
func InsertKey(ctx context.Context, tx *database.Tx, k SigningKey) error {
	return insertKey(ctx, tx, k, `INSERT INTO signing_keys (generation, id, seed, created_at, signs_from)
		SELECT COALESCE(MAX(generation), 0) + 1, $1, $2, CAST($3 AS BIGINT), CAST($4 AS BIGINT) FROM signing_keys`)
}

func insertKey(ctx context.Context, tx *database.Tx, k SigningKey, statement string) error {
	_, err := tx.ExecContext(ctx, statement,
		k.ID, base64.StdEncoding.EncodeToString(k.Private.Seed()), time.Now().UnixMicro(), k.SignsFrom.UnixMicro())
	if err != nil {
		return fmt.Errorf("insert signing key %s: %w", k.ID, err)
	}
	return nil
}

// SignFrom changes from when on a key signs.
func SignFrom(ctx context.Context, tx *database.Tx, id string, from time.Time) error {
	if _, err := tx.ExecContext(ctx, `UPDATE signing_keys SET signs_from = $1 WHERE id = $2`, from.UnixMicro(), id); err != nil {
		return fmt.Errorf("have key %s sign from %s: %w", id, from, err)
	}
	return nil
}

// DeleteKey deletes a signing key.
func DeleteKey(ctx context.Context, tx *database.Tx, id string) error {
	if _, err := tx.ExecContext(ctx, `DELETE FROM signing_keys WHERE id = $1`, id); err != nil {
		return fmt.Errorf("delete signing key %s: %w", id, err)
	}
	return nil
}

// LockKeys has others who change the signing keys wait until the transaction
// has ended, and returns them as Keys does.
func LockKeys(ctx context.Context, tx *database.Tx) ([]SigningKey, error) {
	if _, err := tx.ExecContext(ctx, `UPDATE signing_keys SET signs_from = signs_from`); err != nil {
		return nil, fmt.Errorf("lock the signing keys: %w", err)
	}
	return Keys(ctx, tx)
}

// Keys lists the signing keys, the one that signs last first.
func Keys(ctx context.Context, q database.Querier) ([]SigningKey, error) {
	keys, err := database.QueryAll(ctx, q, scanKey, `SELECT id, seed, signs_from FROM signing_keys ORDER BY signs_from DESC, generation DESC`)
	if err != nil {
		return nil, fmt.Errorf("list signing keys: %w", err)
	}
	return keys, nil
}

func scanKey(row database.Row) (SigningKey, error) {
	var id, text string
	var from int64
	if err := row.Scan(&id, &text, &from); err != nil {
		return SigningKey{}, err
	}
	seed, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(seed) != ed25519.SeedSize {
		return SigningKey{}, fmt.Errorf("signing key %s is damaged", id)
	}
	return SigningKey{session.Key{ID: id, Private: ed25519.NewKeyFromSeed(seed)}, time.UnixMicro(from).UTC()}, nil
}
