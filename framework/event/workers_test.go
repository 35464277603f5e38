package event_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/database/databasetest"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/event/eventtest"
)

// handlers counts those that run.
type handlers struct {
	mu                 sync.Mutex
	running, most, all int
	expected           int
	reached            chan struct{}   // closed when most is what is expected
	keys               map[string]bool // that a handler runs for
	shared             string          // a key that two ran for at once
}

func newHandlers() *handlers {
	h := &handlers{keys: map[string]bool{}}
	h.expect(0)
	return h
}

// run is in no hurry while fewer handlers have run at once than are expected:
// however slow transactions are, handlers then are what takes the time.
func (h *handlers) run(key string) {
	h.mu.Lock()
	h.running++
	if h.running > h.most {
		if h.most < h.expected && h.running >= h.expected {
			close(h.reached)
		}
		h.most = h.running
	}
	if h.keys[key] {
		h.shared = key
	}
	h.keys[key] = true
	reached := h.reached
	h.mu.Unlock()
	select {
	case <-reached:
		time.Sleep(2 * time.Millisecond)
	case <-time.After(50 * time.Millisecond):
	}
	h.mu.Lock()
	h.running--
	h.all++
	delete(h.keys, key)
	h.mu.Unlock()
}

func (h *handlers) handled() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.all
}

// expect forgets how many have run at once, and expects n.
func (h *handlers) expect(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.most, h.expected, h.reached = 0, n, make(chan struct{})
	if n == 0 {
		close(h.reached)
	}
}

func (h *handlers) mostAtOnce() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.most
}

// The number of workers changes while events flow, over a broker that repeats,
// reorders and forgets: as many handlers run at once as there are to be, never
// two for one key, and every event takes effect once and in order.
func TestWorkersChangeWhileEventsFlow(t *testing.T) {
	t.Parallel()
	const keys, batch, most = 40, 3, 8
	db := databasetest.Postgres(t, event.Migrations(), effects())
	b := eventtest.NewBroker(eventtest.Faults{LoseAck: 0.05, Duplicate: 0.1, Reorder: 0.1, Disconnect: 0.001, MaxDelay: 5 * time.Millisecond})
	defer b.Close()
	o := event.NewOutbox(db, "front", ping{})
	h := newHandlers()
	config := quick
	config.Workers, config.Batch, config.AckWait = 2, batch, time.Second
	config.Attempts = 100
	client := event.NewClient(config, o, recorder(db, func(m *event.Message[ping]) error {
		h.run(m.Key)
		if m.Sequence%20 == 0 && m.Attempt == 1 {
			return fmt.Errorf("no luck with %d", m.Sequence)
		}
		return nil
	}), event.Telemetry{}, b)
	stop := run(t, client)
	adjust := client.Adjust()["EVENT_WORKERS"]

	var published, over atomic.Int64
	var publishing sync.WaitGroup
	publishing.Go(func() {
		for n := 0; over.Load() == 0; n++ {
			for int(published.Load()) > h.handled()+300 && over.Load() == 0 {
				time.Sleep(time.Millisecond)
			}
			if err := db.InTx(context.Background(), func(tx *database.Tx) error {
				for i := range keys {
					if err := o.Publish(context.Background(), tx, ping{fmt.Sprint("k", i), n}); err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				t.Error(err)
				return
			}
			published.Add(keys)
		}
	})
	flow := func(events int) {
		t.Helper()
		until := h.handled() + events
		eventually(t, "events that flow", func() bool { return h.handled() >= until })
	}
	for _, n := range []int{1, most, 2, 6, 1, most, 4} {
		if err := adjust(fmt.Sprint(n)); err != nil {
			t.Fatal(err)
		}
		flow(2 * most * batch) // what ran before has ended
		h.expect(n)
		flow(20)
		eventually(t, fmt.Sprintf("%d handlers at once", n), func() bool { return h.mostAtOnce() >= n })
		if got := h.mostAtOnce(); got != n {
			t.Errorf("%d handlers run at once, of %d workers", got, n)
		}
	}
	for range 100 { // in quick succession
		for _, n := range []int{1, most, 2} {
			if err := adjust(fmt.Sprint(n)); err != nil {
				t.Fatal(err)
			}
		}
	}
	flow(100)
	over.Store(1)
	publishing.Wait()
	want := upTo(published.Load() / keys)
	b.SetFaults(eventtest.Faults{})
	eventually(t, "every effect", func() bool { return count(t.Context(), db, "effect") >= int(published.Load()) })
	stop()
	for i := range keys {
		if got := applied(t, db, fmt.Sprint("k", i)); !slices.Equal(got, want) {
			t.Errorf("k%d: %v is applied, want 1 to %d", i, got, len(want))
		}
	}
	if h.shared != "" {
		t.Errorf("two handlers ran at once for %s", h.shared)
	}
	t.Logf("%d events, %d calls of handlers", published.Load(), h.handled())
}

// What cannot be is refused with a reason, and nothing means the default.
func TestWorkersOfNoUse(t *testing.T) {
	onBoth(t, func(t *testing.T, db *database.DB) {
		client := event.NewClient(quick, event.NewOutbox(db, "back"), recorder(db, nil), event.Telemetry{}, &hand{})
		adjust := client.Adjust()["EVENT_WORKERS"]
		for value, want := range map[string]string{
			"0": "1 or more", "-3": "1 or more", "many": "1 or more", "2.5": "1 or more",
			"1000": map[database.Dialect]string{database.SQLite: "one writer", database.Postgres: "want 10 at most"}[db.Dialect()],
		} {
			if err := adjust(value); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s workers: %v, want %q", value, err, want)
			}
		}
		for _, value := range []string{"1", ""} {
			if err := adjust(value); err != nil {
				t.Errorf("%q workers: %v", value, err)
			}
		}
		if err := event.NewClient(quick, event.NewOutbox(db, "front"), nil, event.Telemetry{}, &hand{}).Adjust()["EVENT_WORKERS"]("1"); err != nil {
			t.Errorf("a service that does not listen: %v", err)
		}
	})
}
