package conformance

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

const (
	signUp      = "/api/users/signup"
	signIn      = "/api/users/signin"
	signOut     = "/api/users/signout"
	currentUser = "/api/users/currentuser"
)

// whose is the e-mail address of the current user, "" if there is none.
func (c *check) whose(who *member, options ...option) string {
	c.Helper()
	var out struct {
		CurrentUser *struct{ ID, Email string }
	}
	a := c.want(http.StatusOK, &out, who, http.MethodGet, currentUser, nil, options...)
	c.members(a, "currentUser")
	if out.CurrentUser == nil {
		return ""
	}
	if out.CurrentUser.ID == "" || out.CurrentUser.Email == "" {
		c.Fatalf("%v; want an id and an address", a)
	}
	return out.CurrentUser.Email
}

// tooMany tries the same until that is too often. Before, the answer has another status.
func (c *check) tooMany(path string, credentials object, before int) {
	c.Helper()
	for range 60 {
		a, err := c.try(c.nobody, http.MethodPost, path, credentials)
		if err != nil {
			c.Fatal(err)
		}
		if a.status == http.StatusTooManyRequests {
			c.problem(a)
			c.retryAfter(a)
			return
		}
		if a.status != before {
			c.Fatalf("%v; want %d or 429", a, before)
		}
	}
	c.Error("60 tries in a row were not too many")
}

