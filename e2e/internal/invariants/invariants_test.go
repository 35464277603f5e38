package invariants_test

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/e2e/internal/invariants"
	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/database/databasetest"
	"github.com/turnstile-go/turnstile/framework/event"
)

// now is the time of every check, in microseconds since 1970.
const now = int64(1_700_000_000_000_000)

// market is an application in which everything is as it should be, for tests to spoil: t1 is for sale, t2 is sold to
// o2, paid by p2, t3 was ordered and let go by o3, t4 is reserved by o4, and t5 was deleted.
var market = map[string]string{
	"auth": `INSERT INTO users VALUES ('u1', 'Ann@example.com', 'ann@example.com', 'x', 0)`,
	"tickets": `
		INSERT INTO tickets VALUES ('t1', 'One', 'one', 100, 'u1', 0, '', 0);
		INSERT INTO tickets VALUES ('t2', 'Two', 'two', 200, 'u1', 2, 'o2', 1);
		INSERT INTO tickets VALUES ('t3', 'Three', 'three', 300, 'u1', 2, '', 0);
		INSERT INTO tickets VALUES ('t4', 'Four', 'four', 400, 'u1', 1, 'o4', 0);
		INSERT INTO event_outbox (stream, key, seq, event_id, type, body, at) VALUES ('tickets', 't5', 2, 'e', 'ticket.deleted', '{}', 0)`,
	"orders": `
		INSERT INTO tickets VALUES ('t1', 'One', 100, 'u1', 0, 0);
		INSERT INTO tickets VALUES ('t2', 'Two', 200, 'u1', 2, 0);
		INSERT INTO tickets VALUES ('t3', 'Three', 300, 'u1', 2, 0);
		INSERT INTO tickets VALUES ('t4', 'Four', 400, 'u1', 1, 0);
		INSERT INTO tickets VALUES ('t5', 'Five', 500, 'u1', 1, 1);
		INSERT INTO orders VALUES ('o2', 'u2', 'complete', 1699999999000000, 1, 't2', 'Two', 200, 'p2');
		INSERT INTO orders VALUES ('o3', 'u2', 'cancelled', 1699999999000000, 1, 't3', 'Three', 300, '');
		INSERT INTO orders VALUES ('o4', 'u2', 'created', 1700000010000000, 0, 't4', 'Four', 400, '')`,
	"payments": `
		INSERT INTO orders VALUES ('o2', 'u2', 200, 'complete', 1699999999000000, 1);
		INSERT INTO orders VALUES ('o3', 'u2', 300, 'cancelled', 1699999999000000, 1);
		INSERT INTO orders VALUES ('o4', 'u2', 400, 'created', 1700000010000000, 0);
		INSERT INTO payments (id, order_id, user_id, amount, currency, status, token, charge_id, reason) VALUES ('p1', 'o2', 'u2', 200, 'usd', 'declined', '', '', 'no funds');
		INSERT INTO payments (id, order_id, user_id, amount, currency, status, token, charge_id, reason) VALUES ('p2', 'o2', 'u2', 200, 'usd', 'captured', '', 'c2', '');
		INSERT INTO sandbox_charges VALUES ('k1', 'c1', 200, 'usd', 'bad', 'o2', 'no funds', 0);
		INSERT INTO sandbox_charges VALUES ('k2', 'c2', 200, 'usd', 'good', 'o2', '', 0)`,
}

