package session

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/golang-jwt/jwt/v5"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/event"
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

// A Verifier tells callers apart by their sessions. It is a web.Authenticator, and a part of the service, to be added after
// its database and before what serves requests: Start reads what is revoked, and Run keeps that and the keys up to date.
type Verifier struct {
	keys    Keys
	remote  *remoteKeys // nil where keys are local
	revoked *revocations
	parser  *jwt.Parser
	rules   *jwt.Validator // those of parser
	proven  provenTokens
	log     *slog.Logger
	origins *http.CrossOriginProtection
	trusted []Origin
}

// NewVerifier returns a Verifier that has the keys from cfg.JWKSURL. Once it has them, sessions stay valid while auth cannot
// be reached. What is revoked is in db, with the table of [Migrations]; in a service without a database, for which db is nil,
// sessions count until they expire. A nil log discards.
func NewVerifier(cfg Config, db *database.DB, log *slog.Logger) *Verifier {
	keys := newRemoteKeys(cfg.JWKSURL, cfg.Transport, orDiscard(log))
	v := NewLocalVerifier(cfg, db, log, keys)
	v.remote = keys
	return v
}

// NewLocalVerifier is NewVerifier with keys from this process, which is what auth itself uses. It panics when cfg holds an
// Origin that is not one, which none is that was read from text.
func NewLocalVerifier(cfg Config, db *database.DB, log *slog.Logger, keys Keys) *Verifier {
	cfg, log = cfg.withDefaults(), orDiscard(log)
	v := &Verifier{keys: keys, revoked: newRevocations(db, log), log: log,
		origins: http.NewCrossOriginProtection(), trusted: cfg.TrustedOrigins}
	for _, origin := range cfg.TrustedOrigins {
		if err := v.origins.AddTrustedOrigin(string(origin)); err != nil {
			panic("session: " + err.Error())
		}
	}
	rules := []jwt.ParserOption{
		jwt.WithIssuer(cfg.Issuer), jwt.WithAudience(cfg.Audience), jwt.WithExpirationRequired(), jwt.WithLeeway(leeway),
	}
	v.parser = jwt.NewParser(append(rules, jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}))...)
	v.rules = jwt.NewValidator(rules...)
	return v
}

// Listen has l hear of what is revoked. Auth itself, which is who revokes, does not listen.
func (v *Verifier) Listen(l *event.Listener) {
	event.Handle(l, func(ctx context.Context, tx *database.Tx, m *event.Message[Revoked]) error {
		_, err := v.Revoke(ctx, tx, m.Data)
		return err
	})
}

// Revoke has r count no longer once tx is committed: in this process at once, in others of the service after a second or
// so. It reports false if that is so already, or r is over. To tell other services is up to the caller, who publishes r.
func (v *Verifier) Revoke(ctx context.Context, tx *database.Tx, r Revoked) (bool, error) {
	return v.revoked.record(ctx, tx, r)
}

// Start reads what is revoked, so that nothing of it counts, not even for a moment.
func (v *Verifier) Start(ctx context.Context) error {
	if v.revoked == nil {
		return nil
	}
	return v.revoked.learn(ctx, true)
}

// Ready reports, under the name "session keys", whether there have ever been keys to verify with. A process without any knows
// no caller, so it takes the place of none that has some. It says nothing of keys that are local.
func (v *Verifier) Ready() map[string]error {
	if v.remote == nil {
		return nil
	}
	return map[string]error{"session keys": v.remote.ready()}
}

// Run keeps what is revoked and the keys up to date until ctx is done.
func (v *Verifier) Run(ctx context.Context) error {
	var parts sync.WaitGroup
	if v.remote != nil {
		parts.Go(func() { v.remote.run(ctx) })
	}
	if v.revoked != nil {
		parts.Go(func() { v.revoked.run(ctx) })
	}
	parts.Wait()
	return nil
}

func orDiscard(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return log
}

// Verify returns whose session token is. The error is about the token, unless it says that keys could not be had.
func (v *Verifier) Verify(ctx context.Context, token string) (Caller, error) {
	c, err := v.verify(ctx, token)
	if err != nil {
		return Caller{}, err
	}
	return Caller{ID: c.Subject, Email: c.Email}, nil
}

// maxToken is the most bytes of a token that are looked at: a cookie cannot be larger (RFC 6265, section 6.1).
const maxToken = 4096

func (v *Verifier) verify(ctx context.Context, token string) (*claims, error) {
	if len(token) > maxToken {
		return nil, errors.New("session: verify: the token is too long")
	}
	hash := sha256.Sum256([]byte(token))
	p := v.proven.find(hash)
	if p != nil {
		key, err := v.key(ctx, p.keyID)
		if err == nil && key.Equal(p.key) {
			err = v.rules.Validate(p.claims)
		} else if err == nil {
			err = ErrUnknownKey
		}
		if err != nil {
			return nil, verifyError(err)
		}
	} else {
		var err error
		if p, err = v.prove(ctx, token); err != nil {
			return nil, verifyError(err)
		}
		v.proven.add(hash, p)
	}
	c := p.claims
	switch {
	case c.Subject == "":
		return nil, errors.New("session: verify: the token names nobody")
	case c.ID == "":
		return nil, errors.New("session: verify: the token has no id, so that it could not be revoked")
	case v.revoked.has(c.ID):
		return nil, errors.New("session: verify: the session is revoked")
	}
	return &c, nil
}