func auth() []rule {
	refusedPassword := func(password string) func(c *check) {
		return func(c *check) {
			in := credentials()
			in["password"] = password
			p := c.refused(http.StatusUnprocessableEntity, c.nobody, http.MethodPost, signUp, in)
			c.says(p, "Password must be between 8 and 128 characters")
			c.blames(p, "password")
		}
	}
	acceptedPassword := func(password string) func(c *check) {
		return func(c *check) {
			in := credentials()
			in["password"] = password
			c.enter(c.person(), signUp, in)
			c.enter(c.person(), signIn, in)
		}
	}
	return []rule{
		{"sign-up is 201 with the id and the address", func(c *check) {
			in := credentials()
			a := c.enter(c.person(), signUp, in)
			c.members(a, "id", "email")
			var user struct{ Email string }
			if err := json.Unmarshal([]byte(a.text), &user); err != nil || a.status != http.StatusCreated || user.Email != in["email"] {
				c.Errorf("%v; want 201 and the address", a)
			}
		}},
		{"sign-up begins a session", func(c *check) {
			in := credentials()
			m := c.person()
			c.enter(m, signUp, in)
			if got := c.whose(m); got != in["email"] {
				c.Errorf("the current user is %q, want %q", got, in["email"])
			}
		}},
		{"sign-up with no address that can be is 422", func(c *check) {
			for _, email := range []any{"", "x", "@example.com", "a@", "a b@example.com", "a@example", "Ann <ann@example.com>",
				"a@example.com, b@example.com",
				"a@-example.com", "a@example..com", " a@example.com", "a@example.com\n", nil, 1,
				strings.Repeat("a", 250) + "@example.com"} {
				p := c.refused(http.StatusUnprocessableEntity, c.nobody, http.MethodPost, signUp,
					object{"email": email, "password": password})
				c.says(p, "Email must be valid")
				c.blames(p, "email")
			}
		}},
		{"sign-up with 7 characters for a password is 422", refusedPassword("1234567")},
		{"sign-up with 129 characters for a password is 422", refusedPassword(strings.Repeat("x", 129))},
		{"sign-up with 8 characters for a password is accepted", acceptedPassword("12345678")},
		{"sign-up with 128 characters for a password is accepted", acceptedPassword(strings.Repeat("x", 128))},
		{"the length of a password counts code points: 7 are too few", refusedPassword(strings.Repeat("\U0001f3ab", 7))},
		{"the length of a password counts code points: 128 are not too many", acceptedPassword(strings.Repeat("\U0001f3ab", 128))},
		{"a password is not trimmed", func(c *check) {
			in := credentials()
			in["password"] = "   12345"
			c.enter(c.person(), signUp, in)
			c.enter(c.person(), signIn, in)
			in["password"] = "12345"
			c.refused(http.StatusUnauthorized, c.nobody, http.MethodPost, signIn, in)
			acceptedPassword(strings.Repeat(" ", 8))(c)
		}},
		{"sign-up with an address that is taken is 409", func(c *check) {
			in := credentials()
			c.enter(c.person(), signUp, in)
			in["password"] = "quite another one"
			c.says(c.refused(http.StatusConflict, c.nobody, http.MethodPost, signUp, in), "Email in use")
		}},
		{"an address is taken in every letter case", func(c *check) {
			in := credentials()
			c.enter(c.person(), signUp, in)
			in["email"] = strings.ToUpper(in["email"].(string))
			c.says(c.refused(http.StatusConflict, c.nobody, http.MethodPost, signUp, in), "Email in use")
		}},
		{"sign-in is 200 with the id and the address", func(c *check) {
			in := credentials()
			m := c.person()
			c.enter(m, signUp, in)
			id := m.id
			a := c.enter(m, signIn, in)
			c.members(a, "id", "email")
			if a.status != http.StatusOK || m.id != id {
				c.Errorf("%v; want 200 and the id %s", a, id)
			}
		}},
		{"sign-in begins a session", func(c *check) {
			in := credentials()
			c.enter(c.person(), signUp, in)
			m := c.person()
			c.enter(m, signIn, in)
			if got := c.whose(m); got != in["email"] {
				c.Errorf("the current user is %q, want %q", got, in["email"])
			}
		}},
		{"sign-in takes the address in every letter case", func(c *check) {
			in := credentials()
			c.enter(c.person(), signUp, in)
			c.enter(c.person(), signIn, object{"email": strings.ToUpper(in["email"].(string)), "password": password})
		}},
		{"sign-in with a wrong password is 401", func(c *check) {
			in := credentials()
			c.enter(c.person(), signUp, in)
			in["password"] = "a wrong password"
			c.says(c.refused(http.StatusUnauthorized, c.nobody, http.MethodPost, signIn, in), "Invalid credentials")
		}},
		{"sign-in says the same of an unknown address as of a wrong password", func(c *check) {
			in := credentials()
			c.enter(c.person(), signUp, in)
			in["password"] = "a wrong password"
			wrong := c.refused(http.StatusUnauthorized, c.nobody, http.MethodPost, signIn, in).answer
			none := c.refused(http.StatusUnauthorized, c.nobody, http.MethodPost, signIn, credentials()).answer
			if wrong.text != none.text {
				c.Errorf("%v\n%v\nwant the same", wrong, none)
			}
			names := func(h http.Header) []string { return slices.Sorted(maps.Keys(h)) }
			if !slices.Equal(names(wrong.header), names(none.header)) {
				c.Errorf("the headers are %q and %q, want the same", names(wrong.header), names(none.header))
			}
		}},
		{"sign-in takes as long for an unknown address as for a wrong password", func(c *check) {
			in := credentials()
			c.enter(c.person(), signUp, in)
			in["password"] = "a wrong password"
			wrong, none := time.Hour, time.Hour
			for range 7 { // the best of some, since others use the machine, too
				wrong = min(wrong, c.refused(http.StatusUnauthorized, c.nobody, http.MethodPost, signIn, in).answer.took)
				none = min(none, c.refused(http.StatusUnauthorized, c.nobody, http.MethodPost, signIn, credentials()).answer.took)
			}
			if wrong > 5*none || none > 5*wrong { // without hashing it is a hundred times
				c.Errorf("a wrong password takes %v and an unknown address %v", wrong, none)
			}
		}},
		{"sign-in with a password that nobody can have is just 401", func(c *check) {
			for _, password := range []string{"x", strings.Repeat("x", 1000)} {
				p := c.refused(http.StatusUnauthorized, c.nobody, http.MethodPost, signIn,
					object{"email": uuid.NewString() + "@example.com", "password": password})
				c.says(p, "Invalid credentials")
			}
		}},
		{"sign-in without a password is 422", func(c *check) {
			c.blames(c.refused(http.StatusUnprocessableEntity, c.nobody, http.MethodPost, signIn,
				object{"email": "ann@example.com", "password": ""}), "password")
		}},
		{"sign-in with no address that can be is 422", func(c *check) {
			p := c.refused(http.StatusUnprocessableEntity, c.nobody, http.MethodPost, signIn, object{"email": "x", "password": password})
			c.says(p, "Email must be valid")
		}},
		{"a refused sign-in sets no cookie", func(c *check) {
			a := c.refused(http.StatusUnauthorized, c.nobody, http.MethodPost, signIn, credentials()).answer
			if got := a.header.Values("Set-Cookie"); len(got) > 0 {
				c.Errorf("%v: it sets %q", a, got)
			}
		}},
		{"too many tries to sign in with one address are 429 with Retry-After", func(c *check) {
			c.tooMany(signIn, credentials(), http.StatusUnauthorized)
			c.refused(http.StatusUnauthorized, c.nobody, http.MethodPost, signIn, credentials()) // others are not held up
		}},
		{"too many tries to sign up with one address are 429 with Retry-After", func(c *check) {
			in := credentials()
			c.enter(c.person(), signUp, in)
			c.tooMany(signUp, in, http.StatusConflict)
			c.member() // others are not held up
		}},
		{"the current user of nobody is null", func(c *check) {
			if got := c.whose(c.nobody); got != "" {
				c.Errorf("it is %q", got)
			}
		}},
		{"the current user has an id and an address, and nothing more", func(c *check) {
			a := c.want(http.StatusOK, nil, c.seller, http.MethodGet, currentUser, nil)
			var out struct{ CurrentUser json.RawMessage }
			if err := json.Unmarshal([]byte(a.text), &out); err != nil {
				c.Fatal(err)
			}
			c.members(answer{request: a.request, status: a.status, text: string(out.CurrentUser)}, "id", "email")
		}},
		{"sign-out is 200 and an empty object", func(c *check) {
			m := c.member()
			a := c.want(http.StatusOK, nil, m, http.MethodPost, signOut, nil)
			c.members(a)
		}},
		{"sign-out without a session is the same", func(c *check) {
			a := c.want(http.StatusOK, nil, c.nobody, http.MethodPost, signOut, nil)
			c.members(a)
		}},
		{"sign-out does not mind a body", func(c *check) {
			c.want(http.StatusOK, nil, c.person(), http.MethodPost, signOut, "{}")
		}},
		{"sign-out clears the cookie", func(c *check) {
			m := c.member()
			a := c.want(http.StatusOK, nil, m, http.MethodPost, signOut, nil)
			cleared := c.sessionCookie(a)
			if cleared.Name != m.cookie.Name || cleared.Path != m.cookie.Path || cleared.Value != "" || cleared.MaxAge >= 0 &&
				!cleared.Expires.Before(time.Now()) {
				c.Errorf("%v: it sets %q", a, a.header.Get("Set-Cookie"))
			}
			if got := c.whose(m); got != "" {
				c.Errorf("the current user is %q", got)
			}
		}},
	}
}

