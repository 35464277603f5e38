package store_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/database/databasetest"
	"github.com/turnstile-go/turnstile/services/payments/internal/payment"
	"github.com/turnstile-go/turnstile/services/payments/internal/store"
)

func inTx(t *testing.T, db *database.DB, fn func(tx *database.Tx) error) {
	t.Helper()
	if err := db.InTx(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

func newPayment(id, order string) payment.Payment {
	return payment.Payment{
		ID: id, OrderID: order, UserID: "u", Amount: 1999, Currency: payment.Currency,
		Status: payment.Pending, Token: "tok",
	}
}

// TestNewestOrderWins: whatever comes twice or late, what is known is the
// newest.
func TestNewestOrderWins(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		want := payment.Order{
			ID: "o", UserID: "u", Price: 1999, Status: payment.OrderCreated, ExpiresAt: time.UnixMilli(1_700_000_000_123).UTC(),
		}
		for _, step := range []struct {
			write func(tx *database.Tx) error
			want  payment.OrderStatus
			at    int64
		}{
			{func(tx *database.Tx) error { return store.PutOrder(t.Context(), tx, want) }, payment.OrderCreated, 0},
			{func(tx *database.Tx) error {
				return store.EndOrder(t.Context(), tx, "o", payment.OrderComplete, 1)
			}, payment.OrderComplete, 1},
			{func(tx *database.Tx) error {
				return store.EndOrder(t.Context(), tx, "o", payment.OrderCancelled, 1)
			}, payment.OrderComplete, 1},
			{func(tx *database.Tx) error {
				return store.PutOrder(t.Context(), tx, payment.Order{ID: "o", Status: payment.OrderCreated})
			}, payment.OrderComplete, 1},
			{func(tx *database.Tx) error {
				return store.EndOrder(t.Context(), tx, "unknown", payment.OrderCancelled, 1)
			}, payment.OrderComplete, 1},
		} {
			inTx(t, db, step.write)
			now := want
			now.Status, now.Version = step.want, step.at
			if got, err := store.Order(t.Context(), db, "o"); got != now || err != nil {
				t.Errorf("got %+v, %v; want %+v", got, err, now)
			}
		}
		if _, err := store.Order(t.Context(), db, "unknown"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("an unknown order: %v", err)
		}
	}, store.Migrations())
}

func TestPayments(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		p := newPayment("1", "o")
		inTx(t, db, func(tx *database.Tx) error {
			return errors.Join(store.Insert(t.Context(), tx, p, time.Now()), store.Insert(t.Context(), tx, newPayment("2", "o2"), time.Now()))
		})
		another := func() error {
			return db.InTx(t.Context(), func(tx *database.Tx) error { return store.Insert(t.Context(), tx, newPayment("3", "o"), time.Now()) })
		}
		if err := another(); !errors.Is(err, payment.ErrUnderWay) {
			t.Errorf("a payment while another is pending: %v", err)
		}
		inTx(t, db, func(tx *database.Tx) error {
			want := p.Decline("why")
			if got, changed, err := store.Settle(t.Context(), tx, want); got != want || !changed || err != nil {
				t.Errorf("decline: %+v, %v, %v", got, changed, err)
			}
			if got, changed, err := store.Settle(t.Context(), tx, p.Capture("ch")); got != want || changed || err != nil {
				t.Errorf("capture what was declined: %+v, %v, %v", got, changed, err)
			}
			return nil
		})
		if err := another(); err != nil {
			t.Errorf("a payment after another was declined: %v", err)
		}
		for _, test := range []struct {
			order, after string
			want         []string
		}{{"", "9", []string{"3", "2"}}, {"", "2", []string{"1"}}, {"o", "9", []string{"3", "1"}}, {"none", "9", nil}} {
			got, err := store.List(t.Context(), db, "u", test.order, test.after, 2)
			var ids []string
			for _, p := range got {
				ids = append(ids, p.ID)
			}
			if err != nil || !slices.Equal(ids, test.want) {
				t.Errorf("of order %q after %s: %v, %v; want %v", test.order, test.after, ids, err, test.want)
			}
		}
	}, store.Migrations())
}

