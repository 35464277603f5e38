package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/database/databasetest"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/event/admin"
	"github.com/turnstile-go/turnstile/framework/event/eventtest"
)

type opened struct {
	Door string `json:"door"`
}

func (e opened) Meta() event.Meta {
	return event.Meta{Stream: "doors", Type: "door.opened", Key: e.Door}
}

// An operator sees a dead event, and redrives it or skips it.
func TestEvents(t *testing.T) {
	url := "sqlite:" + filepath.Join(t.TempDir(), "x.db")
	db, err := database.New(database.Config{URL: url}, event.Migrations())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	outbox, listener := event.NewOutbox(db, "porter", opened{}), event.NewListener(db, "porter")
	// A failure is tried once more, alone, before it is recorded. Tries must not wait to be received: the handler has
	// the only write transaction, and this test wants one.
	tried, mended := make(chan string, 16), make(chan string)
	broken := true
	event.Handle(listener, func(ctx context.Context, tx *database.Tx, m *event.Message[opened]) error {
		if broken {
			tried <- m.Key
			return event.Dead(errors.New("the hinge is stuck"))
		}
		tx.AfterCommit(func() { mended <- m.Key })
		return nil
	})
	broker := eventtest.NewBroker(eventtest.Faults{})
	defer broker.Close()
	run := func() (stop func()) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- event.NewClient(event.Config{}, outbox, listener, event.Telemetry{}, broker).Run(ctx)
		}()
		return func() { cancel(); <-done }
	}
	stop := run()
	for _, door := range []string{"north", "south"} {
		if err := db.InTx(t.Context(), func(tx *database.Tx) error { return outbox.Publish(t.Context(), tx, opened{door}) }); err != nil {
			t.Fatal(err)
		}
		<-tried
	}
	command := func(in string, args ...string) (string, error) {
		return events(t, in, append(args, "--database", "porter="+url)...)
	}
	for {
		letters, err := admin.New("porter", db).Letters(t.Context(), admin.Filter{})
		if err != nil {
			t.Fatal(err)
		}
		if len(letters) == 2 {
			break
		}
	}
	stop()

	out, err := command("", "dead")
	if err != nil || !strings.Contains(out, "north") || !strings.Contains(out, "the hinge is stuck") {
		t.Fatalf("dead: %v\n%s", err, out)
	}
	if out, err = command("", "parked"); err != nil || !strings.Contains(out, "dead after 1 attempt: the hinge is stuck") {
		t.Fatalf("parked: %v\n%s", err, out)
	}
	at := func(door string) []string {
		return []string{"--group", "porter", "--stream", "doors", "--key", door, "--sequence", "1"}
	}
	if out, err = command("n\n", append([]string{"skip"}, at("north")...)...); err == nil || !strings.Contains(out, "skip the dead letter of group porter") {
		t.Fatalf("skip, answered with no: %v\n%s", err, out)
	}
	if out, err = command("", append([]string{"skip", "--yes"}, at("north")...)...); err != nil {
		t.Fatalf("skip: %v\n%s", err, out)
	}
	if _, err = command("", append([]string{"redrive", "--yes"}, at("north")...)...); err == nil || !strings.Contains(err.Error(), "no such dead letter") {
		t.Fatalf("redrive of a skipped event: %v", err)
	}
	if out, err = command("y\n", "redrive", "--all", "--group", "porter"); err != nil || !strings.Contains(out, "redrive 1 dead event of group porter in the ledger of porter? [y/N]") {
		t.Fatalf("redrive: %v\n%s", err, out)
	}
	broken = false
	stop = run()
	if door := <-mended; door != "south" {
		t.Errorf("%s was tried again, want south", door)
	}
	stop()
	if out, err = command("", "dead"); err != nil || out != "no dead letters\n" {
		t.Errorf("dead: %v\n%s", err, out)
	}
}

