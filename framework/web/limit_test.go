package web

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/danielgtaylor/huma/v2"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// guard is an Authenticator that counts whom it is asked about. Requests have their caller in X-Caller.
type guard struct{ asked int }

type callerKey struct{}

func (g *guard) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.asked++
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, r.Header.Get("X-Caller"))))
	})
}
func (*guard) Require(context.Context) error                    { return nil }
func (*guard) Caller(ctx context.Context) string                { return ctx.Value(callerKey{}).(string) }
func (*guard) Trusts(string) bool                               { return false }
func (*guard) SecuritySchemes() map[string]*huma.SecurityScheme { return nil }

// requests returns how to send one from an address, as a proxy passes it on.
func requests(t *testing.T, s *Server) func(addr string) *httptest.ResponseRecorder {
	t.Helper()
	huma.Register(s.API(), huma.Operation{OperationID: "get", Method: "GET", Path: "/api/limited"},
		func(context.Context, *struct{}) (*struct{}, error) { return nil, nil })
	return func(addr string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodGet, "/api/limited", nil)
		r.RemoteAddr = "10.0.0.1:99"
		r.Header.Set("X-Forwarded-For", addr)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		return w
	}
}

func limited(limit Rate, burst uint, reader sdkmetric.Reader) *Server {
	return NewServer("limited", Config{
		RateLimit: limit, RateBurst: burst, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
	}, nil, nil, sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)))
}

// Each client may make some requests at once and then as many a second as is
// said; the others do not notice.
func TestRateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reader := sdkmetric.NewManualReader()
		s, g := limited(0.25, 3, reader), &guard{}
		s.Authenticate(g)
		get := requests(t, s)
		refused := 0
		expect := func(addr string, statuses ...int) (w *httptest.ResponseRecorder) {
			t.Helper()
			for _, want := range statuses {
				if w = get(addr); w.Code != want {
					t.Errorf("%s is answered %d, want %d", addr, w.Code, want)
				}
				if want == 429 {
					refused++
				}
			}
			return w
		}
		w := expect("192.0.2.1", 204, 204, 204, 429)
		var p Problem
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Status != 429 || p.Title != "Too Many Requests" ||
			len(p.Errors) != 1 || p.Instance != "/api/limited" || w.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("the problem is %s %v", w.Body, err)
		}
		if after := w.Header().Get("Retry-After"); after != "4" {
			t.Errorf("Retry-After: %s, want 4", after)
		}
		if g.asked != 3 {
			t.Errorf("%d requests were authenticated, want 3", g.asked)
		}
		expect("192.0.2.2", 204, 204, 204, 429)
		expect("2001:db8::1", 204, 204)
		expect("2001:db8::ffff:1", 204, 429) // of the same /64
		expect("2001:db8:0:1::1", 204)

		time.Sleep(3900 * time.Millisecond)
		if after := expect("192.0.2.1", 429).Header().Get("Retry-After"); after != "1" {
			t.Errorf("Retry-After: %s, want 1", after)
		}
		time.Sleep(100 * time.Millisecond)
		expect("192.0.2.1", 204, 429)

		if n := counted(t, reader, "client"); n != int64(refused) {
			t.Errorf("%d refused requests are counted, want %d", n, refused)
		}
	})
}

// counted returns how many requests were refused because of a limit.
func counted(t *testing.T, reader sdkmetric.Reader, limit string) (n int64) {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if m.Name != "turnstile.http.limited" {
				continue
			}
			for _, point := range m.Data.(metricdata.Sum[int64]).DataPoints {
				if value, _ := point.Attributes.Value("limit"); value.AsString() == limit {
					n += point.Value
				}
			}
		}
	}
	return n
}