// TestGiveBack: the money of a payment goes back once, whatever it said of that
// before, and of a pending one nobody knows yet whether there is any.
func TestGiveBack(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		pending, captured := newPayment("1", "o1"), newPayment("2", "o2").Capture("ch2")
		late := newPayment("3", "o3").Decline("why") // and the money was taken after all
		inTx(t, db, func(tx *database.Tx) error {
			return errors.Join(store.Insert(t.Context(), tx, pending, time.Now()), store.Insert(t.Context(), tx, captured, time.Now()),
				store.Insert(t.Context(), tx, late, time.Now()), store.Insert(t.Context(), tx, newPayment("4", "o3").Capture("ch4"), time.Now()))
		})
		captured.Return, late.Return, late.ChargeID = payment.Due, payment.Due, "ch3"
		for _, want := range []struct {
			now     payment.Payment
			changed bool
		}{{pending, false}, {captured, true}, {captured, false}, {late, true}} {
			inTx(t, db, func(tx *database.Tx) error {
				got, changed, err := store.GiveBack(t.Context(), tx, want.now.ID, want.now.ChargeID, time.Now())
				if got != want.now || changed != want.changed {
					t.Errorf("give back: %+v, %t; want %+v", got, changed, want)
				}
				return err
			})
		}
		captured.Return = payment.Done
		for _, changes := range []bool{true, false} {
			inTx(t, db, func(tx *database.Tx) error {
				got, changed, err := store.Returned(t.Context(), tx, "2")
				if got != captured || changed != changes || got.Shown() != payment.Refunded {
					t.Errorf("returned: %+v, %t; want %+v, %t", got, changed, captured, changes)
				}
				return err
			})
		}
		inTx(t, db, func(tx *database.Tx) error {
			got, changed, err := store.Returned(t.Context(), tx, "4")
			if changed || got.Return != payment.NoReturn {
				t.Errorf("returned what stays: %+v, %t", got, changed)
			}
			return err
		})
		inTx(t, db, func(tx *database.Tx) error {
			got, changed, err := store.NotReturned(t.Context(), tx, "4", "account closed")
			if changed || got.Return != payment.NoReturn {
				t.Errorf("not returned what stays: %+v, %t", got, changed)
			}
			return err
		})
		kept := func(want ...payment.Payment) {
			t.Helper()
			if got, err := store.Kept(t.Context(), db); !slices.Equal(got, want) || err != nil {
				t.Errorf("kept are %+v, %v; want %+v", got, err, want)
			}
		}
		kept()
		captured.Return, captured.Reason = payment.Failed, "account closed" // although it had succeeded
		for _, changes := range []bool{true, false} {
			inTx(t, db, func(tx *database.Tx) error {
				got, changed, err := store.NotReturned(t.Context(), tx, "2", "account closed")
				if got != captured || changed != changes || got.Shown() != payment.Captured {
					t.Errorf("not returned: %+v, %t; want %+v, %t", got, changed, captured, changes)
				}
				return err
			})
		}
		kept(captured)
		if all, err := store.Unsettled(t.Context(), db, time.Now().Add(time.Hour)); len(all) != 2 || err != nil {
			t.Errorf("the provider is to be asked about %+v, %v; want the pending one and the late one", all, err)
		}
		inTx(t, db, func(tx *database.Tx) error {
			if got, changed, err := store.Returned(t.Context(), tx, "2"); got != captured || changed || err != nil {
				t.Errorf("returned after it has failed: %+v, %t, %v", got, changed, err)
			}
			captured.Return = payment.ByHand
			if got, changed, err := store.ReturnedByHand(t.Context(), tx, "2"); got != captured || !changed || got.Shown() != payment.Refunded || err != nil {
				t.Errorf("returned by hand: %+v, %t, %v", got, changed, err)
			}
			if got, changed, err := store.NotReturned(t.Context(), tx, "2", "late"); got != captured || changed || err != nil {
				t.Errorf("failed once more: %+v, %t, %v", got, changed, err)
			}
			return nil
		})
		kept()
		if _, _, err := change(t, db, "unknown"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("give back of an unknown payment: %v", err)
		}
		if p, err := store.Live(t.Context(), db, "o2"); p != captured || err != nil {
			t.Errorf("an order whose money went back has the payment %+v, %v", p, err)
		}
	}, store.Migrations())
}

