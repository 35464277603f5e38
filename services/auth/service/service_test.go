package service_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/turnstile-go/turnstile/framework"
	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/event/eventtest"
	"github.com/turnstile-go/turnstile/framework/servicetest"
	"github.com/turnstile-go/turnstile/framework/web/session"
	"github.com/turnstile-go/turnstile/services/auth"
	"github.com/turnstile-go/turnstile/services/auth/service"
)

// harness is the service, whole.
type harness struct{ *servicetest.Service }

func start(t *testing.T, on servicetest.Database, environ ...string) *harness {
	t.Helper()
	others := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, others) }) // the last to run: all of this test has gone
	return &harness{servicetest.Start(t, "auth", service.Assemble, on,
		append([]string{"PASSWORD_MEMORY=64", "PASSWORD_ITERATIONS=1", "RATE_LIMIT_ADDRESS=0"}, environ...)...)}
}

// onBoth runs a test on each kind of database.
func onBoth(t *testing.T, test func(t *testing.T, h *harness)) {
	servicetest.Each(t, func(t *testing.T, on servicetest.Database) { test(t, start(t, on)) })
}

type answer struct {
	status   int
	header   http.Header
	body     string
	messages string // of a problem
}

// session returns the value of the session cookie that the answer sets.
func (a answer) session() string {
	for _, c := range (&http.Response{Header: a.header}).Cookies() {
		if c.Name == session.Cookie {
			return c.Value
		}
	}
	return ""
}

// call sends a request to one of the processes. Headers are names and values by
// turns.
func (h *harness) call(t *testing.T, process int, method, path, body string, headers ...string) answer {
	t.Helper()
	res, err := h.Send(t.Context(), "", method, h.URLs[process%len(h.URLs)]+path, body, headers...)
	if err != nil {
		t.Error(err)
	}
	return answer{res.Status, res.Header, string(res.Body), strings.Join(res.Messages(), "; ")}
}

func (h *harness) post(t *testing.T, process int, path, body string, headers ...string) answer {
	t.Helper()
	return h.call(t, process, http.MethodPost, "/api/users/"+path, body, headers...)
}

func (h *harness) currentUser(t *testing.T, process int, headers ...string) string {
	t.Helper()
	a := h.call(t, process, http.MethodGet, "/api/users/currentuser", "", headers...)
	if a.status != http.StatusOK {
		t.Errorf("currentuser: %d %s", a.status, a.body)
	}
	return a.body
}

func credentials(email, password string) string {
	data, err := json.Marshal(map[string]string{"email": email, "password": password})
	if err != nil {
		panic(err)
	}
	return string(data)
}

type identity struct{ ID, Email string }

func identityOf(t *testing.T, a answer) (u identity) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), &u); err != nil || u.ID == "" {
		t.Fatalf("no user in %d %s", a.status, a.body)
	}
	return u
}

// hears has a peer that hears of registrations.
func hears(t *testing.T, broker event.Broker) *eventtest.Peer {
	t.Helper()
	peer := eventtest.NewPeer(t, broker)
	eventtest.Hear[auth.Registered](peer)
	peer.Start()
	return peer
}

