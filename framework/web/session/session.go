// Package session tells a service who calls. A session is a token signed by the auth service (EdDSA), carried in the cookie
// session or as a bearer token, and verified with auth's public keys: no service but auth holds a key that can sign.
//
//	sessions := session.NewVerifier(cfg.Session, db, log)
//	sessions.Listen(listener)
//	srv.Authenticate(sessions)
//	s.Add("sessions", sessions)
//	huma.Register(srv.API(), huma.Operation{…, Security: session.Required}, func(ctx context.Context, …) {
//		caller, err := session.Require(ctx)
//		…
//
// A garbled, expired, revoked or foreign token makes an anonymous caller, not an error.
//
// # What is revoked
//
// A token says who calls until it expires, so what is revoked before is remembered until then: auth publishes [Revoked], each
// service keeps it in a table of its own database, and each process has a copy of that in memory, which it renews every
// second. While the database, the broker or auth is away the copy stays as it is: nobody is signed out by that, and nobody
// who was is let in again.
package session

import (
	"context"
	"net/http"
	"time"

	"github.com/turnstile-go/turnstile/framework/web"
)

// Cookie is the name of the cookie that carries a session.
const Cookie = "session"

// Caller is somebody with a valid session.
type Caller struct {
	ID    string
	Email string
}

// Required is the Security of an operation that is refused, with 401, to callers without a session. It is read only.
var Required = []map[string][]string{{"cookie": {}}, {"bearer": {}}}

// Optional is the Security of an operation that does something else for callers with a session than for those without. It is
// read only.
var Optional = []map[string][]string{{}, {"cookie": {}}, {"bearer": {}}}

type stateKey struct{}

// state is what Middleware found out about a request's caller.
type state struct {
	caller Caller
	known  bool
	tokens []string // that it came with: the caller's, and one that does not count beside it
	err    error    // the keys to verify with could not be had
}

// From returns the caller of the request that ctx belongs to, and false when the caller is anonymous.
func From(ctx context.Context) (Caller, bool) {
	s, _ := ctx.Value(stateKey{}).(state)
	return s.caller, s.known
}

// Require returns the caller of the request that ctx belongs to, or the error that a handler returns when there is none:
// 401, or 503 while the key that it takes to tell cannot be had.
func Require(ctx context.Context) (Caller, error) {
	s, _ := ctx.Value(stateKey{}).(state)
	switch {
	case s.known:
		return s.caller, nil
	case s.err != nil:
		return Caller{}, web.Unavailable("Sessions cannot be verified right now, please try again", time.Second)
	default:
		return Caller{}, web.Unauthorized("Not authorized")
	}
}

// SetCookie returns the cookie that carries token until it expires, for the Set-Cookie header of an answer to the request
// that ctx belongs to.
func SetCookie(ctx context.Context, token string, expires time.Time) http.Cookie {
	c := cookie(ctx)
	c.Value, c.Expires = token, expires.UTC()
	return c
}

// ClearCookie returns the cookie that makes the client forget its session.
func ClearCookie(ctx context.Context) http.Cookie {
	c := cookie(ctx)
	c.MaxAge, c.Expires = -1, time.Unix(0, 0).UTC()
	return c
}

func cookie(ctx context.Context) http.Cookie {
	return http.Cookie{
		Name: Cookie, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: web.ClientFrom(ctx).TLS,
	}
}