func change(t *testing.T, db *database.DB, id string) (now payment.Payment, changed bool, err error) {
	err = db.InTx(t.Context(), func(tx *database.Tx) (err error) {
		now, changed, err = store.GiveBack(t.Context(), tx, id, "ch", time.Now())
		return err
	})
	return now, changed, err
}

// TestBacklogs counts what waits for the provider, and knows since when.
func TestBacklogs(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		id := func(at time.Time) string { // as services make them: UUIDs of version 7
			return fmt.Sprintf("%08x-%04x-7000-8000-000000000000", at.UnixMilli()>>16, at.UnixMilli()&0xffff)
		}
		begun := time.UnixMilli(1_700_000_000_123)
		inTx(t, db, func(tx *database.Tx) error {
			return errors.Join(
				store.Insert(t.Context(), tx, newPayment(id(begun), "o1").Capture("ch1"), begun),
				store.Insert(t.Context(), tx, newPayment(id(begun.Add(time.Hour)), "o2"), begun),
				store.Insert(t.Context(), tx, newPayment(id(begun.Add(time.Minute)), "o3"), begun),
				store.Insert(t.Context(), tx, newPayment(id(begun.Add(time.Second)), "o4").Decline("why"), begun),
			)
		})
		expect := func(pending, due, failed store.Backlog) {
			t.Helper()
			same := func(a, b store.Backlog) bool { return a.Payments == b.Payments && a.Oldest.Equal(b.Oldest) }
			b, err := store.Unfinished(t.Context(), db)
			if !same(b.Pending, pending) || !same(b.Due, due) || !same(b.Failed, failed) || err != nil {
				t.Errorf("%+v, %v; want %v, %v and %v", b, err, pending, due, failed)
			}
		}
		pending := store.Backlog{Payments: 2, Oldest: begun.Add(time.Minute)}
		expect(pending, store.Backlog{}, store.Backlog{})
		if _, _, err := change(t, db, id(begun)); err != nil {
			t.Fatal(err)
		}
		refund := store.Backlog{Payments: 1, Oldest: begun}
		expect(pending, refund, store.Backlog{})
		inTx(t, db, func(tx *database.Tx) error {
			_, _, err := store.NotReturned(t.Context(), tx, id(begun), "account closed")
			return err
		})
		expect(pending, store.Backlog{}, refund)
	}, store.Migrations())
}

// TestUpgrade: money that was kept for cancelled orders, when nobody gave any
// back, is due.
func TestUpgrade(t *testing.T) {
	all := store.Migrations()
	first, err := fs.ReadFile(all.SQLite, "00001_payments.sql")
	if err != nil {
		t.Fatal(err)
	}
	old := fstest.MapFS{"00001_payments.sql": {Data: first}}
	for kind, url := range map[string]func(t *testing.T) string{
		"sqlite":   func(t *testing.T) string { return "sqlite:" + filepath.Join(t.TempDir(), "test.db") },
		"postgres": func(t *testing.T) string { return databasetest.PostgresURL(t) },
	} {
		t.Run(kind, func(t *testing.T) {
			url := url(t)
			open := func(m database.Migrations, use func(db *database.DB)) {
				db, err := database.New(database.Config{URL: url}, m)
				if err == nil {
					err = db.Start(t.Context())
				}
				if err != nil {
					t.Fatal(err)
				}
				use(db)
				if err := db.Close(); err != nil {
					t.Error(err)
				}
			}
			open(database.Migrations{Table: all.Table, SQLite: old, Postgres: old}, func(db *database.DB) {
				for _, order := range []string{"complete", "cancelled", "created"} {
					for _, status := range []string{"captured", "declined"} {
						inTx(t, db, func(tx *database.Tx) error {
							_, err := tx.ExecContext(t.Context(), `
								INSERT INTO payments VALUES ($1, $2, 'u', 1999, 'usd', $3, '', 'ch', '')`, order+" "+status, order, status)
							return err
						})
					}
					inTx(t, db, func(tx *database.Tx) error {
						_, err := tx.ExecContext(t.Context(), `INSERT INTO orders VALUES ($1, 'u', 1999, $1, 0, 1)`, order)
						return err
					})
				}
			})
			open(all, func(db *database.DB) {
				due, err := store.Unsettled(t.Context(), db, time.Now())
				if err != nil || len(due) != 1 || due[0].ID != "cancelled captured" || due[0].Return != payment.Due || due[0].ChargeID != "ch" {
					t.Errorf("due: %+v, %v", due, err)
				}
			})
		})
	}
}

