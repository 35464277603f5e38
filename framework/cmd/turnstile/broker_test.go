package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestParsePeers(t *testing.T) {
	peers, err := parsePeers("a=one:6222,\n  b=two:6222", "b")
	if want := map[string]string{"a": "one:6222", "b": "two:6222"}; err != nil || !maps.Equal(peers, want) {
		t.Errorf("peers are %v (%v), want %v", peers, err, want)
	}
	if peers, err := parsePeers(" ", ""); err != nil || len(peers) > 0 {
		t.Errorf("no peers are %v (%v)", peers, err)
	}
	for text, want := range map[string]string{
		"one:6222":              "a name and an address such as a=host:6222",
		"a=one":                 "a name and an address such as a=host:6222",
		"a=one:6222,a=two:6222": "two servers a",
		"a=one:6222,c=two:6222": `--name "b" is none of those in --peers`,
	} {
		if _, err := parsePeers(text, "b"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("peers %s: error %v does not say %s", text, err, want)
		}
	}
}

// moody is a broker that is as ready as it is told to be.
type moody struct{ err error }

func (moody) URL() string { return "" }

func (m *moody) Ready(context.Context) error { return m.err }

func (moody) Leads() bool { return true }

func (moody) Shutdown() {}

// Probes tell the states of a broker apart.
func TestBrokerProbes(t *testing.T) {
	var probes brokerProbes
	page := probes.pages()
	is := func(when, path string, want int) {
		t.Helper()
		w := httptest.NewRecorder()
		page.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != want {
			t.Errorf("%s: %s is %d %s, want %d", when, path, w.Code, w.Body, want)
		}
	}
	all := func(when string, startup, ready int) {
		t.Helper()
		is(when, "/livez", 200)
		is(when, "/startupz", startup)
		is(when, "/readyz", ready)
	}
	all("while it starts", 503, 503)
	b := &moody{errors.New("no server leads")}
	probes.started(b)
	all("without the others", 503, 503)
	b.err = nil
	all("in its cluster", 200, 200)
	b.err = errors.New("no server leads")
	all("when the others are gone", 200, 503)
	b.err = nil
	probes.leaving()
	all("when it stops", 200, 503)
}

// Told to stop, a broker says that it is not ready before it ends.
func TestRunBroker(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ready")
	t.Setenv("READY_FILE", file)
	for _, kind := range []string{"stan", "jetstream"} {
		t.Run(kind, func(t *testing.T) {
			admin := unusedAddr(t)
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			ended := make(chan error, 1)
			go func() {
				ended <- runBroker(ctx, brokerOptions{kind: kind, admin: admin, log: slog.New(slog.DiscardHandler)})
			}()
			awaitStatus(t, "http://"+admin+"/readyz", 200)
			stop()
			awaitStatus(t, "http://"+admin+"/readyz", 503)
			if err := <-ended; err != nil {
				t.Error(err)
			}
			var says struct{ Addresses map[string]string }
			text, err := os.ReadFile(file)
			if err == nil {
				err = json.Unmarshal(text, &says)
			}
			if err != nil || says.Addresses["nats"] == "" {
				t.Errorf("READY_FILE says %s (%v)", text, err)
			}
		})
	}
}

func awaitStatus(t *testing.T, url string, want int) {
	t.Helper()
	last := ""
	for late := time.Now().Add(20 * time.Second); time.Now().Before(late); time.Sleep(10 * time.Millisecond) {
		resp, err := http.Get(url)
		if err != nil {
			last = err.Error()
			continue
		}
		resp.Body.Close()
		if last = fmt.Sprint(resp.StatusCode); resp.StatusCode == want {
			return
		}
	}
	t.Fatalf("%s: %s, want %d", url, last, want)
}

func unusedAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
