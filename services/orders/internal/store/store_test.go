package store_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/database/databasetest"
	"github.com/turnstile-go/turnstile/services/orders/internal/order"
	"github.com/turnstile-go/turnstile/services/orders/internal/store"
)

func inTx(t *testing.T, db *database.DB, fn func(tx *database.Tx) error) {
	t.Helper()
	if err := db.InTx(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

func newOrder(id, ticket string) order.Order {
	return order.Order{
		ID: id, UserID: "u", Status: order.Created, ExpiresAt: time.UnixMilli(1_700_000_000_123).UTC(),
		Ticket: order.Snapshot{ID: ticket, Title: "Concert", Price: 1999},
	}
}

// TestNewestTicketWins: versions arrive repeated and out of order; what is
// known is the newest, and a deletion is final.
func TestNewestTicketWins(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		version := func(v int64) order.Ticket {
			return order.Ticket{ID: "1", Title: fmt.Sprint("version ", v), Price: order.Price(v), UserID: "u", Version: v}
		}
		for _, step := range []struct{ put, want int64 }{{3, 3}, {0, 3}, {3, 3}, {7, 7}, {4, 7}} {
			inTx(t, db, func(tx *database.Tx) error { return store.PutTicket(t.Context(), tx, version(step.put)) })
			got, taken, err := store.Ticket(t.Context(), db, "1")
			if got != version(step.want) || taken || err != nil {
				t.Errorf("after %d: %+v, %v, %v", step.put, got, taken, err)
			}
		}
		inTx(t, db, func(tx *database.Tx) error {
			if got, err := store.LockTicket(t.Context(), tx, "1"); got != version(7) || err != nil {
				t.Errorf("locked %+v, %v", got, err)
			}
			return errors.Join(
				store.DeleteTicket(t.Context(), tx, "1", 8),
				store.PutTicket(t.Context(), tx, version(9)),
				store.DeleteTicket(t.Context(), tx, "2", 1),
				store.PutTicket(t.Context(), tx, order.Ticket{ID: "2", Version: 2}),
			)
		})
		for _, id := range []string{"1", "2", "3"} {
			if _, _, err := store.Ticket(t.Context(), db, id); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("ticket %s: %v", id, err)
			}
			err := db.InTx(t.Context(), func(tx *database.Tx) error {
				_, err := store.LockTicket(t.Context(), tx, id)
				return err
			})
			if !errors.Is(err, store.ErrNotFound) {
				t.Errorf("lock ticket %s: %v", id, err)
			}
		}
	}, store.Migrations())
}

func TestOrders(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		want := newOrder("1", "t")
		inTx(t, db, func(tx *database.Tx) error {
			return errors.Join(
				store.PutTicket(t.Context(), tx, order.Ticket{ID: "t"}),
				store.Insert(t.Context(), tx, want),
				store.Insert(t.Context(), tx, newOrder("2", "t2")),
				store.Insert(t.Context(), tx, newOrder("3", "t3")),
			)
		})
		if got, err := store.Get(t.Context(), db, "1"); got != want || err != nil {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
		if _, taken, err := store.Ticket(t.Context(), db, "t"); !taken || err != nil {
			t.Errorf("a ticket with an order: %v, %v", taken, err)
		}
		if id, err := store.Holder(t.Context(), db, "t"); id != "1" || err != nil {
			t.Errorf("holder: %s, %v", id, err)
		}
		for after, want := range map[string][]string{"9": {"3", "2"}, "2": {"1"}, "1": nil} {
			got, err := store.List(t.Context(), db, "u", after, 2)
			var ids []string
			for _, o := range got {
				ids = append(ids, o.ID)
			}
			if err != nil || !slices.Equal(ids, want) {
				t.Errorf("after %s: %v, %v", after, ids, err)
			}
		}
		if got, err := store.List(t.Context(), db, "v", "9", 2); len(got) > 0 || err != nil {
			t.Errorf("orders of somebody else: %v, %v", got, err)
		}

		inTx(t, db, func(tx *database.Tx) error {
			got, changed, err := store.Cancel(t.Context(), tx, "1")
			want.Status, want.Version = order.Cancelled, 1
			if got != want || !changed || err != nil {
				t.Errorf("cancel: %+v, %v, %v", got, changed, err)
			}
			got, changed, err = store.Complete(t.Context(), tx, "1", "p")
			if got != want || changed || err != nil {
				t.Errorf("complete a cancelled order: %+v, %v, %v", got, changed, err)
			}
			_, _, err = store.Cancel(t.Context(), tx, "none")
			if !errors.Is(err, store.ErrNotFound) {
				t.Errorf("cancel an unknown order: %v", err)
			}
			return nil
		})
		if _, taken, err := store.Ticket(t.Context(), db, "t"); taken || err != nil {
			t.Errorf("a ticket whose order is cancelled: %v, %v", taken, err)
		}
		if _, err := store.Holder(t.Context(), db, "t"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("holder after the cancellation: %v", err)
		}
		// The ticket is free for the next, and a complete order holds it for good.
		inTx(t, db, func(tx *database.Tx) error {
			if err := store.Insert(t.Context(), tx, newOrder("4", "t")); err != nil {
				return err
			}
			_, _, err := store.Complete(t.Context(), tx, "4", "p")
			return err
		})
		err := db.InTx(t.Context(), func(tx *database.Tx) error { return store.Insert(t.Context(), tx, newOrder("5", "t")) })
		if !errors.Is(err, order.ErrTaken) {
			t.Errorf("an order of a sold ticket: %v", err)
		}
	}, store.Migrations())
}