// TestClaim: what is not settled is found once nobody sees to it, and of many who
// find it at once one may see to it.
func TestClaim(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		now := time.Now()
		inTx(t, db, func(tx *database.Tx) error {
			return errors.Join(
				store.Insert(t.Context(), tx, newPayment("1", "o1"), now.Add(time.Minute)),
				store.Insert(t.Context(), tx, newPayment("2", "o2"), now),
				store.Insert(t.Context(), tx, newPayment("3", "o3"), now.Add(-time.Minute)),
				store.Insert(t.Context(), tx, newPayment("4", "o4").Capture("ch"), now.Add(-time.Minute)),
				store.Insert(t.Context(), tx, newPayment("5", "o5").Decline("why"), now.Add(-time.Minute)),
			)
		})
		found := func(at time.Time) (ids []string, all []payment.Payment) {
			t.Helper()
			all, err := store.Unsettled(t.Context(), db, at)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range all {
				ids = append(ids, p.ID)
			}
			return ids, all
		}
		ids, all := found(now)
		if !slices.Equal(ids, []string{"3", "2"}) {
			t.Fatalf("unsettled: %v", ids)
		}
		var claimed atomic.Int32
		var group errgroup.Group
		for range 20 {
			group.Go(func() error {
				return db.InTx(context.Background(), func(tx *database.Tx) error {
					ours, err := store.Claim(t.Context(), tx, all[0], now.Add(time.Hour))
					if ours {
						tx.AfterCommit(func() { claimed.Add(1) })
					}
					return err
				})
			})
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		if n := claimed.Load(); n != 1 {
			t.Errorf("%d have claimed it", n)
		}
		if ids, _ := found(now); !slices.Equal(ids, []string{"2"}) {
			t.Errorf("unsettled while one is seen to: %v", ids)
		}
		inTx(t, db, func(tx *database.Tx) error {
			_, _, err := store.GiveBack(t.Context(), tx, "4", "ch", now)
			return err
		})
		ids, all = found(now.Add(time.Hour))
		if slices.Sort(ids); !slices.Equal(ids, []string{"1", "2", "3", "4"}) || all[len(all)-1].Tries != 1 {
			t.Errorf("unsettled later: %+v", all)
		}
	}, store.Migrations())
}

// TestOnePayment: of many payments of one order, begun at once, one begins; of
// many answers to it, written down at once, one counts.
func TestOnePayment(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		var begun, settled atomic.Int32
		var winner atomic.Value
		var group errgroup.Group
		for i := range 50 {
			group.Go(func() error {
				p := newPayment(fmt.Sprint("p", i), "o")
				err := db.InTx(context.Background(), func(tx *database.Tx) error { return store.Insert(t.Context(), tx, p, time.Now()) })
				if err == nil {
					begun.Add(1)
					winner.Store(p)
				} else if !errors.Is(err, payment.ErrUnderWay) {
					return err
				}
				return nil
			})
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		if n := begun.Load(); n != 1 {
			t.Fatalf("%d payments of one order", n)
		}
		p := winner.Load().(payment.Payment)
		for i := range 50 {
			group.Go(func() error {
				var changed bool
				err := db.InTx(context.Background(), func(tx *database.Tx) (err error) {
					_, changed, err = store.Settle(t.Context(), tx, p.Capture(fmt.Sprint("ch", i)))
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
		if n := settled.Load(); n != 1 {
			t.Errorf("%d answers counted", n)
		}
	}, store.Migrations())
}
