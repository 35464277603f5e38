package web_test

import (
	"bytes"
	"context"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/jackc/pgx/v5/pgconn"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/goleak"

	"github.com/turnstile-go/turnstile/framework/web"
	"github.com/turnstile-go/turnstile/framework/web/session"
	"github.com/turnstile-go/turnstile/framework/web/session/sessiontest"
)

// The API under test sells hats.

type hat struct {
	Title string    `json:"title"`
	Size  int       `json:"size"`
	Price float64   `json:"price"`
	At    time.Time `json:"at"`
	Tags  []string  `json:"tags"`
}

type newHat struct {
	Title string  `json:"title"`
	Size  int     `json:"size"`
	Price float64 `json:"price,omitempty"`
	Note  string  `json:"note,omitempty"`
}

func (h newHat) Validate() []web.Field {
	var fields []web.Field
	if h.Title == "" {
		fields = append(fields, web.Field{Name: "title", Message: "Title is required"})
	}
	if h.Size < 1 {
		fields = append(fields, web.Field{Name: "size", Message: "Size must be greater than 0"})
	}
	return fields
}

type hatOutput struct{ Body hat }

var errOutOfHats = errors.New("out of hats") //nolint:gochecknoglobals // a sentinel

type hats struct {
	*web.Server
	issuer *sessiontest.Issuer
	log    *bytes.Buffer
}

func newHats(t *testing.T, cfg web.Config) *hats {
	t.Helper()
	t.Cleanup(func() { goleak.VerifyNone(t) })
	h := &hats{issuer: sessiontest.New(t), log: &bytes.Buffer{}}
	log := slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	h.Server = web.NewServer("hats", cfg, log, nil, nil)
	h.Authenticate(session.NewVerifier(h.issuer.Config, nil, log))
	h.MapErrors(func(err error) *web.Problem {
		if errors.Is(err, errOutOfHats) {
			return web.Conflict("No hats left")
		}
		return nil
	})
	huma.Register(h.API(), huma.Operation{
		OperationID: "create-hat", Summary: "Make a hat", Method: http.MethodPost, Path: "/api/hats", DefaultStatus: http.StatusCreated,
	}, func(_ context.Context, in *struct{ Body newHat }) (*hatOutput, error) {
		return &hatOutput{hat{Title: in.Body.Title, Size: in.Body.Size, Price: in.Body.Price,
			At: time.Date(2026, 1, 2, 3, 4, 5, 678_900_000, time.FixedZone("", 3600))}}, nil
	})
	huma.Register(h.API(), huma.Operation{
		OperationID: "replace-hat", Summary: "Change a hat", Method: http.MethodPut, Path: "/api/hats/{id}", Security: session.Required,
	}, func(ctx context.Context, in *struct {
		ID   string `path:"id"`
		Body newHat
	}) (*hatOutput, error) {
		caller, err := session.Require(ctx)
		if err != nil {
			return nil, err
		}
		return &hatOutput{hat{Title: in.ID + " of " + caller.ID}}, nil
	})
	huma.Register(h.API(), huma.Operation{
		OperationID: "list-hats", Method: http.MethodGet, Path: "/api/hats",
	}, func(_ context.Context, in *struct {
		web.Page
		Q string `query:"q"`
	}) (*struct {
		Link string `header:"Link"`
		Body []int
	}, error) {
		var from int
		if _, err := in.After(&from); err != nil {
			return nil, err
		}
		var all []int
		for i := from + 1; i <= 120 && len(all) < in.Limit+1; i++ {
			if in.Q == "" || strings.Contains(fmt.Sprint(i), in.Q) {
				all = append(all, i)
			}
		}
		page, link, err := web.NextPage(in.Page, all, func(i int) any { return i })
		return &struct {
			Link string `header:"Link"`
			Body []int
		}{link, page}, err
	})
	huma.Register(h.API(), huma.Operation{
		OperationID: "fail", Method: http.MethodPost, Path: "/api/hats/{id}/failures",
	}, func(_ context.Context, in *struct {
		ID string `path:"id"`
	}) (*struct{}, error) {
		switch in.ID {
		case "panic":
			panic("the brim fell off")
		case "secret":
			return nil, errors.New("password is hunter2")
		case "away":
			return nil, fmt.Errorf("insert: %w", driver.ErrBadConn)
		case "refused":
			return nil, fmt.Errorf("query: %w", &net.OpError{Op: "dial", Err: errors.New("connection refused")})
		case "slow":
			return nil, fmt.Errorf("query: %w", context.DeadlineExceeded)
		case "starting":
			return nil, fmt.Errorf("query: %w", &pgconn.PgError{Code: "57P03"})
		case "deadlock": // again and again
			return nil, fmt.Errorf("query: %w", &pgconn.PgError{Code: "40P01"})
		case "unique":
			return nil, fmt.Errorf("query: %w", &pgconn.PgError{Code: "23505"})
		case "empty":
			return nil, fmt.Errorf("reserve: %w", errOutOfHats)
		case "conflict":
			return nil, fmt.Errorf("wrapped: %w", web.Conflict("The hat is taken"))
		case "paid":
			return nil, web.PaymentRequired("Your card was declined")
		case "busy":
			return nil, web.Unavailable("Busy", 1500*time.Millisecond)
		case "huma":
			return nil, huma.Error404NotFound("No such hat")
		}
		return nil, nil
	})
	return h
}

