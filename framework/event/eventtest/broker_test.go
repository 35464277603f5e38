package eventtest_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/event/eventtest"
)

func TestConformance(t *testing.T) {
	eventtest.TestBroker(t, func(t *testing.T) eventtest.Harness {
		b := eventtest.NewBroker(eventtest.Faults{})
		t.Cleanup(b.Close)
		return eventtest.Harness{
			Broker:  func(string) event.Broker { return b },
			Kill:    b.Down,
			Restart: b.Up,
		}
	})
}

// run publishes n messages one after the other through a broker with faults,
// and has one listener take them until all have come. It tells what happened
// as lines, and how often each message came.
func run(t *testing.T, f eventtest.Faults, n int) (history []string, times map[string]int) {
	times = make(map[string]int)
	synctest.Test(t, func(t *testing.T) {
		b := eventtest.NewBroker(f)
		defer b.Close()
		start := time.Now()
		var mu sync.Mutex
		note := func(format string, args ...any) {
			mu.Lock()
			defer mu.Unlock()
			history = append(history, fmt.Sprintf("%v ", time.Since(start))+fmt.Sprintf(format, args...))
		}
		all := make(chan struct{})
		session := func() event.Session {
			s, err := b.Connect(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.Subscribe(t.Context(), event.Subscription{Stream: "s", Group: "g"}, func(d event.Delivery) {
				note("deliver %s %t", d.Body, d.Redelivered)
				mu.Lock()
				times[string(d.Body)]++
				if len(times) == n && times[string(d.Body)] == 1 {
					close(all)
				}
				mu.Unlock()
				d.Ack()
			})
			if err != nil && !gone(s) {
				t.Fatal(err)
			}
			return s
		}
		s := session()
		for i := range n {
			for {
				answer := make(chan error)
				s.Publish(t.Context(), "s", fmt.Appendf(nil, "%d", i), func(err error) { answer <- err })
				err := <-answer
				note("publish %d %v", i, err)
				synctest.Wait()
				if gone(s) {
					s.Close()
					s = session()
				}
				if err == nil {
					break
				}
			}
		}
		for waiting := true; waiting; {
			select {
			case <-all:
				waiting = false
			case <-s.Lost():
				s.Close()
				s = session()
			}
		}
	})
	return history, times
}

func gone(s event.Session) bool {
	select {
	case <-s.Lost():
		return true
	default:
		return false
	}
}

var everything = eventtest.Faults{
	Seed: 7, LosePublish: 0.1, LosePublishAck: 0.1, LoseAck: 0.1, Duplicate: 0.1, Reorder: 0.1, Disconnect: 0.05,
	MaxDelay: 50 * time.Millisecond,
}

// Whatever the faults, a publisher that repeats what failed gets everything
// through: the faults cost time and cause repetition, never loss.
func TestFaultsLoseNothing(t *testing.T) {
	for seed := range uint64(50) {
		f := everything
		f.Seed = seed
		if _, times := run(t, f, 40); len(times) != 40 {
			t.Errorf("seed %d: %d of 40 messages arrived", seed, len(times))
		}
	}
}

func TestSameSeedSameFaults(t *testing.T) {
	f := everything
	f.Disconnect = 0 // a session's death hits whatever else runs just then
	first, _ := run(t, f, 40)
	second, _ := run(t, f, 40)
	slices.Sort(first) // within an instant the order is the scheduler's
	slices.Sort(second)
	if !slices.Equal(first, second) {
		t.Errorf("one seed, two histories:\n%q\n%q", first, second)
	}
	f.Seed++
	other, _ := run(t, f, 40)
	slices.Sort(other)
	if slices.Equal(first, other) {
		t.Error("another seed, the same history")
	}
}

// Every fault does what it says, and alone.
func TestFaults(t *testing.T) {
	const n = 50
	outcome := func(f eventtest.Faults) (failed, repeated, overtaken int, took time.Duration) {
		history, times := run(t, f, n)
		last := -1
		for _, line := range history {
			var at, verb, what, rest string
			fmt.Sscan(line, &at, &verb, &what, &rest)
			took, _ = time.ParseDuration(at)
			var i int
			fmt.Sscan(what, &i)
			switch {
			case verb == "publish" && rest != "<nil>":
				failed++
			case verb == "deliver" && i < last:
				overtaken++
			case verb == "deliver":
				last = i
			}
		}
		for _, k := range times {
			repeated += k - 1
		}
		return failed, repeated, overtaken, took
	}
	check := func(name string, f eventtest.Faults, ok func(failed, repeated, overtaken int, took time.Duration) bool) {
		f.Seed = 3
		if failed, repeated, overtaken, took := outcome(f); !ok(failed, repeated, overtaken, took) {
			t.Errorf("%s: %d publishes failed, %d messages repeated, %d overtaken, in %v", name, failed, repeated, overtaken, took)
		}
	}
	check("none", eventtest.Faults{}, func(f, r, o int, d time.Duration) bool { return f == 0 && r == 0 && o == 0 && d == 0 })
	check("LosePublish", eventtest.Faults{LosePublish: 0.3}, func(f, r, o int, d time.Duration) bool { return f > 0 && r == 0 && o == 0 })
	check("LosePublishAck", eventtest.Faults{LosePublishAck: 0.3}, func(f, r, o int, d time.Duration) bool { return f > 0 && r > 0 && r == f })
	check("Duplicate", eventtest.Faults{Duplicate: 0.3}, func(f, r, o int, d time.Duration) bool { return f == 0 && r > 0 })
	check("Reorder", eventtest.Faults{Reorder: 0.3}, func(f, r, o int, d time.Duration) bool { return f == 0 && r == 0 && o > 0 })
	check("MaxDelay", eventtest.Faults{MaxDelay: time.Second}, func(f, r, o int, d time.Duration) bool { return f == 0 && r == 0 && o == 0 && d > time.Second })
	check("Disconnect", eventtest.Faults{Disconnect: 0.1}, func(f, r, o int, d time.Duration) bool { return f > 0 })
}

// A lost acknowledgement brings the message back when its AckWait is over.
func TestLoseAck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := eventtest.NewBroker(eventtest.Faults{LoseAck: 1})
		defer b.Close()
		s := must(b.Connect(t.Context()))
		s.Publish(t.Context(), "s", []byte("x"), func(error) {})
		came := make(chan event.Delivery, 10)
		must(s.Subscribe(t.Context(), event.Subscription{Stream: "s", Group: "g", AckWait: 5 * time.Second}, func(d event.Delivery) {
			if err := d.Ack(); err != nil {
				t.Error(err)
			}
			came <- d
		}))
		start := time.Now()
		if first := <-came; first.Redelivered {
			t.Error("the first delivery is marked as a second")
		}
		if n := b.Backlog("s", "g"); n != 1 {
			t.Errorf("backlog %d, want 1", n)
		}
		b.SetFaults(eventtest.Faults{})
		if second := <-came; !second.Redelivered || time.Since(start) != 5*time.Second {
			t.Errorf("came again after %v, redelivered %t", time.Since(start), second.Redelivered)
		}
		synctest.Wait()
		if n := b.Backlog("s", "g"); n != 0 {
			t.Errorf("backlog %d after the acknowledgement was heard, want 0", n)
		}
	})
}

