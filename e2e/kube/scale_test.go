package kube

import (
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/e2e/internal/journey"
)

// TestScale has many replicas of the services that listen to events, and one again, while people use them.
func TestScale(t *testing.T) {
	a := deployed(t)
	scaled := []string{"orders", "payments", "tickets"}
	to := func(replicas int) time.Duration {
		begin := time.Now()
		for _, name := range scaled {
			a.scale(t, name, replicas)
		}
		a.awaitReady(t)
		return time.Since(begin).Round(time.Millisecond)
	}
	to(1)
	defer to(2)
	tr := a.traffic(t)
	for range *rounds {
		t.Logf("from 1 replica to 5 of %v: %v", scaled, to(5))
		before := tr.Stats().Accepted
		journey.Eventually(t, "people use them all", func() error {
			if tr.Stats().Accepted < before+200 {
				return errNotYet
			}
			return nil
		})
		t.Logf("from 5 replicas to 1: %v", to(1))
	}
	tr.finish(t, false)
}