type answer struct {
	*http.Response
	body    string
	problem web.Problem
}

func (h *hats) do(t *testing.T, r *http.Request) answer {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	a := answer{Response: w.Result(), body: w.Body.String()}
	if a.StatusCode >= 400 {
		if ct := a.Header.Get("Content-Type"); ct != "application/problem+json" {
			t.Errorf("%s %s: %d with Content-Type %q", r.Method, r.URL, a.StatusCode, ct)
		}
		if err := json.Unmarshal(w.Body.Bytes(), &a.problem); err != nil {
			t.Fatalf("%s %s: %d: the problem cannot be read: %v: %s", r.Method, r.URL, a.StatusCode, err, a.body)
		}
		p := a.problem
		if p.Status != a.StatusCode || p.Type != "about:blank" || p.Title != http.StatusText(p.Status) ||
			p.Detail == "" || p.Instance == "" || len(p.Errors) == 0 || p.Errors[0].Message == "" {
			t.Errorf("%s %s: incomplete problem: %s", r.Method, r.URL, a.body)
		}
	}
	return a
}

func post(body string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/api/hats", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	return r
}

func TestAnswerIsPlainJSON(t *testing.T) {
	h := newHats(t, web.Config{})
	a := h.do(t, post(`{"title":"Bowler <1>","size":7,"colour":"black","SIZE":-1,"Title":""}`))
	if a.StatusCode != http.StatusCreated || a.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("got %d %s: %s", a.StatusCode, a.Header.Get("Content-Type"), a.body)
	}
	want := `{"title":"Bowler <1>","size":7,"price":0,"at":"2026-01-02T02:04:05.678Z","tags":[]}`
	if a.body != want {
		t.Errorf("got  %s\nwant %s", a.body, want)
	}
	if a.Header.Get("Cache-Control") != "no-store" || a.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("unexpected headers: %v", a.Header)
	}
}

func TestBodyRules(t *testing.T) {
	title := web.Field{Name: "title", Message: "Title is required"}
	size := web.Field{Name: "size", Message: "Size must be greater than 0"}
	object := web.Field{Message: "A JSON object is required"}
	tests := []struct {
		name, body string
		status     int
		fields     []web.Field // nil: whatever it says
	}{
		{"empty", ``, 422, []web.Field{object}},
		{"blank", " \n", 422, []web.Field{object}},
		{"array", `[{"title":"x"}]`, 422, []web.Field{object}},
		{"null", `null`, 422, []web.Field{object}},
		{"string", `"x"`, 422, []web.Field{object}},
		{"malformed", `{"title":`, 400, nil},
		{"malformed array", `[1,`, 400, nil},
		{"two values", `{"title":"x","size":1} {}`, 400, nil},
		{"trailing garbage", `{"title":"x","size":1} x`, 400, nil},
		{"single quotes", `{'title':'x'}`, 400, nil},
		{"invalid UTF-8", "{\"title\":\"\xff\",\"size\":1}", 400, nil},
		{"duplicate member", `{"title":"x","size":1,"size":2}`, 400, nil},
		{"nothing in it", `{}`, 422, []web.Field{title, size}},
		{"all failures in order", `{"size":0,"title":""}`, 422, []web.Field{title, size}},
		{"null members", `{"title":null,"size":null}`, 422, []web.Field{title, size}},
		{"wrong types are reported with the rest", `{"size":"7","title":5}`, 422, []web.Field{title, size}},
		{"wrong type of an optional member", `{"note":5,"price":true}`, 422, []web.Field{title, size,
			{Name: "price", Message: "price must be a number within range"}, {Name: "note", Message: "note must be a string"}}},
		{"out of range", `{"title":"x","size":1,"price":1e400}`, 422, []web.Field{{Name: "price", Message: "price must be a number within range"}}},
		{"out of range integer", `{"title":"x","size":99999999999999999999}`, 422, []web.Field{size}},
		{"fraction", `{"title":"x","size":1.5}`, 422, []web.Field{size}},
		{"another letter case is another member", `{"Title":"x","size":1}`, 422, []web.Field{title}},
		{"U+0000", `{"title":"a\u0000b","size":1}`, 422, []web.Field{{Name: "title", Message: "title must not contain the character U+0000"}}},
		{"U+0000 goes before what comes later", `{"title":"a\u0000b","size":0,"note":5}`, 422, []web.Field{
			{Name: "title", Message: "title must not contain the character U+0000"}, size, {Name: "note", Message: "note must be a string"}}},
		{"the text \\u0000", `{"title":"a\\u0000b","size":1}`, 201, nil},
		{"out of range but unknown", `{"title":"x","size":1,"other":1e400}`, 201, nil},
		{"just right", ` {"title":"ü","size":1} `, 201, nil},
	}
	h := newHats(t, web.Config{})
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			a := h.do(t, post(test.body))
			if a.StatusCode != test.status {
				t.Fatalf("got %d, want %d: %s", a.StatusCode, test.status, a.body)
			}
			if test.fields != nil && !reflect.DeepEqual(a.problem.Errors, test.fields) {
				t.Errorf("got  %+v\nwant %+v", a.problem.Errors, test.fields)
			}
		})
	}
}

