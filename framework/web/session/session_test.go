package session_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/goleak"

	"github.com/turnstile-go/turnstile/framework/web"
	"github.com/turnstile-go/turnstile/framework/web/session"
	"github.com/turnstile-go/turnstile/framework/web/session/sessiontest"
)

var ada = session.Caller{ID: "ada", Email: "ada@example.com"} //nolint:gochecknoglobals // a constant

func newKey(t *testing.T, id string) session.Key {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return session.Key{ID: id, Private: private}
}

func sign(t *testing.T, cfg session.Config, k session.Key, c session.Caller, at time.Time) string {
	t.Helper()
	token, _, err := cfg.Sign(k, c, at)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// identify returns what a service makes of a request with the given headers.
func identify(v *session.Verifier, header http.Header) (caller session.Caller, known bool, required error) {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header = header
	v.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		caller, known = session.From(r.Context())
		required = v.Require(r.Context())
	})).ServeHTTP(httptest.NewRecorder(), r)
	return caller, known, required
}

func bearer(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }

func status(err error) int {
	if p, ok := err.(*web.Problem); ok {
		return p.Status
	}
	return 0
}

func TestSession(t *testing.T) {
	t.Cleanup(func() { goleak.VerifyNone(t) })
	issuer := sessiontest.New(t)
	v := session.NewVerifier(issuer.Config, nil, nil)
	token := issuer.Token("ada")
	for name, header := range map[string]http.Header{
		"bearer":                     bearer(token),
		"any case":                   {"Authorization": {"bearer " + token}},
		"cookie":                     {"Cookie": {"session=" + token}},
		"among cookies":              {"Cookie": {"a=b; session=" + token + "; c=d"}},
		"bearer goes before cookie":  {"Authorization": {"Bearer " + token}, "Cookie": {"session=garbage"}},
		"another scheme is not ours": {"Authorization": {"Basic YTpi"}, "Cookie": {"session=" + token}},
	} {
		if caller, known, err := identify(v, header); caller != ada || !known || err != nil {
			t.Errorf("%s: got %v %v %v", name, caller, known, err)
		}
	}
}

func TestWhatDoesNotCountIsAnonymous(t *testing.T) {
	issuer := sessiontest.New(t)
	v := session.NewVerifier(issuer.Config, nil, nil)
	good := issuer.Token("ada")
	parts := strings.Split(good, ".")
	encode := func(v any) string {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(data)
	}
	now := time.Now()
	hmacSigned, err := func() (string, error) { // with the public key as the secret
		c := jwt.MapClaims{"sub": "ada", "iss": "turnstile", "aud": "turnstile", "exp": now.Add(time.Hour).Unix()}
		token := jwt.NewWithClaims(jwt.SigningMethodHS256, c)
		token.Header["kid"] = issuer.Key.ID
		return token.SignedString([]byte(issuer.Key.Public()))
	}()
	if err != nil {
		t.Fatal(err)
	}
	withHeader := func(name string, value any, c jwt.MapClaims) string {
		token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, c)
		token.Header["kid"] = issuer.Key.ID
		if name != "" {
			token.Header[name] = value
		}
		signed, err := token.SignedString(issuer.Key.Private)
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	withClaims := func(c jwt.MapClaims) string { return withHeader("", nil, c) }
	exp := now.Add(time.Hour).Unix()
	fine := jwt.MapClaims{"sub": "x", "iss": "turnstile", "aud": "turnstile", "exp": exp, "jti": "1"}
	without := func(name string) string {
		c := maps.Clone(fine)
		delete(c, name)
		return withClaims(c)
	}
	with := func(name string, value any) string {
		c := maps.Clone(fine)
		c[name] = value
		return withClaims(c)
	}
	if caller, known, _ := identify(v, bearer(with("aud", []string{"others", "turnstile"}))); !known || caller.ID != "x" {
		t.Fatal("a token made here does not count, so this test shows nothing")
	}
	for name, token := range map[string]string{
		"none":           "",
		"garbage":        "garbage",
		"dots":           "..",
		"truncated":      good[:len(good)-5],
		"changed":        parts[0] + "." + encode(map[string]any{"sub": "eve", "iss": "turnstile", "aud": "turnstile", "exp": exp}) + "." + parts[2],
		"unsigned":       encode(map[string]any{"alg": "none", "kid": "test"}) + "." + parts[1] + ".",
		"unsigned, too":  encode(map[string]any{"alg": "None", "kid": "test"}) + "." + parts[1] + "." + parts[2],
		"HMAC":           hmacSigned,
		"expired":        sign(t, issuer.Config, issuer.Key, ada, now.Add(-session.Lifetime-time.Minute)),
		"wrong key":      sign(t, issuer.Config, newKey(t, "test"), ada, now),
		"unknown key":    sign(t, issuer.Config, newKey(t, "other"), ada, now),
		"wrong audience": sign(t, session.Config{Audience: "others"}, issuer.Key, ada, now),
		"wrong issuer":   sign(t, session.Config{Issuer: "others"}, issuer.Key, ada, now),
		"nobody":         sign(t, issuer.Config, issuer.Key, session.Caller{}, now),
		"no expiry":      without("exp"),
		"no audience":    without("aud"),
		"no issuer":      without("iss"),
		"no subject":     without("sub"),
		"no id":          without("jti"),
		"id of no text":  with("jti", 5),
		"not yet":        with("nbf", now.Add(time.Minute).Unix()),
		"expiry is text": with("exp", "later"),
		"no key":         withHeader("kid", "", fine),
		"a number's key": withHeader("kid", 1, fine),
		"a list of keys": withHeader("kid", []string{issuer.Key.ID}, fine),
		"critical":       withHeader("crit", []string{"exp"}, fine),
		"its own key":    withHeader("kid", "other", fine),
		"too long":       with("padding", strings.Repeat("x", 4096)),
	} {
		for kind, header := range map[string]http.Header{"bearer": bearer(token), "cookie": {"Cookie": {"session=" + token}}} {
			caller, known, err := identify(v, header)
			if known || caller != (session.Caller{}) || status(err) != http.StatusUnauthorized {
				t.Errorf("%s as %s: got %v %v %v", name, kind, caller, known, err)
			}
		}
	}
}