func TestSignUpInAndOut(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		peer := hears(t, h.Broker)
		a := h.post(t, 0, "signup", credentials("Ada@Example.com", " pass wörd "))
		if a.status != http.StatusCreated {
			t.Fatalf("sign-up: %d %s", a.status, a.body)
		}
		u := identityOf(t, a)
		if u.Email != "Ada@Example.com" {
			t.Errorf("signed up as %+v", u)
		}
		cookie := a.header.Get("Set-Cookie")
		for _, want := range []string{"session=ey", "; Path=/", "; HttpOnly", "; SameSite=Lax", "; Expires="} {
			if !strings.Contains(cookie, want) {
				t.Errorf("the cookie lacks %q: %s", want, cookie)
			}
		}
		if strings.Contains(cookie, "Secure") {
			t.Errorf("the cookie could not come back over http: %s", cookie)
		}
		me := fmt.Sprintf(`{"currentUser":{"id":%q,"email":"Ada@Example.com"}}`, u.ID)
		for process := range len(h.URLs) { // the processes share a key
			if got := h.currentUser(t, process, "Cookie", "session="+a.session()); got != me {
				t.Errorf("process %d, by cookie: %s", process, got)
			}
			if got := h.currentUser(t, process, "Authorization", "Bearer "+a.session()); got != me {
				t.Errorf("process %d, by bearer token: %s", process, got)
			}
		}
		if got := h.currentUser(t, 0); got != `{"currentUser":null}` {
			t.Errorf("anonymous: %s", got)
		}
		if got := h.currentUser(t, 0, "Cookie", "session=garbled"); got != `{"currentUser":null}` {
			t.Errorf("garbled: %s", got)
		}

		in := h.post(t, 1, "signin", credentials("ada@EXAMPLE.com", " pass wörd "))
		if in.status != http.StatusOK || in.body != a.body || in.session() == "" {
			t.Errorf("sign-in: %d %s", in.status, in.body)
		}

		for _, headers := range [][]string{{"Cookie", "session=" + in.session()}, nil} {
			out := h.post(t, 0, "signout", "", headers...)
			cleared := out.header.Get("Set-Cookie")
			if out.status != http.StatusOK || out.body != `{}` || !strings.HasPrefix(cleared, "session=; Path=/;") || !strings.Contains(cleared, "Max-Age=0") {
				t.Errorf("sign-out: %d %s %s", out.status, out.body, cleared)
			}
		}

		first := eventtest.Await(peer, func(auth.Registered) bool { return true })
		if first != (auth.Registered{ID: u.ID, Email: "Ada@Example.com"}) {
			t.Errorf("heard of %+v", first)
		}
	})
}

func TestCookieIsSecureBehindTLS(t *testing.T) {
	h := start(t, servicetest.SQLite(t))
	a := h.post(t, 0, "signup", credentials("ada@example.com", "password"), "X-Forwarded-Proto", "https")
	if cookie := a.header.Get("Set-Cookie"); !strings.Contains(cookie, "; Secure") {
		t.Errorf("the cookie may travel in the clear: %s", cookie)
	}
}

func TestWhatIsNotValid(t *testing.T) {
	h := start(t, servicetest.SQLite(t))
	const email, password = "Email must be valid", "Password must be between 8 and 128 characters"
	for _, test := range []struct {
		path, body string
		status     int
		messages   string
	}{
		{"signup", `{}`, 422, email + "; " + password},
		{"signup", `{"password":"short","email":"nonsense"}`, 422, email + "; " + password},
		{"signup", `{"email":5,"password":["password"]}`, 422, email + "; " + password},
		{"signup", credentials("ada@example.com", "1234567"), 422, password},
		{"signup", credentials("ada@example.com", strings.Repeat("x", 129)), 422, password},
		{"signup", credentials(" ada@example.com", "12345678"), 422, email},
		{"signup", `{"EMAIL":"ada@example.com","password":"12345678"}`, 422, email},
		{"signup", ``, 422, "A JSON object is required"},
		{"signup", `[]`, 422, "A JSON object is required"},
		{"signup", `{`, 400, "The body is not well-formed JSON"},
		{"signin", `{}`, 422, email + "; You must supply a password"},
		{"signin", credentials("ada@example.com", "short"), 401, "Invalid credentials"},
		{"signin", credentials("ada@example.com", strings.Repeat("x", 5000)), 401, "Invalid credentials"},
	} {
		a := h.post(t, 0, test.path, test.body)
		if a.status != test.status || a.messages != test.messages || a.session() != "" {
			t.Errorf("%s %s: got %d %s", test.path, test.body, a.status, a.body)
		}
	}
}

func TestWrongPasswordAndUnknownAddressAreAlike(t *testing.T) {
	h := start(t, servicetest.SQLite(t))
	h.post(t, 0, "signup", credentials("ada@example.com", "password"))
	wrong := h.post(t, 0, "signin", credentials("ada@example.com", "Password"))
	unknown := h.post(t, 0, "signin", credentials("eve@example.com", "password"))
	if wrong.status != http.StatusUnauthorized || wrong.messages != "Invalid credentials" {
		t.Errorf("wrong password: %d %s", wrong.status, wrong.body)
	}
	if unknown.status != wrong.status || unknown.body != wrong.body || len(unknown.header) != len(wrong.header) {
		t.Errorf("they differ: %v and %v", unknown, wrong)
	}
}