func TestContentType(t *testing.T) {
	h := newHats(t, web.Config{})
	for contentType, status := range map[string]int{
		"":                                  415,
		"text/plain":                        415,
		"application/x-www-form-urlencoded": 415,
		"application/jsonp":                 415,
		"application/json; charset=latin1":  415,
		"application/json":                  201,
		"application/JSON; charset=UTF-8":   201,
		"application/json;":                 201,
	} {
		r := post(`{"title":"x","size":1}`)
		r.Header.Set("Content-Type", contentType)
		if a := h.do(t, r); a.StatusCode != status {
			t.Errorf("%q: got %d, want %d", contentType, a.StatusCode, status)
		}
	}
	r := post(`{"title":"x","size":1}`)
	r.Header.Set("Content-Encoding", "gzip")
	if a := h.do(t, r); a.StatusCode != 415 {
		t.Errorf("gzip: got %d", a.StatusCode)
	}
}

func TestBodyLimit(t *testing.T) {
	h := newHats(t, web.Config{})
	frame := len(`{"title":"","size":1}`)
	for _, test := range []struct{ length, status int }{{1 << 20, 201}, {1<<20 + 1, 413}, {3 << 20, 413}} {
		body := `{"title":"` + strings.Repeat("x", test.length-frame) + `","size":1}`
		for _, length := range []int64{int64(len(body)), -1} { // announced or not
			r := post(body)
			r.ContentLength = length
			if a := h.do(t, r); a.StatusCode != test.status {
				t.Errorf("%d bytes, Content-Length %d: got %d, want %d", len(body), length, a.StatusCode, test.status)
			}
		}
	}
}

func TestSessionComesBeforeTheBody(t *testing.T) {
	h := newHats(t, web.Config{})
	put := func() *http.Request {
		return httptest.NewRequest(http.MethodPut, "/api/hats/7", strings.NewReader("{not json"))
	}
	if a := h.do(t, put()); a.StatusCode != 401 || a.problem.Errors[0].Message != "Not authorized" {
		t.Errorf("without a session: %d %s", a.StatusCode, a.body)
	}
	r := put()
	h.issuer.SignIn(r, "ada")
	if a := h.do(t, r); a.StatusCode != 415 {
		t.Errorf("with a session, without a type: %d", a.StatusCode)
	}
	r = put()
	h.issuer.SignIn(r, "ada")
	r.Header.Set("Content-Type", "application/json")
	if a := h.do(t, r); a.StatusCode != 400 {
		t.Errorf("malformed: %d", a.StatusCode)
	}
	r = httptest.NewRequest(http.MethodPut, "/api/hats/7", strings.NewReader(`{"title":"x","size":1}`))
	h.issuer.SignIn(r, "ada")
	r.Header.Set("Content-Type", "application/json")
	if a := h.do(t, r); a.StatusCode != 200 || !strings.Contains(a.body, "7 of ada") {
		t.Errorf("in order: %d %s", a.StatusCode, a.body)
	}
}

func TestRoutes(t *testing.T) {
	h := newHats(t, web.Config{})
	for _, test := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"GET", "/", 404, ""},
		{"GET", "/api/hat", 404, ""},
		{"GET", "/api/hats/1/2/3", 404, ""},
		{"POST", "/api/hats/%00/failures", 404, ""},
		{"GET", "/api/%ff", 404, ""},
		{"DELETE", "/api/hats", 405, "OPTIONS, GET, HEAD, POST"},
		{"BREW", "/api/hats/", 405, "OPTIONS, GET, HEAD, POST"},
		{"GET", "/api/hats/1", 405, "OPTIONS, PUT"},
		{"HEAD", "/api/hats/1", 405, "OPTIONS, PUT"},
		{"POST", "/api/hats/docs", 405, "OPTIONS, GET, HEAD"},
		{"PUT", "/api/hats/docs", 405, "OPTIONS, GET, HEAD"}, // and not a hat that is called so
		{"PUT", "/api/hats/openapi.json/", 405, "OPTIONS, GET, HEAD"},
		{"PUT", "/api/hats/docs.html", 401, ""},
		{"OPTIONS", "/api/hats/docs", 204, "OPTIONS, GET, HEAD"},
		{"OPTIONS", "/api/hats", 204, "OPTIONS, GET, HEAD, POST"},
		{"OPTIONS", "/api/hats/1", 204, "OPTIONS, PUT"},
		{"OPTIONS", "/api/hat", 404, ""},
		{"GET", "/api/hats/", 200, ""},
		{"HEAD", "/api/hats", 200, ""},
	} {
		a := h.do(t, httptest.NewRequest(test.method, test.path, nil))
		if a.StatusCode != test.status {
			t.Errorf("%s %s: got %d, want %d", test.method, test.path, a.StatusCode, test.status)
		}
		if got := a.Header.Get("Allow"); got != test.allow {
			t.Errorf("%s %s: Allow is %q, want %q", test.method, test.path, got, test.allow)
		}
	}
}

