package kube

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/turnstile-go/turnstile/e2e/internal/invariants"
	"github.com/turnstile-go/turnstile/e2e/internal/journey"
	"github.com/turnstile-go/turnstile/e2e/internal/load"
	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/event/admin"
)

// books are the databases of the services, and the ledgers in them.
type books struct {
	dbs     map[string]*database.DB
	ledgers []*admin.Ledger
}

// books opens the databases, as the services do, but from here.
func (a *application) books(t *testing.T) *books {
	t.Helper()
	a.booksOnce.Do(func() {
		address, stop, err := a.Forward(a.namespace, "postgres-0", 5432)
		if err != nil {
			t.Fatal(err)
		}
		b := &books{dbs: map[string]*database.DB{}}
		atEnd(func() {
			for _, db := range b.dbs {
				_ = db.Close() // only read
			}
			stop()
		})
		for _, name := range services {
			secret, err := a.API.CoreV1().Secrets(a.namespace).Get(t.Context(), name+"-database", meta.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			where, err := url.Parse(string(secret.Data["url"]))
			if err != nil {
				t.Fatal(err)
			}
			where.Host = address
			db, err := database.New(database.Config{URL: where.String(), MaxConns: 2})
			if err != nil {
				t.Fatal(err)
			}
			b.dbs[name] = db
			b.ledgers = append(b.ledgers, admin.New(name, db))
		}
		a.booksOpen = b
	})
	if a.booksOpen == nil {
		t.Fatal("the databases could not be opened: see the first test")
	}
	return a.booksOpen
}

func (b *books) application() invariants.Application {
	return invariants.Application{Auth: b.dbs["auth"], Orders: b.dbs["orders"], Payments: b.dbs["payments"], Tickets: b.dbs["tickets"]}
}

// audit waits until nothing is on its way, and compares what was committed with what came of it: each event has had
// its effect in every group exactly once and in order, and the services agree.
func (a *application) audit(t *testing.T) *admin.Report {
	t.Helper()
	b := a.books(t)
	var report *admin.Report
	journey.Eventually(t, "all events have had their effects", func() (err error) {
		if report, err = admin.Audit(t.Context(), b.ledgers, time.Time{}); err != nil {
			return err
		}
		if !report.Quiet() {
			time.Sleep(200 * time.Millisecond)
			return fmt.Errorf("%d events are not sent, %d scheduled, %d effects are missing, such as %v",
				report.Unsent, report.Scheduled, len(report.Waiting), slices.Concat(report.Waiting, []admin.Finding{{}})[0])
		}
		return nil
	})
	for what, findings := range map[string][]admin.Finding{
		"lost": report.Lost, "duplicated": report.Duplicated, "misordered": report.Misordered, "wrong": report.Other,
	} {
		for _, f := range findings {
			t.Errorf("%s: %v", what, f)
		}
	}
	if report.Effects == 0 {
		t.Error("no event has had an effect: nothing was checked")
	}
	journey.Eventually(t, "the services agree", func() error {
		found, err := invariants.Check(t.Context(), b.application(), time.Now())
		if err == nil && len(found.Violations) > 0 {
			err = fmt.Errorf("%v", found.Violations)
		}
		return err
	})
	t.Logf("audit: %d events, %d effects, lost %d, duplicated %d, misordered %d; from commit to effect p50 %v, p99 %v, longest %v",
		report.Events, report.Effects, len(report.Lost), len(report.Duplicated), len(report.Misordered),
		report.P50.Round(100*time.Microsecond), report.P99.Round(time.Millisecond), report.Max.Round(time.Millisecond))
	return report
}

// traffic is people who use the application.
type traffic struct {
	*load.Load
	app  *application
	end  context.CancelFunc
	done chan struct{}
}

// traffic has people use the application until finish.
func (a *application) traffic(t *testing.T) *traffic {
	t.Helper()
	ctx, end := context.WithCancel(t.Context())
	tr := &traffic{Load: load.New(a.site().URL, *people, uint64(time.Now().UnixNano())), app: a, end: end, done: make(chan struct{})}
	tr.Address = a.ingress
	go func() {
		defer close(tr.done)
		tr.Run(ctx)
	}()
	t.Cleanup(tr.stop)
	journey.Eventually(t, "people use the application", func() error {
		if n := tr.Stats().Accepted; n < 10**people {
			return fmt.Errorf("%d commands were accepted", n)
		}
		return nil
	})
	return tr
}

func (tr *traffic) stop() {
	tr.end()
	<-tr.done
}

// finish has people stop, and compares what they were told with what is there. Unless failures are allowed, every
// request must have been answered.
func (tr *traffic) finish(t *testing.T, failures bool) *admin.Report {
	t.Helper()
	tr.stop()
	s := tr.Stats()
	t.Logf("load: %d commands: %d accepted, %d refused, %d failed; %d reads, %d failed",
		s.Commands, s.Accepted, s.Refused, s.Failed, s.Reads, s.Unanswered)
	if all := s.Failed + s.Unanswered; all > 0 && !failures {
		t.Errorf("%d requests failed:\n%s", all, strings.Join(tr.Failures(), "\n"))
	}
	if wrong := tr.Surprises(); len(wrong) > 0 {
		t.Errorf("answers that must not be given:\n%s", strings.Join(wrong, "\n"))
	}
	report := tr.app.audit(t)
	broken, err := invariants.CheckPromises(t.Context(), tr.app.books(t).application(), tr.Promises())
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range broken {
		t.Error(v)
	}
	return report
}
