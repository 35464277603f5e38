package main

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/turnstile-go/turnstile/framework/database"
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
		c := eventsCommand()
		c.SilenceErrors, c.SilenceUsage = true, true
		var out bytes.Buffer
		c.SetOut(&out)
		c.SetIn(strings.NewReader(in))
		c.SetArgs(append(args, "--database", url))
		err := c.ExecuteContext(t.Context())
		return out.String(), err
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
	if out, err = command("", "dead", "-o", "json"); err != nil || !strings.Contains(out, `"kind":"dead"`) {
		t.Fatalf("dead -o json: %v\n%s", err, out)
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
	if _, err = command("", append([]string{"redrive", "--yes"}, at("north")...)...); err == nil || !strings.Contains(err.Error(), "it is not dead") {
		t.Fatalf("redrive of a skipped event: %v", err)
	}
	if out, err = command("y\n", append([]string{"redrive"}, at("south")...)...); err != nil {
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

func TestEventsNeedADatabase(t *testing.T) {
	c := eventsCommand()
	c.SilenceErrors, c.SilenceUsage = true, true
	c.SetArgs([]string{"dead"})
	if err := c.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), "--database") {
		t.Errorf("without a database: %v", err)
	}
}