func TestErrorsBecomeProblems(t *testing.T) {
	h := newHats(t, web.Config{})
	for _, test := range []struct {
		id     string
		status int
		msg    string
		retry  string
	}{
		{"none", 204, "", ""},
		{"conflict", 409, "The hat is taken", ""},
		{"empty", 409, "No hats left", ""},
		{"paid", 402, "Your card was declined", ""},
		{"huma", 404, "No such hat", ""},
		{"busy", 503, "Busy", "2"},
		{"away", 503, "", "1"},
		{"refused", 503, "", "1"},
		{"slow", 503, "", "1"},
		{"starting", 503, "", "1"},
		{"deadlock", 503, "", "1"},
		{"unique", 500, "Something went wrong", ""},
		{"secret", 500, "Something went wrong", ""},
		{"panic", 500, "Something went wrong", ""},
	} {
		a := h.do(t, httptest.NewRequest(http.MethodPost, "/api/hats/"+test.id+"/failures", nil))
		if a.StatusCode != test.status || a.Header.Get("Retry-After") != test.retry {
			t.Errorf("%s: got %d, Retry-After %q: %s", test.id, a.StatusCode, a.Header.Get("Retry-After"), a.body)
		}
		if test.msg != "" && (len(a.problem.Errors) != 1 || a.problem.Errors[0] != (web.Field{Message: test.msg})) {
			t.Errorf("%s: got %+v", test.id, a.problem.Errors)
		}
		if want := "/api/hats/" + test.id + "/failures"; test.status >= 400 && a.problem.Instance != want {
			t.Errorf("%s: instance is %q", test.id, a.problem.Instance)
		}
		if (a.problem.TraceID != "") != (test.status == 500) {
			t.Errorf("%s: trace id %q", test.id, a.problem.TraceID)
		}
		if test.status == 500 && !strings.Contains(h.log.String(), a.problem.TraceID) {
			t.Errorf("%s: the log does not mention %s", test.id, a.problem.TraceID)
		}
	}
	for _, secret := range []string{"hunter2", "the brim fell off"} {
		if !strings.Contains(h.log.String(), secret) {
			t.Errorf("the log lacks %q", secret)
		}
	}
}

// TestHumasErrorsStayInside: what a handler gives a status of 500 or above itself tells the caller no more than what it does not.
func TestHumasErrorsStayInside(t *testing.T) {
	var log bytes.Buffer
	s := web.NewServer("hats", web.Config{}, slog.New(slog.NewTextHandler(&log, nil)), nil, nil)
	var failure error
	huma.Register(s.API(), huma.Operation{OperationID: "fail", Method: http.MethodGet, Path: "/api/hats"},
		func(context.Context, *struct{}) (*struct{}, error) { return nil, failure })
	sql := errors.New(`relation "hats" does not exist`)
	for name, test := range map[string]struct {
		err    error
		status int
		msg    string
		retry  string
		logged string // and not answered
	}{
		"500":          {huma.Error500InternalServerError("counting hats", sql), 500, "Something went wrong", "", "counting hats: relation"},
		"500 wrapped":  {fmt.Errorf("shelf 7: %w", huma.Error500InternalServerError("counting hats", sql)), 500, "Something went wrong", "", "counting hats: relation"},
		"500 of nil":   {huma.Error500InternalServerError("counting hats", nil), 500, "Something went wrong", "", "counting hats"},
		"502":          {huma.Error502BadGateway("the hatter", sql), 500, "Something went wrong", "", "the hatter: relation"},
		"503":          {huma.Error503ServiceUnavailable("counting hats", sql), 503, "The service is briefly unavailable, please try again", "1", "counting hats: relation"},
		"503 for long": {huma.ErrorWithHeaders(huma.Error503ServiceUnavailable("closed"), http.Header{"Retry-After": {"60"}}), 503, "The service is briefly unavailable, please try again", "60", "closed"},
		"429":          {huma.Error429TooManyRequests("Too many hats"), 429, "Too many hats", "1", ""},
		"409 of nil":   {huma.Error409Conflict("The hat is taken", nil), 409, "The hat is taken", "", ""},
	} {
		log.Reset()
		failure = test.err
		a := (&hats{Server: s}).do(t, httptest.NewRequest(http.MethodGet, "/api/hats", nil))
		if a.StatusCode != test.status || a.Header.Get("Retry-After") != test.retry || a.problem.Errors[0].Message != test.msg {
			t.Errorf("%s: got %d, Retry-After %q: %s", name, a.StatusCode, a.Header.Get("Retry-After"), a.body)
		}
		if strings.Contains(a.body, "relation") || test.logged != "" && strings.Contains(a.body, test.logged) {
			t.Errorf("%s: the answer tells what is inside: %s", name, a.body)
		}
		if text := strings.ReplaceAll(log.String(), `\"`, ""); !strings.Contains(text, test.logged) {
			t.Errorf("%s: the log lacks %q: %s", name, test.logged, text)
		}
		if (a.problem.TraceID != "") != (test.status == 500) || !strings.Contains(log.String(), a.problem.TraceID) {
			t.Errorf("%s: trace id %q, and the log says %s", name, a.problem.TraceID, &log)
		}
	}
}

