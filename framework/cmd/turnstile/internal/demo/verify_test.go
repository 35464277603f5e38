package demo

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/dev"
	"github.com/turnstile-go/turnstile/framework/event"
)

// Tickets publishes two events of key t1 and one of t2, which orders and payments handle; shipped is a type that
// payments does not handle. Everything went well.
const ticketsBooks = `
INSERT INTO event_sequence (stream, key, last, at) VALUES ('tickets', 't1', 2, 2000), ('tickets', 't2', 1, 3000);
INSERT INTO event_outbox (stream, key, seq, event_id, type, body, at, sent_at) VALUES
  ('tickets', 't1', 1, 'e1', 'created', '', 1000, 1),
  ('tickets', 't1', 2, 'e2', 'shipped', '', 2000, 1),
  ('tickets', 't2', 1, 'e3', 'created', '', 3000, 1);`

const ordersBooks = `
INSERT INTO event_cursor (grp, stream, key, seq) VALUES ('orders', 'tickets', 't1', 2), ('orders', 'tickets', 't2', 1);
INSERT INTO event_journal (grp, stream, key, seq, event_id, type, applied_at) VALUES
  ('orders', 'tickets', 't2', 1, 'e3', 'created', 4000),
  ('orders', 'tickets', 't1', 1, 'e1', 'created', 5000),
  ('orders', 'tickets', 't1', 2, 'e2', 'shipped', 6000);`

const paymentsBooks = `
INSERT INTO event_cursor (grp, stream, key, seq) VALUES ('payments', 'tickets', 't1', 2), ('payments', 'tickets', 't2', 1);
INSERT INTO event_journal (grp, stream, key, seq, event_id, type, applied_at) VALUES
  ('payments', 'tickets', 't1', 1, 'e1', 'created', 3000),
  ('payments', 'tickets', 't2', 1, 'e3', 'created', 4000);`

func described() map[string]dev.Description {
	handles := func(group string, types ...string) (d dev.Description) {
		for _, typ := range types {
			d.Listens = append(d.Listens, dev.Listened{Group: group, Stream: "tickets", Type: typ})
		}
		return d
	}
	return map[string]dev.Description{"tickets": {}, "orders": handles("orders", "created", "shipped"), "payments": handles("payments", "created")}
}

// ledger makes the three databases by hand, from the tables that the framework itself makes, and plants what a test
// wants to see found.
func ledger(t *testing.T, plant map[string]string) map[string]*sql.DB {
	t.Helper()
	schema, err := fs.Glob(event.Migrations().SQLite, "*.sql")
	if err != nil || len(schema) == 0 {
		t.Fatalf("migrations: %v, %v", schema, err)
	}
	databases := map[string]*sql.DB{}
	for service, rows := range map[string]string{"tickets": ticketsBooks, "orders": ordersBooks, "payments": paymentsBooks} {
		file := filepath.Join(t.TempDir(), service+".db")
		writer, err := sql.Open("sqlite", file)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range schema {
			text, err := fs.ReadFile(event.Migrations().SQLite, name)
			if err != nil {
				t.Fatal(err)
			}
			up, _, _ := strings.Cut(string(text), "-- +goose Down")
			if _, err := writer.ExecContext(t.Context(), up); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if _, err := writer.ExecContext(t.Context(), rows+plant[service]); err != nil {
			t.Fatal(err)
		}
		if err := writer.Close(); err != nil {
			t.Fatal(err)
		}
		if databases[service], err = open(file); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { databases[service].Close() })
	}
	return databases
}