// stored returns the hash that is stored for an address, and has another stored
// unless that is empty.
func stored(t *testing.T, on servicetest.Database, email, other string) (hash string) {
	t.Helper()
	db, err := database.New(database.Config{URL: on.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.InTx(t.Context(), func(tx *database.Tx) error {
		if other != "" {
			if _, err := tx.ExecContext(t.Context(), `UPDATE users SET password = $1 WHERE email_folded = $2`, other, email); err != nil {
				return err
			}
		}
		return tx.QueryRowContext(t.Context(), `SELECT password FROM users WHERE email_folded = $1`, email).Scan(&hash)
	}); err != nil {
		t.Fatal(err)
	}
	return hash
}

// A password is kept at the cost that is configured from the next sign-in on.
func TestPasswordIsHashedAnew(t *testing.T) {
	servicetest.Each(t, func(t *testing.T, on servicetest.Database) {
		h := start(t, on)
		h.post(t, 0, "signup", credentials("ada@example.com", "password"))
		const dear = "$argon2id$v=19$m=128,t=2,p=1$"
		before := stored(t, on, "ada@example.com", "")
		h.Stop()
		h = &harness{servicetest.Start(t, "auth", service.Assemble, on, "PASSWORD_MEMORY=128", "PASSWORD_ITERATIONS=2")}
		if a := h.post(t, 0, "signin", credentials("ada@example.com", "Password")); a.status != http.StatusUnauthorized {
			t.Errorf("wrong password: %d %s", a.status, a.body)
		}
		if now := stored(t, on, "ada@example.com", ""); now != before {
			t.Errorf("a wrong password has changed the hash from %s to %s", before, now)
		}
		for range 2 {
			if a := h.post(t, 0, "signin", credentials("ada@example.com", "password")); a.status != http.StatusOK {
				t.Errorf("%d %s", a.status, a.body)
			}
			if now := stored(t, on, "ada@example.com", ""); !strings.HasPrefix(now, dear) {
				t.Errorf("the hash is %s", now)
			}
		}
	})
}

// After a change of the cost a process takes from its start on the work of both
// costs to say no, and so tells nobody who has an address. The work is measured
// in memory taken.
func TestANoOfTwoCosts(t *testing.T) {
	servicetest.Each(t, func(t *testing.T, on servicetest.Database) {
		const dear = 64 << 10 // KiB: much more than all else here takes
		h := start(t, on, fmt.Sprintf("PASSWORD_MEMORY=%d", dear))
		h.post(t, 0, "signup", credentials("ada@example.com", "password"))
		h.Stop()
		h = start(t, on)
		for _, email := range []string{"nobody@example.com", "ada@example.com", "nobody@example.com"} {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			if a := h.post(t, 0, "signin", credentials(email, "Password")); a.status != http.StatusUnauthorized {
				t.Errorf("%s: %d %s", email, a.status, a.body)
			}
			runtime.ReadMemStats(&after)
			if took := (after.TotalAlloc - before.TotalAlloc) >> 10; took < dear || took > dear+dear/2 {
				t.Errorf("%s: a no takes %d KiB, want little more than %d", email, took, dear)
			}
		}
	})
}

// What became of a stored hash is nobody's business.
func TestDamagedHash(t *testing.T) {
	on := servicetest.SQLite(t)
	h := start(t, on)
	h.post(t, 0, "signup", credentials("ada@example.com", "password"))
	unknown := h.post(t, 0, "signin", credentials("eve@example.com", "password"))
	for _, damaged := range []string{"damaged", "$argon2id$v=19$m=64,t=1,p=1$$", "$argon2id$v=19$m=4294967295,t=1,p=1$c2FsdHNhbHQ$a2V5a2V5a2V5"} {
		stored(t, on, "ada@example.com", damaged)
		if a := h.post(t, 0, "signin", credentials("ada@example.com", "password")); a.status != unknown.status || a.body != unknown.body {
			t.Errorf("%s: %d %s", damaged, a.status, a.body)
		}
	}
}

func TestCostThatMakesNoSense(t *testing.T) {
	var problems bytes.Buffer
	err := framework.Run(t.Context(), "auth", service.New, framework.Options{
		Args: []string{"check"}, Environ: []string{"DATABASE_URL=sqlite::memory:", "PASSWORD_MEMORY=0", "PASSWORD_ITERATIONS=1000"}, Stderr: &problems,
	})
	for _, want := range []string{"PASSWORD_MEMORY is 0", "PASSWORD_ITERATIONS is 1000: want from 1 to 100"} {
		if err == nil || !strings.Contains(problems.String(), want) {
			t.Errorf("%v: %s: lacks %q", err, &problems, want)
		}
	}
}

// Of many sign-ups of one address at once, in whatever letter case and to
// whichever process, one succeeds, and one event says so.
func TestManySignUpsOfOneAddress(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		peer := hears(t, h.Broker)
		const n = 20
		answers := make([]answer, n)
		var all sync.WaitGroup
		for i := range n {
			email := []string{"ada@example.com", "ADA@example.COM"}[i%2]
			all.Go(func() { answers[i] = h.post(t, i, "signup", credentials(email, fmt.Sprintf("password %d", i))) })
		}
		all.Wait()
		winner := -1
		for i, a := range answers {
			switch {
			case a.status == http.StatusCreated && winner < 0:
				winner = i
			case a.status != http.StatusConflict || a.messages != "Email in use" || a.session() != "":
				t.Errorf("sign-up %d: %d %s", i, a.status, a.body)
			}
		}
		if winner < 0 {
			t.Fatal("nobody has signed up")
		}
		for i := range n {
			want := http.StatusUnauthorized
			if i == winner {
				want = http.StatusOK
			}
			if a := h.post(t, i, "signin", credentials("Ada@Example.com", fmt.Sprintf("password %d", i))); a.status != want {
				t.Errorf("password %d: %d", i, a.status)
			}
		}
		last := h.post(t, 0, "signup", credentials("last@example.com", "password"))
		want := map[string]bool{identityOf(t, answers[winner]).ID: true, identityOf(t, last).ID: true}
		for id := range want {
			eventtest.Await(peer, func(e auth.Registered) bool { return e.ID == id })
		}
		for _, e := range eventtest.Heard[auth.Registered](peer) {
			if !want[e.ID] {
				t.Errorf("heard of %+v", e)
			}
			delete(want, e.ID)
		}
	})
}

