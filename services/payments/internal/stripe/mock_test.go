package stripe_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/framework/secret"
	"github.com/turnstile-go/turnstile/services/payments/internal/payment"
	"github.com/turnstile-go/turnstile/services/payments/internal/providertest"
	"github.com/turnstile-go/turnstile/services/payments/internal/stripe"
)

// stripeMock is Stripe's own mock: it checks each request by Stripe's
// description of its API, and answers with an example.
const stripeMock = "github.com/stripe/stripe-mock@v0.203.0"

// TestStripeMock: what we ask is what Stripe understands. Its answers, always the
// same, are about somebody else's payments, which we notice.
func TestStripeMock(t *testing.T) {
	address := startMock(t)
	target := &url.URL{Scheme: "http", Host: address}
	var mu sync.Mutex
	answers := map[string][]int{}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ModifyResponse = func(res *http.Response) error {
		mu.Lock()
		defer mu.Unlock()
		what := res.Request.Method + " " + res.Request.URL.Path
		answers[what] = append(answers[what], res.StatusCode)
		return nil
	}
	server := httptest.NewServer(proxy)
	t.Cleanup(server.Close)
	t.Cleanup(http.DefaultTransport.(*http.Transport).CloseIdleConnections)
	p := connect(t, stripe.Config{Key: secret.New("sk_test_123"), WebhookSecret: secret.New("w"), APIBase: server.URL})

	charge := providertest.Charge("a", "tok_visa")
	if id, err := p.Charge(t.Context(), charge); err == nil {
		t.Errorf("an answer about something else: %q", id)
	}
	charge.Begun = time.Now().Add(-25 * time.Hour)
	if id, err := p.Charge(t.Context(), charge); err == nil {
		t.Errorf("found: %q", id)
	}
	if err := p.Refund(t.Context(), providertest.Refund("a", "pi_1")); err == nil || errors.Is(err, payment.ErrNoCharge) {
		t.Errorf("refund: %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, what := range []string{
		"POST /v1/payment_methods", "POST /v1/payment_intents", "GET /v1/payment_intents/search", "POST /v1/refunds",
	} {
		if len(answers[what]) == 0 {
			t.Errorf("%s was not asked: %v", what, answers)
		}
	}
	for what, statuses := range answers {
		if slices.ContainsFunc(statuses, func(status int) bool { return status != http.StatusOK }) {
			t.Errorf("%s is answered with %v", what, statuses)
		}
	}
}

// startMock builds and starts stripe-mock, and returns its address. Without a
// network it skips the test, or fails it if CI is set.
func startMock(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds a program: not with -short")
	}
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	install := exec.CommandContext(ctx, "go", "install", stripeMock)
	install.Dir, install.Env = dir, append(os.Environ(), "GOBIN="+dir, "GOWORK=off")
	if out, err := install.CombinedOutput(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%s cannot be built: %v\n%s", stripeMock, err, out)
		}
		t.Skipf("SKIPPED: %s cannot be built, is there a network? %v\n%s", stripeMock, err, out)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	_ = free.Close()
	mock := exec.Command(filepath.Join(dir, "stripe-mock"), "-http-addr", address)
	mock.Stdout, mock.Stderr = t.Output(), t.Output()
	if err := mock.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- mock.Wait() }()
	t.Cleanup(func() {
		_ = mock.Process.Kill() // or it has ended
		<-ended
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_ = conn.Close()
			return address
		}
		if time.Now().After(deadline) {
			t.Fatalf("stripe-mock does not listen: %v", err)
		}
	}
}
