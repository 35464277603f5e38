package web_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"golang.org/x/sync/errgroup"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/database/databasetest"
	"github.com/turnstile-go/turnstile/framework/web"
	"github.com/turnstile-go/turnstile/framework/web/session"
	"github.com/turnstile-go/turnstile/framework/web/session/sessiontest"
)

// hatOrders takes orders for hats, which it counts.
type hatOrders struct {
	*web.Server
	db     *database.DB
	issuer *sessiontest.Issuer
	made   atomic.Int64
	ids    chan string // what IdempotencyID told

	mu     sync.Mutex
	during func(title string) error // called while a hat is made
}

type orderedHat struct {
	SetCookie http.Cookie `header:"Set-Cookie"`
	ETag      string      `header:"ETag"`
	Body      hat
}

func newHatOrders(t *testing.T, db *database.DB) *hatOrders {
	t.Helper()
	o := &hatOrders{db: db, issuer: sessiontest.New(t), ids: make(chan string, 1000)}
	o.restart()
	return o
}

// restart puts another process in the place of the one that was.
func (o *hatOrders) restart() {
	o.Server = web.NewServer("hats", web.Config{RequestTimeout: time.Minute}, nil, nil, nil)
	o.Authenticate(session.NewVerifier(o.issuer.Config, nil, nil))
	huma.Register(o.API(), huma.Operation{
		OperationID: "order-hat", Method: http.MethodPost, Path: "/api/hats", DefaultStatus: http.StatusCreated,
	}, o.order)
	huma.Register(o.API(), huma.Operation{
		OperationID: "order-my-hat", Method: http.MethodPost, Path: "/api/hats/mine", DefaultStatus: http.StatusCreated,
		Security: session.Required,
	}, o.order)
	huma.Register(o.API(), huma.Operation{
		OperationID: "order-slowly", Method: http.MethodPost, Path: "/api/hats/slowly", DefaultStatus: http.StatusCreated,
	}, o.orderSlowly)
}

func (o *hatOrders) setDuring(f func(title string) error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.during = f
}

func (o *hatOrders) make(title string) (*orderedHat, error) {
	o.mu.Lock()
	during := o.during
	o.mu.Unlock()
	if during != nil {
		if err := during(title); err != nil {
			return nil, err
		}
	}
	n := o.made.Add(1)
	return &orderedHat{
		SetCookie: http.Cookie{Name: "hat", Value: fmt.Sprint(n), Expires: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC), HttpOnly: true},
		ETag:      web.ETag(n),
		Body:      hat{Title: title, Size: int(n), At: time.Now()},
	}, nil
}

func (o *hatOrders) order(ctx context.Context, in *struct{ Body newHat }) (*orderedHat, error) {
	o.ids <- web.IdempotencyID(ctx)
	return web.Create(ctx, o.db, func(*database.Tx) (*orderedHat, error) { return o.make(in.Body.Title) })
}

// orderSlowly makes the hat outside of any transaction.
func (o *hatOrders) orderSlowly(ctx context.Context, in *struct{ Body newHat }) (*orderedHat, error) {
	return web.Once(ctx, o.db, func(keep func(context.Context, *database.Tx, *orderedHat) error) (*orderedHat, error) {
		out, err := o.make(in.Body.Title)
		if err != nil {
			return nil, err
		}
		return out, o.db.InTx(ctx, func(tx *database.Tx) error { return keep(ctx, tx, out) })
	})
}

// post sends an order, from the caller if there is one, and returns what was answered.
func (o *hatOrders) post(path, key, body, caller string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	if key != "" {
		r.Header.Set("Idempotency-Key", key)
	}
	if caller != "" {
		o.issuer.SignIn(r, caller)
	}
	w := httptest.NewRecorder()
	o.ServeHTTP(w, r)
	return w
}

// wants fails the test unless the answer has the status.
func wants(t *testing.T, w *httptest.ResponseRecorder, status int) *httptest.ResponseRecorder {
	t.Helper()
	if w.Code != status {
		t.Errorf("answered %d, want %d: %s", w.Code, status, w.Body)
	}
	return w
}