func TestPublishedKeysVerifySessions(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		a := h.post(t, 0, "signup", credentials("ada@example.com", "password"))
		other := session.NewVerifier(session.Config{JWKSURL: h.URLs[len(h.URLs)-1] + "/.well-known/jwks.json"}, nil, nil)
		caller, err := other.Verify(t.Context(), a.session())
		if err != nil || caller != (session.Caller{ID: identityOf(t, a).ID, Email: "ada@example.com"}) {
			t.Errorf("got %+v %v", caller, err)
		}
		var sets []string
		for process := range len(h.URLs) {
			set := h.call(t, process, http.MethodGet, "/.well-known/jwks.json", "")
			if set.status != http.StatusOK || strings.Contains(set.body, `"d"`) || !strings.Contains(set.body, `"crv":"Ed25519"`) {
				t.Errorf("%d %s", set.status, set.body)
			}
			sets = append(sets, set.body)
		}
		for _, set := range sets {
			if set != sets[0] {
				t.Errorf("the processes have different keys: %s", sets)
			}
		}
	})
}

func TestKeySurvivesRestart(t *testing.T) {
	database := servicetest.SQLite(t)
	var token string
	t.Run("before", func(t *testing.T) {
		token = start(t, database).post(t, 0, "signup", credentials("ada@example.com", "password")).session()
	})
	t.Run("after", func(t *testing.T) {
		if got := start(t, database).currentUser(t, 0, "Cookie", "session="+token); !strings.Contains(got, "ada@example.com") {
			t.Errorf("signed out by a restart: %s", got)
		}
	})
}

