package server

import (
	"context"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/services/auth/internal/store"
	"github.com/turnstile-go/turnstile/services/auth/internal/user"
)

// Passwords has the hasher know the costs of all stored hashes before the first
// request: one that it met only at a wrong password would make that no take longer
// than those before, and so tell that somebody has the address. It is a part of
// the service.
type Passwords struct {
	db     *database.DB
	hasher *user.Hasher
}

// NewPasswords returns the part for a hasher, on a database with the schema of
// store.Migrations.
func NewPasswords(db *database.DB, hasher *user.Hasher) *Passwords { return &Passwords{db, hasher} }

// Start reads the costs.
func (p *Passwords) Start(ctx context.Context) error {
	costs, err := store.Costs(ctx, p.db)
	if err != nil {
		return err
	}
	p.hasher.Meet(costs...)
	return nil
}

// Run waits for the end: there is nothing to be done meanwhile.
func (p *Passwords) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}
