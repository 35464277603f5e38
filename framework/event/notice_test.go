package event_test

import (
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/internal/logs"
)

// notices is a log, and what it tells people.
func notices() (*slog.Logger, <-chan string) {
	told := make(chan string, 1000)
	var n logs.Notices
	n.Tell(func(reason, text string, r slog.Record) {
		told <- reason + " " + r.Level.String() + " " + text
	})
	return logs.New(io.Discard, false, slog.LevelError, &n), told
}

// People are told what an operator has to see to, once each, and of a broker
// that is away and is back.
func TestPeopleAreTold(t *testing.T) {
	onBoth(t, func(t *testing.T, db *database.DB) {
		log, told := notices()
		expect := func(what string, parts ...string) {
			t.Helper()
			got := receive(t, told, what)
			for _, part := range parts {
				if !strings.Contains(got, part) {
					t.Errorf("of %s is told %q, without %q", what, got, part)
				}
			}
		}
		b := &hand{answers: true, refuse: errors.New("unplugged")}
		config := quick
		config.GapTimeout = 100 * time.Millisecond
		run(t, event.NewClient(config, event.NewOutbox(db, "back"), recorder(db, func(m *event.Message[ping]) error {
			if m.Key == "bad" {
				return errors.New("no such seat")
			}
			return nil
		}), event.Telemetry{Log: log}, b))

		expect("the broker that is not there", "BrokerLost WARN", "broker=hand", "error=unplugged")
		b.mu.Lock()
		b.refuse = nil
		b.mu.Unlock()
		expect("the broker that has come", "BrokerRegained INFO", "broker=hand")
		_ = b.current().Close()
		expect("the session that is lost", "BrokerLost WARN", "broker=hand")
		expect("the broker that is back", "BrokerRegained INFO", "broker=hand")

		deliver := func(body []byte) {
			t.Helper()
			receive(t, b.deliver(t, "pings", body, false), "an acknowledgement")
		}
		deliver(message{key: "bad", seq: 1, id: "e1"}.body())
		expect("the event that is dead", "DeadLetter ERROR", "group=back", "stream=pings", "key=bad", "sequence=1", "event=e1", "attempts=3", "no such seat")
		for range 2 {
			deliver([]byte("gibberish"))
		}
		expect("the message that is no event", "MalformedMessage ERROR", "group=back", "stream=pings", "error=")
		for range 2 {
			deliver(message{key: "a", seq: 1}.body())
		}
		fork := message{key: "a", seq: 1, id: "another"}.body()
		for range 2 {
			deliver(fork)
		}
		expect("the number given twice", "Fork ERROR", "key=a", "sequence=1")
		deliver(message{key: "a", seq: 3}.body())
		expect("the gap", "Gap ERROR", "group=back", "stream=pings", "key=a", "sequence=2")
		deliver(message{key: "a", seq: 2}.body())
		if len(told) > 0 {
			t.Errorf("told, too: %s", <-told)
		}
	})
}
