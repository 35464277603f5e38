package kube

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/turnstile-go/turnstile/e2e/internal/journey"
	"github.com/turnstile-go/turnstile/framework/database"
)

// TestAutoscaling has a service fall behind: there are more replicas of it before long, because of the age of the event
// that it is at.
func TestAutoscaling(t *testing.T) {
	c := connect(t)
	if _, err := c.API.Discovery().ServerResourcesForGroupVersion("external.metrics.k8s.io/v1beta1"); err == nil {
		t.Skip("the cluster has a provider of external metrics already")
	}
	a := deploy(t, c, deployment{overlay: "production", components: []string{"autoscaling"}, autoscalers: true, secrets: secrets("nats-streaming")})
	defer a.delete()
	// Without its server, the APIService would keep every namespace from being deleted.
	defer a.removeAll(t)

	wanted := func() int32 {
		t.Helper()
		autoscaler, err := a.API.AutoscalingV2().HorizontalPodAutoscalers(a.namespace).Get(t.Context(), "orders", meta.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return autoscaler.Status.DesiredReplicas
	}
	journey.Eventually(t, "the age of events is served", func() error { _, err := a.eventAge(t, "orders"); return err })
	journey.Eventually(t, "the autoscaler has looked", func() error {
		if wanted() == 0 {
			return errNotYet
		}
		return nil
	})
	before := wanted()

	orders := a.books(t).dbs["orders"]
	begin := time.Now()
	err := orders.InTx(t.Context(), func(tx *database.Tx) error { // as long as it lasts, nothing can be written down about a ticket
		if _, err := tx.ExecContext(t.Context(), `LOCK TABLE tickets IN ACCESS EXCLUSIVE MODE`); err != nil {
			return err
		}
		a.site().User(t).Sell("A ticket that orders will hear of late")
		journey.Eventually(t, "more replicas are wanted", func() error {
			if wanted() <= before {
				return errNotYet
			}
			return nil
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d replicas of orders, and %d were wanted %v after it had come to a stop", before, wanted(), time.Since(begin).Round(100*time.Millisecond))

	journey.Eventually(t, "orders has caught up", func() error {
		if age, err := a.eventAge(t, "orders"); err != nil || !age.IsZero() {
			return fmt.Errorf("the age of its events is %v (%w)", age, err)
		}
		return nil
	})
	a.awaitReady(t)
	journey.Purchase(t, a.site())
}

// eventAge returns what autoscalers are told about a service.
func (a *application) eventAge(t *testing.T, service string) (*resource.Quantity, error) {
	t.Helper()
	text, err := a.API.RESTClient().Get().
		AbsPath("/apis/external.metrics.k8s.io/v1beta1/namespaces", a.namespace, "turnstile_event_in_flight_age_seconds").
		Param("labelSelector", "service="+service).DoRaw(t.Context())
	if err != nil {
		return nil, err
	}
	var list struct {
		Items []struct{ Value resource.Quantity }
	}
	if err := json.Unmarshal(text, &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 1 {
		t.Fatalf("%d values instead of one: %s", len(list.Items), text)
	}
	return &list.Items[0].Value, nil
}

// removeAll deletes what was applied, also that which is in no namespace.
func (a *application) removeAll(t *testing.T) {
	t.Helper()
	if _, err := a.kubectl(t.Context(), "", "delete", "--kustomize", ".", "--ignore-not-found", "--wait=false"); err != nil {
		t.Error(err)
	}
}
