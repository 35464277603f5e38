package web_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/goleak"

	"github.com/turnstile-go/turnstile/framework/internal/logs"
	"github.com/turnstile-go/turnstile/framework/web"
)

func TestSecurityHeaders(t *testing.T) {
	h := newHats(t, web.Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}})
	for _, path := range []string{"/api/hats", "/api/hats/1", "/nowhere", "/api/hats/openapi.json", "/api/hats/docs"} {
		for _, proto := range []string{"http", "https"} {
			r := httptest.NewRequest(http.MethodGet, path, nil)
			r.Header.Set("X-Forwarded-Proto", proto)
			a := h.do(t, r)
			for name, want := range map[string]string{
				"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer",
				"Cross-Origin-Resource-Policy": "same-origin",
			} {
				if got := a.Header.Get(name); got != want {
					t.Errorf("%s: %s is %q, want %q", path, name, got, want)
				}
			}
			csp := a.Header.Get("Content-Security-Policy")
			if !strings.Contains(csp, "default-src 'none'") || !strings.Contains(csp, "frame-ancestors 'none'") {
				t.Errorf("%s: Content-Security-Policy is %q", path, csp)
			}
			if hsts := a.Header.Get("Strict-Transport-Security"); (hsts != "") != (proto == "https") {
				t.Errorf("%s over %s: Strict-Transport-Security is %q", path, proto, hsts)
			}
		}
	}
}

func TestRequestIDs(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	spans := tracetest.NewInMemoryExporter()
	s := web.NewServer("hats", web.Config{}, logs.New(&log, false, slog.LevelDebug, new(logs.Notices)),
		sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans)), nil)
	huma.Register(s.API(), huma.Operation{OperationID: "fail", Method: http.MethodGet, Path: "/api/fail"},
		func(context.Context, *struct{}) (*struct{}, error) { return nil, errors.New("unforeseen") })
	seen := map[string]bool{}
	for _, test := range []struct {
		sent  string
		taken bool
	}{
		{"9f2b6c1e-7d0a-4a53-8f6e-1f6f0f1c2ab3", true}, {"Root=1-67891233-abcdef012345678912345678", true},
		{"", false}, {strings.Repeat("x", 129), false}, {"a b", false}, {"a\tb", false}, {"<script>", false}, {`"a"`, false}, {"ü", false},
		{"a\r\nSet-Cookie: session=x", false}, {"\x1b[31m", false}, {"${jndi:ldap://x}", false},
	} {
		log.Reset()
		spans.Reset()
		r := httptest.NewRequest(http.MethodGet, "/api/fail", nil)
		r.Header.Set("X-Request-Id", test.sent)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		id := w.Header().Get("X-Request-Id")
		if (id == test.sent) != test.taken || id == "" || seen[id] {
			t.Errorf("%q is answered with the id %q", test.sent, id)
		}
		seen[id] = true
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		if len(lines) != 2 {
			t.Errorf("logged %q, want the error and the request", lines)
		}
		for _, line := range lines {
			var fields map[string]any
			if err := json.Unmarshal([]byte(line), &fields); err != nil || fields["request_id"] != id {
				t.Errorf("the id %s is not in %s %v", id, line, err)
			}
		}
		if got := fmt.Sprint(spans.GetSpans().Snapshots()[0].Attributes()); !strings.Contains(got, id) {
			t.Errorf("the id %s is not in the trace: %s", id, got)
		}
	}
}

// Whatever an address says, the log has one line of a bearable length for it, and a terminal shows it as it is.
func TestLogInjection(t *testing.T) {
	t.Parallel()
	for _, path := range []string{
		"/a%0d%0aINFO%20forged", "/a%1b%5b31mred", "/%00", "/%ff%fe", "/a%e2%80%a8b", "/a%22%2c%22level%22%3a%22x", "/" + strings.Repeat("long", 10_000),
		"/" + strings.Repeat("%c3%bc", 5_000), "/api/hats/..%2f..%2fetc%2fpasswd",
	} {
		for _, text := range []bool{true, false} {
			var log bytes.Buffer
			s := web.NewServer("hats", web.Config{}, logs.New(&log, text, slog.LevelDebug, new(logs.Notices)), nil, nil)
			w := httptest.NewRecorder()
			s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
			if w.Code != http.StatusNotFound || !json.Valid(w.Body.Bytes()) {
				t.Errorf("%.50s: %d %.200s", path, w.Code, w.Body)
			}
			got := log.String()
			if strings.Count(got, "\n") != 1 || strings.ContainsAny(got, "\x00\x1b\r") || len(got) > 4000 {
				t.Errorf("%.50s: logged %.200q, %d bytes", path, got, len(got))
			}
			if !text && !json.Valid([]byte(got)) {
				t.Errorf("%.50s: logged %.200q", path, got)
			}
		}
	}
}

