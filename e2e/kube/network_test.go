package kube

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ports are where workloads listen.
var ports = map[string][]int{
	"auth": {8080, 9090}, "orders": {8080, 9090}, "payments": {8080, 9090}, "tickets": {8080, 9090},
	"nats-streaming": {4222, 6222, 9090}, "postgres": {5432},
}

// declared reports whether one workload may reach another's port.
func declared(from, to string, port int) bool {
	service := slices.Contains(services, from)
	switch {
	case service && to == "nats-streaming" && port == 4222, service && to == "postgres" && port == 5432:
		return true
	case service && from != "auth" && to == "auth" && port == 8080: // the keys of sessions
		return true
	case service && to == "the API server":
		return true
	}
	return from == "nats-streaming" && to == from && port == 6222
}

// target is something to be reached.
type target struct {
	name string // of a workload, or what it is
	pod  string // if it is one
	port int
}

// TestNetworkPolicy tries from inside of a pod of every workload, and from elsewhere in the cluster, to reach all others
// on every port on which they listen, the API server, and what is out of the cluster. What is declared works, and
// nothing else does.
func TestNetworkPolicy(t *testing.T) {
	a := deployed(t)
	built, err := buildImages(t.Context(), []string{"./e2e/kube/cmd/probe"})
	if err != nil {
		t.Fatal(err)
	}
	probe := built["probe"]
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()

	targets := map[string]target{} // by address
	for name, listens := range ports {
		for _, p := range a.pods(t, name) {
			for _, port := range listens {
				targets[net.JoinHostPort(p.Status.PodIP, strconv.Itoa(port))] = target{name, p.Name, port}
				connection, err := a.Dial(ctx, a.namespace, p.Name, port) // no policy is asked
				if err != nil {
					t.Fatalf("nobody listens on port %d of %s, so nothing can be learnt: %v", port, p.Name, err)
				}
				_ = connection.Close()
			}
		}
	}
	outside := a.outside(t)
	maps.Copy(targets, outside)
	addresses := slices.Sorted(maps.Keys(targets))

	foreign := a.foreignNamespace(t)
	out, err := a.RunPod(ctx, foreign, probe, addresses...)
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	for address, result := range results(t, out) {
		to := targets[address]
		switch {
		case to.pod != "" && result == "open":
			t.Errorf("a pod of another namespace reaches port %d of %s", to.port, to.pod)
		case to.pod == "" && result != "open":
			t.Logf("not checked: %s (%s) cannot be reached from any pod: %s", to.name, address, result)
			delete(targets, address)
		}
		tried++
	}
	addresses = slices.Sorted(maps.Keys(targets))

	var mu sync.Mutex
	var group sync.WaitGroup
	open, refused := 0, 0
	for _, from := range slices.Sorted(maps.Keys(ports)) {
		pod := a.pods(t, from)[0].Name
		group.Go(func() {
			out, err := a.RunInside(ctx, a.namespace, pod, probe, addresses...)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for address, result := range results(t, out) {
				to := targets[address]
				if to.pod == pod {
					continue // itself
				}
				may := declared(from, to.name, to.port)
				switch {
				case may && result != "open":
					t.Errorf("%s does not reach port %d of %s, as it should: %s", from, to.port, to.name, result)
				case !may && result == "open":
					t.Errorf("%s reaches port %d of %s (%s), which is not declared", from, to.port, to.name, address)
				case may:
					open++
				default:
					refused++
				}
			}
		})
	}
	group.Wait()
	t.Logf("%d declared flows work, %d others are refused, and %d from a pod of another namespace", open, refused, tried-len(outside))
}

// outside is what no pod has to do with, but for the services with the API server.
func (a *application) outside(t *testing.T) map[string]target {
	t.Helper()
	all := map[string]target{"1.1.1.1:80": {name: "the internet", port: 80}}
	server, err := a.API.CoreV1().Services("default").Get(t.Context(), "kubernetes", meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	all[net.JoinHostPort(server.Spec.ClusterIP, "443")] = target{name: "the API server", port: 443}
	nodes, err := a.API.CoreV1().Nodes().List(t.Context(), meta.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range nodes.Items[0].Status.Addresses {
		if address.Type == core.NodeInternalIP {
			all[net.JoinHostPort(address.Address, "10250")] = target{name: "the kubelet", port: 10250}
		}
	}
	return all
}

// foreignNamespace makes a namespace in which nothing is restricted, until the end of the test.
func (a *application) foreignNamespace(t *testing.T) string {
	t.Helper()
	namespaces := a.API.CoreV1().Namespaces()
	name := "turnstile-e2e-foreign-" + strings.ToLower(rand.Text()[:6])
	if _, err := namespaces.Create(t.Context(), &core.Namespace{ObjectMeta: meta.ObjectMeta{Name: name}}, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := namespaces.Delete(ctx, name, meta.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	return name
}

// results are what the probe says, by address.
func results(t *testing.T, out string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for line := range strings.Lines(out) {
		address, result, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			t.Error(fmt.Errorf("the probe says %q", line))
			continue
		}
		all[address] = result
	}
	if len(all) == 0 {
		t.Error("the probe says nothing")
	}
	return all
}
