package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/console"
)

// The gateway alone passes requests on by path, says who is away, and ends when it is told to.
func TestGateway(t *testing.T) {
	t.Parallel()
	orders := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "orders has ", r.URL) }))
	defer orders.Close()
	away := httptest.NewServer(nil)
	away.Close()

	ctx, cancel := context.WithCancel(t.Context())
	said, out := io.Pipe()
	defer said.Close()
	c := gatewayCommand(console.New(out))
	c.SetArgs([]string{"--listen", "127.0.0.1:0", "--route", "/api/orders=" + orders.Listener.Addr().String(),
		"--route", "/api/users=" + away.Listener.Addr().String()})
	ended := make(chan error, 1)
	go func() { ended <- c.ExecuteContext(ctx) }()
	line := make([]byte, 200)
	n, err := said.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, said)
	url := "http://" + regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(string(line[:n]))

	for path, want := range map[string]string{
		"/api/orders/7": "200 orders has /api/orders/7",
		"/api/users":    "503 ",
		"/api/other":    "404 ",
		"/":             "200 {",
	} {
		response, err := http.Get(url + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if got := fmt.Sprint(response.StatusCode, " ", string(body)); err != nil || !strings.HasPrefix(got, want) {
			t.Errorf("%s answers %s (%v), want %s", path, got, err, want)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("told to stop: %v", err)
	}
}

func TestGatewayRefusesWrongRoutes(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"":                                    "nothing to pass on: say --route PATH=HOST:PORT",
		"--route /api/orders":                 "--route /api/orders: want PATH=HOST:PORT",
		"--route api/orders=orders:8080":      "want PATH=HOST:PORT",
		"--route /a=x:1 --route /a=y:1":       "both serve /a",
		"--route /a=x:1 --listen 256.0.0.1:1": "choose another address with --listen",
	} {
		c := gatewayCommand(console.New(io.Discard))
		c.SilenceUsage, c.SilenceErrors = true, true
		c.SetOut(new(bytes.Buffer))
		c.SetArgs(strings.Fields(args))
		if err := c.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("gateway %s: %v, want %q", args, err, want)
		}
	}
}