func limits() []rule {
	return []rule{
		{"too many tries of one client to sign in or up are 429 with Retry-After, whatever the address", func(c *check) {
			// Most are with one address, whose own limit refuses them at no cost. They count for the client all the same.
			one := credentials()
			for range 60 {
				answers := c.all(func(i int) (answer, error) {
					switch i {
					case 0:
						return c.try(c.nobody, http.MethodPost, signIn, credentials())
					case 1:
						return c.try(c.person(), http.MethodPost, signUp, credentials())
					}
					return c.try(c.nobody, http.MethodPost, signIn, one)
				})
				if statuses(answers[:2])[http.StatusTooManyRequests] == 2 {
					for _, a := range answers[:2] {
						c.problem(a)
						c.retryAfter(a)
					}
					c.whose(c.nobody) // what else the client asks is not held up
					return
				}
			}
			c.Errorf("%d tries in a row were not too many", 60*crowd)
		}},
	}
}

// part decodes one of the three parts of a token.
func part(token string, i int) (out object) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[i])
	if err != nil || json.Unmarshal(text, &out) != nil {
		return nil
	}
	return out
}

// forged returns a token with another header or payload.
func forged(token string, i int, members object) string {
	parts := strings.Split(token, ".")
	changed := part(token, i)
	maps.Copy(changed, members)
	text, err := json.Marshal(changed)
	if err != nil {
		panic(err) // it was JSON before
	}
	parts[i] = base64.RawURLEncoding.EncodeToString(text)
	return strings.Join(parts, ".")
}