// What cannot be stored is refused, though not before it is known who asks.
func TestSessionComesBeforeTheAddress(t *testing.T) {
	h := newHats(t, web.Config{})
	for _, test := range []struct {
		path   string
		status int
	}{
		{"/api/hats/%00", 404}, {"/api/hats/%ff", 404}, {"/api/hats/7?q=%00", 200}, {"/api/hats/7?q=%zz", 200}, // which it does not take
	} {
		r := httptest.NewRequest(http.MethodPut, test.path, strings.NewReader(`{"title":"x","size":1}`))
		r.Header.Set("Content-Type", "application/json")
		if a := h.do(t, r); a.StatusCode != 401 {
			t.Errorf("%s without a session: %d", test.path, a.StatusCode)
		}
		r = httptest.NewRequest(http.MethodPut, test.path, strings.NewReader(`{"title":"x","size":1}`))
		r.Header.Set("Content-Type", "application/json")
		h.issuer.SignIn(r, "ada")
		if a := h.do(t, r); a.StatusCode != test.status {
			t.Errorf("%s: %d, want %d", test.path, a.StatusCode, test.status)
		}
	}
}

const much = 8 << 20 // bytes, more than connections hold

// serve runs a server with an echo and a large answer, until the test ends. A test looks for what is left of it in a cleanup
// that it names before: that one comes last.
func serve(t *testing.T, cfg web.Config) (addr string) {
	t.Helper()
	cfg.Addr = "127.0.0.1:0"
	cfg.DrainTimeout = 30 * time.Second // the machine may have much else to do
	s := web.NewServer("hats", cfg, nil, nil, nil)
	huma.Register(s.API(), huma.Operation{OperationID: "echo", Method: http.MethodPost, Path: "/api/hats"},
		func(_ context.Context, in *struct{ Body newHat }) (*struct{ Body newHat }, error) {
			return &struct{ Body newHat }{in.Body}, nil
		})
	huma.Register(s.API(), huma.Operation{OperationID: "much", Method: http.MethodGet, Path: "/api/much"},
		func(context.Context, *struct{}) (*struct{ Body []string }, error) {
			return &struct{ Body []string }{[]string{strings.Repeat("x", much)}}, nil
		})
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	return s.Addr()
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// closedWithin returns what the server says until it ends the connection, which it must within d.
func closedWithin(t *testing.T, c net.Conn, d time.Duration) string {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(d)); err != nil {
		t.Fatal(err)
	}
	said, err := io.ReadAll(c)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("the connection is open after %s", d)
	}
	return string(said)
}