// Whoever signs out is signed out in every process, however the session is presented, and everybody is told once.
func TestSignOutRevokes(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		peer := eventtest.NewPeer(t, h.Broker)
		eventtest.Hear[session.Revoked](peer)
		peer.Start()
		const nobody = `{"currentUser":null}`
		first := h.post(t, 0, "signup", credentials("ada@example.com", "password")).session()
		signIn := func() string {
			return h.post(t, 0, "signin", credentials("ada@example.com", "password")).session()
		}
		refused := func(token string) {
			t.Helper()
			h.Eventually(func() error {
				for process := range h.URLs {
					for _, header := range [][]string{{"Cookie", "session=" + token}, {"Authorization", "Bearer " + token}} {
						if got := h.currentUser(t, process, header...); got != nobody {
							return fmt.Errorf("process %d takes the %s for %s", process, header[0], got)
						}
					}
				}
				return nil
			})
		}
		want := 0
		for name, headers := range map[string][]string{
			"a cookie":       {"Cookie", "session=" + signIn()},
			"a bearer token": {"Authorization", "Bearer " + signIn()},
			"both":           {"Authorization", "Bearer " + signIn(), "Cookie", "session=" + signIn()},
			"no session":     nil,
			"garbage":        {"Cookie", "session=garbage", "Authorization", "Bearer garbage"},
			"an empty one":   {"Cookie", "session=", "Authorization", "Bearer "},
		} {
			var all sync.WaitGroup
			for i := range 8 { // at once and again: it is done once
				all.Go(func() {
					a := h.post(t, i, "signout", "", headers...)
					if a.status != http.StatusOK || a.body != `{}` || !strings.HasPrefix(a.header.Get("Set-Cookie"), "session=; Path=/;") {
						t.Errorf("%s: %d %s %s", name, a.status, a.body, a.header.Get("Set-Cookie"))
					}
				})
			}
			all.Wait()
			for pair := range slices.Chunk(headers, 2) {
				token := strings.TrimPrefix(strings.TrimPrefix(pair[1], "Bearer "), "session=")
				if refused(token); strings.HasPrefix(token, "ey") {
					want++
				}
			}
		}
		for process := range h.URLs {
			if got := h.currentUser(t, process, "Cookie", "session="+first); got == nobody {
				t.Error("another session of the same user is ended")
			}
		}
		h.post(t, 0, "signout", "", "Cookie", "session="+first)
		want++
		refused(first)

		last := signIn()
		h.post(t, 0, "signout", "", "Cookie", "session="+last)
		want++
		h.Eventually(func() error {
			heard := map[string]int{}
			for _, e := range eventtest.Heard[session.Revoked](peer) {
				if heard[e.ID]++; heard[e.ID] > 1 {
					t.Fatalf("heard twice of %s", e.ID)
				}
				if left := time.Until(e.ExpiresAt); left > session.Lifetime || left < session.Lifetime-time.Minute {
					t.Errorf("the session would end in %v", left)
				}
			}
			if len(heard) != want {
				return fmt.Errorf("heard of %d, want %d", len(heard), want)
			}
			return nil
		})

		processes := len(h.URLs)
		h.Stop()
		for range processes {
			h.Boot()
		}
		for process := range h.URLs {
			if got := h.currentUser(t, process, "Cookie", "session="+last); got != nobody {
				t.Errorf("after a restart process %d takes it for %s", process, got)
			}
		}
	})
}

