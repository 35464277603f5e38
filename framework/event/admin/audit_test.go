package admin_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/database/databasetest"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/event/admin"
)

// A small world: tickets publishes two events of key t1 and one of t2, which
// orders and payments handle; shipped is a type that payments does not handle.
// Everything went well.
var world = map[string]string{
	"tickets": `
INSERT INTO event_broker (broker, since) VALUES ('stan', 1);
INSERT INTO event_sequence (stream, key, last, at) VALUES ('tickets', 't1', 2, 2000), ('tickets', 't2', 1, 3000);
INSERT INTO event_outbox (stream, key, seq, event_id, type, body, at, sent_at) VALUES
  ('tickets', 't1', 1, 'e1', 'created', '{"id":"e1"}', 1000, 2000),
  ('tickets', 't1', 2, 'e2', 'shipped', '{"id":"e2"}', 2000, 2500),
  ('tickets', 't2', 1, 'e3', 'created', '{"id":"e3"}', 3000, 3500);`,
	"orders": `
INSERT INTO event_subscription (grp, stream, since) VALUES ('orders', 'tickets', 500);
INSERT INTO event_type (grp, stream, type) VALUES ('orders', 'tickets', 'created'), ('orders', 'tickets', 'shipped');
INSERT INTO event_cursor (grp, stream, key, seq) VALUES ('orders', 'tickets', 't1', 2), ('orders', 'tickets', 't2', 1);
INSERT INTO event_journal (grp, stream, key, seq, event_id, type, applied_at) VALUES
  ('orders', 'tickets', 't2', 1, 'e3', 'created', 4000),
  ('orders', 'tickets', 't1', 1, 'e1', 'created', 5000),
  ('orders', 'tickets', 't1', 2, 'e2', 'shipped', 6000);`,
	"payments": `
INSERT INTO event_subscription (grp, stream, since) VALUES ('payments', 'tickets', 500);
INSERT INTO event_type (grp, stream, type) VALUES ('payments', 'tickets', 'created');
INSERT INTO event_cursor (grp, stream, key, seq) VALUES ('payments', 'tickets', 't1', 2), ('payments', 'tickets', 't2', 1);
INSERT INTO event_journal (grp, stream, key, seq, event_id, type, applied_at) VALUES
  ('payments', 'tickets', 't1', 1, 'e1', 'created', 3000),
  ('payments', 'tickets', 't2', 1, 'e3', 'created', 4000);`,
}

// databases has those of the test under way, by service.
var databases = map[string]*database.DB{}

// onBoth runs a test on each kind of database. open makes the ledger of a
// service from statements, in place of the one it made before.
func onBoth(t *testing.T, test func(t *testing.T, open func(service, statements string) *admin.Ledger)) {
	t.Helper()
	for kind, start := range map[string]func(testing.TB, ...database.Migrations) *database.DB{
		"sqlite": databasetest.SQLite, "postgres": databasetest.Postgres,
	} {
		t.Run(kind, func(t *testing.T) {
			clear(databases)
			test(t, func(service, statements string) *admin.Ledger {
				db, again := databases[service]
				if !again {
					db = start(t, event.Migrations())
					databases[service] = db
				}
				for _, table := range []string{"outbox", "sequence", "scheduled", "cursor", "parked", "letter", "subscription", "type", "journal", "broker", "process", "attempt"} {
					statements = "DELETE FROM event_" + table + ";" + statements
				}
				execute(t, db, statements)
				return admin.New(service, db)
			})
		})
	}
}