// sameAnswer fails the test unless again repeats first, and says so.
func sameAnswer(t *testing.T, first, again *httptest.ResponseRecorder) {
	t.Helper()
	if again.Code != first.Code || again.Body.String() != first.Body.String() {
		t.Errorf("answered %d %s, the first time %d %s", again.Code, again.Body, first.Code, first.Body)
	}
	for _, name := range []string{"Set-Cookie", "Etag", "Content-Type"} {
		if !slices.Equal(again.Header()[name], first.Header()[name]) {
			t.Errorf("%s is %q, the first time %q", name, again.Header()[name], first.Header()[name])
		}
	}
	if got := again.Header().Get("Idempotent-Replayed"); got != "true" {
		t.Errorf("Idempotent-Replayed is %q", got)
	}
	if got := first.Header().Get("Idempotent-Replayed"); got != "" {
		t.Errorf("the first answer says that it is none: %q", got)
	}
}

const bowler = `{"title": "bowler", "size": 7, "price": 19.99}`

func eachHatOrders(t *testing.T, test func(t *testing.T, o *hatOrders)) {
	t.Helper()
	databasetest.Each(t, func(t *testing.T, db *database.DB) { test(t, newHatOrders(t, db)) }, web.Migrations())
}

func TestSameRequestHasOneEffect(t *testing.T) {
	t.Parallel()
	eachHatOrders(t, func(t *testing.T, o *hatOrders) {
		for _, path := range []string{"/api/hats", "/api/hats/mine", "/api/hats/slowly"} {
			made := o.made.Load()
			first := wants(t, o.post(path, "k-1", bowler, "ann"), http.StatusCreated)
			for name, again := range map[string]*httptest.ResponseRecorder{
				"the same":        o.post(path, "k-1", bowler, "ann"),
				"a quoted key":    o.post(path, `"k-1"`, bowler, "ann"),
				"another order":   o.post(path, "k-1", ` { "price":1.999e1, "size":7,"title":"b\u006fwler" }`, "ann"),
				"a slash behind":  o.post(path+"/", "k-1", bowler, "ann"),
				"another session": o.post(path, "k-1", bowler, "ann"),
			} {
				t.Log(path, name)
				sameAnswer(t, first, again)
			}
			o.restart()
			sameAnswer(t, first, o.post(path, "k-1", bowler, "ann"))
			if n := o.made.Load() - made; n != 1 {
				t.Errorf("%s: %d hats were made", path, n)
			}
			wants(t, o.post(path, "k-2", bowler, "ann"), http.StatusCreated)
			wants(t, o.post(path, "", bowler, "ann"), http.StatusCreated)
			wants(t, o.post(path, "", bowler, "ann"), http.StatusCreated)
			if n := o.made.Load() - made; n != 4 {
				t.Errorf("%s: %d hats were made of 4", path, n)
			}
		}
	})
}

func TestSameKeyForAnotherRequest(t *testing.T) {
	t.Parallel()
	eachHatOrders(t, func(t *testing.T, o *hatOrders) {
		wants(t, o.post("/api/hats", "k", `{"title": "bowler", "size": 9007199254740993}`, ""), http.StatusCreated)
		for _, body := range []string{
			bowler,
			`{"title": "Bowler", "size": 9007199254740993}`,
			`{"title": "bowler", "size": 9007199254740992}`,
			`{"title": "bowler", "size": 9007199254740993, "more": null}`,
		} {
			w := wants(t, o.post("/api/hats", "k", body, ""), http.StatusUnprocessableEntity)
			if !strings.Contains(w.Body.String(), `"field":"Idempotency-Key"`) {
				t.Errorf("nothing is said of the key: %s", w.Body)
			}
		}
		wants(t, o.post("/api/hats?colour=red", "k", `{"title": "bowler", "size": 9007199254740993}`, ""), http.StatusUnprocessableEntity)
		if n := o.made.Load(); n != 1 {
			t.Errorf("%d hats were made", n)
		}
	})
}

