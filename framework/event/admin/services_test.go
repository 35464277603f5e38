package admin_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/event/admin"
	"github.com/turnstile-go/turnstile/framework/event/eventtest"
)

type ping struct {
	Key string `json:"key"`
}

func (e ping) Meta() event.Meta { return event.Meta{Stream: "pings", Type: "ping", Key: e.Key} }

// services are two that talk over a broker in memory, in virtual time: front
// publishes pings, which back handles.
type services struct {
	broker      *eventtest.Broker
	front, back *database.DB
	outbox      *event.Outbox
	ledgers     []*admin.Ledger
}

// inBubble runs a test with the two services, of which none runs yet.
func inBubble(t *testing.T, test func(t *testing.T, s *services)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		open := func() *database.DB {
			db, err := database.New(database.Config{URL: "sqlite::memory:"}, event.Migrations())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { db.Close() })
			if err := db.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			return db
		}
		s := &services{broker: eventtest.NewBroker(eventtest.Faults{}), front: open(), back: open()}
		t.Cleanup(s.broker.Close)
		s.outbox = event.NewOutbox(s.front, "front", ping{})
		s.ledgers = []*admin.Ledger{admin.New("front", s.front), admin.New("back", s.back)}
		test(t, s)
	})
}

// start runs a client until the test ends.
func (s *services) start(t *testing.T, o *event.Outbox, l *event.Listener) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- event.NewClient(event.Config{Journal: true, RetryFirst: 10 * time.Second}, o, l, event.Telemetry{}, s.broker).Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func (s *services) startFront(t *testing.T) { s.start(t, s.outbox, nil) }

func (s *services) startBack(t *testing.T, handle func(m *event.Message[ping]) error) {
	l := event.NewListener(s.back, "back")
	event.Handle(l, func(_ context.Context, _ *database.Tx, m *event.Message[ping]) error { return handle(m) })
	s.start(t, event.NewOutbox(s.back, "back"), l)
}

func (s *services) publish(t *testing.T, key string) {
	t.Helper()
	err := s.front.InTx(t.Context(), func(tx *database.Tx) error { return s.outbox.Publish(t.Context(), tx, ping{key}) })
	if err != nil {
		t.Fatal(err)
	}
}

// An event of real services is followed from one to the other.
func TestTraceAcrossServices(t *testing.T) {
	inBubble(t, func(t *testing.T, s *services) {
		s.startFront(t)
		s.startBack(t, func(m *event.Message[ping]) error {
			if m.Attempt == 1 {
				return errors.New("not yet")
			}
			return nil
		})
		synctest.Wait()
		s.publish(t, "a")
		time.Sleep(time.Second)
		paths, err := admin.Trace(t.Context(), s.ledgers, admin.Filter{Key: "a"})
		if err != nil || len(paths) != 1 || len(paths[0].Groups) != 1 || paths[0].Groups[0].State != "retry" {
			t.Fatalf("before the second attempt: %v, %+v", err, paths)
		}
		time.Sleep(time.Minute)
		if paths, err = admin.Trace(t.Context(), s.ledgers, admin.Filter{ID: paths[0].ID}); err != nil || len(paths) != 1 {
			t.Fatalf("%v, %+v", err, paths)
		}
		var got []string
		for _, step := range paths[0].Steps {
			got = append(got, step.Service+" "+step.What)
		}
		slices.Sort(got) // front marks it sent when back may have tried already
		if want := []string{"back applied", "back attempt", "front committed", "front sent"}; !slices.Equal(got, want) {
			t.Errorf("steps %q, want %q", got, want)
		}
		for _, step := range paths[0].Steps {
			want := map[string]string{"sent": "acknowledged by memory", "attempt": "attempt 1 failed: not yet", "committed": "committed as number 1"}[step.What]
			if want != "" && step.Text != want {
				t.Errorf("%s: %q, want %q", step.What, step.Text, want)
			}
		}
		if g := paths[0].Groups[0]; g.Group != "back" || g.State != "applied" {
			t.Errorf("it stands %+v", g)
		}
		r, err := admin.Audit(t.Context(), s.ledgers, time.Time{})
		if err != nil || !r.OK() || !r.Quiet() || r.Events != 1 || r.Effects != 1 {
			t.Errorf("audit: %v, %+v", err, r)
		}
	})
}

// What a broker forgot before somebody had it, a replay brings back; those who
// had it drop it.
func TestReplayHealsAWipedBroker(t *testing.T) {
	inBubble(t, func(t *testing.T, s *services) {
		s.startFront(t)
		synctest.Wait()
		began := time.Now()
		for i := range 20 {
			s.publish(t, fmt.Sprint("k", i%5))
		}
		// An hour later a lost connection does not put them in doubt any more.
		time.Sleep(time.Hour)
		s.broker.Wipe()
		time.Sleep(time.Minute)
		applied := map[string]int{}
		s.startBack(t, func(m *event.Message[ping]) error {
			applied[m.Key]++
			return nil
		})
		time.Sleep(time.Minute)
		if len(applied) != 0 {
			t.Fatalf("the wiped broker still has %v", applied)
		}
		for range 2 {
			p, err := s.ledgers[0].Replay(t.Context(), admin.Filter{Stream: "pings", Since: began}, nil)
			if want := (admin.Progress{Total: 20, Marked: 20}); err != nil || p != want {
				t.Fatalf("%v: %+v, want %+v", err, p, want)
			}
		}
		time.Sleep(time.Minute)
		r, err := admin.Audit(t.Context(), s.ledgers, time.Time{})
		if err != nil || !r.OK() || !r.Quiet() || r.Effects != 20 || len(applied) != 5 {
			t.Errorf("%v: %+v", err, r)
		}
	})
}

// The client has its ledger on the admin port.
func TestClientServesItsLedger(t *testing.T) {
	broker := eventtest.NewBroker(eventtest.Faults{})
	defer broker.Close()
	db, err := database.New(database.Config{URL: "sqlite::memory:"}, event.Migrations())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	pages := event.NewClient(event.Config{}, event.NewOutbox(db, "front", ping{}), nil, event.Telemetry{}, broker).Debug()
	if len(pages) != 1 || pages["/debug/events/"] == nil {
		t.Fatalf("pages %v", pages)
	}
	l := serve(t, pages["/debug/events/"])
	if _, err := l.Events(t.Context(), admin.Filter{}); err == nil || !strings.Contains(err.Error(), "it is no ledger") {
		t.Errorf("before the database is there: %v", err)
	}
	if err := db.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if events, err := l.Events(t.Context(), admin.Filter{}); err != nil || len(events) != 0 || l.Service() != "front" {
		t.Errorf("%s: %v, %+v", l.Service(), err, events)
	}
}
