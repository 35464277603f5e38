// Package sessiontest signs callers in without the auth service.
package sessiontest

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/framework/web/session"
)

// Issuer stands in for auth: it signs sessions and publishes its key on a local address until the test ends.
type Issuer struct {
	Config session.Config // what a service under test is configured with
	Key    session.Key
	t      testing.TB
}

// New returns an Issuer with a key of its own.
func New(t testing.TB) *Issuer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	i := &Issuer{Key: session.Key{ID: "test", Private: private}, t: t}
	set, err := session.PublicSet(i.Key)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write(set) //nolint:errcheck // the test will notice
	}))
	t.Cleanup(server.Close)
	i.Config = session.Config{JWKSURL: server.URL}
	return i
}

// Token returns a session of the caller with the given id, whose address is <id>@example.com.
func (i *Issuer) Token(id string) string {
	i.t.Helper()
	token, _, err := i.Config.Sign(i.Key, session.Caller{ID: id, Email: id + "@example.com"}, time.Now())
	if err != nil {
		i.t.Fatal(err)
	}
	return token
}

// SignIn makes r a request of the caller with the given id.
func (i *Issuer) SignIn(r *http.Request, id string) {
	i.t.Helper()
	r.Header.Set("Authorization", "Bearer "+i.Token(id))
}

// Revoked returns what revokes the session of a token.
func (i *Issuer) Revoked(token string) session.Revoked {
	i.t.Helper()
	var claims struct {
		ID  string `json:"jti"`
		Exp int64  `json:"exp"`
	}
	_, rest, _ := strings.Cut(token, ".")
	payload, _, _ := strings.Cut(rest, ".")
	data, err := base64.RawURLEncoding.DecodeString(payload)
	if err == nil {
		err = json.Unmarshal(data, &claims)
	}
	if err != nil {
		i.t.Fatalf("sessiontest: no token: %v", err)
	}
	return session.Revoked{ID: claims.ID, ExpiresAt: time.Unix(claims.Exp, 0).UTC()}
}