func TestKeysBelongToTheirCallerAndOperation(t *testing.T) {
	t.Parallel()
	eachHatOrders(t, func(t *testing.T, o *hatOrders) {
		wants(t, o.post("/api/hats/mine", "k", bowler, "ann"), http.StatusCreated)
		other := wants(t, o.post("/api/hats/mine", "k", bowler, "bob"), http.StatusCreated)
		wants(t, o.post("/api/hats/mine", "k", bowler, ""), http.StatusUnauthorized)
		wants(t, o.post("/api/hats/slowly", "k", bowler, "ann"), http.StatusCreated)
		anonymous := wants(t, o.post("/api/hats", "k", bowler, ""), http.StatusCreated)
		if n := o.made.Load(); n != 4 {
			t.Errorf("%d hats were made of 4", n)
		}
		sameAnswer(t, other, o.post("/api/hats/mine", "k", bowler, "bob"))
		sameAnswer(t, anonymous, o.post("/api/hats", "k", bowler, ""))
		sameAnswer(t, anonymous, o.post("/api/hats", "k", bowler, "ann")) // who has a session now may not have had one at first
	})
}

func TestRequestUnderWay(t *testing.T) {
	t.Parallel()
	eachHatOrders(t, func(t *testing.T, o *hatOrders) {
		begun, end := make(chan struct{}), make(chan struct{})
		o.setDuring(func(string) error {
			close(begun)
			<-end
			return nil
		})
		var first *httptest.ResponseRecorder
		var g errgroup.Group
		g.Go(func() error {
			first = o.post("/api/hats/slowly", "k", bowler, "")
			return nil
		})
		<-begun
		w := wants(t, o.post("/api/hats/slowly", "k", bowler, ""), http.StatusConflict)
		if got := w.Header().Get("Retry-After"); got != "1" {
			t.Errorf("Retry-After is %q", got)
		}
		wants(t, o.post("/api/hats/slowly", "k", `{"title": "other", "size": 1}`, ""), http.StatusUnprocessableEntity)
		close(end)
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		wants(t, first, http.StatusCreated)
		sameAnswer(t, first, o.post("/api/hats/slowly", "k", bowler, ""))
	})
}

func TestManyAtOnceHaveOneEffect(t *testing.T) {
	t.Parallel()
	eachHatOrders(t, func(t *testing.T, o *hatOrders) {
		for _, path := range []string{"/api/hats", "/api/hats/slowly"} {
			made := o.made.Load()
			answers := make([]*httptest.ResponseRecorder, 50)
			var g errgroup.Group
			for i := range answers {
				g.Go(func() error {
					answers[i] = o.post(path, "k", bowler, "")
					return nil
				})
			}
			if err := g.Wait(); err != nil {
				t.Fatal(err)
			}
			if n := o.made.Load() - made; n != 1 {
				t.Errorf("%s: %d hats were made", path, n)
			}
			last := wants(t, o.post(path, "k", bowler, ""), http.StatusCreated)
			firsts := 0
			for _, w := range answers {
				switch {
				case w.Code == http.StatusConflict && w.Header().Get("Retry-After") != "":
				case w.Code != http.StatusCreated || w.Body.String() != last.Body.String():
					t.Errorf("answered %d %s, want 409 or %s", w.Code, w.Body, last.Body)
				case w.Header().Get("Idempotent-Replayed") == "":
					firsts++
				}
			}
			if firsts != 1 {
				t.Errorf("%s: %d answers are the first", path, firsts)
			}
		}
	})
}

func TestFailuresAreNotKept(t *testing.T) {
	t.Parallel()
	eachHatOrders(t, func(t *testing.T, o *hatOrders) {
		for _, path := range []string{"/api/hats", "/api/hats/slowly"} {
			for _, failure := range []func(string) error{
				func(string) error { return web.Conflict("No hats left") },
				func(string) error { return errors.New("unforeseen") },
				func(string) error { panic("the brim fell off") },
			} {
				o.setDuring(failure)
				if w := o.post(path, "k", `{"title": "beret", "size": 1}`, ""); w.Code < 400 {
					t.Fatalf("%s: answered %d", path, w.Code)
				}
			}
			o.setDuring(nil)
			wants(t, o.post(path, "k", bowler, ""), http.StatusCreated)
		}
	})
}