func TestExpiry(t *testing.T) {
	issuer := sessiontest.New(t)
	now := time.Date(2026, 5, 6, 7, 8, 9, 999, time.UTC)
	token, expires, err := issuer.Config.Sign(issuer.Key, ada, now)
	if err != nil {
		t.Fatal(err)
	}
	var c jwt.RegisteredClaims
	if _, _, err := jwt.NewParser().ParseUnverified(token, &c); err != nil {
		t.Fatal(err)
	}
	if want := time.Date(2026, 5, 6, 19, 8, 9, 0, time.UTC); !expires.Equal(want) || !c.ExpiresAt.Equal(want) || c.ID == "" {
		t.Errorf("expires %v, %v, want %v; id %q", expires, c.ExpiresAt, want, c.ID)
	}
}

// authService stands in for auth's key set. It is an http.RoundTripper, so that tests have a clock of their own.
type authService struct {
	keys    atomic.Pointer[[]session.Key]
	trouble atomic.Pointer[string] // "down", "gone" or "hangs"
	fetched atomic.Int32
}

func newAuth(keys ...session.Key) *authService {
	a := &authService{}
	a.publish(keys...)
	a.is("fine")
	return a
}

func (a *authService) publish(keys ...session.Key) { a.keys.Store(&keys) }
func (a *authService) is(trouble string)           { a.trouble.Store(&trouble) }

func (a *authService) RoundTrip(r *http.Request) (*http.Response, error) {
	a.fetched.Add(1)
	w := httptest.NewRecorder()
	switch *a.trouble.Load() {
	case "down":
		w.Code = http.StatusServiceUnavailable
	case "gone":
		return nil, errors.New("connection refused")
	case "hangs":
		<-r.Context().Done()
		return nil, r.Context().Err()
	default:
		set, err := session.PublicSet(*a.keys.Load()...)
		if err != nil {
			return nil, err
		}
		w.Write(set)
	}
	return w.Result(), nil
}

// verifier returns one that asks a, on a clock of the test's own.
func (a *authService) verifier() *session.Verifier {
	return session.NewVerifier(session.Config{JWKSURL: "http://auth", Transport: a}, nil, nil)
}

