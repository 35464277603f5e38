package e2e

import (
	"net/http"
	"testing"

	"github.com/turnstile-go/turnstile/e2e/internal/journey"
)

// TestMarket walks through what people do, with nothing in their way, and then shuts the system down in every way.
func TestMarket(t *testing.T) {
	t.Parallel()
	build(t)
	dir := t.TempDir()
	workspace(t, dir, true)
	s := dev(t, dir, nil, "--watch=false")

	t.Run("people", func(t *testing.T) { journey.Market(t, s.site()) })
	b := s.books(t)
	b.awaitQuiet(false) // orders need not expire
	if events := b.check(); events < 20 {
		t.Errorf("the books have %d events: too few to have checked anything", events)
	}
	b.checkApplication()
	if t.Failed() {
		return
	}

	user := s.site().User(t)
	kept := user.Sell("A ticket that outlives the system")
	for _, end := range []struct {
		how string
		end func(*testing.T)
	}{{"crash", s.crash}, {"stop", s.stop}} {
		t.Run("state survives a "+end.how, func(t *testing.T) {
			end.end(t)
			s.start(t, "--watch=false")
			user := user.In(t)
			if !user.Listed(kept) {
				t.Error("the ticket is not listed any more")
			}
			user.Want(http.StatusOK, nil, http.MethodGet, "/api/tickets/mine", nil) // the session still counts
			user.Want(http.StatusOK, nil, http.MethodPost, "/api/users/signin", user.Credentials())
		})
	}
	t.Run("reset deletes it", func(t *testing.T) {
		s.stop(t)
		s.start(t, "--watch=false", "--reset")
		user := user.In(t)
		user.Want(http.StatusNotFound, nil, http.MethodGet, "/api/tickets/"+kept.ID, nil)
		user.Want(http.StatusUnauthorized, nil, http.MethodPost, "/api/users/signin", user.Credentials())
	})
}
