package kube

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/turnstile-go/turnstile/e2e/internal/journey"
	"github.com/turnstile-go/turnstile/framework/event/admin"
)

// events returns what is told of pods from now on: by reason, that of the first pod whose name has a prefix.
func (a *application) events(t *testing.T) (await func(reason, prefix string) (after time.Duration, text string)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	list, err := a.API.CoreV1().Events(a.namespace).List(ctx, meta.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	watch, err := a.API.CoreV1().Events(a.namespace).Watch(ctx, meta.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); watch.Stop() })
	begin := time.Now()
	return func(reason, prefix string) (time.Duration, string) {
		t.Helper()
		limit := time.After(patience)
		for {
			select {
			case got, ok := <-watch.ResultChan():
				if !ok {
					t.Fatal("the watch of Events has ended")
				}
				e, ok := got.Object.(*core.Event)
				if ok && e.Reason == reason && strings.HasPrefix(e.InvolvedObject.Name, prefix) {
					return time.Since(begin).Round(time.Millisecond), e.Message
				}
			case <-limit:
				t.Fatalf("no Event %s of a pod of %s within %v", reason, prefix, patience)
			}
		}
	}
}

// TestEvents has things go wrong, and expects that `kubectl describe pod` tells of them.
func TestEvents(t *testing.T) {
	a := deployed(t)
	t.Run("dead letter", func(t *testing.T) { deadLetter(t, a) })
	t.Run("failed migration", func(t *testing.T) { failedMigration(t, a) })
	t.Run("broker lost and regained", func(t *testing.T) { brokerLost(t, a) })
	a.audit(t)
}

func (a *application) execute(t *testing.T, service, statement string) {
	t.Helper()
	rows, err := a.books(t).dbs[service].QueryContext(context.WithoutCancel(t.Context()), statement) // also in Cleanup
	if err == nil {
		err = errors.Join(rows.Close(), rows.Err())
	}
	if err != nil {
		t.Errorf("%s: %s: %v", service, statement, err)
	}
}

// deadLetter has tickets publish a price that is no number.
func deadLetter(t *testing.T, a *application) {
	const poison = "A ticket whose price is text"
	a.execute(t, "tickets", `CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF NEW.body::text LIKE '%`+poison+`%' THEN
			NEW.body := regexp_replace(NEW.body::text, '"price": *[0-9]+', '"price":"text"');
		END IF;
		RETURN NEW;
	END $$`)
	t.Cleanup(func() { a.execute(t, "tickets", `DROP FUNCTION IF EXISTS poison() CASCADE`) })
	a.execute(t, "tickets", `CREATE TRIGGER poison BEFORE INSERT ON event_outbox FOR EACH ROW EXECUTE FUNCTION poison()`)
	seller := a.site().User(t)
	await := a.events(t)
	offered := seller.Sell(poison)
	after, text := await("DeadLetter", "orders-")
	t.Logf("dead letter: its Event was there %v after the ticket was offered: %s", after, text)
	a.execute(t, "tickets", `DROP FUNCTION poison() CASCADE`)

	// What operators do: the ticket is of no use.
	for _, l := range a.books(t).ledgers {
		letters, err := l.Letters(t.Context(), admin.Filter{Key: offered.ID})
		if err != nil {
			t.Fatal(err)
		}
		for _, letter := range letters {
			if err := l.Skip(t.Context(), letter); err != nil {
				t.Fatal(err)
			}
		}
	}
	seller.Want(http.StatusNoContent, nil, http.MethodDelete, "/api/tickets/"+offered.ID, nil)
}

// failedMigration has a new process of orders find a database that says it was never migrated, and has its tables.
func failedMigration(t *testing.T, a *application) {
	a.execute(t, "orders", `ALTER TABLE orders_schema RENAME TO orders_schema_kept`)
	t.Cleanup(func() {
		a.execute(t, "orders", `DROP TABLE IF EXISTS orders_schema`)
		a.execute(t, "orders", `ALTER TABLE orders_schema_kept RENAME TO orders_schema`)
		a.awaitReady(t)
	})
	await := a.events(t)
	a.restart(t, "orders")
	after, text := await("MigrationFailed", "orders-")
	t.Logf("failed migration: its Event was there %v after the rolling update began: %s", after, text)
	if status := a.status(t, "/api/orders"); status != http.StatusUnauthorized {
		t.Errorf("meanwhile the old processes answer %d, want 401", status)
	}
}

// brokerLost stops all brokers for a while.
func brokerLost(t *testing.T, a *application) {
	replicas := func(n string) {
		_, err := a.API.AppsV1().StatefulSets(a.namespace).Patch(t.Context(), "nats-streaming", types.MergePatchType,
			[]byte(`{"spec":{"replicas":`+n+`}}`), meta.PatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	await := a.events(t)
	replicas("0")
	after, text := await("BrokerLost", "orders-")
	t.Logf("broker lost: its Event was there %v after the brokers were told to stop: %s", after, text)
	await = a.events(t)
	replicas("3")
	after, text = await("BrokerRegained", "orders-")
	t.Logf("broker regained: its Event was there %v after the brokers were told to start: %s", after, text)
	a.awaitReady(t)
	journey.Purchase(t, a.site())
}

// status is that of the answer to a GET of somebody who has no account.
func (a *application) status(t *testing.T, path string) int {
	t.Helper()
	status, err := a.site().Person(t).Call(nil, http.MethodGet, path, nil)
	if status == 0 {
		t.Fatal(err)
	}
	return status
}
