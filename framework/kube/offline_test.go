package kube

import (
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
