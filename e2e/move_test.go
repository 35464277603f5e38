package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/e2e/internal/fleet"
	"github.com/turnstile-go/turnstile/e2e/internal/invariants"
	"github.com/turnstile-go/turnstile/e2e/internal/journey"
	"github.com/turnstile-go/turnstile/e2e/internal/load"
	"github.com/turnstile-go/turnstile/framework/database/databasetest"
	"github.com/turnstile-go/turnstile/framework/event/admin"
)

// TestMove moves the application from NATS Streaming to JetStream while people use it: two replicas of each service, one
// after the other, from the one broker to both and from both to the other, as the guide says. Nobody notices: no request
// fails, and every event takes effect exactly once and in order.
func TestMove(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and starts programs: not with -short")
	}
	databasetest.NeedPostgres(t)
	t.Parallel()
	dir, err := os.MkdirTemp("", "move") //nolint:usetesting // it is kept if the test fails, and PostgreSQL may run as another user
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("databases and logs are in %s", dir)
		} else {
			_ = os.RemoveAll(dir)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	f, err := fleet.Start(ctx, fleet.Options{
		Dir: dir, Brokers: []string{fleet.Stan, fleet.JetStream}, Use: fleet.Stan, Postgres: true, Replicas: 2,
		Env: []string{"EVENT_JOURNAL=true", "ORDER_EXPIRATION=10s", "DRAIN_DELAY=0s", "SANDBOX_DELAY=100ms", "PASSWORD_MEMORY=64", "PASSWORD_ITERATIONS=1"},
		Say: t.Logf,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Stop(); err != nil {
			t.Error(err)
		}
	})
	var ledgers []*admin.Ledger
	for name, db := range f.Databases() {
		ledgers = append(ledgers, admin.New(name, db))
	}

	people, over := context.WithCancel(ctx)
	defer over()
	l := load.New(f.URL(), 6, 1)
	l.Patience = 10 * time.Second // it is about what is lost, also on a slow machine
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.Run(people)
	}()
	defer func() { over(); <-done }()

	awaitStep(ctx, t, f, "settled")
	roll(ctx, t, f, "stan+jetstream")
	awaitStep(ctx, t, f, "joined")
	roll(ctx, t, f, fleet.JetStream)
	awaitStep(ctx, t, f, "left")
	for _, b := range f.Brokers {
		if b.Name == fleet.Stan {
			if err := b.Stop(patience); err != nil {
				t.Error(err)
			}
		}
	}
	before := l.Stats().Accepted
	journey.Eventually(t, "people go on without NATS Streaming", func() error {
		if n := l.Stats().Accepted - before; n < 20 {
			return fmt.Errorf("%d commands since", n)
		}
		return nil
	})
	over()
	<-done

	var report *admin.Report
	journey.Eventually(t, "all events have had their effects", func() error {
		if report, err = admin.Audit(ctx, ledgers, time.Time{}); err != nil {
			return err
		}
		if !report.Quiet() {
			return fmt.Errorf("%d are on their way", report.Unsent+report.Scheduled+len(report.Waiting))
		}
		return nil
	})
	if !report.OK() {
		t.Errorf("lost %v, duplicated %v, misordered %v, other %v", report.Lost, report.Duplicated, report.Misordered, report.Other)
	}
	dbs := f.Databases()
	app := invariants.Application{Auth: dbs["auth"], Orders: dbs["orders"], Payments: dbs["payments"], Tickets: dbs["tickets"]}
	journey.Eventually(t, "the books agree", func() error {
		found, err := invariants.Check(ctx, app, time.Now())
		if err == nil && len(found.Violations) > 0 {
			err = fmt.Errorf("%v", found.Violations)
		}
		return err
	})
	broken, err := invariants.CheckPromises(ctx, app, l.Promises())
	if err != nil || len(broken) > 0 {
		t.Errorf("promises broken: %v (%v)", broken, err)
	}
	stats := l.Stats()
	if stats.Failed > 0 || len(l.Surprises()) > 0 {
		t.Errorf("%d of %d commands failed: %s; answers that must not be given: %s",
			stats.Failed, stats.Commands, strings.Join(l.Failures(), "; "), strings.Join(l.Surprises(), "; "))
	}
	t.Logf("moved with %d commands, %d events, %d effects: from commit to effect p50 %v, p99 %v, longest %v",
		stats.Commands, report.Events, report.Effects, report.P50, report.P99, report.Max)
}

// roll gives every replica of every service its brokers, one after the other.
func roll(ctx context.Context, t *testing.T, f *fleet.Fleet, brokers string) {
	t.Helper()
	for _, s := range f.Services {
		if err := f.Roll(ctx, s, "BROKER="+brokers); err != nil {
			t.Fatal(err)
		}
	}
}

// awaitStep waits until the command line says that the move has come to a step from which it is safe to go on.
func awaitStep(ctx context.Context, t *testing.T, f *fleet.Fleet, step string) {
	t.Helper()
	journey.Eventually(t, "it is safe to go on from "+step, func() error {
		out, err := f.Events(ctx, "broker-status", "--step", step).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return nil
	})
}