// Each account may make some requests, from however many addresses; who has none is not concerned.
func TestAccountRateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reader := sdkmetric.NewManualReader()
		s := NewServer("limited", Config{}, nil, nil, sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)))
		s.Authenticate(&guard{})
		requests(t, s)
		for name, value := range map[string]string{"HTTP_ACCOUNT_RATE_LIMIT": "0.5", "HTTP_ACCOUNT_RATE_BURST": "3"} {
			if err := s.Adjust()[name](value); err != nil {
				t.Fatal(err)
			}
		}
		addr := byte(0)
		expect := func(caller string, statuses ...int) (w *httptest.ResponseRecorder) {
			t.Helper()
			for _, want := range statuses {
				addr++
				r := httptest.NewRequest(http.MethodGet, "/api/limited", nil)
				r.RemoteAddr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, addr}), 99).String()
				r.Header.Set("X-Caller", caller)
				w = httptest.NewRecorder()
				if s.ServeHTTP(w, r); w.Code != want {
					t.Errorf("%q is answered %d, want %d: %s", caller, w.Code, want, w.Body)
				}
			}
			return w
		}
		if after := expect("ann", 204, 204, 204, 429, 429).Header().Get("Retry-After"); after != "2" {
			t.Errorf("Retry-After: %s, want 2", after)
		}
		expect("bob", 204, 204, 204, 429)
		expect("", 204, 204, 204, 204, 204)
		time.Sleep(2 * time.Second)
		expect("ann", 204, 429)
		if n := counted(t, reader, "account"); n != 4 {
			t.Errorf("%d refused requests are counted, want 4", n)
		}
	})
}

// The limit may change while the server runs. At first there is none.
func TestRateLimitIsAdjusted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := limited(0, 0, sdkmetric.NewManualReader())
		get := requests(t, s)
		answered := func() (n int) {
			for range 50 {
				if get("192.0.2.1").Code == 204 {
					n++
				}
			}
			return n
		}
		if n := answered(); n != 50 {
			t.Errorf("without a limit %d of 50 requests are answered", n)
		}
		for _, c := range []struct {
			name, value string
			want        int
		}{
			{"HTTP_RATE_LIMIT", "5", 10}, {"HTTP_RATE_LIMIT", "0.1", 1}, {"HTTP_RATE_BURST", "7", 7},
			{"HTTP_RATE_LIMIT", "20", 7}, {"HTTP_RATE_BURST", "0", 40}, {"HTTP_RATE_LIMIT", "0", 50},
		} {
			if err := s.Adjust()[c.name](c.value); err != nil {
				t.Error(err)
			}
			if n := answered(); n != c.want {
				t.Errorf("%s=%s: %d of 50 requests are answered, want %d", c.name, c.value, n, c.want)
			}
		}
		for name, values := range map[string][]string{
			"HTTP_RATE_LIMIT": {"-1", "many", "NaN", "+Inf", "1e300"}, "HTTP_RATE_BURST": {"-1", "2.5", "many", "1e3"},
		} {
			for _, value := range values {
				if err := s.Adjust()[name](value); err == nil || !strings.Contains(err.Error(), "want ") {
					t.Errorf("%s=%s: %v", name, value, err)
				}
			}
		}
		if n := answered(); n != 50 {
			t.Errorf("what is refused changes the limit: %d", n)
		}
	})
}

// A flood of addresses neither takes memory without end nor gives anybody who is
// known a fresh start; and when it is over, it is forgotten.
func TestRateLimitInAFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := limited(1, 10, sdkmetric.NewManualReader())
		get := requests(t, s)
		for get("192.0.2.1").Code == 204 {
		}
		get("192.0.2.2")
		passed := 0
		for i := range 3 * maxKnown {
			addr := netip.AddrFrom4([4]byte{100, byte(i >> 16), byte(i >> 8), byte(i)})
			if s.limits.clients.Admit(Client{Addr: addr}.Network()) == 0 {
				passed++
			}
		}
		if n := len(s.limits.clients.known); n != maxKnown {
			t.Errorf("%d clients are known, want %d", n, maxKnown)
		}
		if most := maxKnown + 10*sharedBuckets; passed > most {
			t.Errorf("%d of a flood pass, want %d at most", passed, most)
		}
		if get("192.0.2.1").Code != 429 || get("192.0.2.2").Code != 204 {
			t.Error("the flood has changed what those may do who were known")
		}
		time.Sleep(time.Minute)
		for i := range 3 {
			if code := get(fmt.Sprintf("198.51.100.%d", i)).Code; code != 204 {
				t.Errorf("after the flood, a new client is answered %d", code)
			}
		}
		if n := len(s.limits.clients.known); n > 10 {
			t.Errorf("%d clients are known after the flood", n)
		}
	})
}
