package database_test

import (
	"context"
	"regexp"
	"strings"
	"testing"

	"github.com/turnstile-go/turnstile/framework/database"
)

// Whatever statement runs inside InTx, the transaction is still InTx's: what it
// wrote is gone when it fails.
func FuzzStatementsCannotEndTheTransaction(f *testing.F) {
	for _, q := range []string{
		"SELECT 1", "COMMIT", "/**/commit", "--\nROLLBACK", "SELECT 1;END", "SELECT ';';COMMIT", "SELECT '''; COMMIT; --'",
		`SELECT "a;b"; COMMIT`, "SELECT 1 -- x\n; COMMIT", "SELECT 1 /* ; */; COMMIT", "\ufeffCOMMIT", ";;COMMIT",
		"SELECT 1 AS `'`; COMMIT; --'", "EXPLAIN SELECT 1; COMMIT", "SELECT 1;\x00COMMIT", "\x00COMMIT", "SELECT '\\'; COMMIT; --'",
	} {
		f.Add(q)
	}
	db, err := database.New(database.Config{URL: "sqlite::memory:"}, accounts())
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = db.Close() })
	ctx := context.Background()
	if err := db.Start(ctx); err != nil {
		f.Fatal(err)
	}
	// Only what could end a transaction is of interest; the rest would change
	// or lock the database that all runs share.
	interesting := regexp.MustCompile(`(?i)commit|rollback|end|savepoint|release|begin|abort|start|prepare`)
	harmful := regexp.MustCompile(`(?i)pragma|attach|detach|vacuum|drop|delete|update|insert|replace|alter|create|recursive|randomblob|zeroblob`)
	f.Fuzz(func(t *testing.T, q string) {
		if !interesting.MatchString(q) || harmful.MatchString(q) || strings.ContainsAny(q, "$[") { // brackets quote on SQLite, and index arrays on PostgreSQL
			t.Skip()
		}
		t.Cleanup(func() {
			if err := db.InTx(ctx, func(tx *database.Tx) error {
				_, err := tx.ExecContext(ctx, "UPDATE account SET cents = 100")
				return err
			}); err != nil {
				t.Fatal(err)
			}
		})
		abort := context.Canceled
		_ = db.InTx(ctx, func(tx *database.Tx) error {
			if _, err := tx.ExecContext(ctx, "UPDATE account SET cents = 0 WHERE id = 'a'"); err != nil {
				t.Fatal(err)
			}
			_, _ = tx.ExecContext(ctx, q)
			return abort
		})
		var cents int
		if err := db.QueryRowContext(ctx, "SELECT cents FROM account WHERE id = 'a'").Scan(&cents); err != nil || cents != 100 {
			t.Errorf("%q ended the transaction: %d cents, %v", q, cents, err)
		}
	})
}