// run runs v until the test ends.
func run(t *testing.T, v *session.Verifier) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- v.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestAuthMayComeLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKey(t, "1")
		auth := newAuth(k)
		auth.is("down")
		v := auth.verifier()
		run(t, v)
		token := sign(t, session.Config{}, k, ada, time.Now())
		_, known, err := identify(v, bearer(token))
		if known || status(err) != http.StatusServiceUnavailable {
			t.Errorf("before auth is there: %v %v, want 503: nobody can say whether this is a session", known, err)
		}
		if _, _, err := identify(v, http.Header{}); status(err) != http.StatusUnauthorized {
			t.Errorf("without a session: %v, want 401", err)
		}
		auth.is("fine")
		time.Sleep(session.RetryFirst)
		if caller, known, err := identify(v, bearer(token)); caller != ada || !known || err != nil {
			t.Errorf("after auth has come: %v %v %v", caller, known, err)
		}
	})
}

// A process is not ready before it has had keys, and so replaces none that has some. Once it has, auth may be away.
func TestReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const check = "session keys"
		auth := newAuth(newKey(t, "1"))
		auth.is("gone")
		v := auth.verifier()
		run(t, v)
		time.Sleep(session.MaxKeyAge)
		if err := v.Ready()[check]; err == nil || !strings.Contains(err.Error(), "http://auth") {
			t.Errorf("without keys: %v, want one that says where they are", err)
		}
		auth.is("fine")
		time.Sleep(session.RetryFirst)
		synctest.Wait()
		if err, checked := v.Ready()[check]; err != nil || !checked {
			t.Errorf("with keys: %v, checked %v", err, checked)
		}
		auth.is("gone")
		time.Sleep(3 * session.MaxKeyAge)
		if err := v.Ready()[check]; err != nil {
			t.Errorf("with old keys: %v", err)
		}
	})
	if checks := session.NewLocalVerifier(session.Config{}, nil, nil, nil).Ready(); len(checks) > 0 {
		t.Errorf("where keys are local it checks %v", checks)
	}
}

// However long auth is away, and however that looks, nobody is signed out; no request of somebody with a known key waits.
func TestKnownKeysOutliveAuth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKey(t, "1")
		auth := newAuth(k)
		v := auth.verifier()
		run(t, v)
		synctest.Wait()
		for _, trouble := range []string{"down", "gone", "hangs"} {
			auth.is(trouble)
			for range 3 {
				time.Sleep(session.MaxKeyAge + time.Second)
				began := time.Now()
				token := sign(t, session.Config{}, k, ada, time.Now())
				if caller, known, err := identify(v, bearer(token)); caller != ada || !known || err != nil {
					t.Errorf("auth is %s: %v %v %v", trouble, caller, known, err)
				}
				if waited := time.Since(began); waited > 0 {
					t.Errorf("auth is %s: a request has waited %v", trouble, waited)
				}
			}
		}
		// It may be that of a key that auth has signed with since.
		other := sign(t, session.Config{}, newKey(t, "2"), ada, time.Now())
		if _, known, err := identify(v, bearer(other)); known || status(err) != http.StatusServiceUnavailable {
			t.Errorf("with an unknown key while auth is gone: %v", err)
		}
		auth.is("fine")
		time.Sleep(3 * session.Retry) // an attempt may just have begun
		auth.is("gone")
		if _, known, err := identify(v, bearer(other)); known || status(err) != http.StatusUnauthorized {
			t.Errorf("with an unknown key just after auth was there: %v", err)
		}
	})
}

func TestNewAndRetiredKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := newKey(t, "1"), newKey(t, "2")
		auth := newAuth(first)
		v := auth.verifier()
		run(t, v)
		synctest.Wait()
		old, young := sign(t, session.Config{}, first, ada, time.Now()), sign(t, session.Config{}, second, ada, time.Now())
		auth.publish(first, second)
		time.Sleep(session.Retry)
		for name, token := range map[string]string{"old": old, "new": young} { // at once: a new key is asked for
			if _, known, err := identify(v, bearer(token)); !known {
				t.Errorf("the %s key does not count: %v", name, err)
			}
		}
		auth.publish(second)
		time.Sleep(session.MaxKeyAge)
		if _, known, err := identify(v, bearer(old)); known || status(err) != http.StatusUnauthorized {
			t.Errorf("the retired key still counts: %v", err)
		}
	})
}