func TestVerifyFindsNothingWhereAllIsWell(t *testing.T) {
	b, err := read(t.Context(), ledger(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	r := verify(b, interests(described()))
	if !r.ok() {
		t.Errorf("findings: %+v", r)
	}
	if r.events != 3 || len(r.effects) != 5 {
		t.Errorf("%d events and %d effects, want 3 and 5", r.events, len(r.effects))
	}
	if r.percentile(0) != time.Millisecond || r.percentile(50) != 2*time.Millisecond || r.percentile(99) != 4*time.Millisecond {
		t.Errorf("latencies = %v", r.effects)
	}
}

func TestVerifyFindsWhatIsPlanted(t *testing.T) {
	const journal = "INSERT INTO event_journal (grp, stream, key, seq, event_id, type, applied_at) VALUES "
	for name, test := range map[string]struct {
		service, plant string
		lost           int
		doubled        int
		reordered      int
		other          int
		says           string
	}{
		"an effect lost":    {"payments", "DELETE FROM event_journal WHERE event_id = 'e3'", 1, 0, 0, 0, "payments: tickets t2 number 1 (created)"},
		"an effect doubled": {"orders", journal + "('orders', 'tickets', 't2', 1, 'e3', 'created', 7000)", 0, 1, 0, 0, "orders: tickets t2 number 1 (created)"},
		"an effect tripled": {"orders", journal + "('orders', 'tickets', 't2', 1, 'e3', 'created', 7000), ('orders', 'tickets', 't2', 1, 'e3', 'created', 8000)", 0, 1, 0, 0, "orders: tickets t2 number 1 (created)"},
		"two effects in the wrong order": {"orders", "UPDATE event_journal SET id = 100 WHERE event_id = 'e1'", 0, 0, 1, 0,
			"orders: tickets t1 number 1 (created) after number 2"},
		"lost, and everything after it": {"orders", "DELETE FROM event_journal; UPDATE event_cursor SET seq = 0", 3, 0, 0, 2, "the cursor of tickets t1 is at 0 of 2"},
		"an event gone from the outbox": {"tickets", "DELETE FROM event_outbox WHERE event_id = 'e2'", 1, 0, 0, 1, "2 numbers were given, but the outbox has 1 events"},
		"an effect of nothing": {"orders", journal + "('orders', 'tickets', 't9', 1, 'e9', 'created', 7000)", 0, 0, 0, 1,
			"applied tickets t9 number 1 (e9), which nobody committed"},
		"an effect of another event": {"payments", "UPDATE event_journal SET event_id = 'e7' WHERE event_id = 'e3'", 0, 0, 0, 1, "applied e7 as tickets t2 number 1, which is e3"},
		"an effect of a foreign type": {"payments", journal + "('payments', 'tickets', 't1', 2, 'e2', 'shipped', 7000)", 0, 0, 0, 1,
			"which it does not handle"},
		"a cursor that stayed behind": {"payments", "UPDATE event_cursor SET seq = 1 WHERE key = 't1'", 0, 0, 0, 1, "payments: the cursor of tickets t1 is at 1 of 2"},
		"an event not sent":           {"tickets", "UPDATE event_outbox SET sent_at = NULL WHERE event_id = 'e3'", 0, 0, 0, 1, "not sent to the broker: tickets t2 number 1"},
		"an event that is due":        {"tickets", "INSERT INTO event_scheduled (stream, key, event_id, type, due_at, body) VALUES ('tickets', 't1', 'e9', 'expired', 1, '')", 0, 0, 0, 1, "expired for t1"},
		"an event set aside": {"orders", "INSERT INTO event_parked (grp, stream, key, seq, state, attempts, due_at, error, body, at) VALUES ('orders', 'tickets', 't2', 2, 'dead', 12, 0, 'no such seat', '', 0)",
			0, 0, 0, 1, "set aside: orders: tickets t2 number 2 (dead) no such seat"},
		"a dead letter": {"orders", "INSERT INTO event_letter (grp, stream, key, seq, kind, error, body, at) VALUES ('orders', 'tickets', 't2', 2, 'fork', 'two histories', '', 0)",
			0, 0, 0, 1, "a dead letter: orders: tickets t2 number 2 (fork) two histories"},
	} {
		t.Run(name, func(t *testing.T) {
			databases := ledger(t, map[string]string{test.service: test.plant})
			b, err := read(t.Context(), databases)
			if err != nil {
				t.Fatal(err)
			}
			r := verify(b, interests(described()))
			if r.ok() {
				t.Fatal("nothing was found")
			}
			got := fmt.Sprintf("lost %d, doubled %d, reordered %d, other %d", len(r.lost), len(r.doubled), len(r.reordered), len(r.other))
			want := fmt.Sprintf("lost %d, doubled %d, reordered %d, other %d", test.lost, test.doubled, test.reordered, test.other)
			all := strings.Join(append(append(append(r.lost, r.doubled...), r.reordered...), r.other...), "\n")
			if got != want {
				t.Errorf("%s; want %s:\n%s", got, want, all)
			}
			if !strings.Contains(all, test.says) {
				t.Errorf("it does not say %q, but\n%s", test.says, all)
			}
		})
	}
}

func TestMeasure(t *testing.T) {
	in := interests(described())
	f, err := measure(t.Context(), ledger(t, nil), in)
	if err != nil {
		t.Fatal(err)
	}
	if want := (flow{committed: 3}); f != want || !f.quiet() {
		t.Errorf("flow = %+v, want %+v", f, want)
	}
	f, err = measure(t.Context(), ledger(t, map[string]string{
		"orders":  "UPDATE event_cursor SET seq = 0 WHERE key = 't1'",
		"tickets": "UPDATE event_outbox SET sent_at = NULL WHERE seq = 1",
	}), in)
	if err != nil {
		t.Fatal(err)
	}
	if want := (flow{committed: 3, unapplied: 2, unsent: 2}); f != want || f.quiet() {
		t.Errorf("flow = %+v, want %+v", f, want)
	}
}

func TestReadOfAMissingDatabase(t *testing.T) {
	db, err := open(filepath.Join(t.TempDir(), "gone.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := read(context.Background(), map[string]*sql.DB{"orders": db}); err == nil || !strings.Contains(err.Error(), "orders") {
		t.Errorf("read = %v, want an error that names the service", err)
	}
}