func TestInnerDetailStaysInside(t *testing.T) {
	h := newHats(t, web.Config{})
	for _, id := range []string{"secret", "panic", "unique"} {
		a := h.do(t, httptest.NewRequest(http.MethodPost, "/api/hats/"+id+"/failures", nil))
		for _, inner := range []string{"hunter2", "brim", "23505", ".go"} {
			if strings.Contains(a.body, inner) {
				t.Errorf("%s: the answer tells %q: %s", id, inner, a.body)
			}
		}
	}
}

func TestPages(t *testing.T) {
	h := newHats(t, web.Config{})
	var sizes []int
	next := 0
	address := "/api/hats?q=1&limit=15"
	for address != "" {
		a := h.do(t, httptest.NewRequest(http.MethodGet, address, nil))
		var page []int
		if err := json.Unmarshal([]byte(a.body), &page); err != nil || a.StatusCode != 200 {
			t.Fatalf("%s: %d %s", address, a.StatusCode, a.body)
		}
		for _, i := range page {
			if i <= next || !strings.Contains(fmt.Sprint(i), "1") {
				t.Errorf("%d after %d", i, next)
			}
			next = i
		}
		sizes = append(sizes, len(page))
		address = ""
		if link := a.Header.Get("Link"); link != "" {
			inner, ok := strings.CutSuffix(link, `>; rel="next"`)
			if !ok || !strings.HasPrefix(inner, "</api/hats?") {
				t.Fatalf("Link is %q", link)
			}
			address = inner[1:]
		}
	}
	if want := []int{15, 15, 10}; !reflect.DeepEqual(sizes, want) { // 40 numbers up to 120 have a 1
		t.Errorf("pages of %v, want %v", sizes, want)
	}
	if a := h.do(t, httptest.NewRequest(http.MethodGet, "/api/hats", nil)); strings.Count(a.body, ",") != 49 || a.Header.Get("Link") == "" {
		t.Errorf("without a limit: %s", a.body)
	}
	if a := h.do(t, httptest.NewRequest(http.MethodGet, "/api/hats?q=x", nil)); a.body != "[]" || a.Header.Get("Link") != "" {
		t.Errorf("nothing found: %q", a.body)
	}
}

func TestBadPages(t *testing.T) {
	h := newHats(t, web.Config{})
	for query, field := range map[string]string{
		"limit=0": "limit", "limit=201": "limit", "limit=-1": "limit", "limit=ten": "limit", "limit=1.5": "limit",
		"limit=99999999999999999999": "limit", "cursor=!": "cursor", "cursor=eHg": "cursor", "cursor=e30": "cursor", "cursor=bnVsbA": "cursor",
		"q=%ff": "q", "q=%00": "q",
		"limit=": "limit", "limit=5&limit=5": "limit", "limit=5&limit=abc": "limit", "cursor=": "cursor", "cursor=MTU&cursor=MTU": "cursor",
		"q=1&q=2": "q", "limit=%zz": "", "limit=5;": "", "cursor=%zz": "", "q=%": "",
	} {
		a := h.do(t, httptest.NewRequest(http.MethodGet, "/api/hats?"+query, nil))
		if a.StatusCode != 422 || len(a.problem.Errors) != 1 || a.problem.Errors[0].Name != field {
			t.Errorf("%s: got %d %s", query, a.StatusCode, a.body)
		}
	}
	both := h.do(t, httptest.NewRequest(http.MethodGet, "/api/hats?cursor=!&limit=0", nil))
	if both.StatusCode != 422 || len(both.problem.Errors) != 2 || both.problem.Errors[0].Name != "limit" || both.problem.Errors[1].Name != "cursor" {
		t.Errorf("both wrong: got %d %s", both.StatusCode, both.body)
	}
	all := h.do(t, httptest.NewRequest(http.MethodGet, "/api/hats?limit=&cursor=MTU&q=1&q=2", nil))
	if all.StatusCode != 422 || len(all.problem.Errors) != 2 || all.problem.Errors[0].Name != "limit" || all.problem.Errors[1].Name != "q" {
		t.Errorf("two of three wrong: got %d %s", all.StatusCode, all.body)
	}
	for _, query := range []string{"limit=200", "q=", "&", "q=1&", "other=%00", "other=1&other=2"} {
		if a := h.do(t, httptest.NewRequest(http.MethodGet, "/api/hats?"+query, nil)); a.StatusCode != 200 {
			t.Errorf("%s: got %d %s", query, a.StatusCode, a.body)
		}
	}
}

