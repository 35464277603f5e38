package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/e2e/fuzz"
	"github.com/turnstile-go/turnstile/e2e/internal/fleet"
	"github.com/turnstile-go/turnstile/e2e/internal/invariants"
	"github.com/turnstile-go/turnstile/e2e/internal/journey"
	"github.com/turnstile-go/turnstile/framework/database/databasetest"
	"github.com/turnstile-go/turnstile/framework/event/admin"
)

var (
	requests = flag.Int("requests", 3000, "how many the fuzzer sends to the application on each database")
	seed     = flag.Uint64("seed", 0, "what the fuzzer sends; 0 for something new")
)

// TestFuzz sends the services what nobody should send, on each database, and ends with the books.
func TestFuzz(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and starts programs: not with -short")
	}
	t.Parallel()
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	for _, on := range []string{"sqlite", "postgres"} {
		t.Run(on, func(t *testing.T) {
			if on == "postgres" {
				databasetest.NeedPostgres(t)
			}
			fuzzed(t, on == "postgres")
		})
	}
}

func fuzzed(t *testing.T, postgres bool) {
	dir, err := os.MkdirTemp("", "fuzz") //nolint:usetesting // it is kept if the test fails, and PostgreSQL may run as another user
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
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience+time.Duration(*requests)*50*time.Millisecond)
	defer cancel()
	f, err := fleet.Start(ctx, fleet.Options{
		Dir: dir, Brokers: []string{fleet.Stan}, Postgres: postgres, Replicas: 1, Say: t.Logf,
		Env: []string{"EVENT_JOURNAL=true", "SANDBOX_DELAY=100ms", "DRAIN_DELAY=0s", "PASSWORD_MEMORY=64", "PASSWORD_ITERATIONS=1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Stop(); err != nil {
			t.Error(err)
		}
	})
	services := map[string]string{}
	for _, s := range f.Services {
		services[s.Service] = s.Addr
	}
	services["users"] = services["auth"]
	began := time.Now()
	r, err := fuzz.Run(ctx, fuzz.Options{Services: services, Seed: *seed, Requests: *requests, Workers: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("-seed %d: %d requests in %v, statuses: %v", *seed, r.Requests, time.Since(began).Round(time.Millisecond), r.Statuses)
	for _, name := range slices.Sorted(maps.Keys(r.Reached)) {
		t.Logf("%-28s %v", name, r.Reached[name])
	}
	for _, name := range r.Missed {
		t.Errorf("%s has never had a success: the fuzzer does not reach what is behind its checks", name)
	}
	for _, finding := range r.Findings {
		t.Error(finding)
	}
	panics, err := f.Panics()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range panics {
		t.Error(line)
	}
	audited(t, f, r.Promises)
}

// audited compares what the databases of a quiet fleet say with each other, and with what was promised.
func audited(t *testing.T, f *fleet.Fleet, promises invariants.Promises) {
	t.Helper()
	dbs := f.Databases()
	app := invariants.Application{Auth: dbs["auth"], Orders: dbs["orders"], Payments: dbs["payments"], Tickets: dbs["tickets"]}
	var ledgers []*admin.Ledger
	for _, name := range fleet.Names {
		ledgers = append(ledgers, admin.New(name, dbs[name]))
	}
	journey.Eventually(t, "everything has had its effects", func() error {
		report, err := admin.Audit(t.Context(), ledgers, time.Time{})
		if err != nil {
			return err
		}
		if report.Unsent > 0 || len(report.Waiting) > 0 {
			return fmt.Errorf("%d events are unsent, and %d effects missing", report.Unsent, len(report.Waiting))
		}
		business, err := invariants.Check(t.Context(), app, time.Now())
		if err != nil {
			return err
		}
		if !report.OK() || len(business.Violations) > 0 {
			return errors.Join(fmt.Errorf("the audit says %+v", report), fmt.Errorf("the business: %v", business.Violations))
		}
		t.Logf("%d events had %d effects; orders: %v", report.Events, report.Effects, business.Orders)
		return nil
	})
	broken, err := invariants.CheckPromises(t.Context(), app, promises)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range broken {
		t.Error(v)
	}
}
