package kube

import (
	"testing"

	"github.com/turnstile-go/turnstile/e2e/internal/journey"
)

// TestJourneys has people do what they do with `turnstile dev`.
func TestJourneys(t *testing.T) {
	a := deployed(t)
	t.Run("people", func(t *testing.T) { journey.Market(t, a.site()) })
	t.Run("an order expires", func(t *testing.T) { journey.Expire(t, a.site(), func() {}) })
	a.audit(t)
}