// refusedPayment is a payment that came when its order was cancelled already.
var refusedPayment = map[string]string{
	"payments": `
		INSERT INTO payments (id, order_id, user_id, amount, currency, status, token, charge_id, reason) VALUES ('p3', 'o3', 'u2', 300, 'usd', 'captured', '', 'c3', '');
		UPDATE payments SET refund = 'done' WHERE id = 'p3';
		INSERT INTO sandbox_charges VALUES ('k3', 'c3', 300, 'usd', 'good', 'o3', '', 0);
		INSERT INTO sandbox_refunds VALUES ('c3', 'k3', 0)`,
	"orders": `
		INSERT INTO event_outbox (stream, key, seq, event_id, type, body, at)
		VALUES ('orders', 'o3', 3, 'e', 'order.payment_refused', '{"data": {"id": "o3", "paymentId": "p3"}}', 0)`,
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		change map[string]string // SQL by service
		kinds  []invariants.Kind
		says   string
	}{
		{name: "nothing"},
		{name: "refused payment", change: refusedPayment},
		{
			name: "refused payment that nobody refunds", change: with(refusedPayment, "payments", `
				UPDATE payments SET refund = ''; DELETE FROM sandbox_refunds`),
			kinds: []invariants.Kind{invariants.Unsettled}, says: "payment p3 was captured, and order o3 (cancelled)",
		},
		{
			name: "refund that is not made", change: with(refusedPayment, "payments", `
				UPDATE payments SET refund = 'due' WHERE id = 'p3'; DELETE FROM sandbox_refunds`),
			kinds: []invariants.Kind{invariants.Unsettled}, says: "the money of payment p3 of order o3 is to go back, and has not",
		},
		{
			name: "refund that the provider does not know", change: with(refusedPayment, "payments", `DELETE FROM sandbox_refunds`),
			kinds: []invariants.Kind{invariants.Divergent}, says: `payment p3 of order o3 says "done" of its refund`,
		},
		{
			name:   "refund of what was bought",
			change: map[string]string{"payments": `INSERT INTO sandbox_refunds VALUES ('c2', 'k', 0); UPDATE payments SET refund = 'done' WHERE id = 'p2'`},
			kinds:  []invariants.Kind{invariants.Divergent}, says: "payment p2 completed order o2, and was refused or given back",
		},
		{
			name: "declined payment that was taken after all, and is given back",
			change: map[string]string{"payments": `
				UPDATE payments SET charge_id = 'c1', refund = 'done' WHERE id = 'p1';
				UPDATE sandbox_charges SET declined = '' WHERE id = 'c1'; INSERT INTO sandbox_refunds VALUES ('c1', 'k', 0)`},
		},
		{
			name: "two live orders of one ticket",
			change: map[string]string{
				"orders": `DROP INDEX orders_live;
					INSERT INTO orders VALUES ('o5', 'u2', 'created', 1700000010000000, 0, 't4', 'Four', 400, '')`,
				"payments": `INSERT INTO orders VALUES ('o5', 'u2', 400, 'created', 1700000010000000, 0)`,
				"tickets":  `UPDATE tickets SET order_id = 'o5' WHERE id = 't4'`,
			},
			kinds: []invariants.Kind{invariants.DoubleSold}, says: "ticket t4 has two live orders, o4 and o5",
		},
		{
			name: "a sold ticket for sale", change: map[string]string{"tickets": `UPDATE tickets SET order_id = '' WHERE id = 't2'`},
			kinds: []invariants.Kind{invariants.DoubleSold, invariants.Divergent}, says: "ticket t2 is sold, and on sale",
		},
		{
			name: "an order paid twice",
			change: map[string]string{"payments": `DROP INDEX payments_live;
				INSERT INTO payments (id, order_id, user_id, amount, currency, status, token, charge_id, reason) VALUES ('p4', 'o2', 'u2', 200, 'usd', 'captured', '', 'c4', '')`},
			kinds: []invariants.Kind{invariants.Unsettled, invariants.DoubleSold}, says: "order o2 was paid twice, by p2 and p4",
		},
		{
			name:   "a payment that completed its order and is given back",
			change: map[string]string{"orders": strings.NewReplacer("p3", "p2", "o3", "o2").Replace(refusedPayment["orders"])},
			kinds:  []invariants.Kind{invariants.Divergent}, says: "completed order o2, and was refused or given back",
		},
		{
			name: "an order whose time is up",
			change: map[string]string{
				"orders":   `UPDATE orders SET expires_at = 1699999994999999 WHERE id = 'o4'`,
				"payments": `UPDATE orders SET expires_at = 1699999994999999 WHERE id = 'o4'`,
			},
			kinds: []invariants.Kind{invariants.Unsettled}, says: "order o4 is open 5s after its time was up",
		},
		{
			name:   "a pending payment",
			change: map[string]string{"payments": `INSERT INTO payments (id, order_id, user_id, amount, currency, status, token, charge_id, reason) VALUES ('p4', 'o4', 'u2', 400, 'usd', 'pending', 'tok', '', '')`},
			kinds:  []invariants.Kind{invariants.Unsettled}, says: "payment p4 of order o4 is pending",
		},
		{
			name:   "a complete order without its payment",
			change: map[string]string{"payments": `DELETE FROM payments WHERE id = 'p2'; DELETE FROM sandbox_charges WHERE id = 'c2'`},
			kinds:  []invariants.Kind{invariants.Unsettled}, says: `order o2 is complete, and payment "p2"`,
		},
		{
			name:   "money that no payment knows of",
			change: map[string]string{"payments": `INSERT INTO sandbox_charges VALUES ('k9', 'c9', 300, 'usd', 'good', 'o3', '', 0)`},
			kinds:  []invariants.Kind{invariants.Unsettled}, says: "charge c9 for order o3",
		},
		{
			name: "another amount", change: map[string]string{"payments": `UPDATE payments SET amount = 1 WHERE id = 'p2'`},
			kinds: []invariants.Kind{invariants.Divergent}, says: "took 1 for order o2 of 200",
		},
		{
			name: "an outdated replica of a ticket", change: map[string]string{"orders": `UPDATE tickets SET version = 1 WHERE id = 't3'`},
			kinds: []invariants.Kind{invariants.Divergent}, says: "tickets and orders on the ticket do not agree: t3",
		},
		{
			name: "an outdated replica of an order", change: map[string]string{"payments": `UPDATE orders SET status = 'created' WHERE id = 'o3'`},
			kinds: []invariants.Kind{invariants.Divergent}, says: "orders and payments on the order do not agree: o3",
		},
		{
			name: "a ticket held by an order that is over", change: map[string]string{"tickets": `UPDATE tickets SET order_id = 'o3' WHERE id = 't3'`},
			kinds: []invariants.Kind{invariants.Divergent}, says: "who holds the ticket do not agree: t3",
		},
		{
			name: "a ticket deleted while it was paid for",
			change: map[string]string{
				"tickets": `DELETE FROM tickets WHERE id = 't2'`,
				"orders":  `UPDATE tickets SET deleted = 1 WHERE id = 't2'`,
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			app := open(t, databasetest.SQLite, market, test.change)
			r, err := invariants.Check(t.Context(), app, time.UnixMicro(now))
			if err != nil {
				t.Fatal(err)
			}
			var kinds []invariants.Kind
			for _, v := range r.Violations {
				kinds = append(kinds, v.Kind)
				if v.Stream == "" || v.Key == "" {
					t.Errorf("%s: it does not say where to look", v)
				}
			}
			slices.Sort(kinds)
			slices.Sort(test.kinds)
			if !slices.Equal(slices.Compact(kinds), test.kinds) || !strings.Contains(text(r.Violations), test.says) {
				t.Errorf("found:\n%swant %v, and %q", text(r.Violations), test.kinds, test.says)
			}
		})
	}
}

