package web_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/turnstile-go/turnstile/framework/web"
	"github.com/turnstile-go/turnstile/framework/web/session"
	"github.com/turnstile-go/turnstile/framework/web/session/sessiontest"
)

func TestOtherOrigins(t *testing.T) {
	t.Parallel()
	s := newVersioned(t)
	issuer := sessiontest.New(t)
	cfg := issuer.Config
	cfg.TrustedOrigins = []session.Origin{"https://app.example.com"}
	s.Authenticate(session.NewVerifier(cfg, nil, nil))
	ask := func(method, path, origin string) http.Header {
		r := httptest.NewRequest(method, path, nil)
		if origin != "" {
			r.Header.Set("Origin", origin)
		}
		if method == http.MethodOptions {
			r.Header.Set("Access-Control-Request-Method", "PUT")
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if got := w.Header().Get("Vary"); got != "Origin" {
			t.Errorf("%s %s from %q: Vary is %q", method, path, origin, got)
		}
		return w.Header()
	}
	for _, path := range []string{"/api/hats/7", "/api/hats/8", "/nowhere"} {
		h := ask(http.MethodGet, path, "https://app.example.com")
		if h.Get("Access-Control-Allow-Origin") != "https://app.example.com" || h.Get("Access-Control-Allow-Credentials") != "true" ||
			!strings.Contains(h.Get("Access-Control-Expose-Headers"), "ETag") || h.Get("Access-Control-Allow-Methods") != "" {
			t.Errorf("GET %s: %v", path, h)
		}
	}
	h := ask(http.MethodOptions, "/api/hats/7", "https://app.example.com")
	if !strings.Contains(h.Get("Access-Control-Allow-Methods"), "PUT") || h.Get("Access-Control-Max-Age") == "" ||
		!strings.Contains(h.Get("Access-Control-Allow-Headers"), "Idempotency-Key") || h.Get("Allow") == "" {
		t.Errorf("what a trusted page is told: %v", h)
	}
	for _, origin := range []string{"", "null", "https://evil.example.com", "https://app.example.com.evil.com", "http://app.example.com"} {
		for _, method := range []string{http.MethodGet, http.MethodOptions} {
			for name := range ask(method, "/api/hats/7", origin) {
				if strings.HasPrefix(name, "Access-Control") {
					t.Errorf("%s from %q is answered with %s", method, origin, name)
				}
			}
		}
	}
	if h := web.NewServer("bare", web.Config{}, nil, nil, nil); h != nil { // without anybody to tell callers apart
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Origin", "https://app.example.com")
		if h.ServeHTTP(w, r); w.Header().Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%v", w.Header())
		}
	}
}