// TestOneLiveOrder: of many orders of one ticket, inserted at once, one lives;
// of many ways to end it, tried at once, one takes place.
func TestOneLiveOrder(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		var placed, settled atomic.Int32
		var winner atomic.Value
		var group errgroup.Group
		for i := range 50 {
			group.Go(func() error {
				o := newOrder(fmt.Sprint("o", i), "t")
				err := db.InTx(context.Background(), func(tx *database.Tx) error { return store.Insert(t.Context(), tx, o) })
				if err == nil {
					placed.Add(1)
					winner.Store(o.ID)
				} else if !errors.Is(err, order.ErrTaken) {
					return err
				}
				return nil
			})
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		if n := placed.Load(); n != 1 {
			t.Fatalf("%d orders of one ticket", n)
		}
		id := winner.Load().(string)
		for i := range 50 {
			group.Go(func() error {
				var changed bool
				err := db.InTx(context.Background(), func(tx *database.Tx) (err error) {
					if i%2 == 0 {
						_, changed, err = store.Cancel(t.Context(), tx, id)
					} else {
						_, changed, err = store.Complete(t.Context(), tx, id, fmt.Sprint("p", i))
					}
					return err
				})
				if changed {
					settled.Add(1)
				}
				return err
			})
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		o, err := store.Get(t.Context(), db, id)
		if n := settled.Load(); n != 1 || err != nil || o.Version != 1 || o.Status == order.Created {
			t.Errorf("%d changes, %+v, %v", n, o, err)
		}
	}, store.Migrations())
}

// asked notes what is asked.
type asked struct {
	database.Querier
	query string
}

func (a *asked) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	a.query = query
	return a.Querier.QueryRowContext(ctx, query, args...)
}

// TestHolderIsFound, not searched for among all orders: a ticket is deleted in a transaction for which all others wait.
func TestHolderIsFound(t *testing.T) {
	db := databasetest.SQLite(t, store.Migrations())
	q := &asked{Querier: db}
	if _, err := store.Holder(t.Context(), q, "t"); !errors.Is(err, store.ErrNotFound) {
		t.Fatal(err)
	}
	type step struct {
		id, parent, unused int
		detail             string
	}
	plan, err := database.QueryAll(t.Context(), db, func(r database.Row) (s step, err error) {
		return s, r.Scan(&s.id, &s.parent, &s.unused, &s.detail)
	}, "EXPLAIN QUERY PLAN "+q.query, "t")
	if err != nil || len(plan) != 1 || !strings.Contains(plan[0].detail, "orders_live") {
		t.Errorf("the plan is %+v, %v", plan, err)
	}
}