// TestClaimOfAKilledProcess leaves the claim that a process leaves that ends in the middle.
func TestClaimOfAKilledProcess(t *testing.T) {
	t.Parallel()
	eachHatOrders(t, func(t *testing.T, o *hatOrders) {
		begun, end := make(chan struct{}), make(chan struct{})
		o.setDuring(func(title string) error {
			if title == "first" {
				close(begun)
				<-end
			}
			return nil
		})
		const body = `{"title": "first", "size": 1}`
		var late *httptest.ResponseRecorder
		var g errgroup.Group
		g.Go(func() error {
			late = o.post("/api/hats/slowly", "k", body, "")
			return nil
		})
		<-begun
		o.restart()
		wants(t, o.post("/api/hats/slowly", "k", body, ""), http.StatusConflict)
		pass(t, o.db, "claimed_until", 59*time.Second)
		wants(t, o.post("/api/hats/slowly", "k", body, ""), http.StatusConflict)
		pass(t, o.db, "claimed_until", 10*time.Second)
		o.setDuring(nil)
		wants(t, o.post("/api/hats/slowly", "k", bowler, ""), http.StatusUnprocessableEntity)
		first := wants(t, o.post("/api/hats/slowly", "k", body, ""), http.StatusCreated)

		// One that was only held up cannot finish what another has done.
		close(end)
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		wants(t, late, http.StatusConflict)
		sameAnswer(t, first, o.post("/api/hats/slowly", "k", body, ""))
	})
}

