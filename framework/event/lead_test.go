package event_test

import (
	"context"
	"database/sql/driver"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/database/databasetest"
	"github.com/turnstile-go/turnstile/framework/event"
)

// election has processes lead one task and watches that never two do.
type election struct {
	t       *testing.T
	url     string
	started chan *candidate
	ended   chan *candidate // whose context has ended, before it returns

	mu     sync.Mutex
	leader *candidate
}

// candidate is a process that wants to lead.
type candidate struct {
	*process
	leave func() // it stops in peace
}

func newElection(t *testing.T, url string) *election {
	t.Helper()
	return &election{t: t, url: url, started: make(chan *candidate, 100), ended: make(chan *candidate, 100)}
}

// join starts a process of the service that leads the task when it can. When it
// is to stop, it takes as long as linger to return.
func (e *election) join(linger time.Duration) *candidate {
	e.t.Helper()
	db, err := database.New(database.Config{URL: e.url, Wrap: func(c driver.Connector) driver.Connector {
		return fragile{Connector: c}
	}}, event.Migrations())
	if err != nil {
		e.t.Fatal(err)
	}
	if err := db.Start(e.t.Context()); err != nil {
		e.t.Fatal(err)
	}
	client := event.NewClient(quick, event.NewOutbox(db, "front"), nil, event.Telemetry{}, &hand{answers: true})
	running, stop := context.WithCancel(context.Background())
	p, ctx := newProcess(running)
	c := &candidate{process: p}
	var parts sync.WaitGroup
	parts.Go(func() { _ = client.Run(running) }) // it hears what others call
	parts.Go(func() {
		if err := client.Lead(ctx, "count", func(leading context.Context) {
			e.mu.Lock()
			if e.leader != nil {
				e.t.Error("two processes lead at once")
			}
			e.leader = c
			e.mu.Unlock()
			e.started <- c
			<-leading.Done()
			e.ended <- c
			time.Sleep(linger)
			e.mu.Lock()
			e.leader = nil
			e.mu.Unlock()
		}); err != nil {
			e.t.Error(err)
		}
	})
	c.leave = sync.OnceFunc(func() {
		stop()
		parts.Wait()
		_ = db.Close()
	})
	e.t.Cleanup(c.leave)
	return c
}

// A process that stops hands the task over at once, but not before it has done
// with it.
func TestLeadIsHandedOver(t *testing.T) {
	t.Parallel()
	const linger = 300 * time.Millisecond
	e := newElection(t, databasetest.PostgresURL(t))
	e.join(linger)
	leader := receive(t, e.started, "a leader")
	var took []time.Duration
	for range 5 {
		e.join(linger)
		start := time.Now()
		go leader.leave()
		leader = receive(t, e.started, "the next leader")
		took = append(took, time.Since(start)-linger)
	}
	slices.Sort(took)
	t.Logf("after the leader had returned, the next began within %v", took)
	if took[0] < 0 {
		t.Errorf("the next began %v before the leader had returned", -took[0])
	}
	if median := took[len(took)/2]; median > time.Second {
		t.Errorf("in the median the next began %v after the leader had returned: it seems to wait for the lease to end", median)
	}
}

// The process of a SQLite file waits for no predecessor: that has ended, however it did.
func TestLeadAloneOnSQLite(t *testing.T) {
	t.Parallel()
	e := newElection(t, "sqlite:"+filepath.Join(t.TempDir(), "front.db"))
	first := e.join(0)
	receive(t, e.started, "a leader")
	first.crash()
	first.leave()
	began := time.Now()
	e.join(0)
	receive(t, e.started, "the next leader")
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the next process began %v after it had started", took)
	}
}

// What a process that was killed leaves behind ends by itself.
func TestLeadAfterAKill(t *testing.T) {
	t.Parallel()
	e := newElection(t, databasetest.PostgresURL(t))
	first := e.join(0)
	receive(t, e.started, "a leader")
	second := e.join(0)
	start := time.Now()
	first.crash()
	if leader := receive(t, e.started, "the next leader"); leader != second {
		t.Error("a dead process leads")
	}
	took := time.Since(start)
	t.Logf("the next began %v after the leader was killed", took.Round(time.Millisecond))
	if took < 10*time.Second || took > 17*time.Second {
		t.Errorf("the next began %v after the leader was killed", took)
	}
}

// A leader whose database does not answer gives up well before another process
// can lead.
func TestLeadWithoutADatabase(t *testing.T) {
	t.Parallel()
	e := newElection(t, databasetest.PostgresURL(t))
	first := e.join(0)
	receive(t, e.started, "a leader")
	e.join(0)
	start := time.Now()
	first.cut()
	receive(t, e.ended, "that the leader gives up")
	gaveUp := time.Since(start)
	receive(t, e.started, "the next leader")
	took := time.Since(start)
	t.Logf("the leader gave up after %v, the next began after %v", gaveUp.Round(time.Millisecond), took.Round(time.Millisecond))
	if took-gaveUp < 2*time.Second {
		t.Errorf("the next began %v after the leader gave up", took-gaveUp)
	}
}

// A server that restarts does not cost the leader its task, and one that is away
// for longer has one leader afterwards.
func TestLeadWhileTheServerRestarts(t *testing.T) {
	t.Parallel()
	s := databasetest.PostgresServer(t)
	if err := s.CreateDatabase(t.Context(), "front"); err != nil {
		t.Fatal(err)
	}
	e := newElection(t, s.URL("front"))
	e.join(0)
	leader := receive(t, e.started, "a leader")
	e.join(0)
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-e.ended:
		t.Fatal("a restart costs the leader its task")
	case <-time.After(4 * time.Second): // longer than it takes to extend the lease
	}
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if ended := receive(t, e.ended, "that the leader gives up"); ended != leader {
		t.Error("another gives up than led")
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	receive(t, e.started, "a leader")
}

// A task that is done is not done again.
func TestLeadEndsWithItsTask(t *testing.T) {
	onBoth(t, func(t *testing.T, db *database.DB) {
		for range 3 { // the lease is free again
			client := event.NewClient(quick, event.NewOutbox(db, "front"), nil, event.Telemetry{}, &hand{})
			calls := 0
			if err := client.Lead(t.Context(), "once", func(context.Context) { calls++ }); err != nil || calls != 1 {
				t.Errorf("done %d times, %v", calls, err)
			}
		}
		if n := count(t.Context(), db, "event_lease"); n != 0 {
			t.Errorf("%d leases are left", n)
		}
	})
}

// Whoever the configuration names elects in the database's stead.
func TestWhoElectsIsConfigured(t *testing.T) {
	inBubble(t, func(t *testing.T, db *database.DB) {
		led := make(chan string, 10)
		config := quick
		config.Lead = func(ctx context.Context, task string, do func(context.Context)) error {
			led <- task
			do(ctx)
			return nil
		}
		client := event.NewClient(config, event.NewOutbox(db, "front"), nil, event.Telemetry{}, memory(t))
		run(t, client)
		time.Sleep(time.Second)
		if err := client.Lead(t.Context(), "own", func(context.Context) {}); err != nil {
			t.Error(err)
		}
		if first, second := receive(t, led, "pruning"), receive(t, led, "the service's own task"); first != "prune" || second != "own" {
			t.Errorf("elected for are %s and %s", first, second)
		}
		if n := count(t.Context(), db, "event_lease"); n != 0 {
			t.Errorf("%d leases are in the database", n)
		}
	})
}