// A key that is published for MaxKeyAge is known everywhere: no request waits when it begins to sign.
func TestKeysAreRenewedInTheBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth := newAuth(newKey(t, "1"))
		v := auth.verifier()
		run(t, v)
		synctest.Wait()
		for n := range 10 {
			k := newKey(t, strconv.Itoa(n+2))
			auth.publish(k)
			time.Sleep(session.MaxKeyAge)
			fetched := auth.fetched.Load()
			if _, known, err := identify(v, bearer(sign(t, session.Config{}, k, ada, time.Now()))); !known {
				t.Errorf("key %s is not known: %v", k.ID, err)
			}
			if auth.fetched.Load() != fetched {
				t.Errorf("key %s was fetched by a request", k.ID)
			}
		}
		if n := auth.fetched.Load(); n > 20 {
			t.Errorf("the keys were fetched %d times in 50 minutes", n)
		}
	})
}

func TestUnknownKeysDoNotFloodAuth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth := newAuth(newKey(t, "1"))
		v := auth.verifier()
		var all sync.WaitGroup
		for i := range 50 {
			token := sign(t, session.Config{}, newKey(t, "made up "+strconv.Itoa(i)), ada, time.Now())
			all.Go(func() {
				if _, known, err := identify(v, bearer(token)); known || status(err) != http.StatusUnauthorized {
					t.Errorf("got %v %v", known, err)
				}
			})
		}
		all.Wait()
		if n := auth.fetched.Load(); n != 1 {
			t.Errorf("the keys were fetched %d times", n)
		}
		time.Sleep(session.Retry)
		identify(v, bearer(sign(t, session.Config{}, newKey(t, "made up"), ada, time.Now())))
		if n := auth.fetched.Load(); n != 2 {
			t.Errorf("after a while the keys were fetched %d times", n)
		}
	})
}

func TestAnEmptySetIsNotBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKey(t, "1")
		auth := newAuth(k)
		v := auth.verifier()
		run(t, v)
		synctest.Wait()
		auth.publish()
		time.Sleep(2 * session.MaxKeyAge)
		if _, known, err := identify(v, bearer(sign(t, session.Config{}, k, ada, time.Now()))); !known {
			t.Errorf("signed out by an empty set: %v", err)
		}
	})
}

// A set that takes for ever holds up those without a known key only for as long as one attempt.
func TestAuthHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth := newAuth()
		auth.is("hangs")
		v := auth.verifier()
		run(t, v)
		token := sign(t, session.Config{}, newKey(t, "1"), ada, time.Now())
		start := time.Now()
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if _, _, err := identify(v, bearer(token)); status(err) != http.StatusServiceUnavailable {
					t.Errorf("got %v", err)
				}
			})
		}
		all.Wait()
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("20 requests took %v", took)
		}
	})
}