// Of several sessions one can be ended; the others take over its messages.
func TestDisconnectOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := eventtest.NewBroker(eventtest.Faults{})
		defer b.Close()
		if b.DisconnectOne(0) {
			t.Error("disconnected a session where there is none")
		}
		first, second := must(b.Connect(t.Context())), must(b.Connect(t.Context()))
		sub := event.Subscription{Stream: "s", Group: "g"}
		must(first.Subscribe(t.Context(), sub, func(event.Delivery) {}))
		first.Publish(t.Context(), "s", []byte("x"), func(error) {})
		came := make(chan event.Delivery, 1)
		synctest.Wait()
		must(second.Subscribe(t.Context(), sub, func(d event.Delivery) { came <- d }))
		if !b.DisconnectOne(2) { // modulo two sessions: the oldest
			t.Error("disconnected none of two sessions")
		}
		<-first.Lost()
		if d := <-came; !d.Redelivered {
			t.Error("what another session had is not marked as redelivered")
		}
		if gone(second) {
			t.Error("the other session is lost, too")
		}
	})
}

func TestWipe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := eventtest.NewBroker(eventtest.Faults{})
		defer b.Close()
		s := must(b.Connect(t.Context()))
		must(s.Subscribe(t.Context(), event.Subscription{Stream: "s", Group: "g"}, func(event.Delivery) {}))
		s.Publish(t.Context(), "s", []byte("x"), func(error) {})
		synctest.Wait()
		b.Wipe()
		<-s.Lost()
		if stored, backlog := b.Stored("s"), b.Backlog("s", "g"); len(stored) != 0 || backlog != 0 {
			t.Errorf("%d messages and a backlog of %d are left", len(stored), backlog)
		}
		s = must(b.Connect(t.Context()))
		s.Publish(t.Context(), "s", []byte("y"), func(error) {})
		if got := b.Stored("s"); len(got) != 1 || string(got[0]) != "y" {
			t.Errorf("stored %q, want y alone", got)
		}
	})
}

// The window of unacknowledged publishes is bounded, and waiting for it ends
// with the context or the session.
func TestFullWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := eventtest.NewBroker(eventtest.Faults{MaxDelay: time.Hour})
		defer b.Close()
		s := must(b.Connect(t.Context()))
		ctx, cancel := context.WithCancel(t.Context())
		answers := make(chan error, 10_000)
		go func() {
			for range 2000 {
				s.Publish(ctx, "s", []byte("x"), func(err error) { answers <- err })
			}
		}()
		synctest.Wait()
		if n := len(b.Stored("s")); n == 2000 {
			t.Error("the window has no end")
		}
		cancel()
		synctest.Wait()
		if n := len(answers); n == 0 || n == 2000 {
			t.Errorf("%d publishes were answered when the context ended", n)
		}
		b.Disconnect()
		for range 2000 {
			if err := <-answers; err == nil {
				t.Error("a publish was acknowledged that was not due for long")
			}
		}
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