func TestIfMatch(t *testing.T) {
	for header, want := range map[string]bool{
		``: true, `*`: true, `"3"`: true, `"2", "3"`: true, `"2","3","4"`: true, ` "3" `: true, `"a,b", "3"`: true, `W/"1", "3"`: true,
		`"2"`: false, `W/"3"`: false, `3`: false, `"3`: false, `"33"`: false, `"2" 3`: false, `,`: false,
	} {
		if got := (web.Precondition{IfMatch: header}).Holds(3); got != want {
			t.Errorf("If-Match: %s: got %v", header, got)
		}
	}
}

func TestOtherOriginsCannotUseTheCookie(t *testing.T) {
	h := newHats(t, web.Config{})
	request := func(site, origin string, cookie bool) *http.Request {
		r := httptest.NewRequest(http.MethodPut, "/api/hats/7", strings.NewReader(`{"title":"x","size":1}`))
		r.Header.Set("Content-Type", "application/json")
		if cookie {
			r.AddCookie(&http.Cookie{Name: session.Cookie, Value: h.issuer.Token("ada")})
		} else {
			h.issuer.SignIn(r, "ada")
		}
		if site != "" {
			r.Header.Set("Sec-Fetch-Site", site)
		}
		if origin != "" {
			r.Header.Set("Origin", origin)
		}
		return r
	}
	for _, test := range []struct {
		site, origin string
		cookie       bool
		status       int
	}{
		{"cross-site", "https://evil.example", true, 403},
		{"same-site", "https://evil.example.com", true, 403},
		{"", "https://evil.example", true, 403},
		{"same-origin", "https://example.com", true, 200},
		{"", "http://example.com", true, 200},
		{"", "", true, 200},
		{"cross-site", "https://evil.example", false, 200},
	} {
		if a := h.do(t, request(test.site, test.origin, test.cookie)); a.StatusCode != test.status {
			t.Errorf("%+v: got %d %s", test, a.StatusCode, a.body)
		}
	}
	get := httptest.NewRequest(http.MethodGet, "/api/hats", nil)
	get.AddCookie(&http.Cookie{Name: session.Cookie, Value: h.issuer.Token("ada")})
	get.Header.Set("Sec-Fetch-Site", "cross-site")
	if a := h.do(t, get); a.StatusCode != 200 {
		t.Errorf("a safe method: %d", a.StatusCode)
	}
}

func TestClient(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	s := web.NewServer("who", web.Config{TrustedProxies: proxies}, nil, nil, nil)
	var got web.Client
	huma.Register(s.API(), huma.Operation{OperationID: "who", Method: http.MethodGet, Path: "/api/who"},
		func(ctx context.Context, _ *struct{}) (*struct{}, error) {
			got = web.ClientFrom(ctx)
			return nil, nil
		})
	for _, test := range []struct {
		remote, forwarded, proto, addr string
		tls                            bool
	}{
		{"192.0.2.1:99", "", "", "192.0.2.1", false},
		{"192.0.2.1:99", "198.51.100.7", "https", "192.0.2.1", false}, // not a proxy of ours
		{"10.0.0.1:99", "198.51.100.7", "https", "198.51.100.7", true},
		{"10.0.0.1:99", "203.0.113.9, 198.51.100.7, 10.1.1.1", "http", "198.51.100.7", false}, // the first was made up
		{"10.0.0.1:99", "nonsense", "", "10.0.0.1", false},
		{"[2001:db8::1]:99", "", "", "2001:db8::1", false},
	} {
		r := httptest.NewRequest(http.MethodGet, "/api/who", nil)
		r.RemoteAddr = test.remote
		if test.forwarded != "" {
			r.Header.Set("X-Forwarded-For", test.forwarded)
		}
		r.Header.Set("X-Forwarded-Proto", test.proto)
		s.ServeHTTP(httptest.NewRecorder(), r)
		if got.Addr.String() != test.addr || got.TLS != test.tls {
			t.Errorf("%+v: got %v", test, got)
		}
	}
}

