package demo

import (
	"testing"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/workspace"
	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/database/databasetest"
	"github.com/turnstile-go/turnstile/framework/event"
)

// Tickets has published three events, which orders and payments listen to.
var books = map[string]string{
	"tickets": `INSERT INTO event_sequence (stream, key, last, at) VALUES ('tickets', 't1', 2, 2000), ('tickets', 't2', 1, 3000);
INSERT INTO event_outbox (stream, key, seq, event_id, type, body, at, sent_at) VALUES
  ('tickets', 't1', 1, 'e1', 'created', '', 1000, 1),
  ('tickets', 't1', 2, 'e2', 'shipped', '', 2000, 1),
  ('tickets', 't2', 1, 'e3', 'created', '', 3000, 1)`,
	"orders":   `INSERT INTO event_cursor (grp, stream, key, seq) VALUES ('orders', 'tickets', 't1', 2), ('orders', 'tickets', 't2', 1)`,
	"payments": `INSERT INTO event_cursor (grp, stream, key, seq) VALUES ('payments', 'tickets', 't1', 2), ('payments', 'tickets', 't2', 1)`,
}

// ledgers makes the three databases, and plants what a test wants to see measured.
func ledgers(t *testing.T, plant map[string]string) map[string]*database.DB {
	t.Helper()
	databases := map[string]*database.DB{}
	for service, rows := range books {
		db := databasetest.SQLite(t, event.Migrations())
		err := db.InTx(t.Context(), func(tx *database.Tx) error {
			_, err := tx.ExecContext(t.Context(), rows+";"+plant[service])
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		databases[service] = db
	}
	return databases
}

func described() map[string]workspace.Description {
	handles := func(group string, types ...string) (d workspace.Description) {
		for _, typ := range types {
			d.Listens = append(d.Listens, workspace.Listened{Group: group, Stream: "tickets", Type: typ})
		}
		return d
	}
	return map[string]workspace.Description{"tickets": {}, "orders": handles("orders", "created", "shipped"), "payments": handles("payments", "created")}
}

func TestMeasure(t *testing.T) {
	in := listeners(described())
	f, err := measure(t.Context(), ledgers(t, nil), in)
	if err != nil {
		t.Fatal(err)
	}
	if want := (flow{committed: 3}); f != want || !f.quiet() {
		t.Errorf("flow = %+v, want %+v", f, want)
	}
	f, err = measure(t.Context(), ledgers(t, map[string]string{
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
