package kube

import (
	"testing"

	"github.com/turnstile-go/turnstile/e2e/internal/journey"
)

// TestComponents has people make their journeys on JetStream instead of NATS Streaming, and, in a cluster that knows the
// Gateway API, through an HTTPRoute instead of an Ingress.
func TestComponents(t *testing.T) {
	c := connect(t)
	d := deployment{overlay: "production", components: []string{"jetstream"}, replicas: 1, secrets: secrets("jetstream")}
	if _, err := c.API.Discovery().ServerResourcesForGroupVersion("gateway.networking.k8s.io/v1"); err == nil {
		d.components = append(d.components, "gateway-api")
	} else {
		t.Logf("not checked: HTTPRoutes, since the cluster does not know the Gateway API: %v", err)
	}
	a := deploy(t, c, d)
	defer a.delete()
	t.Run("people", func(t *testing.T) { journey.Market(t, a.site()) })
	a.audit(t)
}
