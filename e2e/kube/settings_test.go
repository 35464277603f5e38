package kube

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/turnstile-go/turnstile/e2e/internal/journey"
)

// set changes a setting of a service; nil is that it is not set.
func (a *application) set(t *testing.T, service, variable string, value any) {
	t.Helper()
	patch, err := json.Marshal(map[string]any{"data": map[string]any{variable: value}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = a.API.CoreV1().ConfigMaps(a.namespace).Patch(t.Context(), service+"-settings", types.MergePatchType, patch, meta.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// TestSettings changes what may change while services run, and measures how long it takes until it does.
func TestSettings(t *testing.T) {
	a := deployed(t)
	t.Run("rate limit", func(t *testing.T) {
		settings, err := a.API.CoreV1().ConfigMaps(a.namespace).Get(t.Context(), "tickets-settings", meta.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		before := map[string]any{}
		for _, name := range []string{"HTTP_RATE_LIMIT", "HTTP_RATE_BURST"} {
			if value, ok := settings.Data[name]; ok {
				before[name] = value
			}
		}
		visitor := a.site().Person(t)
		get := func() int {
			status, err := visitor.Call(nil, http.MethodGet, "/api/tickets?limit=1", nil)
			if status == 0 {
				t.Fatal(err)
			}
			return status
		}
		var on, off []time.Duration
		for range *rounds {
			begin := time.Now()
			a.set(t, "tickets", "HTTP_RATE_BURST", "1")
			a.set(t, "tickets", "HTTP_RATE_LIMIT", "1")
			journey.Eventually(t, "requests are refused", func() error {
				if get() != http.StatusTooManyRequests {
					return errNotYet
				}
				return nil
			})
			on = append(on, time.Since(begin))
			begin = time.Now()
			a.set(t, "tickets", "HTTP_RATE_LIMIT", before["HTTP_RATE_LIMIT"])
			a.set(t, "tickets", "HTTP_RATE_BURST", before["HTTP_RATE_BURST"])
			journey.Eventually(t, "no request is refused", func() error {
				for range 6 {
					if get() != http.StatusOK {
						return errNotYet
					}
				}
				return nil
			})
			off = append(off, time.Since(begin))
		}
		onMedian, onMost := median(on)
		offMedian, offMost := median(off)
		t.Logf("a limit was in force after %v, at most %v; it was gone after %v, at most %v", onMedian, onMost, offMedian, offMost)
	})
	t.Run("log level", func(t *testing.T) {
		defer a.set(t, "orders", "LOG_LEVEL", "INFO")
		visitor := a.site().Person(t)
		lines := a.follow(t, a.pods(t, "orders")[0].Name)
		begin := time.Now()
		a.set(t, "orders", "LOG_LEVEL", "DEBUG")
		ask := time.NewTicker(50 * time.Millisecond) // so that there is something to be logged
		defer ask.Stop()
		limit := time.After(patience)
		for {
			select {
			case line := <-lines:
				if strings.Contains(line, `"level":"DEBUG"`) {
					t.Logf("there was a DEBUG line in the log after %v", time.Since(begin).Round(time.Millisecond))
					return
				}
			case <-ask.C:
				_, _ = visitor.Call(nil, http.MethodGet, "/api/orders/docs", nil) // whatever it says
			case <-limit:
				t.Fatalf("no DEBUG line within %v", patience)
			}
		}
	})
	t.Run("workers", func(t *testing.T) {
		defer a.set(t, "orders", "EVENT_WORKERS", nil)
		await := a.events(t)
		a.set(t, "orders", "EVENT_WORKERS", "2")
		after, text := await("SettingsApplied", "orders-")
		t.Logf("Event after %v: %s", after, text)
		journey.Purchase(t, a.site())
		await = a.events(t)
		a.set(t, "orders", "EVENT_WORKERS", "many")
		after, text = await("SettingsRejected", "orders-")
		t.Logf("a bad value: Event after %v: %s", after, text)
		journey.Purchase(t, a.site())
	})
	a.audit(t)
}

// follow returns what a pod logs from now on, until the end of the test.
func (a *application) follow(t *testing.T, pod string) <-chan string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	since := int64(1)
	stream, err := a.API.CoreV1().Pods(a.namespace).GetLogs(pod, &core.PodLogOptions{Follow: true, SinceSeconds: &since}).Stream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	lines := make(chan string)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for scan := bufio.NewScanner(stream); scan.Scan(); {
			select {
			case lines <- scan.Text():
			case <-ctx.Done():
				return
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		_ = stream.Close() // it was only read
		<-done
	})
	return lines
}
