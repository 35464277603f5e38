package store_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/database/databasetest"
	"github.com/turnstile-go/turnstile/services/tickets/internal/store"
	"github.com/turnstile-go/turnstile/services/tickets/internal/ticket"
)

// last is after every id: where a list begins.
const last = "ffffffff"

func insert(t *testing.T, db *database.DB, all ...ticket.Ticket) {
	t.Helper()
	err := db.InTx(t.Context(), func(tx *database.Tx) error {
		for _, tk := range all {
			if err := store.Insert(t.Context(), tx, tk); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func ids(all []ticket.Ticket) (ids []string) {
	for _, t := range all {
		ids = append(ids, t.ID)
	}
	return ids
}

func TestRoundTrip(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		want := ticket.Ticket{ID: "1", Title: "Ünïcode ♫", Price: ticket.MaxPrice, UserID: "u"}
		insert(t, db, want)
		if got, err := store.Get(t.Context(), db, "1"); got != want || err != nil {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
		err := db.InTx(t.Context(), func(tx *database.Tx) error {
			got, err := store.Lock(t.Context(), tx, "1")
			if got != want || err != nil {
				t.Errorf("locked %+v, %v; want %+v", got, err, want)
			}
			want = ticket.Ticket{ID: "1", Title: "b", Price: 1, UserID: "u", Version: 7, OrderID: "o", Sold: true}
			return store.Save(t.Context(), tx, want)
		})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := store.Get(t.Context(), db, "1"); got != want || err != nil {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
		err = db.InTx(t.Context(), func(tx *database.Tx) error { return store.Delete(t.Context(), tx, "1") })
		if err != nil {
			t.Fatal(err)
		}
		if _, err := store.Get(t.Context(), db, "1"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("a deleted ticket: %v", err)
		}
		err = db.InTx(t.Context(), func(tx *database.Tx) error {
			_, err := store.Lock(t.Context(), tx, "1")
			return err
		})
		if !errors.Is(err, store.ErrNotFound) {
			t.Errorf("lock of a deleted ticket: %v", err)
		}
	}, store.Migrations())
}

func TestLists(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		insert(t, db,
			ticket.Ticket{ID: "1", Title: "Concert in the Park", UserID: "u"},
			ticket.Ticket{ID: "2", Title: "ΣΊΣΥΦΟΣ 100%", UserID: "v"},
			ticket.Ticket{ID: "3", Title: "Über_Konzert!", UserID: "u", OrderID: "o"},
			ticket.Ticket{ID: "4", Title: "Überkonzert!", UserID: "u"},
			ticket.Ticket{ID: "5", Title: `back\slash 'quote"`, UserID: "v"},
		)
		for _, test := range []struct {
			query, after string
			limit        int
			want         []string
		}{
			{"", last, 10, []string{"5", "4", "2", "1"}},
			{"", last, 2, []string{"5", "4"}},
			{"", "4", 2, []string{"2", "1"}},
			{"", "1", 2, nil},
			{"CONCERT", last, 10, []string{"1"}},
			{"n the p", last, 10, []string{"1"}},
			{"σίσυφοσ", last, 10, []string{"2"}},
			{"ÜBERKONZERT", last, 10, []string{"4"}},
			{"%", last, 10, []string{"2"}},
			{"_", last, 10, nil},
			{"!", last, 10, []string{"4"}},
			{`\`, last, 10, []string{"5"}},
			{`'quote"`, last, 10, []string{"5"}},
			{"c_ncert", last, 10, nil},
			{strings.Repeat("x", 60_000), last, 10, nil},
		} {
			got, err := store.ForSale(t.Context(), db, test.query, test.after, test.limit)
			if err != nil || !slices.Equal(ids(got), test.want) {
				t.Errorf("for sale %.20q after %s: %v, %v; want %v", test.query, test.after, ids(got), err, test.want)
			}
		}
		for _, test := range []struct {
			user, after string
			want        []string
		}{{"u", last, []string{"4", "3"}}, {"u", "3", []string{"1"}}, {"v", last, []string{"5", "2"}}, {"w", last, nil}} {
			got, err := store.Owned(t.Context(), db, test.user, test.after, 2)
			if err != nil || !slices.Equal(ids(got), test.want) {
				t.Errorf("tickets of %s after %s: %v, %v; want %v", test.user, test.after, ids(got), err, test.want)
			}
		}
	}, store.Migrations())
}

// TestParallelEdits: a lock holds until its transaction ends, so that of many
// edits at once each builds on the one before.
func TestParallelEdits(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		const edits = 50
		insert(t, db, ticket.Ticket{ID: "1", Title: "a", Price: 1, UserID: "u"})
		versions := make(chan int64, edits)
		var group errgroup.Group
		for i := range edits {
			group.Go(func() error {
				var version int64
				err := db.InTx(context.Background(), func(tx *database.Tx) error {
					tk, err := store.Lock(t.Context(), tx, "1")
					if err != nil {
						return err
					}
					if _, err := tk.Edit(fmt.Sprintf("edit %d", i), ticket.Price(i)); err != nil {
						return err
					}
					version = tk.Version
					return store.Save(t.Context(), tx, tk)
				})
				versions <- version
				return err
			})
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		close(versions)
		var got, want []int64
		for v := range versions {
			got = append(got, v)
			want = append(want, int64(len(got)))
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("versions %v", got)
		}
	}, store.Migrations())
}

func TestWaiting(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		err := db.InTx(t.Context(), func(tx *database.Tx) error {
			for _, step := range []struct {
				what        func(ctx context.Context, tx *database.Tx, id, order string) error
				order, want string
			}{
				{store.StopWaiting, "a", ""}, {store.Wait, "b", "b"}, {store.Wait, "a", "a"}, {store.Wait, "a", "a"},
				{store.StopWaiting, "a", "b"}, {store.StopWaiting, "b", ""},
			} {
				if err := step.what(t.Context(), tx, "1", step.order); err != nil {
					return err
				}
				if got, err := store.Waiting(t.Context(), tx, "1"); got != step.want || err != nil {
					t.Errorf("waiting: %q, %v; want %q", got, err, step.want)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}, store.Migrations())
}
