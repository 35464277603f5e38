package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"
)

// backend is a service that answers with its name and what it was asked.
func backend(t *testing.T, name string) (addr string) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("X-Seen", strings.Join([]string{r.Host, r.Header.Get("X-Forwarded-For"), r.Header.Get("X-Forwarded-Host"), r.Header.Get("X-Forwarded-Proto")}, " "))
		fmt.Fprintf(w, "%s %s %s %s", name, r.Method, r.URL.RequestURI(), body)
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// front serves a gateway.
func front(t *testing.T, hold time.Duration) (*Gateway, *httptest.Server) {
	t.Helper()
	g := New(hold)
	s := httptest.NewServer(g)
	t.Cleanup(func() { s.Close(); g.Close() })
	return g, s
}

func route(t *testing.T, g *Gateway, name string, prefixes ...string) {
	t.Helper()
	if err := g.Route(name, prefixes, prefixes[0]+"/docs"); err != nil {
		t.Fatal(err)
	}
}

func request(t *testing.T, method, url, body string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Forwarded-For", "6.6.6.6") // what a client says of itself is not believed
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(text)
}

// closed returns an address at which nobody listens.
func closed(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestRoutes(t *testing.T) {
	g, s := front(t, time.Minute)
	route(t, g, "auth", "/api/users", "/.well-known/jwks.json")
	route(t, g, "orders", "/api/orders")
	route(t, g, "archive", "/api/orders/archive")
	g.Open()
	for _, name := range []string{"auth", "orders", "archive"} {
		g.Set(name, Status{Phase: Up, Addr: backend(t, name)})
	}
	for path, want := range map[string]string{
		"/api/users/signup":        "auth",
		"/.well-known/jwks.json":   "auth",
		"/api/orders":              "orders",
		"/api/orders/":             "orders",
		"/api/orders/1?a=b%20c":    "orders",
		"/api/orders/a%2Fb":        "orders",
		"/api/orders?a=%zz&b=1;&c": "orders",
		"/api/orders/archive/1":    "archive",
		"/api/orders/archives":     "orders",
		"/api/ordersandmore":       "",
		"/api":                     "",
		"/.well-known/jwks.json.x": "",
	} {
		response, text := request(t, http.MethodPost, s.URL+path, "body")
		if want == "" {
			media := response.Header.Get("Content-Type")
			if response.StatusCode != http.StatusNotFound || media != "application/problem+json" || !strings.Contains(text, "No service serves") {
				t.Errorf("%s: %d %s %s, want 404 as a problem", path, response.StatusCode, media, text)
			}
			if response.Header.Get("X-Content-Type-Options") != "nosniff" || response.Header.Get("Content-Security-Policy") == "" {
				t.Errorf("%s: browsers may do anything with the answer: %v", path, response.Header)
			}
		} else if got := want + " POST " + path + " body"; text != got {
			t.Errorf("%s: %q, want %q", path, text, got)
		} else if response.Close {
			t.Errorf("%s: the connection ends", path)
		}
	}
}

func TestForwardedHeaders(t *testing.T) {
	g, s := front(t, time.Minute)
	route(t, g, "a", "/a")
	g.Set("a", Status{Phase: Up, Addr: backend(t, "a")})
	response, _ := request(t, http.MethodGet, s.URL+"/a", "")
	host := strings.TrimPrefix(s.URL, "http://")
	if got, want := response.Header.Get("X-Seen"), host+" 127.0.0.1 "+host+" http"; got != want {
		t.Errorf("the service saw %q, want %q", got, want)
	}
}

func TestTwoServicesOnePath(t *testing.T) {
	g := New(time.Minute)
	route(t, g, "a", "/a")
	if err := g.Route("b", []string{"/a"}, ""); err == nil || !strings.Contains(err.Error(), "a and b both serve /a") {
		t.Errorf("Route = %v", err)
	}
	route(t, g, "a", "/a", "/more") // its own is no conflict
}

// held sends a request in the background, and waits until the gateway holds it.
func held(t *testing.T, g *Gateway, url, body string) <-chan string {
	t.Helper()
	answer := make(chan string, 1)
	waiting := make(chan struct{}, 10)
	g.waiting = func() { waiting <- struct{}{} }
	go func() {
		r, err := http.Post(url, "text/plain", strings.NewReader(body))
		if err != nil {
			answer <- err.Error()
			return
		}
		defer r.Body.Close()
		text, _ := io.ReadAll(r.Body)
		answer <- string(text)
	}()
	<-waiting
	return answer
}

func TestHoldsRequests(t *testing.T) {
	for name, test := range map[string]struct{ before func(t *testing.T) Status }{
		"while it starts":                 {func(*testing.T) Status { return Status{} }},
		"while it is about to restart":    {func(*testing.T) Status { return Status{Phase: Down, Retry: time.Now().Add(patience / 2)} }},
		"when it has died, unknown to us": {func(t *testing.T) Status { return Status{Phase: Up, Addr: closed(t)} }},
	} {
		t.Run(name, func(t *testing.T) {
			g, s := front(t, time.Minute)
			route(t, g, "a", "/a")
			g.Set("a", test.before(t))
			answer := held(t, g, s.URL+"/a", "body")
			select {
			case text := <-answer:
				t.Fatalf("it was not held, but answered: %s", text)
			default:
			}
			g.Set("a", Status{Phase: Up, Addr: backend(t, "a")})
			if text := <-answer; text != "a POST /a body" {
				t.Errorf("answer = %q", text)
			}
		})
	}
}

func TestHoldsRequestsUntilRoutesAreKnown(t *testing.T) {
	g, s := front(t, time.Minute)
	answer := held(t, g, s.URL+"/a", "body")
	g.Set("a", Status{Phase: Up, Addr: backend(t, "a")})
	route(t, g, "a", "/a")
	if text := <-answer; text != "a POST /a body" {
		t.Errorf("answer = %q", text)
	}
}

func TestSaysWhichServiceIsDown(t *testing.T) {
	for name, test := range map[string]struct {
		hold   time.Duration
		status Status
		want   string
		retry  string // empty also if it depends on when the service is started again
	}{
		"crashed":       {time.Minute, Status{Phase: Down, Why: "crashed (exit code 2)", Retry: time.Now().Add(time.Hour)}, "The service orders crashed (exit code 2).", ""},
		"not compiling": {time.Minute, Status{Phase: Down, Why: "does not compile"}, "The service orders does not compile.", ""},
		"slow to start": {time.Millisecond, Status{}, "The service orders is not ready yet.", "1"},
	} {
		t.Run(name, func(t *testing.T) {
			g, s := front(t, test.hold)
			route(t, g, "orders", "/api/orders")
			g.Set("orders", test.status)
			atMost := time.Until(test.status.Retry).Seconds() + 1
			response, text := request(t, http.MethodGet, s.URL+"/api/orders/1", "")
			if response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("answer = %d %s", response.StatusCode, response.Header.Get("Content-Type"))
			}
			got := response.Header.Get("Retry-After")
			if again := test.status.Retry; !again.IsZero() {
				seconds, err := strconv.Atoi(got)
				until := time.Until(again).Seconds()
				if err != nil || float64(seconds) < until || float64(seconds) >= atMost {
					t.Errorf("Retry-After = %q with %.1f s to go", got, until)
				}
			} else if got != test.retry {
				t.Errorf("Retry-After = %q, want %q", got, test.retry)
			}
			var problem struct {
				Status   int
				Detail   string
				Instance string
				Errors   []struct{ Message string }
			}
			if err := json.Unmarshal([]byte(text), &problem); err != nil {
				t.Fatal(err)
			}
			if problem.Status != 503 || problem.Instance != "/api/orders/1" || !strings.HasPrefix(problem.Detail, test.want) || len(problem.Errors) != 1 || problem.Errors[0].Message != problem.Detail {
				t.Errorf("problem = %s", text)
			}
		})
	}
}

