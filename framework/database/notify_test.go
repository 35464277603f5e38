package database_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/database/databasetest"
)

// patience is how long a test waits for what should come at once.
const patience = 30 * time.Second

func receive[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("no sign of %s within %v", what, patience)
		panic("unreachable")
	}
}

// listen collects what is heard on a channel until the test ends.
func listen(t *testing.T, db *database.DB, channel string) <-chan string {
	t.Helper()
	heard := make(chan string, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- db.Listen(ctx, channel, func(payload string) { heard <- payload }) }()
	t.Cleanup(func() {
		cancel()
		if err := receive(t, done, "the end of Listen"); !errors.Is(err, context.Canceled) {
			t.Errorf("Listen returned %v", err)
		}
	})
	return heard
}

func TestNotify(t *testing.T) {
	url := databasetest.PostgresURL(t)
	open := func() *database.DB {
		db, err := database.New(database.Config{URL: url})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		return db
	}
	const channel = `It's "one" channel`
	speaker := open()
	heard, other := listen(t, open(), channel), listen(t, open(), "other")
	for what, c := range map[string]<-chan string{"the channel": heard, "the other": other} {
		if got := receive(t, c, "a connection of "+what); got != "" {
			t.Errorf("begins with %q", got)
		}
	}
	for _, payload := range []string{"one", "two's", ""} {
		if err := speaker.Notify(t.Context(), channel, payload); err != nil {
			t.Fatal(err)
		}
		if got := receive(t, heard, "a notification"); got != payload {
			t.Errorf("heard %q, want %q", got, payload)
		}
	}
	if err := speaker.Notify(t.Context(), "other", "last"); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, other, "a notification"); got != "last" {
		t.Errorf("heard %q on the other channel", got)
	}
}

// A file has one process: there is nobody to tell.
func TestNotifyOnSQLite(t *testing.T) {
	db := databasetest.SQLite(t)
	heard := listen(t, db, "channel")
	if err := db.Notify(t.Context(), "channel", "one"); err != nil {
		t.Fatal(err)
	}
	if len(heard) > 0 {
		t.Errorf("heard %q", <-heard)
	}
}