func TestPromises(t *testing.T) {
	t.Parallel()
	app := open(t, databasetest.SQLite, market)
	for _, test := range []struct {
		promises invariants.Promises
		broken   string
	}{
		{invariants.Promises{
			Users: []string{"u1"}, Offered: []string{"t1", "t5"}, Withdrawn: []string{"t5"},
			Ordered: []string{"o2", "o3"}, Cancelled: []string{"o3"}, Paid: []string{"p2"},
		}, ""},
		{invariants.Promises{Users: []string{"u9"}}, "user u9 was welcomed"},
		{invariants.Promises{Offered: []string{"t9"}}, "ticket t9 was accepted"},
		{invariants.Promises{Withdrawn: []string{"t1"}}, "ticket t1 was deleted"},
		{invariants.Promises{Ordered: []string{"o9"}}, "order o9 was accepted"},
		{invariants.Promises{Cancelled: []string{"o2"}}, "order o2 was cancelled"},
		{invariants.Promises{Paid: []string{"p1"}}, "payment p1 was accepted"},
	} {
		broken, err := invariants.CheckPromises(t.Context(), app, test.promises)
		if err != nil {
			t.Fatal(err)
		}
		if (test.broken == "") != (len(broken) == 0) || !strings.Contains(text(broken), test.broken) {
			t.Errorf("%+v: found %q, want %q", test.promises, text(broken), test.broken)
		}
		for _, v := range broken {
			if v.Kind != invariants.Lost {
				t.Errorf("%s: want it to be lost", v)
			}
		}
	}
}

// TestPostgres checks that all is read there, too.
func TestPostgres(t *testing.T) {
	t.Parallel()
	app := open(t, databasetest.Postgres, market, refusedPayment)
	r, err := invariants.Check(t.Context(), app, time.UnixMicro(now))
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Violations) > 0 || r.Orders["complete"] != 1 || r.Orders["cancelled"] != 1 || r.Orders["created"] != 1 {
		t.Errorf("found %v:\n%s", r.Orders, text(r.Violations))
	}
	broken, err := invariants.CheckPromises(t.Context(), app, invariants.Promises{Users: []string{"u1", "u9"}, Offered: []string{"t5"}})
	if err != nil || len(broken) != 1 {
		t.Errorf("broken promises: %v, %v; want one", broken, err)
	}
}

func text(violations []invariants.Violation) string {
	var b strings.Builder
	for _, v := range violations {
		b.WriteString(v.String() + "\n")
	}
	return b.String()
}

// with returns the changes with more of them in one service.
func with(changes map[string]string, service, more string) map[string]string {
	changes = maps.Clone(changes)
	changes[service] += ";" + more
	return changes
}

// open makes the services' databases, with the schemas that the services give them, and runs the SQL in them.
func open(t *testing.T, kind func(testing.TB, ...database.Migrations) *database.DB, steps ...map[string]string) invariants.Application {
	t.Helper()
	dbs := map[string]*database.DB{}
	for _, service := range []string{"auth", "orders", "payments", "tickets"} {
		internal := os.DirFS(filepath.Join("..", "..", "..", "services", service, "internal"))
		migrations := []database.Migrations{event.Migrations(), database.MigrationsIn(internal, "store/migrations", "schema")}
		if service == "payments" {
			migrations = append(migrations, database.MigrationsIn(internal, "sandbox/migrations", "sandbox_schema"))
		}
		dbs[service] = kind(t, migrations...)
		for _, step := range steps {
			for statement := range strings.SplitSeq(step[service], ";") {
				if strings.TrimSpace(statement) == "" {
					continue
				}
				err := dbs[service].InTx(t.Context(), func(tx *database.Tx) error {
					_, err := tx.ExecContext(context.Background(), statement)
					return err
				})
				if err != nil {
					t.Fatalf("%s: %s: %v", service, statement, err)
				}
			}
		}
	}
	return invariants.Application{Auth: dbs["auth"], Orders: dbs["orders"], Payments: dbs["payments"], Tickets: dbs["tickets"]}
}