// execute runs statements, separated by semicolons at the ends of lines.
func execute(t *testing.T, db *database.DB, statements string) {
	t.Helper()
	err := db.InTx(t.Context(), func(tx *database.Tx) error {
		for _, s := range strings.Split(statements, ";") {
			if strings.TrimSpace(s) == "" {
				continue
			}
			if _, err := tx.ExecContext(t.Context(), s); err != nil {
				return fmt.Errorf("%s: %w", s, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// whole returns the ledgers of the world, with what is planted in one of them.
func whole(open func(service, statements string) *admin.Ledger, service, plant string) (all []*admin.Ledger) {
	for _, s := range []string{"tickets", "orders", "payments"} {
		statements := world[s]
		if s == service {
			statements += plant
		}
		all = append(all, open(s, statements))
	}
	return all
}

func TestAuditFindsNothingWhereAllIsWell(t *testing.T) {
	onBoth(t, func(t *testing.T, open func(service, statements string) *admin.Ledger) {
		r, err := admin.Audit(t.Context(), whole(open, "", ""), time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		if !r.OK() || !r.Quiet() {
			t.Errorf("findings: %+v", r)
		}
		if r.Events != 3 || r.Effects != 5 {
			t.Errorf("%d events and %d effects, want 3 and 5", r.Events, r.Effects)
		}
		if r.P50 != 2*time.Millisecond || r.P99 != 4*time.Millisecond {
			t.Errorf("p50 %v, p99 %v", r.P50, r.P99)
		}
	})
}

func TestAuditFindsWhatIsPlanted(t *testing.T) {
	const journal = "INSERT INTO event_journal (grp, stream, key, seq, event_id, type, applied_at) VALUES "
	type found struct{ lost, duplicated, misordered, waiting, other int }
	tests := map[string]struct {
		service, plant string
		want           found
		says           string
	}{
		"an effect lost":    {"payments", "DELETE FROM event_journal WHERE event_id = 'e3'", found{lost: 1}, "payments: tickets t2 number 1 (created)"},
		"an effect doubled": {"orders", journal + "('orders', 'tickets', 't2', 1, 'e3', 'created', 7000)", found{duplicated: 1}, "orders: tickets t2 number 1 (created)"},
		"an effect tripled": {"orders", journal + "('orders', 'tickets', 't2', 1, 'e3', 'created', 7000), ('orders', 'tickets', 't2', 1, 'e3', 'created', 8000)", found{duplicated: 1}, "orders: tickets t2 number 1 (created)"},
		"two effects in the wrong order": {"orders", "UPDATE event_journal SET id = 100 WHERE event_id = 'e1'", found{misordered: 1},
			"orders: tickets t1 number 1 (created) after number 2"},
		"nothing has arrived":           {"orders", "DELETE FROM event_journal; UPDATE event_cursor SET seq = 0", found{waiting: 2}, "orders: tickets t1 is at number 0 of 2"},
		"an event gone from the outbox": {"tickets", "DELETE FROM event_outbox WHERE event_id = 'e2'", found{lost: 1, other: 1}, "2 numbers were given, but the outbox of tickets has 1 events"},
		"an effect of nothing": {"orders", journal + "('orders', 'tickets', 't9', 1, 'e9', 'created', 7000)", found{other: 1},
			"applied tickets t9 number 1 (e9), which nobody committed"},
		"an effect of another event": {"payments", "UPDATE event_journal SET event_id = 'e7' WHERE event_id = 'e3'", found{other: 1}, "applied e7 as tickets t2 number 1, which is e3"},
		"an effect of a foreign type": {"payments", journal + "('payments', 'tickets', 't1', 2, 'e2', 'shipped', 7000)", found{other: 1},
			"which it does not handle"},
		"a cursor that stayed behind": {"payments", "UPDATE event_cursor SET seq = 1 WHERE key = 't1'", found{waiting: 1}, "payments: tickets t1 is at number 1 of 2"},
		"a place of two events": {"orders", "INSERT INTO event_outbox (stream, key, seq, event_id, type, body, at, sent_at) VALUES ('tickets', 't1', 1, 'e8', 'created', '', 1000, 1)",
			found{other: 1}, "two events have this place"},
		"an event set aside": {"orders", "INSERT INTO event_parked (grp, stream, key, seq, state, attempts, due_at, error, body, at) VALUES ('orders', 'tickets', 't2', 2, 'dead', 12, 0, 'no such seat', '', 0)",
			found{waiting: 1}, "orders: tickets t2 number 2 is put aside: dead after 12 attempts: no such seat"},
		"a fork": {"orders", "INSERT INTO event_letter (grp, stream, key, seq, kind, error, body, at) VALUES ('orders', 'tickets', 't2', 2, 'fork', 'two histories', '', 0)",
			found{other: 1}, "orders: tickets t2 number 2 has a letter (fork): two histories"},
	}
	onBoth(t, func(t *testing.T, open func(service, statements string) *admin.Ledger) {
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				r, err := admin.Audit(t.Context(), whole(open, test.service, test.plant), time.Time{})
				if err != nil {
					t.Fatal(err)
				}
				if got := (found{len(r.Lost), len(r.Duplicated), len(r.Misordered), len(r.Waiting), len(r.Other)}); got != test.want {
					t.Errorf("found %+v, want %+v", got, test.want)
				}
				if bad := test.want != (found{waiting: test.want.waiting}); r.OK() == bad {
					t.Errorf("ok = %v", r.OK())
				}
				var all string
				for _, list := range [][]admin.Finding{r.Lost, r.Duplicated, r.Misordered, r.Waiting, r.Other} {
					for _, f := range list {
						all += f.String() + "\n"
					}
				}
				if !strings.Contains(all, test.says) {
					t.Errorf("it does not say %q, but\n%s", test.says, all)
				}
			})
		}
	})
}

// What is on its way, given up by an operator, or from before a group's time is
// not lost.
func TestAuditKnowsWhatIsNotLost(t *testing.T) {
	onBoth(t, func(t *testing.T, open func(service, statements string) *admin.Ledger) {
		for name, test := range map[string]struct {
			service, plant string
			check          func(*admin.Report) bool
		}{
			"unsent":    {"tickets", "UPDATE event_outbox SET sent_at = NULL WHERE event_id = 'e3'", func(r *admin.Report) bool { return r.Unsent == 1 && !r.Quiet() }},
			"scheduled": {"tickets", "INSERT INTO event_scheduled (stream, key, event_id, type, due_at, body) VALUES ('tickets', 't1', 'e9', 'expired', 1, '')", func(r *admin.Report) bool { return r.Scheduled == 1 && !r.Quiet() }},
			"skipped": {"payments", "DELETE FROM event_journal WHERE event_id = 'e3'; INSERT INTO event_attempt (grp, stream, key, seq, event_id, attempt, error, at) VALUES ('payments', 'tickets', 't2', 1, 'e3', 0, 'skipped by an operator', 3600)",
				func(r *admin.Report) bool { return r.Skipped == 1 && r.Quiet() }},
			"subscribed late": {"payments", "DELETE FROM event_journal WHERE event_id = 'e1'; UPDATE event_subscription SET since = 100000000", func(r *admin.Report) bool { return r.Effects == 4 && r.Quiet() }},
			"not met yet":     {"payments", "DELETE FROM event_journal; DELETE FROM event_cursor; UPDATE event_subscription SET since = 100000000", func(r *admin.Report) bool { return r.Effects == 3 && r.Quiet() }},
			"no journal":      {"payments", "DELETE FROM event_journal", func(r *admin.Report) bool { return r.Effects == 3 && r.Quiet() }},
		} {
			r, err := admin.Audit(t.Context(), whole(open, test.service, test.plant), time.Time{})
			if err != nil {
				t.Fatal(err)
			}
			if !r.OK() || !test.check(r) {
				t.Errorf("%s: %+v", name, r)
			}
		}
	})
}

// An audit since a time leaves out what was before.
func TestAuditSince(t *testing.T) {
	onBoth(t, func(t *testing.T, open func(service, statements string) *admin.Ledger) {
		ledgers := whole(open, "payments", "DELETE FROM event_journal WHERE event_id = 'e1'")
		r, err := admin.Audit(t.Context(), ledgers, time.UnixMicro(2000))
		if err != nil {
			t.Fatal(err)
		}
		if !r.OK() || r.Events != 2 || r.Effects != 3 {
			t.Errorf("since then: %+v", r)
		}
		if r, err = admin.Audit(t.Context(), ledgers, time.UnixMicro(1000)); err != nil || len(r.Lost) != 1 {
			t.Errorf("from the beginning: %v, %+v", err, r)
		}
	})
}

// Every finding tells what is known of its event.
func TestAuditShowsTheHistory(t *testing.T) {
	onBoth(t, func(t *testing.T, open func(service, statements string) *admin.Ledger) {
		r, err := admin.Audit(t.Context(), whole(open, "payments", "DELETE FROM event_journal WHERE event_id = 'e3'"), time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Lost) != 1 || r.Lost[0].Path == nil || r.Lost[0].Path.ID != "e3" || len(r.Lost[0].Path.Steps) != 3 {
			t.Fatalf("lost: %+v", r.Lost)
		}
		for _, s := range r.Lost[0].Path.Groups {
			want := map[string]string{"orders": "applied", "payments": "missing"}[s.Group]
			if s.State != want {
				t.Errorf("%s: %s, want %s", s.Group, s.State, want)
			}
		}
	})
}

func TestAuditNeedsLedgers(t *testing.T) {
	if _, err := admin.Audit(context.Background(), nil, time.Time{}); err == nil {
		t.Error("an audit of nothing is no error")
	}
}