func TestDocument(t *testing.T) {
	h := newHats(t, web.Config{})
	a := h.do(t, httptest.NewRequest(http.MethodGet, "/api/hats/openapi.json", nil))
	var doc struct {
		OpenAPI string `json:"openapi"`
		Paths   map[string]map[string]struct {
			Security  []map[string][]string `json:"security"`
			Responses map[string]struct {
				Content map[string]any `json:"content"`
			} `json:"responses"`
		} `json:"paths"`
		Components struct {
			Schemas         map[string]any `json:"schemas"`
			SecuritySchemes map[string]any `json:"securitySchemes"`
		} `json:"components"`
	}
	if err := json.Unmarshal([]byte(a.body), &doc); err != nil || a.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("%v %s", err, a.Header)
	}
	put := doc.Paths["/api/hats/{id}"]["put"]
	if !strings.HasPrefix(doc.OpenAPI, "3.1") || len(put.Security) != 2 || doc.Components.SecuritySchemes["bearer"] == nil {
		t.Errorf("unexpected document: %s", a.body)
	}
	for _, status := range []string{"401", "413", "415", "422", "default"} {
		if put.Responses[status].Content["application/problem+json"] == nil {
			t.Errorf("put has no answer %s", status)
		}
	}
	if doc.Components.Schemas["Problem"] == nil || doc.Components.Schemas["ErrorModel"] != nil {
		t.Errorf("schemas: %v", doc.Components.Schemas)
	}
	if strings.Contains(a.body, `"null"`) {
		t.Errorf("the document lets a list be null: %s", a.body)
	}
	docs := h.do(t, httptest.NewRequest(http.MethodGet, "/api/hats/docs", nil))
	if docs.StatusCode != 200 || !strings.HasPrefix(docs.Header.Get("Content-Type"), "text/html") {
		t.Fatalf("docs: %d %v", docs.StatusCode, docs.Header)
	}
	for _, want := range []string{"Make a hat", "/api/hats/{id}", "create-hat", "needs a session", `href="#Problem"`} {
		if !strings.Contains(docs.body, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	for _, foreign := range []string{`="http`, "src=", "url(", "@import", "style=", "<script", "ZgotmplZ", "(MISSING)"} {
		if strings.Contains(docs.body, foreign) {
			t.Errorf("the page has %q", foreign)
		}
	}
}

func TestDescribe(t *testing.T) {
	h := newHats(t, web.Config{})
	description := h.Describe()
	document, err := json.Marshal(description["openapi"])
	document = bytes.TrimSuffix(bytes.TrimPrefix(document, []byte(`{"hats":`)), []byte("}"))
	if a := h.do(t, httptest.NewRequest(http.MethodGet, "/api/hats/openapi.json", nil)); err != nil || a.body != string(document) {
		t.Errorf("the description has another document than is served: %v\n%s", err, document)
	}
	data, err := json.Marshal(description["operations"])
	want := `[` +
		`{"method":"POST","path":"/api/hats","id":"create-hat","summary":"Make a hat","session":false},` +
		`{"method":"PUT","path":"/api/hats/{id}","id":"replace-hat","summary":"Change a hat","session":true},` +
		`{"method":"GET","path":"/api/hats","id":"list-hats","session":false},` +
		`{"method":"POST","path":"/api/hats/{id}/failures","id":"fail","session":false}]`
	if err != nil || string(data) != want {
		t.Errorf("got  %s (%v)\nwant %s", data, err, want)
	}
}

func TestRegistrationMistakesPanic(t *testing.T) {
	for name, register := range map[string]func(s *web.Server){
		"call Authenticate": func(s *web.Server) {
			huma.Register(s.API(), huma.Operation{OperationID: "x", Method: "GET", Path: "/x", Security: session.Required},
				func(context.Context, *struct{}) (*struct{}, error) { return nil, nil })
		},
		"must be a struct": func(s *web.Server) {
			huma.Register(s.API(), huma.Operation{OperationID: "x", Method: "POST", Path: "/x"},
				func(context.Context, *struct{ Body []string }) (*struct{}, error) { return nil, nil })
		},
	} {
		func() {
			defer func() {
				if v := recover(); !strings.Contains(fmt.Sprint(v), name) || !strings.Contains(fmt.Sprint(v), "operation x") {
					t.Errorf("%s: recovered %v", name, v)
				}
			}()
			register(web.NewServer("x", web.Config{}, nil, nil, nil))
		}()
	}
}

func TestRequestsAreLoggedByOutcome(t *testing.T) {
	h := newHats(t, web.Config{})
	h.do(t, post(`{"title":"x","size":1}`))
	h.do(t, post(`{}`))
	h.do(t, httptest.NewRequest(http.MethodPost, "/api/hats/panic/failures", nil))
	for _, want := range []string{
		"level=DEBUG msg=request method=POST path=/api/hats route=/api/hats status=201",
		"level=INFO msg=request method=POST path=/api/hats route=/api/hats status=422",
		"level=ERROR msg=request method=POST path=/api/hats/panic/failures route=/api/hats/:id/failures status=500",
	} {
		if !strings.Contains(h.log.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, h.log)
		}
	}
}