// prove verifies a token's signature, and that it is for here and now.
func (v *Verifier) prove(ctx context.Context, token string) (*proven, error) {
	var p proven
	_, err := v.parser.ParseWithClaims(token, &p.claims, func(t *jwt.Token) (_ any, err error) {
		if _, critical := t.Header["crit"]; critical {
			return nil, errors.New("it has critical extensions, of which none is known") // RFC 7515, section 4.1.11
		}
		p.keyID, _ = t.Header["kid"].(string)
		p.key, err = v.key(ctx, p.keyID)
		return p.key, err
	})
	return &p, err
}

// key returns the key with the id unless it is revoked.
func (v *Verifier) key(ctx context.Context, id string) (ed25519.PublicKey, error) {
	if id == "" || v.revoked.has(id) {
		return nil, ErrUnknownKey
	}
	key, err := v.keys.Key(ctx, id)
	if err != nil && !errors.Is(err, ErrUnknownKey) {
		err = unreachableError{err}
	}
	return key, err
}

func verifyError(err error) error {
	if unreachable := (unreachableError{}); errors.As(err, &unreachable) {
		return unreachable
	}
	return fmt.Errorf("session: verify: %w", err)
}

// Presented returns the sessions that the request came with to which ctx belongs, as what revokes them. There are two if it
// came with a bearer token and another session in the cookie, and none without a valid one. It fails when it is not known
// whether one is valid.
func (v *Verifier) Presented(ctx context.Context) ([]Revoked, error) {
	var all []Revoked
	s, _ := ctx.Value(stateKey{}).(state)
	for _, token := range s.tokens {
		c, err := v.verify(ctx, token)
		if unreachable := (unreachableError{}); errors.As(err, &unreachable) {
			return nil, err
		}
		if err == nil {
			all = append(all, Revoked{ID: c.ID, ExpiresAt: c.ExpiresAt.UTC()})
		}
	}
	return all, nil
}

// unreachableError says that a token could not be judged.
type unreachableError struct{ error }

func (e unreachableError) Unwrap() error { return e.error }

// Middleware notes the caller in the request's context. A bearer token goes before the cookie. A request with the cookie and
// an unsafe method is refused when it comes from another origin's page.
func (v *Verifier) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tokens, byCookie := tokensOf(r)
		if byCookie {
			if err := v.origins.Check(r); err != nil {
				web.WriteProblem(w, r, web.OtherOrigin())
				return
			}
		}
		if len(tokens) == 0 {
			next.ServeHTTP(w, r)
			return
		}
		s := state{tokens: tokens}
		var err error
		if s.caller, err = v.Verify(r.Context(), tokens[0]); err == nil {
			s.known = true
		} else if unreachable := (unreachableError{}); errors.As(err, &unreachable) {
			s.err = err
			v.log.LogAttrs(r.Context(), slog.LevelWarn, "a session cannot be verified", slog.Any("error", err))
		} else {
			v.log.LogAttrs(r.Context(), slog.LevelDebug, "the session is not valid", slog.Any("error", err))
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), stateKey{}, s)))
	})
}

// tokensOf returns the request's tokens, of which the first one counts, and whether that is a cookie's: that is, whether the
// browser added it by itself. Of several cookies of the name it is the first (RFC 6265, section 5.4: the one whose path fits
// best).
func tokensOf(r *http.Request) (tokens []string, byCookie bool) {
	scheme, bearer, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if ok && strings.EqualFold(scheme, "Bearer") {
		tokens = append(tokens, strings.TrimSpace(bearer))
	}
	if c, err := r.Cookie(Cookie); err == nil {
		tokens = append(tokens, c.Value)
		byCookie = len(tokens) == 1
	}
	return tokens, byCookie
}

// Require returns 401 unless the request has a valid session.
func (v *Verifier) Require(ctx context.Context) error {
	_, err := Require(ctx)
	return err
}

// Caller returns the id of the request's caller, empty for one without a session.
func (v *Verifier) Caller(ctx context.Context) string {
	caller, _ := From(ctx)
	return caller.ID
}

// Trusts reports whether the pages of another origin may use their visitors' sessions.
func (v *Verifier) Trusts(origin string) bool { return slices.Contains(v.trusted, Origin(origin)) }

// SecuritySchemes describes the cookie and the bearer token.
func (v *Verifier) SecuritySchemes() map[string]*huma.SecurityScheme {
	return map[string]*huma.SecurityScheme{
		"cookie": {
			Type: "apiKey", In: "cookie", Name: Cookie,
			Description: "The cookie that `POST /api/users/signup` and `POST /api/users/signin` set. Browsers send it by themselves; " +
				"`curl -c cookies.txt` keeps it, and `curl -b cookies.txt` sends it.",
		},
		"bearer": {
			Type: "http", Scheme: "bearer", BearerFormat: "JWT",
			Description: "The value of that cookie, as `Authorization: Bearer …`, for programs that keep no cookies.",
		},
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