// pass has time pass for a column of the table.
func pass(t *testing.T, db *database.DB, column string, d time.Duration) {
	t.Helper()
	err := db.InTx(t.Context(), func(tx *database.Tx) error {
		_, err := tx.ExecContext(t.Context(), `UPDATE idempotency_keys SET `+column+` = `+column+` - $1`, d.Microseconds())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestKeysAreForgottenAfterADay(t *testing.T) {
	t.Parallel()
	eachHatOrders(t, func(t *testing.T, o *hatOrders) {
		keys := func() (n int) {
			if err := o.db.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM idempotency_keys`).Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		first := wants(t, o.post("/api/hats", "old", bowler, ""), http.StatusCreated)
		wants(t, o.post("/api/hats", "older", bowler, ""), http.StatusCreated)
		pass(t, o.db, "expires_at", 24*time.Hour-time.Minute)
		sameAnswer(t, first, o.post("/api/hats", "old", bowler, ""))
		pass(t, o.db, "expires_at", time.Minute)
		wants(t, o.post("/api/hats", "old", `{"title": "beret", "size": 1}`, ""), http.StatusCreated)
		if n := keys(); n != 2 {
			t.Errorf("there are %d keys: this process has forgotten some a moment ago", n)
		}
		o.restart()
		wants(t, o.post("/api/hats", "new", bowler, ""), http.StatusCreated)
		if n := keys(); n != 2 {
			t.Errorf("there are %d keys, want the two new ones", n)
		}
	})
}

func TestKeysThatAreNone(t *testing.T) {
	t.Parallel()
	o := newHatOrders(t, databasetest.SQLite(t, web.Migrations()))
	for key, says := range map[string]string{
		" ":                      "must not be empty",
		`""`:                     "must not be empty",
		`"abc`:                   "quoted",
		`"abc" x`:                "quoted",
		`"a"b"`:                  "quoted",
		`"a\b"`:                  "quoted",
		`"abc\`:                  "quoted",
		"a\tb":                   "printable ASCII",
		"a\x00b":                 "printable ASCII",
		"a\r\nb":                 "printable ASCII",
		"schlüssel":              "printable ASCII",
		"a\x7f":                  "printable ASCII",
		strings.Repeat("k", 256): "at most 255",
	} {
		w := wants(t, o.post("/api/hats", key, bowler, ""), http.StatusUnprocessableEntity)
		if !strings.Contains(w.Body.String(), `"Idempotency-Key `) || !strings.Contains(w.Body.String(), says) {
			t.Errorf("key %q: does not say that it %s: %s", key, says, w.Body)
		}
	}
	for _, values := range [][]string{{""}, {"a", "a"}} {
		r := post(bowler)
		r.Header["Idempotency-Key"] = values
		w := httptest.NewRecorder()
		o.ServeHTTP(w, r)
		wants(t, w, http.StatusUnprocessableEntity)
	}
	w := wants(t, o.post("/api/hats", " ", `{"size": 0}`, ""), http.StatusUnprocessableEntity)
	if n := strings.Count(w.Body.String(), `"field"`); n != 3 {
		t.Errorf("%d failures are reported of 3: %s", n, w.Body)
	}
	wants(t, o.post("/api/hats", " ", `[`, ""), http.StatusBadRequest)
	if n := o.made.Load(); n != 0 {
		t.Errorf("%d hats were made", n)
	}
	for _, key := range []string{"k", strings.Repeat("k", 255), `"say \"hello\" \\"`, "with space", "~!@#"} {
		wants(t, o.post("/api/hats", key, bowler, ""), http.StatusCreated)
	}
}

func TestRowsTellNothing(t *testing.T) {
	t.Parallel()
	o := newHatOrders(t, databasetest.SQLite(t, web.Migrations()))
	wants(t, o.post("/api/hats/mine", "a-secret-key", `{"title": "secret-title", "size": 7}`, "secret-caller"), http.StatusCreated)
	wants(t, o.post("/api/hats/mine", "another-key", `{"title": "secret-title", "size": 7}`, "secret-caller"), http.StatusCreated)
	type row struct{ id, fingerprint, claim, answer string }
	rows, err := database.QueryAll(t.Context(), o.db, func(r database.Row) (v row, err error) {
		return v, r.Scan(&v.id, &v.fingerprint, &v.claim, &v.answer)
	}, `SELECT id, fingerprint, claim, answer FROM idempotency_keys`)
	if err != nil || len(rows) != 2 {
		t.Fatal(rows, err)
	}
	for _, r := range rows {
		if strings.Contains(fmt.Sprint(r), "secret") {
			t.Errorf("a row tells of its request: %+v", r)
		}
	}
	if rows[0].fingerprint == rows[1].fingerprint || rows[0].id == rows[1].id {
		t.Error("it can be seen that two requests are alike")
	}
}

func TestIdempotencyID(t *testing.T) {
	t.Parallel()
	o := newHatOrders(t, databasetest.SQLite(t, web.Migrations()))
	id := func(path, key, caller string) string {
		wants(t, o.post(path, key, bowler, caller), http.StatusCreated)
		return <-o.ids
	}
	if got := id("/api/hats", "", ""); got != "" {
		t.Errorf("without a key it is %q", got)
	}
	ann := id("/api/hats/mine", "k", "ann")
	if ann == "" || ann != id("/api/hats/mine", "k", "ann") {
		t.Errorf("it is not always the same: %q", ann)
	}
	if bob := id("/api/hats/mine", "k", "bob"); bob == ann {
		t.Error("two callers have the same")
	}
	if other := id("/api/hats/mine", "another", "ann"); other == ann {
		t.Error("two keys have the same")
	}
	o.setDuring(func(string) error { return web.Conflict("no") }) // so that the key is as good as new
	asked := func(body string) string {
		wants(t, o.post("/api/hats", "again", body, ""), http.StatusConflict)
		return <-o.ids
	}
	if first := asked(bowler); first != asked(bowler) || first == asked(strings.Replace(bowler, `"title"`, `"more": 1, "title"`, 1)) {
		t.Error("two bodies have the same, or one has two")
	}
}
