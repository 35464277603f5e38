package kube

import (
	"testing"

	"github.com/turnstile-go/turnstile/e2e/conformance"
	"github.com/turnstile-go/turnstile/e2e/internal/journey"
)

// TestJourneys has people do what they do with `turnstile dev`.
func TestJourneys(t *testing.T) {
	a := deployed(t)
	t.Run("people", func(t *testing.T) { journey.Market(t, a.site()) })
	t.Run("an order expires", func(t *testing.T) { journey.Expire(t, a.site(), func() {}) })
	a.audit(t)
}

// TestConformance checks that the application is what its contract says where each service is more than one process.
func TestConformance(t *testing.T) {
	a := deployed(t)
	conformance.Run(t, a.site())
	a.audit(t)
}