// An operator who withdraws the key that signs ends all sessions, in every
// process and, by an event, in every service; new ones can be started at once.
func TestWithdrawnKey(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		peer := eventtest.NewPeer(t, h.Broker)
		eventtest.Hear[session.Revoked](peer)
		peer.Start()
		token := h.post(t, 0, "signup", credentials("ada@example.com", "password")).session()
		keys := func(process int, method, path, body string) (keys []struct{ ID, State string }) {
			a, err := h.Send(t.Context(), "", method, h.AdminURLs[process]+"/debug/keys/"+path, body)
			if err == nil {
				err = json.Unmarshal(a.Body, &keys)
			}
			if err != nil || a.Status != http.StatusOK || len(keys) == 0 {
				t.Fatalf("%s %s: %v %v", method, path, a, err)
			}
			return keys
		}
		old := keys(0, "GET", "", "")[0].ID
		if all := keys(0, "POST", "withdraw", `{"id": "`+old+`"}`); all[0].ID == old || all[0].State != "signing" {
			t.Errorf("the keys are then %v", all)
		}
		eventtest.Await(peer, func(e session.Revoked) bool { return e.ID == old && time.Until(e.ExpiresAt) > session.Lifetime })
		h.Eventually(func() error {
			for process := range h.URLs {
				if got := h.currentUser(t, process, "Cookie", "session="+token); got != `{"currentUser":null}` {
					return fmt.Errorf("process %d: %s", process, got)
				}
				if all := keys(process, "GET", "", ""); all[0].ID == old {
					return fmt.Errorf("process %d has the keys %v", process, all)
				}
			}
			return nil
		})
		for process := range h.URLs {
			young := h.post(t, process, "signin", credentials("ada@example.com", "password")).session()
			for other := range h.URLs {
				if got := h.currentUser(t, other, "Cookie", "session="+young); !strings.Contains(got, "ada@example.com") {
					t.Errorf("process %d takes a new session of process %d for %s", other, process, got)
				}
			}
		}
	})
}

func TestAttemptsAreLimited(t *testing.T) {
	t.Run("of an address", func(t *testing.T) {
		h := start(t, servicetest.SQLite(t), "RATE_LIMIT_ADDRESS=1", "RATE_LIMIT_ADDRESS_BURST=4")
		h.post(t, 0, "signup", credentials("ada@example.com", "password"))
		want := func(status int, path, email, password string, from ...string) {
			t.Helper()
			a := h.post(t, 0, path, credentials(email, password), from...)
			if a.status != status {
				t.Errorf("%s of %s: %d %s, want %d", path, email, a.status, a.body, status)
			}
			after, _ := strconv.Atoi(a.header.Get("Retry-After"))
			if status == http.StatusTooManyRequests && (a.messages == "" || after < 1 || after > 60 || a.session() != "") {
				t.Errorf("%s after %d s", a.body, after)
			}
		}
		want(401, "signin", "Ada@example.com", "a wrong one", "X-Forwarded-For", "192.0.2.1")
		want(401, "signin", "ada@EXAMPLE.com", "a wrong one", "X-Forwarded-For", "192.0.2.2")
		want(409, "signup", "ada@example.com", "password", "X-Forwarded-For", "192.0.2.3")
		want(429, "signin", "ADA@example.com", "password", "X-Forwarded-For", "192.0.2.4") // also with the right one
		want(429, "signup", "ada@example.com", "password", "X-Forwarded-For", "192.0.2.5")
		want(422, "signin", "ada@example.com", "")
		for range 4 { // an address that nobody has
			want(401, "signin", "eve@example.com", "password")
		}
		want(429, "signin", "eve@example.com", "password")
		want(201, "signup", "bob@example.com", "password")
	})
	t.Run("of a client", func(t *testing.T) {
		h := start(t, servicetest.SQLite(t), "RATE_LIMIT_CLIENT=1", "RATE_LIMIT_CLIENT_BURST=3", "RATE_LIMIT_ADDRESS=1", "RATE_LIMIT_ADDRESS_BURST=3")
		from := func(client string, n, status int) {
			t.Helper()
			for i := range n {
				email := fmt.Sprintf("%d@example.com", i)
				if a := h.post(t, 0, "signin", credentials(email, "password"), "X-Forwarded-For", client); a.status != status {
					t.Errorf("%s: %d %s, want %d", client, a.status, a.body, status)
				}
			}
		}
		from("192.0.2.1", 3, 401)
		from("192.0.2.1", 9, 429) // which does not count for the addresses
		from("192.0.2.2", 2, 401)
		from("2001:db8::1", 2, 401)
		from("2001:db8::2", 1, 429) // 0@example.com's three are used up
		a := h.post(t, 0, "signup", credentials("somebody@example.com", "password"), "X-Forwarded-For", "2001:db8::3")
		if a.status != 429 { // of the same /64
			t.Errorf("%d %s", a.status, a.body)
		}
		if got := h.currentUser(t, 0, "X-Forwarded-For", "192.0.2.1"); got != `{"currentUser":null}` {
			t.Errorf("what else the client asks: %s", got)
		}
	})
}

