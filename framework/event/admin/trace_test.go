package admin_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/turnstile-go/turnstile/framework/event/admin"
)

// lines writes a path for comparison.
func lines(p admin.Path) (all []string) {
	for _, s := range p.Steps {
		all = append(all, strings.TrimSpace(fmt.Sprintf("%d %s %s: %s", s.At.UnixMicro(), s.What, s.Group, s.Text)))
	}
	for _, g := range p.Groups {
		all = append(all, g.Group+" "+g.State)
	}
	return all
}

// An event is followed from its commit to its effects, across services.
func TestTrace(t *testing.T) {
	onBoth(t, func(t *testing.T, open func(service, statements string) *admin.Ledger) {
		ledgers := whole(open, "orders", `
INSERT INTO event_attempt (grp, stream, key, seq, event_id, attempt, error, at) VALUES
  ('orders', 'tickets', 't2', 1, 'e3', 1, 'no such seat', 3600), ('orders', 'tickets', 't2', 1, 'e3', 0, 'redriven by an operator', 3700)`)
		for name, f := range map[string]admin.Filter{
			"by id": {ID: "e3"}, "by key": {Key: "t2"}, "by place": {Stream: "tickets", Key: "t2", Sequence: 1},
		} {
			paths, err := admin.Trace(t.Context(), ledgers, f)
			if err != nil || len(paths) != 1 {
				t.Fatalf("%s: %v, %+v", name, err, paths)
			}
			want := []string{
				"3000 committed : committed as number 1",
				"3500 sent : acknowledged by stan",
				"3600 attempt orders: attempt 1 failed: no such seat",
				"3700 redriven orders: redriven by an operator",
				"4000 applied orders: took effect 1ms after the commit",
				"4000 applied payments: took effect 1ms after the commit",
				"orders applied", "payments applied",
			}
			if got := lines(paths[0]); !slices.Equal(got, want) {
				t.Errorf("%s:\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			if paths[0].Service != "tickets" || paths[0].ID != "e3" {
				t.Errorf("%s: the event is %+v", name, paths[0].Event)
			}
		}
		paths, err := admin.Trace(t.Context(), ledgers, admin.Filter{})
		if err != nil || len(paths) != 3 {
			t.Errorf("all: %v, %d paths", err, len(paths))
		}
		ledgers[0] = open("tickets", world["tickets"]+"INSERT INTO event_scheduled (stream, key, event_id, type, due_at, body) VALUES ('tickets', 't1', 'e9', 'expired', 9000, '')")
		paths, err = admin.Trace(t.Context(), ledgers, admin.Filter{ID: "e9"})
		if err != nil || len(paths) != 1 || !slices.Equal(lines(paths[0]), []string{"9000 scheduled : is due; it gets its number then"}) {
			t.Errorf("scheduled: %v, %+v", err, paths)
		}
		if paths, err = admin.Trace(t.Context(), ledgers, admin.Filter{Key: "t1"}); err != nil || len(paths) != 3 || paths[2].ID != "e9" {
			t.Errorf("with one that is scheduled: %v, %+v", err, paths)
		}
	})
}

// Without the producer's ledger, a group's own is enough for what happened
// there; what nobody knows is said.
func TestTraceOfWhatTheOutboxDoesNotHave(t *testing.T) {
	onBoth(t, func(t *testing.T, open func(service, statements string) *admin.Ledger) {
		orders := []*admin.Ledger{open("orders", world["orders"]+`
INSERT INTO event_parked (grp, stream, key, seq, state, attempts, due_at, error, body, at) VALUES
  ('orders', 'tickets', 't2', 3, 'early', 0, 0, '', '{"id":"e5","type":"shipped"}', 9000)`)}
		for _, f := range []admin.Filter{{ID: "e2"}, {Key: "t1", Sequence: 2}} {
			paths, err := admin.Trace(t.Context(), orders, f)
			if err != nil || len(paths) != 1 {
				t.Fatalf("%+v: %v, %+v", f, err, paths)
			}
			if got, want := lines(paths[0]), []string{"6000 applied orders: took effect", "orders applied"}; !slices.Equal(got, want) {
				t.Errorf("%+v: %q", f, got)
			}
		}
		paths, err := admin.Trace(t.Context(), orders, admin.Filter{ID: "e5"})
		if err != nil || len(paths) != 1 || paths[0].Sequence != 3 || paths[0].Groups[0].State != "early" {
			t.Errorf("parked: %v, %+v", err, paths)
		}
		for _, f := range []admin.Filter{{ID: "e9"}, {Key: "t9"}, {ID: "%"}} {
			if paths, err := admin.Trace(t.Context(), orders, f); err == nil || !strings.Contains(err.Error(), "producer") {
				t.Errorf("%+v: %v, %+v", f, err, paths)
			}
		}
	})
}

// What has become of an event in a group.
func TestTraceStands(t *testing.T) {
	const aside = "INSERT INTO event_parked (grp, stream, key, seq, state, attempts, due_at, error, body, at) VALUES ('payments', 'tickets', 't2', 1, '%s', 3, 5000000, 'no such seat', '{\"id\":\"e3\"}', 3600)"
	tests := map[string]struct{ plant, state, says string }{
		"dead":     {fmt.Sprintf(aside, "dead"), "dead", "dead after 3 attempts: no such seat"},
		"retried":  {fmt.Sprintf(aside, "retry"), "retry", "3 attempts failed, the next is at 1970-01-01T00:00:05Z: no such seat"},
		"early":    {fmt.Sprintf(aside, "early"), "early", "waits for its predecessors"},
		"waiting":  {"UPDATE event_cursor SET seq = 0 WHERE key = 't2'; DELETE FROM event_journal WHERE event_id = 'e3'", "waiting", "has not arrived"},
		"missing":  {"DELETE FROM event_journal WHERE event_id = 'e3'", "missing", "its journal does not have it"},
		"unheeded": {"DELETE FROM event_journal; DELETE FROM event_type", "passed", "does not handle created"},
		"unknown":  {"DELETE FROM event_journal", "applied", "time not recorded"},
	}
	onBoth(t, func(t *testing.T, open func(service, statements string) *admin.Ledger) {
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				paths, err := admin.Trace(t.Context(), whole(open, "payments", test.plant), admin.Filter{ID: "e3"})
				if err != nil || len(paths) != 1 || len(paths[0].Groups) != 2 {
					t.Fatalf("%v, %+v", err, paths)
				}
				if s := paths[0].Groups[1]; s.Group != "payments" || s.State != test.state || !strings.Contains(s.Text, test.says) {
					t.Errorf("it stands %+v, want %s, %q", s, test.state, test.says)
				}
			})
		}
	})
}
