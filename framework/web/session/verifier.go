package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/golang-jwt/jwt/v5"

	"github.com/turnstile-go/turnstile/framework/web"
)

// Config says whose sessions count. Issuer and Audience must be the same in auth and in the services that trust it; empty
// means "turnstile".
type Config struct {
	JWKSURL        string   `env:"SESSION_JWKS_URL" envDefault:"http://127.0.0.1:8081/.well-known/jwks.json" calls:"auth" doc:"where auth publishes the keys that sessions are verified with"`
	Issuer         string   `env:"SESSION_ISSUER" envDefault:"turnstile" doc:"who issues sessions (iss)"`
	Audience       string   `env:"SESSION_AUDIENCE" envDefault:"turnstile" doc:"whom sessions are meant for (aud)"`
	TrustedOrigins []Origin `env:"SESSION_TRUSTED_ORIGINS" doc:"other origins, scheme://host, whose pages may send the session cookie"`

	// Transport, if set, carries the requests to JWKSURL, for services without a network of the machine's. Nil is HTTP.
	Transport http.RoundTripper `env:"-" json:"-"`
}

// Origin is a web origin: scheme://host, with a port where it is not the scheme's own.
type Origin string

// UnmarshalText accepts an origin and nothing else.
func (o *Origin) UnmarshalText(text []byte) error {
	if err := http.NewCrossOriginProtection().AddTrustedOrigin(string(text)); err != nil {
		return err
	}
	*o = Origin(text)
	return nil
}

// A Verifier tells callers apart by their sessions. It is a web.Authenticator.
type Verifier struct {
	keys    Keys
	parser  *jwt.Parser
	log     *slog.Logger
	origins *http.CrossOriginProtection
}

// NewVerifier returns a Verifier that gets the keys from cfg.JWKSURL when the first session arrives, and renews them now and
// then. Once it has keys, sessions stay valid while auth cannot be reached. A nil log discards.
func NewVerifier(cfg Config, log *slog.Logger) *Verifier {
	log = orDiscard(log)
	return NewLocalVerifier(cfg, log, newRemoteKeys(cfg.JWKSURL, cfg.Transport, log, time.Now))
}

// NewLocalVerifier is NewVerifier with keys from this process, which is what auth itself uses. It panics when cfg holds an
// Origin that is not one, which none is that was read from text.
func NewLocalVerifier(cfg Config, log *slog.Logger, keys Keys) *Verifier {
	cfg = cfg.withDefaults()
	v := &Verifier{keys: keys, log: orDiscard(log), origins: http.NewCrossOriginProtection()}
	for _, origin := range cfg.TrustedOrigins {
		if err := v.origins.AddTrustedOrigin(string(origin)); err != nil {
			panic("session: " + err.Error())
		}
	}
	v.parser = jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}),
		jwt.WithIssuer(cfg.Issuer), jwt.WithAudience(cfg.Audience),
		jwt.WithExpirationRequired(), jwt.WithLeeway(5*time.Second), // clocks differ
	)
	return v
}

func orDiscard(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return log
}

// Verify returns whose session token is. The error is about the token, unless it says that keys could not be had.
func (v *Verifier) Verify(ctx context.Context, token string) (Caller, error) {
	var unreachable error
	var c claims
	_, err := v.parser.ParseWithClaims(token, &c, func(t *jwt.Token) (any, error) {
		id, _ := t.Header["kid"].(string)
		key, err := v.keys.Key(ctx, id)
		if err != nil && !errors.Is(err, ErrUnknownKey) {
			unreachable = err
		}
		return key, err
	})
	switch {
	case unreachable != nil:
		return Caller{}, unreachableError{unreachable}
	case err != nil:
		return Caller{}, fmt.Errorf("session: verify: %w", err)
	case c.Subject == "":
		return Caller{}, errors.New("session: verify: the token names nobody")
	}
	return Caller{ID: c.Subject, Email: c.Email}, nil
}

// unreachableError says that a token could not be judged.
type unreachableError struct{ error }

func (e unreachableError) Unwrap() error { return e.error }

// Middleware notes the caller in the request's context. A bearer token goes before the cookie. A request with the cookie and
// an unsafe method is refused when it comes from another origin's page.
func (v *Verifier) Middleware(next http.Handler) http.Handler {
	identified := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, _ := tokenOf(r)
		if token == "" {
			next.ServeHTTP(w, r)
			return
		}
		var s state
		var err error
		if s.caller, err = v.Verify(r.Context(), token); err == nil {
			s.known = true
		} else if unreachable := (unreachableError{}); errors.As(err, &unreachable) {
			s.err = err
			v.log.LogAttrs(r.Context(), slog.LevelWarn, "a session cannot be verified", slog.Any("error", err))
		} else {
			v.log.LogAttrs(r.Context(), slog.LevelDebug, "the session is not valid", slog.Any("error", err))
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), stateKey{}, s)))
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, byCookie := tokenOf(r); byCookie {
			if err := v.origins.Check(r); err != nil {
				web.WriteProblem(w, r, web.OtherOrigin())
				return
			}
		}
		identified.ServeHTTP(w, r)
	})
}

// tokenOf returns the request's token, and whether a cookie brought it: that is, whether the browser added it by itself.
func tokenOf(r *http.Request) (token string, byCookie bool) {
	if scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(token), false
	}
	c, err := r.Cookie(Cookie)
	if err != nil {
		return "", false
	}
	return c.Value, true
}

// Require returns 401 unless the request has a valid session.
func (v *Verifier) Require(ctx context.Context) error {
	_, err := Require(ctx)
	return err
}

// SecuritySchemes describes the cookie and the bearer token.
func (v *Verifier) SecuritySchemes() map[string]*huma.SecurityScheme {
	return map[string]*huma.SecurityScheme{
		"cookie": {Type: "apiKey", In: "cookie", Name: Cookie},
		"bearer": {Type: "http", Scheme: "bearer", BearerFormat: "JWT"},
	}
}

func (c Config) withDefaults() Config {
	if c.Issuer == "" {
		c.Issuer = "turnstile"
	}
	if c.Audience == "" {
		c.Audience = "turnstile"
	}
	return c
}
