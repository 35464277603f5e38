package kube

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/fake"

	"github.com/turnstile-go/turnstile/framework"
)

// newClient returns a client of an API server in memory, for what needs no real one.
func newClient() dynamic.Interface {
	return fake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{
		{Version: "v1", Resource: "configmaps"}:                           "ConfigMapList",
		{Group: "coordination.k8s.io", Version: "v1", Resource: "leases"}: "LeaseList",
		{Group: "events.k8s.io", Version: "v1", Resource: "events"}:       "EventList",
	})
}

// newPod returns the part of a process that uses the client.
func newPod(client dynamic.Interface, name string) *Pod {
	s := &framework.Service{
		Name: "orders", Instance: name, Pod: framework.Pod{Name: name, Namespace: "turnstile", UID: "uid-of-" + name},
		Log: slog.New(slog.DiscardHandler), LogLevel: new(slog.LevelVar),
	}
	p := &Pod{
		cfg: Config{ConfigMap: "orders-settings", LeaseDuration: 15 * time.Second}, service: s,
		api: &api{client: client, http: new(http.Client), namespace: "turnstile"},
	}
	p.recorder = newRecorder(p.api, s)
	return p
}

func TestAStormOfOneReasonLeavesRoomForOthers(t *testing.T) {
	t.Parallel()
	p := newPod(newClient(), "orders-a")
	now := time.Now()
	for i := range 200 {
		p.recorder.count(framework.Notice{Time: now.Add(time.Duration(i)), Reason: "DeadLetter", Text: fmt.Sprint("an event is dead: ", i)})
	}
	p.recorder.count(framework.Notice{Time: now.Add(time.Second), Reason: "BrokerLost", Text: "the broker is lost"})
	p.recorder.send(t.Context(), true)
	events, err := p.api.events().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for _, e := range events.Items {
		got[fmt.Sprint(e.Object["reason"])]++
	}
	if want := map[string]int{"DeadLetter": 10, "BrokerLost": 1}; !maps.Equal(got, want) {
		t.Errorf("Events %v, want %v", got, want)
	}
}

// Who holds a Lease that somebody deletes finds that out a moment later. Nobody who has seen it takes its place before.
func TestOneLeadsWhenTheLeaseIsDeleted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client := newClient()
		ctx, stop := context.WithCancel(t.Context())
		var candidates sync.WaitGroup
		defer candidates.Wait()
		defer stop()
		var leading, terms atomic.Int32
		for _, name := range []string{"orders-a", "orders-b"} {
			p := newPod(client, name)
			lead := p.Lead("prune")
			candidates.Go(func() {
				err := lead(ctx, "prune", func(ctx context.Context) {
					if n := leading.Add(1); n != 1 {
						t.Errorf("%d lead", n)
					}
					terms.Add(1)
					<-ctx.Done()
					leading.Add(-1)
				})
				if err != nil {
					t.Error(err)
				}
			})
			synctest.Wait() // the first leads, the second has seen that
		}
		leases := newPod(client, "").api.leases()
		for range 10 {
			time.Sleep(time.Minute + 500*time.Millisecond) // between two renewals
			if err := leases.Delete(ctx, "orders-prune", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		if n, all := leading.Load(), terms.Load(); n != 1 || all != 11 {
			t.Errorf("%d lead, of %d terms; want 1, and one after each time that the Lease was deleted", n, all)
		}
	})
}

// The first settings apply, and later ones do, while another part waits for what it needs to start.
func TestSettingsAreFollowedFromTheStart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPod(newClient(), "orders-a")
		settings := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "orders-settings"},
			"data": map[string]any{"LOG_LEVEL": "DEBUG"},
		}}
		if _, err := p.api.configMaps().Create(t.Context(), settings, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := p.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		change := func(to string) {
			t.Helper()
			settings.Object["data"] = map[string]any{"LOG_LEVEL": to}
			if _, err := p.api.configMaps().Update(t.Context(), settings, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		expect := func(want slog.Level) {
			t.Helper()
			synctest.Wait()
			if got := p.service.LogLevel.Level(); got != want {
				t.Errorf("the level is %s, want %s", got, want)
			}
		}
		expect(slog.LevelDebug)
		change("ERROR")
		expect(slog.LevelError)

		// Run is called to let go, even if not all parts have started.
		done, cancel := context.WithCancel(t.Context())
		cancel()
		if err := p.Run(done); err != nil {
			t.Fatal(err)
		}
		change("WARN")
		expect(slog.LevelError)
	})
}