func TestPublicSetHoldsNoSecret(t *testing.T) {
	k := newKey(t, "1")
	set, err := session.PublicSet(k)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"keys":[{"kty":"OKP","use":"sig","alg":"EdDSA","kid":"1","crv":"Ed25519","x":"` + base64.RawURLEncoding.EncodeToString(k.Public()) + `"}]}`
	var got, wanted map[string]any
	if json.Unmarshal(set, &got) != nil || json.Unmarshal([]byte(want), &wanted) != nil {
		t.Fatalf("not JSON: %s", set)
	}
	if a, b := mustJSON(t, got), mustJSON(t, wanted); a != b {
		t.Errorf("got  %s\nwant %s", a, b)
	}
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestCookies(t *testing.T) {
	s := web.NewServer("x", web.Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}, nil, nil, nil)
	type result struct{ set, cleared string }
	var got result
	s.Authenticate(cookieMaker{func(ctx context.Context) {
		set := session.SetCookie(ctx, "token", time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC))
		cleared := session.ClearCookie(ctx)
		got = result{set.String(), cleared.String()}
	}})
	for proto, secure := range map[string]string{"http": "", "https": "; Secure"} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = "192.0.2.1:1"
		r.Header.Set("X-Forwarded-Proto", proto)
		s.ServeHTTP(httptest.NewRecorder(), r)
		want := result{
			"session=token; Path=/; Expires=Wed, 06 May 2026 07:08:09 GMT; HttpOnly" + secure + "; SameSite=Lax",
			"session=; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=0; HttpOnly" + secure + "; SameSite=Lax",
		}
		if got != want {
			t.Errorf("%s: got  %+v\nwant %+v", proto, got, want)
		}
	}
}

type cookieMaker struct{ make func(context.Context) }

func (c cookieMaker) Middleware(http.Handler) http.Handler {
	return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { c.make(r.Context()) })
}
func (cookieMaker) Require(context.Context) error { return nil }
func (cookieMaker) Caller(context.Context) string { return "" }
func (cookieMaker) Trusts(string) bool            { return false }
func (cookieMaker) SecuritySchemes() map[string]*huma.SecurityScheme {
	return nil
}

// What a page of another origin has the browser send is refused if the browser has added the cookie by itself, and it would
// change something.
func TestOtherOrigins(t *testing.T) {
	issuer := sessiontest.New(t)
	v := session.NewVerifier(issuer.Config, nil, nil)
	token := issuer.Token("ada")
	for name, test := range map[string]struct {
		header  []string
		foreign bool
	}{
		"a page of ours":                    {[]string{"Sec-Fetch-Site", "same-origin", "Origin", "http://shop.example"}, false},
		"somebody who types":                {[]string{"Sec-Fetch-Site", "none"}, false},
		"another page":                      {[]string{"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"}, true},
		"another page without an Origin":    {[]string{"Sec-Fetch-Site", "cross-site"}, true},
		"another host of the site":          {[]string{"Sec-Fetch-Site", "same-site", "Origin", "http://other.shop.example"}, true},
		"an old browser's page of ours":     {[]string{"Origin", "http://shop.example"}, false},
		"an old browser's other page":       {[]string{"Origin", "https://evil.example"}, true},
		"another port":                      {[]string{"Origin", "http://shop.example:8080"}, true},
		"a sandboxed page":                  {[]string{"Origin", "null"}, true},
		"a name that begins like ours":      {[]string{"Origin", "http://shop.example.evil.example"}, true},
		"no browser, which says nothing":    {nil, false},
		"a page that claims to be no other": {[]string{"Sec-Fetch-Site", "cross-site", "Origin", "http://shop.example"}, true},
	} {
		for carrier, headers := range map[string][]string{
			"cookie":         {"Cookie", "session=" + token},
			"garbled cookie": {"Cookie", "session=garbage"},
			"bearer":         {"Authorization", "Bearer " + token},
			"both":           {"Authorization", "Bearer " + token, "Cookie", "session=" + token},
			"no session":     nil,
		} {
			for _, method := range []string{"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"} {
				r := httptest.NewRequest(method, "http://shop.example/", nil)
				for pair := range slices.Chunk(slices.Concat(test.header, headers), 2) {
					r.Header.Set(pair[0], pair[1])
				}
				w, reached := httptest.NewRecorder(), false
				v.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true })).ServeHTTP(w, r)
				safe := method == "GET" || method == "HEAD" || method == "OPTIONS"
				want := test.foreign && strings.HasSuffix(carrier, "cookie") && !safe
				if reached == want || want && (w.Code != 403 || w.Header().Get("Content-Type") != "application/problem+json") {
					t.Errorf("%s from %s, %s: %d", method, name, carrier, w.Code)
				}
			}
		}
	}
}

func TestTrustedOrigins(t *testing.T) {
	var o session.Origin
	for _, bad := range []string{"shop.example", "https://shop.example/path", "*"} {
		if err := o.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	if err := o.UnmarshalText([]byte("https://shop.example")); err != nil {
		t.Fatal(err)
	}
	issuer := sessiontest.New(t)
	issuer.Config.TrustedOrigins = []session.Origin{o}
	v := session.NewVerifier(issuer.Config, nil, nil)
	for origin, want := range map[string]int{"https://shop.example": 200, "https://evil.example": 403} {
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		r.AddCookie(&http.Cookie{Name: session.Cookie, Value: issuer.Token("ada")})
		r.Header.Set("Origin", origin)
		w := httptest.NewRecorder()
		v.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})).ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%s: got %d, want %d", origin, w.Code, want)
		}
	}
}