func TestRequestsAreTracedAndCounted(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	reader := sdkmetric.NewManualReader()
	s := web.NewServer("x", web.Config{}, nil, tracer, sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)))
	huma.Register(s.API(), huma.Operation{OperationID: "x", Method: "GET", Path: "/api/x/{id}"},
		func(context.Context, *struct {
			ID string `path:"id"`
		}) (*struct{}, error) {
			return nil, errors.New("no")
		})
	r := httptest.NewRequest(http.MethodGet, "/api/x/1", nil)
	r.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	const id = "0af7651916cd43dd8448eb211c80319c"
	if !strings.Contains(w.Body.String(), id) {
		t.Errorf("the problem lacks the trace id: %s", w.Body)
	}
	ended := spans.Ended()
	if len(ended) != 1 || ended[0].Name() != "GET /api/x/:id" || ended[0].SpanContext().TraceID().String() != id {
		t.Errorf("unexpected spans: %v", ended)
	}
	var rm metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &rm); err != nil {
		t.Fatal(err)
	}
	counted := false
	for _, scope := range rm.ScopeMetrics {
		for _, m := range scope.Metrics {
			if h, ok := m.Data.(metricdata.Histogram[float64]); ok && m.Name == "http.server.request.duration" {
				route, _ := h.DataPoints[0].Attributes.Value(attribute.Key("http.route"))
				counted = h.DataPoints[0].Count == 1 && route.AsString() == "/api/x/:id"
			}
		}
	}
	if !counted {
		t.Errorf("the request was not counted by its route: %+v", rm.ScopeMetrics)
	}
}

func TestRunDrains(t *testing.T) {
	defer goleak.VerifyNone(t)
	s := web.NewServer("slow", web.Config{Addr: "127.0.0.1:0"}, nil, nil, nil)
	entered, release := make(chan struct{}), make(chan struct{})
	huma.Register(s.API(), huma.Operation{OperationID: "slow", Method: "GET", Path: "/api/slow"},
		func(context.Context, *struct{}) (*struct{ Body string }, error) {
			close(entered)
			<-release
			return &struct{ Body string }{"done"}, nil
		})
	if s.Ready()["http"] == nil {
		t.Error("ready before it listens")
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.Ready()["http"] != nil {
		t.Error("not ready though it listens")
	}
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answered := make(chan string, 1)
	go func() {
		res, err := client.Get("http://" + s.Addr() + "/api/slow")
		if err != nil {
			answered <- err.Error()
			return
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		answered <- string(body)
	}()
	<-entered
	stop()
	for { // new connections are refused while the old request goes on
		conn, err := net.Dial("tcp", s.Addr())
		if err != nil {
			break
		}
		conn.Close()
	}
	select {
	case err := <-ran:
		t.Fatalf("Run ended with a request in flight: %v", err)
	default:
	}
	close(release)
	if got := <-answered; got != `"done"` {
		t.Errorf("the request in flight got %q", got)
	}
	if err := <-ran; err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestRunCutsOffWhatDoesNotEnd(t *testing.T) {
	defer goleak.VerifyNone(t)
	s := web.NewServer("stuck", web.Config{Addr: "127.0.0.1:0", DrainTimeout: 10 * time.Millisecond}, nil, nil, nil)
	entered, release := make(chan struct{}), make(chan struct{})
	left := make(chan struct{})
	huma.Register(s.API(), huma.Operation{OperationID: "stuck", Method: "GET", Path: "/api/stuck"},
		func(context.Context, *struct{}) (*struct{}, error) {
			defer close(left)
			close(entered)
			<-release
			return nil, nil
		})
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	failed := make(chan error, 1)
	go func() {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		res, err := client.Get("http://" + s.Addr() + "/api/stuck")
		if err == nil {
			res.Body.Close()
		}
		failed <- err
	}()
	<-entered
	stop()
	if err := <-ran; err == nil {
		t.Error("Run says that all is well")
	}
	if err := <-failed; err == nil {
		t.Error("the request that was cut off was answered")
	}
	close(release)
	<-left
}

func TestCallersWhoLeaveAreNoFailures(t *testing.T) {
	var log bytes.Buffer
	s := web.NewServer("late", web.Config{}, slog.New(slog.NewTextHandler(&log, nil)), nil, nil)
	ctx, leave := context.WithCancel(t.Context())
	huma.Register(s.API(), huma.Operation{OperationID: "late", Method: "GET", Path: "/api/late"},
		func(ctx context.Context, _ *struct{}) (*struct{}, error) {
			leave()
			<-ctx.Done()
			return nil, errors.New("interrupted")
		})
	s.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/api/late", nil).WithContext(ctx))
	if log.Len() > 0 {
		t.Errorf("logged: %s", &log)
	}
}

func TestRequestTimeout(t *testing.T) {
	s := web.NewServer("late", web.Config{RequestTimeout: time.Millisecond}, nil, nil, nil)
	huma.Register(s.API(), huma.Operation{OperationID: "late", Method: "GET", Path: "/api/late"},
		func(ctx context.Context, _ *struct{}) (*struct{}, error) {
			<-ctx.Done()
			return nil, fmt.Errorf("query: %w", ctx.Err())
		})
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/api/late", nil))
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("got %d %v", w.Code, w.Header())
	}
}
