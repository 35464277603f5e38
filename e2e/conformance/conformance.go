package conformance

import (
	"cmp"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/e2e/internal/journey"
)

// suite is what the cases share: people of whom all of them make use, because nothing that one case has them do gets into
// another's way.
type suite struct {
	site   journey.Site
	nobody *member // has no session
	seller *member
	buyer  *member
	other  *member // has no part in what the two do
}

// rule is one case. Its name is what must hold.
type rule struct {
	name  string
	check func(c *check)
}

// Run checks every rule, each in a test that is named after it. The site's Expiration must be that of the application's
// orders; the cases that wait for it are skipped where it is longer than a minute.
func Run(t *testing.T, site journey.Site) {
	site.Expiration = cmp.Or(site.Expiration, 15*time.Minute)
	s := &suite{site: site, nobody: &member{Person: site.Person(t)}}
	c := &check{t, s}
	s.seller, s.buyer, s.other = c.member(), c.member(), c.member()
	neglected := c.order(c.sell()) // is looked at when its time is up

	for _, area := range []struct {
		name  string
		rules []rule
	}{
		{"documents", documents()},
		{"requests", requests()},
		{"bodies", bodies()},
		{"order of checks", orderOfChecks()},
		{"methods", methods()},
		{"collections", collections()},
		{"other origins", origins()},
		{"auth", auth()},
		{"sessions", sessions()},
		{"tickets", tickets()},
		{"orders", orders()},
		{"payments", payments()},
		{"idempotency", idempotency()},
		{"crowds", crowds()},
		{"expiration", expiration(neglected)},
	} {
		s.run(t, area.name, area.rules)
	}
}

// RunLimits checks the limit on how often one client may try to sign in or up, with some thousands of tries at most. For a
// minute after it nobody can where it came from: it goes last.
func RunLimits(t *testing.T, site journey.Site) {
	s := &suite{site: site, nobody: &member{Person: site.Person(t)}}
	s.run(t, "limits", limits())
}

func (s *suite) run(t *testing.T, area string, rules []rule) {
	t.Run(area, func(t *testing.T) {
		for _, r := range rules {
			t.Run(r.name, func(t *testing.T) { r.check(&check{t, s}) })
		}
	})
}
