package e2e

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/e2e/internal/invariants"
	"github.com/turnstile-go/turnstile/e2e/internal/journey"
	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/event/admin"
)

// books are the databases of a system's services, and the ledgers in them.
type books struct {
	t       *testing.T
	dbs     map[string]*database.DB
	ledgers []*admin.Ledger
}

// books opens the databases of all services.
func (s *system) books(t *testing.T) *books {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(s.dir, ".turnstile", "data", "*.db"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no databases: %v", err)
	}
	b := &books{t: t, dbs: map[string]*database.DB{}}
	for _, file := range files {
		db, err := database.New(database.Config{URL: "sqlite:" + file})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() }) // only read
		name := strings.TrimSuffix(filepath.Base(file), ".db")
		b.dbs[name] = db
		b.ledgers = append(b.ledgers, admin.New(name, db))
	}
	return b
}

func (b *books) audit() *admin.Report {
	b.t.Helper()
	report, err := admin.Audit(b.t.Context(), b.ledgers, time.Time{})
	if err != nil {
		b.t.Fatal(err)
	}
	return report
}

// awaitQuiet waits until every event has arrived wherever somebody listens, and, if it is to, those that are scheduled.
func (b *books) awaitQuiet(scheduled bool) {
	b.t.Helper()
	journey.Eventually(b.t, "all events have had their effects", func() error {
		r := b.audit()
		switch {
		case r.Unsent > 0:
			return fmt.Errorf("%d events are not sent", r.Unsent)
		case scheduled && r.Scheduled > 0:
			return fmt.Errorf("%d events are scheduled", r.Scheduled)
		case len(r.Waiting) > 0:
			return fmt.Errorf("%d effects are missing, such as: %v", len(r.Waiting), r.Waiting[0])
		}
		return nil
	})
}

// check compares what was committed with what came of it, for the quiet system: every group has applied every event
// of a type that it handles exactly once, those of one key in order, and nothing else.
func (b *books) check() (events int) {
	b.t.Helper()
	r := b.audit()
	for what, findings := range map[string][]admin.Finding{
		"lost": r.Lost, "duplicated": r.Duplicated, "misordered": r.Misordered, "missing": r.Waiting, "wrong": r.Other,
	} {
		for _, f := range findings {
			b.t.Errorf("%s: %v", what, f)
		}
	}
	if r.Effects == 0 {
		b.t.Error("no event has had an effect: nothing was checked")
	}
	return r.Events
}

// pending returns how many payments of an order, or of all if it is empty, are under way, or are to go back.
func (b *books) pending(order string) (n int) {
	b.t.Helper()
	err := b.dbs["payments"].QueryRowContext(b.t.Context(), `
		SELECT COUNT(*) FROM payments WHERE (status = 'pending' OR refund = 'due') AND $1 IN ('', order_id)`, order).Scan(&n)
	if err != nil {
		b.t.Fatal(err)
	}
	return n
}

// checkApplication compares the services with each other and with the rules of the business, for the quiet system. It
// returns how many orders there are in each status.
func (b *books) checkApplication() map[string]int {
	b.t.Helper()
	r, err := invariants.Check(b.t.Context(), invariants.Application{
		Auth: b.dbs["auth"], Orders: b.dbs["orders"], Payments: b.dbs["payments"], Tickets: b.dbs["tickets"],
	}, time.Now())
	if err != nil {
		b.t.Fatal(err)
	}
	for _, v := range r.Violations {
		b.t.Error(v)
	}
	return r.Orders
}

var errNotYet = errors.New("not yet")