func TestServiceBreaksOff(t *testing.T) {
	dying := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer dying.Close()
	g, s := front(t, time.Minute)
	route(t, g, "orders", "/api/orders")
	g.Set("orders", Status{Phase: Up, Addr: dying.Listener.Addr().String()})
	response, text := request(t, http.MethodPost, s.URL+"/api/orders", "body")
	if response.StatusCode != http.StatusBadGateway || !strings.Contains(text, "The service orders broke off") {
		t.Errorf("answer = %d %s", response.StatusCode, text)
	}
}

// TestSlowBody has a client that sends one byte of a hundred: it hears what its service says meanwhile, and is cut off in the end.
func TestSlowBody(t *testing.T) {
	early := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close") // else net/http waits for the body
		http.Error(w, "who are you?", http.StatusUnauthorized)
	}))
	late := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); err != nil {
			http.Error(w, "too slow", http.StatusRequestTimeout)
		}
	}))
	late.Config.ReadTimeout = 300 * time.Millisecond
	late.Start()
	patient := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	for _, s := range []*httptest.Server{early, late, patient} {
		t.Cleanup(s.Close)
	}
	for name, test := range map[string]struct {
		service *httptest.Server
		status  int
		soon    bool
	}{
		"the service says who may":      {early, http.StatusUnauthorized, true},
		"the service has waited enough": {late, http.StatusRequestTimeout, true},
		"the gateway has":               {patient, http.StatusRequestTimeout, false},
	} {
		t.Run(name, func(t *testing.T) {
			g := New(time.Minute)
			route(t, g, "a", "/a")
			g.Set("a", Status{Phase: Up, Addr: test.service.Listener.Addr().String()})
			s := httptest.NewUnstartedServer(nil)
			s.Config = g.Server()
			if s.Config.ReadTimeout < 15*time.Second {
				t.Errorf("clients have %v: less than services give them", s.Config.ReadTimeout)
			}
			s.Config.ReadTimeout = 2 * time.Second
			s.Start()
			defer g.Close()
			defer s.Close()

			client, err := net.Dial("tcp", s.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			began := time.Now()
			if err := client.SetDeadline(began.Add(15 * time.Second)); err != nil {
				t.Fatal(err)
			}
			fmt.Fprint(client, "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
			reader := bufio.NewReader(client)
			response, err := http.ReadResponse(reader, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			if response.StatusCode != test.status {
				t.Errorf("the answer is %s, want %d", response.Status, test.status)
			}
			if took := time.Since(began); test.soon && took >= s.Config.ReadTimeout {
				t.Errorf("the answer took %v", took)
			}
			if _, err := io.Copy(io.Discard, response.Body); err != nil {
				t.Error(err)
			}
			if _, err := reader.ReadByte(); !errors.Is(err, io.EOF) {
				t.Errorf("the connection does not end: %v", err)
			}
		})
	}
}

func TestClientGoesAwayWhileHeld(t *testing.T) {
	g := New(time.Hour)
	route(t, g, "a", "/a")
	ctx, cancel := context.WithCancel(t.Context())
	g.waiting = cancel
	g.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodGet, "/a", nil)) // returns
}

func TestIndex(t *testing.T) {
	admin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"status":"degraded","checks":{"broker":"away <for now>"}}`)
	}))
	defer admin.Close()
	g, s := front(t, time.Minute)
	route(t, g, "orders", "/api/orders")
	route(t, g, "tickets", "/api/tickets")
	g.Set("orders", Status{Phase: Up, Addr: backend(t, "orders"), Admin: admin.Listener.Addr().String(), PID: 42})
	g.Set("tickets", Status{Phase: Down, Why: "does not compile"})

	_, text := request(t, http.MethodGet, s.URL+"/", "")
	var index struct{ Services []entry }
	if err := json.Unmarshal([]byte(text), &index); err != nil {
		t.Fatal(err)
	}
	if len(index.Services) != 2 || index.Services[0].Status != "degraded" || index.Services[0].Checks["broker"] == "" || index.Services[1].Status != "down" {
		t.Errorf("index = %s", text)
	}

	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Accept", "text/html,*/*")
	w := httptest.NewRecorder()
	g.ServeHTTP(w, r)
	for _, want := range []string{`href="/api/orders/docs"`, "away &lt;for now&gt;", "does not compile", "<dd>42</dd>"} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("the page lacks %q", want)
		}
	}
}