// trickle sends one byte after the other until the server has had enough.
func trickle(c net.Conn, text string, wg *sync.WaitGroup) {
	wg.Go(func() {
		for {
			if _, err := io.WriteString(c, text); err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
}

const postHead = "POST /api/hats HTTP/1.1\r\nHost: hats\r\nContent-Type: application/json\r\n"

func TestSlowClients(t *testing.T) {
	t.Cleanup(func() { goleak.VerifyNone(t) }) // of both servers
	addr := serve(t, web.Config{
		ReadHeaderTimeout: 200 * time.Millisecond, ReadTimeout: 400 * time.Millisecond, IdleTimeout: 300 * time.Millisecond,
	})
	// For those whose headers are to be there in time, also on a slow machine.
	patient := serve(t, web.Config{ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 2 * time.Second, IdleTimeout: 300 * time.Millisecond})
	const soon = 10 * time.Second
	var all, tricklers sync.WaitGroup
	all.Go(func() { // says nothing
		closedWithin(t, dial(t, addr), soon)
	})
	all.Go(func() { // headers without end
		c := dial(t, addr)
		io.WriteString(c, "GET /api/hats HTTP/1.1\r\nHost: hats\r\n")
		trickle(c, "X-More: x\r\n", &tricklers)
		closedWithin(t, c, soon)
		c.Close()
	})
	all.Go(func() { // a body that does not come
		c := dial(t, patient)
		io.WriteString(c, postHead+"Content-Length: 100\r\n\r\n{")
		if said := closedWithin(t, c, soon); !strings.HasPrefix(said, "HTTP/1.1 408 ") || !strings.Contains(said, "problem+json") {
			t.Errorf("a body that does not come is answered %q", said)
		}
	})
	all.Go(func() { // a body that comes for ever, in time each byte
		c := dial(t, addr)
		io.WriteString(c, postHead+"Transfer-Encoding: chunked\r\n\r\n")
		trickle(c, "1\r\n \r\n", &tricklers)
		closedWithin(t, c, soon)
		c.Close()
	})
	all.Go(func() { // one request and no other
		c := dial(t, patient)
		io.WriteString(c, "GET /nowhere HTTP/1.1\r\nHost: hats\r\n\r\n")
		if said := closedWithin(t, c, soon); !strings.HasPrefix(said, "HTTP/1.1 404 ") {
			t.Errorf("answered %q", said)
		}
	})
	all.Wait()
	tricklers.Wait()
}

// An answer that nobody reads ends with the write timeout.
func TestSlowReader(t *testing.T) {
	t.Cleanup(func() { goleak.VerifyNone(t) })
	const timeout = 300 * time.Millisecond
	addr := serve(t, web.Config{WriteTimeout: timeout})
	c := dial(t, addr)
	io.WriteString(c, "GET /api/much HTTP/1.1\r\nHost: hats\r\n\r\n")
	time.Sleep(2 * timeout)
	if said := closedWithin(t, c, 10*time.Second); len(said) >= much {
		t.Errorf("all of %d bytes were sent to a client that reads nothing", len(said))
	}
}

// What net/http refuses before anybody else sees it, and how requests are told apart on one connection.
func TestMalformedRequests(t *testing.T) {
	t.Cleanup(func() { goleak.VerifyNone(t) })
	addr := serve(t, web.Config{IdleTimeout: 200 * time.Millisecond, BodyLimit: 1000})
	body := `{"title":"bowler","size":7}`
	smuggled := "GET /smuggled HTTP/1.1\r\nHost: hats\r\n\r\n"
	for name, test := range map[string]struct {
		request string
		want    []string // the status of each answer, in order
	}{
		"no host":                         {"GET /nowhere HTTP/1.1\r\n\r\n", []string{"400"}},
		"two hosts":                       {"GET /nowhere HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", []string{"400"}},
		"headers too large":               {"GET /nowhere HTTP/1.1\r\nHost: hats\r\nX: " + strings.Repeat("x", 80<<10) + "\r\n\r\n", []string{"431"}},
		"address too long":                {"GET /" + strings.Repeat("x", 80<<10) + " HTTP/1.1\r\nHost: hats\r\n\r\n", []string{"431"}},
		"two lengths":                     {postHead + "Content-Length: 27\r\nContent-Length: 5\r\n\r\n" + body + smuggled, []string{"400"}},
		"a length that is none":           {postHead + "Content-Length: +27\r\n\r\n" + body + smuggled, []string{"400"}},
		"an encoding nobody knows":        {postHead + "Transfer-Encoding: xchunked\r\n\r\n" + body + smuggled, []string{"501"}},
		"two encodings":                   {postHead + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + smuggled, []string{"501"}},
		"a space before the colon":        {postHead + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + smuggled, []string{"400"}},
		"a folded header":                 {"GET /nowhere HTTP/1.1\r\nHost: hats\r\nX: a\r\n b\r\n\r\n", []string{"404"}},
		"a name with a control character": {"GET /nowhere HTTP/1.1\r\nHost: hats\r\nX\x01: a\r\n\r\n", []string{"400"}},
		"a key with a control character":  {postHead + "Idempotency-Key: a\x01\r\n\r\n", []string{"400"}},
		"announced too large":             {postHead + "Content-Length: 1001\r\n\r\n" + strings.Repeat(" ", 1001), []string{"413"}},
		"found too large":                 {postHead + "Transfer-Encoding: chunked\r\n\r\n7d0\r\n" + strings.Repeat(" ", 2000) + "\r\n0\r\n\r\n", []string{"413"}},
		"two after each other":            {postHead + "Content-Length: 27\r\n\r\n" + body + smuggled, []string{"200", "404"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, addr)
			io.WriteString(c, test.request)
			var got []string
			for _, answer := range strings.Split(closedWithin(t, c, 10*time.Second), "HTTP/1.1 ")[1:] {
				got = append(got, answer[:3])
			}
			if fmt.Sprint(got) != fmt.Sprint(test.want) {
				t.Errorf("answered %v, want %v", got, test.want)
			}
		})
	}
}

// TestBothLengthAndEncoding: the encoding counts (RFC 9112, section 6.3), so that all agree on where the request ends that
// follow that rule.
func TestBothLengthAndEncoding(t *testing.T) {
	t.Cleanup(func() { goleak.VerifyNone(t) })
	addr := serve(t, web.Config{IdleTimeout: 200 * time.Millisecond})
	c := dial(t, addr)
	io.WriteString(c, postHead+"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n1b\r\n"+`{"title":"bowler","size":7}`+"\r\n0\r\n\r\n")
	a, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	if body, err := io.ReadAll(a.Body); err != nil || a.StatusCode != 200 || !strings.Contains(string(body), "bowler") {
		t.Errorf("answered %d %s %v", a.StatusCode, body, err)
	}
}