func sessions() []rule {
	rules := []rule{
		{"the cookie is HttpOnly, SameSite=Lax and for all paths", func(c *check) {
			k := c.seller.cookie
			if !k.HttpOnly || k.SameSite != http.SameSiteLaxMode || k.Path != "/" || k.Domain != "" {
				c.Errorf("the cookie is %q", k.Raw)
			}
		}},
		{"the cookie is Secure exactly over TLS", func(c *check) {
			if want := strings.HasPrefix(c.site.URL, "https:"); c.seller.cookie.Secure != want {
				c.Errorf("the cookie is %q, want Secure: %t", c.seller.cookie.Raw, want)
			}
		}},
		{"the cookie lasts as long as the session", func(c *check) {
			left := time.Until(c.seller.cookie.Expires)
			if c.seller.cookie.MaxAge > 0 {
				left = time.Duration(c.seller.cookie.MaxAge) * time.Second
			}
			if left > 12*time.Hour+time.Minute || left < 11*time.Hour {
				c.Errorf("the cookie %q has %v left, want 12 hours", c.seller.cookie.Raw, left)
			}
		}},
		{"a session is a signed token with kid, iss, aud, exp, jti", func(c *check) {
			head, claims := part(c.seller.cookie.Value, 0), part(c.seller.cookie.Value, 1)
			for _, name := range []string{"iss", "aud", "exp", "jti", "sub"} {
				if claims[name] == nil || claims[name] == "" {
					c.Errorf("the claims are %v, want %s", claims, name)
				}
			}
			if head["alg"] != "EdDSA" || head["kid"] == nil {
				c.Errorf("the header is %v, want EdDSA and a kid", head)
			}
			exp, _ := claims["exp"].(float64)
			if left := time.Until(time.Unix(int64(exp), 0)); left > 12*time.Hour || left < 11*time.Hour {
				c.Errorf("it expires in %v, want 12 hours", left)
			}
		}},
		{"a session's key is among the published ones", func(c *check) {
			var set struct{ Keys []object }
			c.want(http.StatusOK, &set, c.nobody, http.MethodGet, "/.well-known/jwks.json", nil)
			kid := part(c.seller.cookie.Value, 0)["kid"]
			if !slices.ContainsFunc(set.Keys, func(key object) bool { return key["kid"] == kid }) {
				c.Errorf("there is no key %v among %v", kid, set.Keys)
			}
		}},
		{"every session has an id of its own", func(c *check) {
			in := credentials()
			first, second := c.person(), c.person()
			c.enter(first, signUp, in)
			c.enter(second, signIn, in)
			if a, b := part(first.cookie.Value, 1)["jti"], part(second.cookie.Value, 1)["jti"]; a == b {
				c.Errorf("both have %v", a)
			}
		}},
		{"a bearer token is as good as the cookie", func(c *check) {
			if c.whose(c.nobody, bearer(c.seller)) == "" {
				c.Error("there is no current user")
			}
			for _, path := range []string{"/api/tickets/mine", "/api/orders", "/api/payments"} {
				c.want(http.StatusOK, nil, c.nobody, http.MethodGet, path, nil, bearer(c.seller))
			}
			c.want(http.StatusCreated, nil, c.nobody, http.MethodPost, "/api/tickets", object{"title": "A", "price": 1},
				bearer(c.seller))
		}},
		{"the word Bearer is the same in every letter case", func(c *check) {
			if c.whose(c.nobody, header("Authorization", "bearer "+c.seller.cookie.Value)) == "" {
				c.Error("there is no current user")
			}
		}},
	}
	for _, method := range []string{
		"GET /api/tickets/mine", "POST /api/tickets", "PUT /api/tickets/" + unknown, "DELETE /api/tickets/" + unknown,
		"POST /api/orders", "GET /api/orders", "GET /api/orders/" + unknown, "DELETE /api/orders/" + unknown,
		"POST /api/payments", "GET /api/payments",
	} {
		method, path, _ := strings.Cut(method, " ")
		name := strings.ReplaceAll(strings.TrimPrefix(path, "/api/"), unknown, "{id}")
		rules = append(rules, rule{fmt.Sprintf("%s %s without a session is 401", method, name), func(c *check) {
			c.refused(http.StatusUnauthorized, c.nobody, method, path, nil)
		}})
	}
	for name, garble := range map[string]func(token string) string{
		"garbled":                    func(token string) string { return "garbled" },
		"empty":                      func(token string) string { return "" },
		"cut short":                  func(token string) string { return token[:len(token)/2] },
		"with another signature":     func(token string) string { return token[:len(token)-8] + "AAAAAAAA" },
		"without a signature":        func(token string) string { return token[:strings.LastIndexByte(token, '.')+1] },
		"with somebody else's id":    func(token string) string { return forged(token, 1, object{"sub": unknown}) },
		"with a later end":           func(token string) string { return forged(token, 1, object{"exp": 4102444800}) },
		"that has expired":           func(token string) string { return forged(token, 1, object{"exp": 1}) },
		"with the algorithm none":    func(token string) string { return forged(token, 0, object{"alg": "none"}) },
		"with a symmetric algorithm": func(token string) string { return forged(token, 0, object{"alg": "HS256"}) },
		"with an unknown key":        func(token string) string { return forged(token, 0, object{"kid": "unknown"}) },
		"with a key of a stranger's": func(token string) string { return forged(token, 0, object{"jku": "http://127.0.0.1:1/"}) },
	} {
		rules = append(rules, rule{"a token " + name + " is an anonymous caller", func(c *check) {
			token := garble(c.seller.cookie.Value)
			for _, as := range []option{header("Authorization", "Bearer "+token), header("Cookie", c.seller.cookie.Name+"="+token)} {
				if got := c.whose(c.nobody, as); got != "" {
					c.Errorf("the current user is %q", got)
				}
				c.want(http.StatusOK, nil, c.nobody, http.MethodGet, "/api/tickets", nil, as)
				for _, path := range []string{"/api/tickets/mine", "/api/orders", "/api/payments"} {
					c.refused(http.StatusUnauthorized, c.nobody, http.MethodGet, path, nil, as)
				}
			}
		}})
	}
	for name, path := range map[string]string{
		"tickets": "/api/tickets/mine", "orders": "/api/orders", "payments": "/api/payments",
	} {
		rules = append(rules, rule{"a session that was signed out is revoked in " + name, func(c *check) {
			m := c.member()
			as := bearer(m)
			c.want(http.StatusOK, nil, c.nobody, http.MethodGet, path, nil, as)
			c.want(http.StatusOK, nil, m, http.MethodPost, signOut, nil)
			for _, by := range []option{as, header("Cookie", m.cookie.Name+"="+m.cookie.Value)} { // which may come to two processes
				c.soon("the session is revoked", func() error {
					a := c.send(c.nobody, http.MethodGet, path, nil, by)
					if a.status != http.StatusUnauthorized {
						return fmt.Errorf("%v; want 401", a)
					}
					c.problem(a)
					return nil
				})
			}
		}})
	}
	return append(rules,
		rule{"a session that was signed out is revoked in auth", func(c *check) {
			m := c.member()
			as := bearer(m)
			c.want(http.StatusOK, nil, m, http.MethodPost, signOut, nil)
			c.soon("the session is revoked", func() error {
				if got := c.whose(c.nobody, as); got != "" {
					return fmt.Errorf("the current user is %q", got)
				}
				return nil
			})
		}},
		rule{"signing out with a bearer token revokes it", func(c *check) {
			m := c.member()
			c.want(http.StatusOK, nil, c.nobody, http.MethodPost, signOut, nil, bearer(m))
			c.soon("the session is revoked", func() error {
				if a := c.send(m, http.MethodGet, "/api/orders", nil); a.status != http.StatusUnauthorized {
					return fmt.Errorf("%v; want 401", a)
				}
				return nil
			})
		}},
		rule{"signing out ends no other session of the same user", func(c *check) {
			in := credentials()
			one, two := c.person(), c.person()
			c.enter(one, signUp, in)
			c.enter(two, signIn, in)
			as := bearer(one)
			c.want(http.StatusOK, nil, one, http.MethodPost, signOut, nil)
			c.soon("the session is revoked", func() error {
				if a := c.send(c.nobody, http.MethodGet, "/api/tickets/mine", nil, as); a.status != http.StatusUnauthorized {
					return fmt.Errorf("%v; want 401", a)
				}
				return nil
			})
			c.want(http.StatusOK, nil, two, http.MethodGet, "/api/tickets/mine", nil)
			if c.whose(two) == "" {
				c.Error("the other session has ended")
			}
		}},
		rule{"who has signed out can sign in again", func(c *check) {
			in := credentials()
			m := c.person()
			c.enter(m, signUp, in)
			c.want(http.StatusOK, nil, m, http.MethodPost, signOut, nil)
			c.enter(m, signIn, in)
			c.want(http.StatusOK, nil, m, http.MethodGet, "/api/tickets/mine", nil)
		}},
		rule{"a cookie of somebody else's making does not matter beside the session", func(c *check) {
			c.want(http.StatusOK, nil, c.nobody, http.MethodGet, "/api/orders", nil,
				header("Cookie", "theme=dark; "+c.seller.cookie.Name+"="+c.seller.cookie.Value+"; x=y"))
		}},
	)
}
