package databasetest_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/database/databasetest"
)

// What is committed outlives every way to end a server, and a standby has it.
func TestServer(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s := databasetest.PostgresServer(t)
	if err := s.CreateDatabase(ctx, "shop"); err != nil {
		t.Fatal(err)
	}
	standby, err := s.Standby(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer standby.Stop()
	rows := 0
	write := func(url string) {
		t.Helper()
		db, err := database.New(database.Config{URL: url})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if err := db.InTx(ctx, func(tx *database.Tx) error {
			if _, err := tx.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS line (n INT)"); err != nil {
				return err
			}
			_, err := tx.ExecContext(ctx, "INSERT INTO line VALUES (1)")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		rows++
		var n int
		if err := db.QueryRowContext(ctx, "SELECT count(*) FROM line").Scan(&n); err != nil || n != rows {
			t.Fatalf("%d rows (%v), want %d", n, err, rows)
		}
	}
	write(s.URL("shop"))
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	write(s.URL("shop"))
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	write(s.URL("shop", standby))
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := standby.Promote(); err != nil {
		t.Fatal(err)
	}
	write(s.URL("shop", standby))
}

// A folder that somebody chose is theirs: it stays, with what the server said.
func TestServerInAFolder(t *testing.T) {
	t.Parallel()
	databasetest.PostgresURL(t)        // skips where there is no PostgreSQL
	dir, err := os.MkdirTemp("", "pg") //nolint:usetesting // that of t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	s, err := databasetest.NewServer(dir)
	if err != nil {
		t.Fatal(err)
	}
	db, err := database.New(database.Config{URL: s.URL("postgres")})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Start(t.Context()); err != nil {
		t.Error(err)
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "log")); err != nil {
		t.Error(err)
	}
	if err := db.Start(t.Context()); err == nil {
		t.Error("the server was stopped and answers")
	}
}