// events calls the command and returns all that it says.
func events(t *testing.T, in string, args ...string) (string, error) {
	t.Helper()
	return eventsIn(t.Context(), strings.NewReader(in), args...)
}

func eventsIn(ctx context.Context, in io.Reader, args ...string) (string, error) {
	return execute(ctx, eventsCommand(), in, args)
}

func execute(ctx context.Context, c *cobra.Command, in io.Reader, args []string) (string, error) {
	c.SilenceErrors, c.SilenceUsage = true, true
	var out bytes.Buffer
	c.SetOut(&out)
	c.SetErr(&out)
	c.SetIn(in)
	c.SetArgs(args)
	err := c.ExecuteContext(ctx)
	return out.String(), err
}

// Shop publishes orders, which a warehouse handles. Number 2 of o1 is dead there, and one waits behind it; one of o2 is
// not sent, and one is scheduled.
func shopAndWarehouse(t *testing.T, now time.Time) (flags []string, shop *database.DB) {
	t.Helper()
	at := func(ago time.Duration) int64 { return now.Add(-ago).UnixMicro() }
	body := func(id string, n int) string {
		return fmt.Sprintf(`{"specversion":"1.0","id":"%s","type":"order.placed","subject":"o1","sequence":"%d","data":{"id":"o1"}}`, id, n)
	}
	for _, service := range []struct{ name, statements string }{
		{"shop", fmt.Sprintf(`
INSERT INTO event_process (process, brokers, started_at, seen_at) VALUES ('shop-1', 'stan', %d, %d);
INSERT INTO event_broker (broker, since) VALUES ('stan', %[1]d);
INSERT INTO event_sequence (stream, key, last, at) VALUES ('orders', 'o1', 3, %[3]d), ('orders', 'o2', 1, %[4]d);
INSERT INTO event_outbox (stream, key, seq, event_id, type, body, at, sent_at) VALUES
  ('orders', 'o1', 1, 'e1', 'order.placed', '%[6]s', %[5]d, %[5]d),
  ('orders', 'o1', 2, 'e2', 'order.placed', '%[7]s', %[3]d, %[3]d),
  ('orders', 'o1', 3, 'e3', 'order.placed', '%[8]s', %[3]d, %[3]d),
  ('orders', 'o2', 1, 'e4', 'order.placed', '{}', %[4]d, NULL);
INSERT INTO event_scheduled (stream, key, event_id, type, due_at, body) VALUES ('orders', 'o1', 'e5', 'order.expired', %[9]d, '{}')`,
			at(26*time.Hour), at(-time.Hour), at(time.Hour), at(time.Minute), at(25*time.Hour), body("e1", 1), body("e2", 2), body("e3", 3), at(-15*time.Minute))},
		{"warehouse", fmt.Sprintf(`
INSERT INTO event_process (process, brokers, started_at, seen_at) VALUES ('warehouse-1', 'stan', %d, %d);
INSERT INTO event_broker (broker, since) VALUES ('stan', %[1]d);
INSERT INTO event_subscription (grp, stream, since) VALUES ('warehouse', 'orders', %[1]d);
INSERT INTO event_type (grp, stream, type) VALUES ('warehouse', 'orders', 'order.placed');
INSERT INTO event_cursor (grp, stream, key, seq, event_id, parked) VALUES ('warehouse', 'orders', 'o1', 1, 'e1', 2);
INSERT INTO event_journal (grp, stream, key, seq, event_id, type, applied_at) VALUES ('warehouse', 'orders', 'o1', 1, 'e1', 'order.placed', %[4]d);
INSERT INTO event_attempt (grp, stream, key, seq, event_id, attempt, error, at) VALUES ('warehouse', 'orders', 'o1', 2, 'e2', 1, 'no such shelf', %[3]d + 2000000);
INSERT INTO event_parked (grp, stream, key, seq, state, attempts, due_at, error, body, at) VALUES
  ('warehouse', 'orders', 'o1', 2, 'dead', 1, 0, 'no such shelf', '%[5]s', %[3]d + 1000000), ('warehouse', 'orders', 'o1', 3, 'early', 0, 0, '', '%[6]s', %[3]d + 1000000)`,
			at(26*time.Hour), at(-time.Hour), at(time.Hour), at(25*time.Hour-20*time.Millisecond), body("e2", 2), body("e3", 3))},
	} {
		url := "sqlite:" + filepath.Join(t.TempDir(), service.name+".db")
		db, err := database.New(database.Config{URL: url}, event.Migrations())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		if err := db.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		err = db.InTx(t.Context(), func(tx *database.Tx) error {
			_, err := tx.ExecContext(t.Context(), service.statements)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if service.name == "shop" {
			shop = db
		}
		flags = append(flags, "--database", url)
	}
	return flags, shop
}

// Every view says what an operator looks for, in lines that a terminal has room for, and as one JSON document.
func TestEventsViews(t *testing.T) {
	now := time.Now().Truncate(time.Microsecond)
	flags, _ := shopAndWarehouse(t, now)
	view := func(args []string) (string, error) {
		f := &eventsFlags{now: func() time.Time { return now }}
		return execute(t.Context(), f.command(), strings.NewReader(""), args)
	}
	for _, test := range []struct {
		args string
		want []string
	}{
		{"ls", []string{
			"AGE        SERVICE  STREAM  KEY  NO.  STATE      TYPE",
			"1d01h      shop     orders  o1   1    sent       order.placed",
			"1h00m      shop     orders  o1   3    sent       order.placed",
			"1m00s      shop     orders  o2   1    unsent     order.placed",
			"in 15m00s  shop     orders  o1   -    scheduled  order.expired",
		}},
		{"ls --limit 1 --state sent", []string{"o1   3    sent", "the newest 1 of each service"}},
		{"ls --type none", []string{"no events"}},
		{"show e2", []string{"id         e2", "number     2", "1h00m ago", `"specversion": "1.0"`}},
		{"show --key o1 --sequence 3", []string{"id         e3"}},
		{"trace e2", []string{"order.placed  orders o1 number 2  e2", "shop       committed as number 2", "acknowledged by stan",
			"+2.000s  warehouse  attempt 1 failed: no such shelf", "→ warehouse: dead, dead after 1 attempt: no such shelf"}},
		{"trace o1", []string{"number 1  e1", "took effect 20ms after the commit", "→ warehouse: applied", "number 3  e3", "→ warehouse: early, waits for its predecessors", "without a number yet"}},
		{"dead", []string{"KIND  GROUP      STREAM  KEY  NO.  TRIES  AGE     ERROR", "dead  warehouse  orders  o1   2    1      59m59s  no such shelf"}},
		{"dead --kind gap", []string{"no dead letters"}},
		{"parked", []string{"GROUP      STREAM  KEY  NO.  EVENTS  OLDEST  WHY", "warehouse  orders  o1   2    2       59m59s  dead after", "dead after 1 attempt: no such shelf"}},
		{"parked --state retry", []string{"nothing waits"}},
		{"lag", []string{"warehouse  orders  3       2     1h00m", "warehouse  orders  o1   1        3          2          1h00m", "warehouse  orders  o2   0        1          0          1m00s"}},
		{"audit", []string{"waiting: warehouse: orders o1 number 2 is put aside: dead after 1 attempt: no such shelf", "events=4 effects=1 skipped=0 unsent=1 scheduled=1 waiting=4 lost=0 duplicated=0 misordered=0 wrong=0 p50=20ms"}},
		{"broker-status", []string{"settled, with stan: safe\nEverybody uses stan", "shop       shop-1       stan  1d02h", "warehouse  stan    1          1d02h  nothing"}},
	} {
		t.Run(test.args, func(t *testing.T) {
			args := append(strings.Fields(test.args), flags...)
			out, err := view(args)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range test.want {
				if !strings.Contains(out, want) {
					t.Errorf("it does not say %q, but\n%s", want, out)
				}
			}
			for _, line := range strings.Split(out, "\n") {
				if n := utf8.RuneCountInString(line); n > 120 && !strings.Contains(test.args, "audit") {
					t.Errorf("a line of %d characters: %s", n, line)
				}
			}
			if out, err = view(append(args, "-o", "json")); err != nil || !json.Valid([]byte(out)) || strings.Contains(out, "null") {
				t.Errorf("as JSON: %v\n%s", err, out)
			}
		})
	}
}

// What is asked for wrongly is said to be, with what to do.
func TestEventsSayWhatIsWrong(t *testing.T) {
	flags, _ := shopAndWarehouse(t, time.Now())
	empty := filepath.Join(t.TempDir(), "empty.db")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	terminal, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	t.Chdir(t.TempDir()) // no workspace
	for args, want := range map[string]string{
		"broker-staus":                       "there is no command 'events broker-staus'",
		"ls -o yaml":                         "the only other form is json",
		"ls --state lost":                    "want scheduled, unsent or sent",
		"ls --since yesterday":               "want how long ago, as in 90s or 36h, or a time",
		"ls --limit -1":                      "must not be negative",
		"parked --state poison":              "want retry, dead, early or missing",
		"dead --kind poison":                 "want dead, gap, fork or malformed",
		"show":                               "which event?",
		"show e9":                            "no outbox of shop, warehouse has that event",
		"show --key o1":                      "which event?",
		"trace":                              "which event?",
		"trace e9":                           "no such event is known in the ledgers of shop, warehouse",
		"redrive":                            "which letter?",
		"redrive --all":                      "--all goes with --group",
		"redrive e9 --yes":                   "there is no such dead letter",
		"redrive e2":                         "this would redrive the dead letter of group warehouse, stream orders, key o1, number 2 in the ledger of warehouse: say --yes",
		"skip --kind gap --stream orders":    "there is no such gap letter",
		"replay --stream orders":             "from when on with --since",
		"replay --stream none --since 1h":    "no outbox of shop, warehouse has events of the stream none",
		"replay --stream orders --since 30h": "this would send 3 events of orders",
		"broker-status --to kafka":           `nobody uses a broker "kafka"; known are stan`,
		"broker-status --step done":          "want settled, joining, joined, leaving, left",
		"broker-status --step left":          "wait",
		"! ls":                               "which ledgers? Name databases with --database",
		"! ls --service orders":              "is not in a Go workspace",
		"! ls --database sqlite:" + empty:    "it is no ledger",
		"! ls --database sqlite:" + empty + ".none":    "no such file",
		"! ls --database mysql://x":                    "want postgres://… or sqlite:…",
		"! ls --admin 127.0.0.1:1":                     "does the service run",
		"ls --database shop=sqlite:" + empty + ".none": "the database of shop",
	} {
		rest, bare := strings.CutPrefix(args, "! ")
		list := strings.Fields(rest)
		if !bare {
			list = append(list, flags...)
		}
		if out, err := eventsIn(t.Context(), terminal, list...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q\n%s", args, err, want, out)
		}
	}
}

func TestWrapped(t *testing.T) {
	for text, want := range map[string]string{
		"":                       "",
		"one two three":          "one two|three",
		"exactly 10 and":         "exactly 10|and",
		"a12345678901 b":         "a123456789|01 b",
		"ab 1234567890123456789": "ab|1234567890|123456789",
	} {
		if got := strings.Join(wrapped(text, 10), "|"); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestNameDatabase(t *testing.T) {
	for flag, want := range map[string]string{
		"sqlite:data/orders.db":                                "orders sqlite:data/orders.db",
		"postgres://u:p@db:5432/orders?sslmode=disable":        "orders postgres://u:p@db:5432/orders?sslmode=disable",
		"postgres:///t_1?host=/tmp/pg&user=postgres":           "t_1 postgres:///t_1?host=/tmp/pg&user=postgres",
		"tickets=postgres:///t_1?host=/tmp/pg":                 "tickets postgres:///t_1?host=/tmp/pg",
		"my-shop=sqlite:/x/y.db":                               "my-shop sqlite:/x/y.db",
		"postgres://db":                                        "database postgres://db",
		"postgres://db/?dbname=sqlite:x":                       "database postgres://db/?dbname=sqlite:x",
		"postgresql://db/shop?application_name=a=postgres://b": "shop postgresql://db/shop?application_name=a=postgres://b",
	} {
		if service, url := nameDatabase(flag); service+" "+url != want {
			t.Errorf("%s: %s %s, want %s", flag, service, url, want)
		}
	}
}

// A replay asks how many events it is to send, sends them, and stops when it is told to, with what is sent already.
func TestEventsReplay(t *testing.T) {
	flags, shop := shopAndWarehouse(t, time.Now())
	args := append([]string{"replay", "--stream", "orders", "--since", "30h"}, flags...)
	unsent := func() (n int) {
		if err := shop.QueryRowContext(t.Context(), "SELECT count(*) FROM event_outbox WHERE sent_at IS NULL").Scan(&n); err != nil {
			t.Error(err)
		}
		return n
	}
	if out, err := events(t, "n\n", args...); err == nil || !strings.Contains(out, "send 3 events of orders") || err.Error() != "nothing was changed" || unsent() != 1 {
		t.Errorf("answered with no: %v, %d unsent\n%s", err, unsent(), out)
	}

	// Interrupted at the question.
	ctx, cancel := context.WithCancel(t.Context())
	in, answer := io.Pipe()
	defer answer.Close()
	go func() {
		_, _ = answer.Write([]byte("y")) // is read once it asks, and is no line
		cancel()
	}()
	if out, err := eventsIn(ctx, in, args...); !errors.Is(err, errInterrupted) || !strings.Contains(out, "stopped: nothing was changed") || unsent() != 1 {
		t.Errorf("interrupted at the question: %v, %d unsent\n%s", err, unsent(), out)
	}

	// Nobody sends: it waits until it is interrupted.
	ctx, cancel = context.WithCancel(t.Context())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		defer cancel()
		for unsent() != 4 && t.Context().Err() == nil {
			time.Sleep(time.Millisecond)
		}
	}()
	out, err := eventsIn(ctx, strings.NewReader(""), append(args, "--yes")...)
	<-stopped
	if !errors.Is(err, errInterrupted) || !strings.Contains(out, "stopped: 3 of 3 events are in the outbox again and will be sent") {
		t.Errorf("interrupted: %v\n%s", err, out)
	}

	if out, err := events(t, "", append(args, "--yes")...); err != nil || !strings.Contains(out, "is still in the outbox") {
		t.Errorf("again, with everything in the outbox: %v\n%s", err, out)
	}

	// A relay sends them.
	send := func() {
		err := shop.InTx(t.Context(), func(tx *database.Tx) error {
			_, err := tx.ExecContext(t.Context(), "UPDATE event_outbox SET sent_at = 1 WHERE sent_at IS NULL")
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	send()
	relayed := make(chan struct{})
	go func() {
		defer close(relayed)
		for unsent() == 0 && t.Context().Err() == nil {
			time.Sleep(time.Millisecond)
		}
		send()
	}()
	out, err = events(t, "y\n", append(args, "-o", "json")...)
	<-relayed
	if err != nil || !strings.Contains(out, `"total": 4,`) || !strings.Contains(out, `"unsent": 0`) {
		t.Errorf("sent: %v\n%s", err, out)
	}
}

// An audit that finds something shows the event's history and fails.
func TestEventsAuditFails(t *testing.T) {
	flags, shop := shopAndWarehouse(t, time.Now())
	err := shop.InTx(t.Context(), func(tx *database.Tx) error {
		_, err := tx.ExecContext(t.Context(), "UPDATE event_outbox SET event_id = 'e0' WHERE event_id = 'e1'")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	out, err := events(t, "", append([]string{"audit"}, flags...)...)
	if err == nil || !strings.Contains(out, "wrong: warehouse: applied e1 as orders o1 number 1, which is e0\n  order.placed  orders o1 number 1  e0") || !strings.Contains(out, "wrong=1") {
		t.Errorf("%v\n%s", err, out)
	}
	if err != nil && !strings.Contains(err.Error(), "other services than shop, warehouse") {
		t.Errorf("%v: want whose ledgers were compared", err)
	}
}

// A message that is no event has neither key nor number.
func TestEventsMalformed(t *testing.T) {
	flags, shop := shopAndWarehouse(t, time.Now())
	err := shop.InTx(t.Context(), func(tx *database.Tx) error {
		_, err := tx.ExecContext(t.Context(), `INSERT INTO event_letter (grp, stream, key, seq, kind, error, body, at) VALUES ('shop', 'stock', '', 0, 'malformed', 'not a CloudEvent', '?', 1)`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := events(t, "", append([]string{"audit"}, flags...)...); err == nil || !strings.Contains(out, "wrong: shop: a message of stock has a letter (malformed): not a CloudEvent\n") {
		t.Errorf("audit: %v\n%s", err, out)
	}
	out, err := events(t, "y\n", append([]string{"skip", "--kind", "malformed", "--stream", "stock"}, flags...)...)
	if want := "skip the malformed letter of group shop, stream stock in the ledger of shop? [y/N] skip: stock, what was malformed for group shop: done\n"; err != nil || out != want {
		t.Errorf("skip: %v\n%s\nwant\n%s", err, out, want)
	}
}

// In a workspace, its services need no naming.
func TestEventsOfAWorkspace(t *testing.T) {
	t.Setenv("GOFLAGS", "")
	t.Setenv("GOWORK", "")
	t.Chdir(t.TempDir())
	for file, text := range map[string]string{
		"go.work":                 "go 1.26\n\nuse (\n\t./shop\n\t./bank\n)\n",
		"shop/go.mod":             "module example.com/shop\n\ngo 1.26\n",
		"shop/service/service.go": "package service\n",
		"shop/cmd/shop/main.go":   "package main\n\nfunc main() {}\n",
		"bank/go.mod":             "module example.com/bank\n\ngo 1.26\n",
		"bank/service/service.go": "package service\n",
		"bank/cmd/bank/main.go":   "package main\n\nfunc main() {}\n",
	} {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := events(t, "", "ls"); err == nil || !strings.Contains(err.Error(), "run 'turnstile dev'") {
		t.Errorf("before the first run: %v", err)
	}
	db, err := database.New(database.Config{URL: "sqlite:.turnstile/data/shop.db"}, event.Migrations())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"ls"}, {"ls", "--service", "shop"}} {
		if out, err := events(t, "", args...); err != nil || out != "no events\n" {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
	if _, err := events(t, "", "ls", "--service", "bank"); err == nil || !strings.Contains(err.Error(), "has 'turnstile dev' run it?") {
		t.Errorf("a service that has not run: %v", err)
	}
}

// PostgreSQL's databases are ledgers like SQLite's.
func TestEventsOnPostgres(t *testing.T) {
	url := databasetest.PostgresURL(t)
	if _, err := events(t, "", "ls", "--database", "shop="+url); err == nil || !strings.Contains(err.Error(), "list the events in the ledger of shop") || !strings.Contains(err.Error(), "it is no ledger") {
		t.Errorf("of an empty database: %v", err)
	}
	db, err := database.New(database.Config{URL: url}, event.Migrations())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{
		"ls": "no events\n", "dead": "no dead letters\n", "parked": "nothing waits\n", "lag": "no group listens to a stream of these services\n",
	} {
		if out, err := events(t, "", args, "--database", "shop="+url); err != nil || out != want {
			t.Errorf("%s: %v\n%s", args, err, out)
		}
	}
}
