package e2e

import (
	"flag"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/e2e/conformance"
	"github.com/turnstile-go/turnstile/e2e/internal/journey"
)

var (
	url        = flag.String("url", "", "where the application is that is checked for conformance; if not set, turnstile dev starts one")
	address    = flag.String("address", "", "host:port to connect to for it, whatever the URL says")
	expiration = flag.Duration("expiration", 15*time.Minute, "its ORDER_EXPIRATION")
	limits     = flag.Bool("limits", false, "try as well to sign in until it is too often, as is always done with what turnstile dev starts")
)

// TestConformance checks that the application is what its contract says, and with -url any other implementation.
func TestConformance(t *testing.T) {
	if *url != "" {
		site := journey.Site{URL: *url, Address: *address, Expiration: *expiration}
		conformance.Run(t, site)
		if *limits {
			conformance.RunLimits(t, site)
		}
		return
	}
	t.Parallel()
	build(t)
	dir := t.TempDir()
	workspace(t, dir, true)
	const window = 20 * time.Second
	s := dev(t, dir, []string{"ORDER_EXPIRATION=" + window.String(), "SANDBOX_DELAY=4s"}, "--watch=false")
	site := s.site()
	site.Expiration = window
	conformance.Run(t, site)
	conformance.RunLimits(t, site)
	b := s.books(t)
	b.awaitQuiet(true) // orders expire while the last rules are checked
	b.check()
	b.checkApplication()
}
