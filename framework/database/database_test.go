package database_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"testing/synctest"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/database/databasetest"
)

func accounts() database.Migrations {
	fsys := fstest.MapFS{"0001_accounts.sql": {Data: []byte(`-- +goose Up
CREATE TABLE account (id TEXT PRIMARY KEY, email TEXT NOT NULL UNIQUE, cents BIGINT NOT NULL);
INSERT INTO account VALUES ('a', 'a@example.com', 100), ('b', 'b@example.com', 100);
`)}}
	return database.Migrations{Table: "account_schema", Postgres: fsys, SQLite: fsys}
}

func cents(t *testing.T, q database.Querier, id string) (n int) {
	t.Helper()
	if err := q.QueryRowContext(t.Context(), "SELECT cents FROM account WHERE id = $1", id).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestInTxCommitsOrRollsBack(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		ctx := t.Context()
		add := func(tx *database.Tx, n int) {
			// $2 before $1: placeholders are numbered, not positional.
			if _, err := tx.ExecContext(ctx, "UPDATE account SET cents = cents + $2 WHERE id = $1", "a", n); err != nil {
				t.Fatal(err)
			}
		}
		var after []string
		if err := db.InTx(ctx, func(tx *database.Tx) error {
			tx.AfterCommit(func() { after = append(after, "committed") })
			add(tx, 1)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		boom := errors.New("boom")
		if err := db.InTx(ctx, func(tx *database.Tx) error {
			tx.AfterCommit(func() { after = append(after, "failed") })
			add(tx, 10)
			return boom
		}); err != boom {
			t.Fatalf("error is %v, want the function's own", err)
		}
		func() {
			defer func() { _ = recover() }()
			_ = db.InTx(ctx, func(tx *database.Tx) error { add(tx, 100); panic("oh") })
		}()
		if got := cents(t, db, "a"); got != 101 {
			t.Errorf("balance %d, want 101: only the first transaction commits", got)
		}
		if fmt.Sprint(after) != "[committed]" {
			t.Errorf("AfterCommit ran %v", after)
		}
	}, accounts())
}

func TestTxCannotBeEndedOrNested(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		for _, q := range []string{
			"COMMIT", "rollback", " savepoint x", "RELEASE x", "-- hi\nBEGIN", "/* c */ END",
			"UPDATE account SET cents = 0; COMMIT", "SELECT ';'; ROLLBACK", "abort;",
		} {
			err := db.InTx(t.Context(), func(tx *database.Tx) error {
				_, err := tx.ExecContext(t.Context(), q)
				return err
			})
			if err == nil || !strings.Contains(err.Error(), "not allowed inside InTx") {
				t.Errorf("%q: %v", q, err)
			}
		}
		if err := db.InTx(t.Context(), func(tx *database.Tx) error {
			_, err := tx.ExecContext(t.Context(), "UPDATE account SET email = 'x; COMMIT' WHERE id = 'a';")
			return err
		}); err != nil {
			t.Errorf("a word inside a string: %v", err)
		}
	}, accounts())
}

// Two transactions that lock two rows in opposite order deadlock on
// PostgreSQL; both must succeed in the end.
func TestDeadlockIsTriedAgain(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		ctx := t.Context()
		var met sync.WaitGroup
		met.Add(2)
		transfer := func(from, to string) error {
			first := true
			return db.InTx(ctx, func(tx *database.Tx) error {
				if _, err := tx.ExecContext(ctx, "UPDATE account SET cents = cents - 1 WHERE id = $1", from); err != nil {
					return err
				}
				if first && tx.Dialect() == database.Postgres {
					first = false
					met.Done()
					met.Wait()
				}
				_, err := tx.ExecContext(ctx, "UPDATE account SET cents = cents + 1 WHERE id = $1", to)
				return err
			})
		}
		results := make(chan error, 2)
		go func() { results <- transfer("a", "b") }()
		go func() { results <- transfer("b", "a") }()
		for range 2 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		if a, b := cents(t, db, "a"), cents(t, db, "b"); a != 100 || b != 100 {
			t.Errorf("balances %d and %d, want 100 each", a, b)
		}
	}, accounts())
}

func TestIsUnique(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		insert := func(id, email string) error {
			return db.InTx(t.Context(), func(tx *database.Tx) error {
				_, err := tx.ExecContext(t.Context(), "INSERT INTO account VALUES ($1, $2, 0)", id, email)
				return err
			})
		}
		if err := insert("c", "a@example.com"); !database.IsUnique(err) || !database.IsUnique(err, "account_email_key", "account.email") {
			t.Errorf("same address: %v", err)
		} else if database.IsUnique(err, "other") {
			t.Error("matches a name that it does not have")
		}
		if err := insert("a", "c@example.com"); !database.IsUnique(err) {
			t.Errorf("same id: %v", err)
		}
		if database.IsUnique(nil) || database.IsUnique(errors.New("x")) {
			t.Error("no violation is taken for one")
		}
	}, accounts())
}

