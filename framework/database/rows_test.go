package database_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/database/databasetest"
)

func TestQueryAll(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		id := func(row database.Row) (id string, err error) {
			err = row.Scan(&id)
			return id, err
		}
		query := func(q database.Querier, from string) ([]string, error) {
			return database.QueryAll(t.Context(), q, id, `SELECT id FROM account WHERE id >= $1 ORDER BY id DESC`, from)
		}
		if all, err := query(db, "a"); err != nil || !slices.Equal(all, []string{"b", "a"}) {
			t.Errorf("got %v, %v", all, err)
		}
		if all, err := query(db, "c"); err != nil || all != nil {
			t.Errorf("of none: %v, %v", all, err)
		}
		if _, err := database.QueryAll(t.Context(), db, id, `SELECT id FROM nowhere`); err == nil {
			t.Error("a query that is wrong has succeeded")
		}

		// A row that cannot be read ends it, and leaves the connection usable.
		boom := errors.New("boom")
		err := db.InTx(t.Context(), func(tx *database.Tx) error {
			all, err := database.QueryAll(t.Context(), tx, func(database.Row) (string, error) { return "", boom }, `SELECT id FROM account`)
			if all != nil || err != boom {
				t.Errorf("got %v, %v; want the scan's own error", all, err)
			}
			if all, err := query(tx, "b"); err != nil || !slices.Equal(all, []string{"b"}) {
				t.Errorf("afterwards: %v, %v", all, err)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := database.QueryAll(ctx, db, id, `SELECT id FROM account`); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	}, accounts())
}