// A sign-up that is repeated with its Idempotency-Key, because the answer was
// lost, has the same answer and the same session.
func TestSignUpIsRepeated(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		peer := hears(t, h.Broker)
		key := []string{"Idempotency-Key", "f6cfbf0c-0bd9-4e2b-9f5b-6f0b8d6d8c3a"}
		first := h.post(t, 0, "signup", credentials("ada@example.com", "password"), key...)
		if first.status != http.StatusCreated || first.session() == "" {
			t.Fatalf("%d %s", first.status, first.body)
		}
		for process := range h.URLs {
			again := h.post(t, process, "signup", `{ "password": "password", "email": "ada@example.com" }`, key...)
			if again.status != http.StatusCreated || again.body != first.body || again.header.Get("Set-Cookie") != first.header.Get("Set-Cookie") {
				t.Errorf("process %d: %d %s %s, want %s %s", process, again.status, again.body, again.header.Get("Set-Cookie"),
					first.body, first.header.Get("Set-Cookie"))
			}
		}
		if a := h.post(t, 0, "signup", credentials("ada@example.com", "Password"), key...); a.status != http.StatusUnprocessableEntity || a.session() != "" {
			t.Errorf("with another password: %d %s", a.status, a.body)
		}
		if a := h.post(t, 0, "signup", credentials("ada@example.com", "password")); a.status != http.StatusConflict {
			t.Errorf("without the key: %d %s", a.status, a.body)
		}
		// A refusal is not kept.
		other := []string{"Idempotency-Key", "another"}
		if a := h.post(t, 0, "signup", credentials("ADA@example.com", "password"), other...); a.status != http.StatusConflict {
			t.Errorf("%d %s", a.status, a.body)
		}
		if a := h.post(t, 0, "signup", credentials("bob@example.com", "password"), other...); a.status != http.StatusCreated {
			t.Errorf("%d %s", a.status, a.body)
		}
		bob := h.post(t, 0, "signin", credentials("bob@example.com", "password"))
		eventtest.Await(peer, func(e auth.Registered) bool { return e.ID == identityOf(t, bob).ID })
		if n := len(eventtest.Heard[auth.Registered](peer)); n != 2 {
			t.Errorf("%d have registered", n)
		}
	})
}

func TestCookieOfAnotherOriginsPage(t *testing.T) {
	h := start(t, servicetest.SQLite(t))
	token := h.post(t, 0, "signup", credentials("ada@example.com", "password")).session()
	foreign := []string{"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"}
	if a := h.post(t, 0, "signout", "", append(foreign, "Cookie", "session="+token)...); a.status != http.StatusForbidden {
		t.Errorf("with the cookie: %d", a.status)
	}
	if a := h.post(t, 0, "signout", "", append(foreign, "Authorization", "Bearer "+token)...); a.status != http.StatusOK {
		t.Errorf("with a bearer token: %d", a.status)
	}
}

func TestDocs(t *testing.T) {
	h := start(t, servicetest.SQLite(t))
	page := h.call(t, 0, http.MethodGet, "/api/users/docs", "")
	for _, want := range []string{"Users API", "/api/users/signup", "/.well-known/jwks.json", `<a href="#User">User</a> or null`} {
		if !strings.Contains(page.body, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	document := h.call(t, 0, http.MethodGet, "/api/users/openapi.json", "")
	if !strings.Contains(document.body, `"openapi":"3.1.0"`) {
		t.Errorf("%d %s", document.status, document.body)
	}
}

func TestDescribe(t *testing.T) {
	var out, problems bytes.Buffer
	err := framework.Run(t.Context(), "auth", service.New, framework.Options{Args: []string{"describe"}, Stdout: &out, Stderr: &problems})
	if err != nil {
		t.Fatalf("%v: %s", err, &problems)
	}
	for _, want := range []string{"user.registered", "/api/users/signup", "sign-in", "PASSWORD_MEMORY", "SESSION_ISSUER", "DATABASE_URL"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the description lacks %q:\n%s", want, &out)
		}
	}
}
