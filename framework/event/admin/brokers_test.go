package admin_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/framework/event/admin"
)

// moving makes the world with processes that use brokers, as in
// "tickets:stan+jetstream orders:stan", and what is planted in tickets.
// JetStream joined an hour ago.
func moving(open func(service, statements string) *admin.Ledger, processes, plant string) (all []*admin.Ledger) {
	hour := time.Now().Add(-time.Hour).UnixMicro()
	for _, s := range []string{"tickets", "orders", "payments"} {
		statements := world[s] + "DELETE FROM event_broker;"
		known := map[string]bool{}
		for i, p := range strings.Fields(processes) {
			service, brokers, _ := strings.Cut(p, ":")
			if service != s {
				continue
			}
			statements += fmt.Sprintf("INSERT INTO event_process (process, brokers, started_at, seen_at) VALUES ('%s-%d', '%s', 1, %d);", s, i, brokers, time.Now().UnixMicro())
			for _, b := range strings.Split(brokers, "+") {
				known[b] = true
			}
		}
		if known["stan"] || strings.Contains(plant, "stan was used") {
			statements += "INSERT INTO event_broker (broker, since) VALUES ('stan', 1);"
		}
		if known["jetstream"] {
			statements += fmt.Sprintf("INSERT INTO event_broker (broker, since) VALUES ('jetstream', %d);", hour)
		}
		if service, rows, _ := strings.Cut(plant, ": "); service == s {
			statements += rows
		}
		all = append(all, open(s, statements))
	}
	return all
}

func TestBrokers(t *testing.T) {
	const (
		both = "tickets:jetstream+stan orders:jetstream+stan payments:jetstream+stan"
		one  = "tickets:jetstream orders:jetstream payments:jetstream"
	)
	tests := map[string]struct {
		processes, plant, to string
		step                 string
		safe                 bool
		next                 string
		missing              []string
	}{
		"one broker": {processes: "tickets:stan orders:stan payments:stan", step: "settled", safe: true, next: "BROKER=stan+<the new one>"},
		"some with both": {processes: "tickets:jetstream+stan orders:stan orders:jetstream+stan payments:stan", step: "joining", next: "BROKER=stan+jetstream",
			missing: []string{"orders: process orders-1 uses only stan", "payments: process payments-3 uses only stan"}},
		"all with both":       {processes: both, step: "joined", safe: true, next: "BROKER=jetstream,"},
		"all with both, back": {processes: both, to: "stan", step: "joined", safe: true, next: "BROKER=stan,"},
		"the new one lacks something": {processes: both, plant: "tickets: UPDATE event_broker SET missing_since = 5000000 WHERE broker = 'jetstream'", step: "joined", next: "Do not leave stan yet",
			missing: []string{"tickets: jetstream may lack what was sent since 1970-01-01T00:00:05Z"}},
		"not connected to the new one": {processes: both, plant: "orders: DELETE FROM event_broker WHERE broker = 'jetstream'", step: "joined", next: "Do not leave stan yet",
			missing: []string{"orders: has not been connected to jetstream yet"}},
		"a group is behind": {processes: both, plant: "payments: UPDATE event_cursor SET seq = 0", step: "joined", next: "Do not leave stan yet",
			missing: []string{"payments: group payments has yet to take 3 events of tickets that were sent before jetstream joined"}},
		"a group has put events aside": {processes: both, plant: "payments: UPDATE event_cursor SET seq = 1 WHERE key = 't1';" +
			"INSERT INTO event_parked (grp, stream, key, seq, state, attempts, due_at, error, body, at) VALUES ('payments', 'tickets', 't1', 2, 'dead', 1, 1, '', '', 1)", step: "joined", safe: true, next: "BROKER=jetstream,"},
		"a group is behind in what the new one has": {processes: both, plant: fmt.Sprintf("tickets: UPDATE event_outbox SET sent_at = %d WHERE key = 't1';UPDATE event_sequence SET last = 3 WHERE key = 't1';"+
			"INSERT INTO event_outbox (stream, key, seq, event_id, type, body, at) VALUES ('tickets', 't1', 3, 'e4', 'created', '', 4000)", time.Now().UnixMicro()), step: "joined", safe: true, next: "BROKER=jetstream,"},
		"sent just after it joined": {processes: both, plant: fmt.Sprintf("tickets: UPDATE event_outbox SET sent_at = %d;UPDATE event_sequence SET last = 3 WHERE key = 't1';"+
			"INSERT INTO event_outbox (stream, key, seq, event_id, type, body, at, sent_at) VALUES ('tickets', 't1', 3, 'e4', 'created', '', 4000, %[1]d)", time.Now().Add(-time.Hour+20*time.Second).UnixMicro()), step: "joined", next: "Do not leave stan yet",
			missing: []string{"orders: group orders has yet to take 1 events", "payments: group payments has yet to take 1 events"}},
		"a group that came later": {processes: both, plant: "payments: DELETE FROM event_cursor; UPDATE event_subscription SET since = 100000000", step: "joined", safe: true, next: "BROKER=jetstream,"},
		"some have left": {processes: "tickets:jetstream orders:jetstream orders:jetstream+stan payments:jetstream", step: "leaving", next: "Go on restarting services with BROKER=jetstream",
			missing: []string{"orders: process orders-2 uses stan, too"}},
		"all have left":           {processes: one, plant: "stan was used", step: "left", safe: true, next: "Stop stan"},
		"all have left too early": {processes: one, plant: "payments: INSERT INTO event_broker (broker, since) VALUES ('stan', 1); UPDATE event_cursor SET seq = 0", step: "left", next: "Do not stop stan yet", missing: []string{"payments: group payments has yet to take 3 events"}},
		"a service is down": {processes: "tickets:jetstream+stan orders:jetstream+stan", step: "joined", next: "Do not leave stan yet",
			missing: []string{"payments: no process has been seen for a minute", "payments: has not been connected to jetstream yet"}},
		"nothing runs": {plant: "tickets: INSERT INTO event_broker (broker, since) VALUES ('stan', 1)", step: "settled", next: "Start the services",
			missing: []string{"tickets: no process", "orders: no process", "payments: no process"}},
		"a process has ended": {processes: both, plant: "orders: INSERT INTO event_process (process, brokers, started_at, seen_at) VALUES ('old', 'stan', 1, 1)", step: "joined", safe: true, next: "BROKER=jetstream,"},
	}
	onBoth(t, func(t *testing.T, open func(service, statements string) *admin.Ledger) {
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				m, err := admin.Brokers(t.Context(), moving(open, test.processes, test.plant), test.to)
				if err != nil {
					t.Fatal(err)
				}
				if m.Step != test.step || m.Safe != test.safe || !strings.Contains(m.Next, test.next) {
					t.Errorf("%s, safe %v: %s\nwant %s, safe %v: …%s…\n%+v", m.Step, m.Safe, m.Next, test.step, test.safe, test.next, m.Missing)
				}
				for i, o := range m.Missing {
					if i >= len(test.missing) || !strings.Contains(o.Text, test.missing[i]) {
						t.Errorf("missing: %s", o.Text)
					}
				}
				if len(m.Missing) < len(test.missing) {
					t.Errorf("missing is %+v, want %q", m.Missing, test.missing)
				}
			})
		}
		for to, want := range map[string]string{"kafka": `nobody uses a broker "kafka"`, "": "has any of the services ever run"} {
			processes := both
			if to == "" {
				processes = ""
			}
			if _, err := admin.Brokers(t.Context(), moving(open, processes, ""), to); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("to %q: %v", to, err)
			}
		}
	})
}
