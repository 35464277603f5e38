// Package databasetest gives every test a private database: a SQLite file, or
// a database in a PostgreSQL server of the test process's own. Tests of what
// happens when a server restarts or is lost have one to themselves.
package databasetest

import (
	"context"
	"crypto/rand"
	"path/filepath"
	"strings"
	"testing"

	"github.com/turnstile-go/turnstile/framework/database"
)

// Each runs test as two subtests, one on each kind of database.
func Each(t *testing.T, test func(t *testing.T, db *database.DB), migrations ...database.Migrations) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { test(t, SQLite(t, migrations...)) })
	t.Run("postgres", func(t *testing.T) { test(t, Postgres(t, migrations...)) })
}

// SQLite returns a migrated database in a file of its own, closed when the
// test ends.
func SQLite(t testing.TB, migrations ...database.Migrations) *database.DB {
	t.Helper()
	return start(t, "sqlite:"+filepath.Join(t.TempDir(), "test.db"), migrations)
}

// Postgres returns a migrated database of its own on the test process's
// server, closed when the test ends. Where PostgreSQL is not installed it
// skips the test, or fails it if CI is set.
func Postgres(t testing.TB, migrations ...database.Migrations) *database.DB {
	t.Helper()
	return start(t, PostgresURL(t), migrations)
}

// PostgresURL is Postgres for tests that hand the empty database to another
// process.
func PostgresURL(t testing.TB) string {
	t.Helper()
	s := sharedServer(t)
	name := "t_" + strings.ToLower(rand.Text())
	if err := s.CreateDatabase(context.Background(), name); err != nil {
		t.Fatalf("databasetest: %v", err)
	}
	return s.URL(name)
}

// PostgresServer returns a server of the test's own, to restart and to kill. It
// is stopped when the test ends. Where PostgreSQL is not installed it does as
// Postgres.
func PostgresServer(t testing.TB) *Server {
	t.Helper()
	NeedPostgres(t)
	s, err := NewServer("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Errorf("databasetest: stop the server: %v", err)
		}
	})
	return s
}

func start(t testing.TB, url string, migrations []database.Migrations) *database.DB {
	t.Helper()
	db, err := database.New(database.Config{URL: url}, migrations...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("databasetest: close: %v", err)
		}
	})
	if err := db.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	return db
}
