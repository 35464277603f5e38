package servicetest

import (
	"fmt"
	"net/http"

	"github.com/turnstile-go/turnstile/framework/event/eventtest"
	"github.com/turnstile-go/turnstile/framework/web/session"
)

// HonorsRevocation has somebody sign out who got an answer of 200 to a GET of path, and fails the test unless every process
// then refuses the session, as a cookie and as a bearer token, also after they were all stopped and started again. Somebody
// else's session goes on.
func (s *Service) HonorsRevocation(path string) {
	s.t.Helper()
	auth := eventtest.NewPeer(s.t, s.Broker, session.Revoked{})
	auth.Start()
	token, others := s.issuer.Token("somebody"), s.issuer.Token("somebody else")
	want := func(status int, token string) error {
		for _, url := range s.URLs {
			for _, header := range [][]string{{"Authorization", "Bearer " + token}, {"Cookie", session.Cookie + "=" + token}} {
				res, err := s.Send(s.t.Context(), "", http.MethodGet, url+path, nil, header...)
				if err == nil && res.Status != status {
					err = fmt.Errorf("%s%s by %s: %v; want %d", url, path, header[0], res, status)
				}
				if err != nil {
					return err
				}
			}
		}
		return nil
	}
	check := func(err error) {
		s.t.Helper()
		if err != nil {
			s.t.Error(err)
		}
	}
	check(want(http.StatusOK, token))
	auth.Publish(s.issuer.Revoked(token))
	s.Eventually(func() error { return want(http.StatusUnauthorized, token) })
	check(want(http.StatusOK, others))
	processes := len(s.URLs)
	s.Stop()
	for range processes {
		s.Boot()
	}
	check(want(http.StatusUnauthorized, token))
	check(want(http.StatusOK, others))
}