// A migration that fails is named, and people are told; where the database is
// away, no migration has failed. The password is in neither error.
func TestMigrationThatFails(t *testing.T) {
	files := fstest.MapFS{
		"0001_lines.sql":  {Data: []byte("-- +goose Up\nCREATE TABLE line (n BIGINT);")},
		"0002_broken.sql": {Data: []byte("-- +goose Up\nALTER TABLE lime ADD m BIGINT;")},
	}
	const password = "sesame"
	for name, url := range map[string]func(t *testing.T) string{
		"sqlite": func(t *testing.T) string { return "sqlite:" + filepath.Join(t.TempDir(), "test.db") },
		"postgres": func(t *testing.T) string {
			url := databasetest.PostgresURL(t)
			return url + map[bool]string{true: "&", false: "?"}[strings.Contains(url, "?")] + "password=" + password
		},
	} {
		t.Run(name, func(t *testing.T) {
			err := startOn(t, url(t), database.Migrations{Table: "line_schema", Postgres: files, SQLite: files})
			if err == nil {
				t.Fatal("a migration that cannot be is made")
			}
			for _, want := range []string{"line_schema", "0002_broken.sql", "lime"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not say %s: %v", want, err)
				}
			}
			if strings.Contains(err.Error(), password) {
				t.Errorf("the error has the password: %v", err)
			}
			if reason := noticeOf(err); reason != "MigrationFailed" {
				t.Errorf("people are told %q", reason)
			}
		})
	}
	err := startOn(t, "postgres://app:"+password+"@127.0.0.1:1/app", accounts())
	if err == nil || noticeOf(err) != "" || strings.Contains(err.Error(), password) {
		t.Errorf("where the server is away: %v, and people are told %q", err, noticeOf(err))
	}
}

// startOn starts a database and closes it.
func startOn(t *testing.T, url string, migrations ...database.Migrations) error {
	t.Helper()
	db, err := database.New(database.Config{URL: url}, migrations...)
	must(t, err)
	err = db.Start(t.Context())
	must(t, db.Close())
	return err
}

func noticeOf(err error) string {
	if n, ok := errors.AsType[interface {
		error
		Notice() string
	}](err); ok {
		return n.Notice()
	}
	return ""
}

func TestSeveralProcessesMigrateAtOnce(t *testing.T) {
	for kind, url := range map[string]string{"sqlite": "sqlite:" + filepath.Join(t.TempDir(), "new", "x.db"), "postgres": ""} {
		t.Run(kind, func(t *testing.T) {
			if kind == "postgres" {
				url = databasetest.PostgresURL(t)
			}
			var all sync.WaitGroup
			for range 4 {
				all.Go(func() {
					db, err := database.New(database.Config{URL: url}, accounts())
					if err != nil {
						t.Error(err)
						return
					}
					defer db.Close()
					if err := db.Start(context.Background()); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
		})
	}
}

func TestNewRefusesWhatItCannotOpen(t *testing.T) {
	for url, want := range map[string]string{
		"":                             "is not set",
		"mysql://x":                    `begins with "mysql"`,
		"sqlite:":                      "want sqlite:path/to/file",
		"postgres://u:sesame@h:port/d": "DATABASE_URL",
	} {
		_, err := database.New(database.Config{URL: url})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "sesame") {
			t.Errorf("%q: %v, want %q and no password", url, err, want)
		}
	}
}

func TestNewOpensNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "x.db")
	db, err := database.New(database.Config{URL: "sqlite:" + path})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Dir(path)); !os.IsNotExist(err) {
		t.Errorf("the folder exists: %v", err)
	}
}

// A statement may run again while the rows of its first run are being read.
func TestStatementsNest(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		for range 3 { // the third time it is kept
			outer, err := db.QueryContext(t.Context(), "SELECT id FROM account ORDER BY id")
			if err != nil {
				t.Fatal(err)
			}
			var ids []string
			for outer.Next() {
				var id, again string
				if err := outer.Scan(&id); err != nil {
					t.Fatal(err)
				}
				if err := db.QueryRowContext(t.Context(), "SELECT id FROM account ORDER BY id").Scan(&again); err != nil {
					t.Fatal(err)
				}
				ids = append(ids, id+again)
			}
			if err := outer.Close(); err != nil {
				t.Fatal(err)
			}
			if fmt.Sprint(ids) != "[aa ba]" {
				t.Fatalf("read %v", ids)
			}
		}
		// The same inside a transaction, on one connection. PostgreSQL has no
		// second statement while rows are open.
		if db.Dialect() == database.Postgres {
			return
		}
		if err := db.InTx(t.Context(), func(tx *database.Tx) error {
			for range 3 {
				var n int
				rows, err := tx.QueryContext(t.Context(), "SELECT cents FROM account")
				if err != nil {
					return err
				}
				for rows.Next() {
					if err := tx.QueryRowContext(t.Context(), "SELECT cents FROM account").Scan(&n); err != nil {
						return err
					}
				}
				if err := errors.Join(rows.Err(), rows.Close()); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}, accounts())
}

// A transaction inside a transaction is an error that says so, not a standstill.
func TestInTxInsideInTx(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the wait is long
		db, err := database.New(database.Config{URL: "sqlite::memory:"})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		err = db.InTx(t.Context(), func(*database.Tx) error {
			return db.InTx(t.Context(), func(*database.Tx) error { return nil })
		})
		if err == nil || !strings.Contains(err.Error(), "is InTx called inside InTx") || !database.Away(err) {
			t.Errorf("the error is %v", err)
		}
	})
}
