package kube

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/turnstile-go/turnstile/e2e/internal/cluster"
	"github.com/turnstile-go/turnstile/e2e/internal/journey"
)

// expiration is ORDER_EXPIRATION where these tests deploy.
const expiration = 20 * time.Second

// application is one that was deployed, in a namespace of its own.
type application struct {
	*cluster.Cluster
	namespace string
	dir       string // of its kustomization
	ingress   string // host:port

	booksOnce  sync.Once
	booksOpen  *books
	deleteOnce sync.Once
}

// deployment says what to deploy.
type deployment struct {
	overlay     string            // below infra/k8s/overlays
	components  []string          // below infra/k8s/components
	replicas    int               // of each service; 0 leaves that to the overlay
	autoscalers bool              // may change that
	secrets     map[string]string // by name/key, beside those of the overlay
}

// shared is the application that tests use one after the other.
var shared struct {
	once sync.Once
	app  *application
}

// deployed returns the application as in production, but for secrets, expiration, and that nobody but a test says how
// many replicas there are.
func deployed(t *testing.T) *application {
	t.Helper()
	c := connect(t)
	shared.once.Do(func() {
		if *namespace != "" {
			a := &application{Cluster: c, namespace: *namespace}
			a.findIngress(t)
			shared.app = a
			return
		}
		shared.app = deploy(t, c, deployment{overlay: "production", replicas: 2, secrets: secrets("nats-streaming")})
	})
	if shared.app == nil {
		t.Fatal("the application could not be deployed: see the first test")
	}
	shared.app.awaitReady(t)
	return shared.app
}

// secrets are those that production asks for.
func secrets(broker string) map[string]string {
	token := rand.Text()
	all := map[string]string{
		"postgres/postgres": rand.Text(), broker + "/token": token, broker + "/url": "nats://" + token + "@" + broker + ":4222",
	}
	for _, s := range services {
		password := rand.Text()
		all["postgres/"+s] = password
		all[s+"-database/url"] = "postgres://" + s + ":" + password + "@postgres/" + s + "?sslmode=disable"
	}
	return all
}

// deploy deploys to a namespace that is deleted at the end of all tests, and waits until everything is ready.
func deploy(t *testing.T, c *cluster.Cluster, d deployment) *application {
	t.Helper()
	images := build(t)
	a := &application{Cluster: c, namespace: "turnstile-e2e-" + strings.ToLower(rand.Text()[:6])}
	var err error
	if a.dir, err = os.MkdirTemp("", "turnstile-e2e-"); err != nil { //nolint:usetesting // it outlives the test
		t.Fatal(err)
	}
	atEnd(a.delete)
	if err := os.WriteFile(filepath.Join(a.dir, "kustomization.yaml"), []byte(a.kustomization(t, d, images)), 0o644); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	a.apply(t)
	a.awaitReady(t)
	t.Logf("ready %v after it was applied", time.Since(begin).Round(100*time.Millisecond))
	a.findIngress(t)
	return a
}

// delete removes it, unless it is to be kept.
func (a *application) delete() {
	a.deleteOnce.Do(func() {
		defer os.RemoveAll(a.dir)
		if *keep {
			fmt.Printf("kept: namespace %s\n", a.namespace)
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if _, err := a.kubectl(ctx, "", "delete", "namespace", a.namespace, "--ignore-not-found"); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	})
}

// kustomization is an overlay on the one that is to be deployed.
func (a *application) kustomization(t *testing.T, d deployment, images map[string]string) string {
	t.Helper()
	from, err := filepath.EvalSymlinks(a.dir)
	if err != nil {
		t.Fatal(err)
	}
	infra, err := filepath.Rel(from, filepath.Join(root(), "infra", "k8s"))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "namespace: %s\nresources: [%s/overlays/%s]\n", a.namespace, infra, d.overlay)
	if len(d.components) > 0 {
		b.WriteString("components:\n")
		for _, name := range d.components {
			fmt.Fprintf(&b, "  - %s/components/%s\n", infra, name)
		}
	}
	b.WriteString("images:\n")
	for name, image := range images {
		repository, digest, _ := strings.Cut(image, "@")
		fmt.Fprintf(&b, "  - {name: %s, newName: %s, digest: %q}\n", name, repository, digest)
	}
	if d.replicas > 0 {
		b.WriteString("replicas:\n")
		for _, name := range services {
			fmt.Fprintf(&b, "  - {name: %s, count: %d}\n", name, d.replicas)
		}
	}
	keys := map[string][]string{}
	for _, path := range slices.Sorted(maps.Keys(d.secrets)) {
		name, key, _ := strings.Cut(path, "/")
		keys[name] = append(keys[name], fmt.Sprintf("%q", key+"="+d.secrets[path]))
	}
	b.WriteString("generatorOptions: {disableNameSuffixHash: true}\nsecretGenerator:\n")
	for _, name := range slices.Sorted(maps.Keys(keys)) {
		fmt.Fprintf(&b, "  - name: %s\n    literals: [%s]\n", name, strings.Join(keys[name], ", "))
	}
	// The host tells its requests from those of others in the cluster. With a journal the audit knows every effect. Cards
	// that are slow are so slow that people would not wait for them.
	fmt.Fprintf(&b, `patches:
  - target: {kind: Ingress}
    patch: |
      - {op: add, path: /spec/rules/0/host, value: %[1]s}
  - target: {kind: HTTPRoute}
    patch: |
      - {op: add, path: /spec/hostnames, value: [%[1]s]}
`, a.host())
	b.WriteString(setVariable("labelSelector: app.kubernetes.io/component=service", "EVENT_JOURNAL", "true"))
	b.WriteString(setVariable("name: orders", "ORDER_EXPIRATION", expiration.String()))
	b.WriteString(setVariable("name: payments", "SANDBOX_DELAY", "100ms"))
	if !d.autoscalers {
		b.WriteString(`  - target: {kind: HorizontalPodAutoscaler}
    patch: |
      $patch: delete
      apiVersion: autoscaling/v2
      kind: HorizontalPodAutoscaler
      metadata: {name: every}
`)
	}
	return b.String()
}

// setVariable is a patch that sets a variable of those services that the target selects.
func setVariable(target, name, value string) string {
	return fmt.Sprintf(`  - target: {kind: Deployment, %s}
    patch: |
      apiVersion: apps/v1
      kind: Deployment
      metadata: {name: every}
      spec:
        template:
          spec:
            containers:
              - name: service
                env:
                  - {name: %s, value: %q}
`, target, name, value)
}

func (a *application) host() string { return a.namespace + ".example.com" }

// kubectl runs kubectl in the application's namespace.
func (a *application) kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	return cluster.Run(ctx, a.dir, stdin, append([]string{"kubectl", "--namespace", a.namespace}, args...)...)
}

// apply deploys what the kustomization says now.
func (a *application) apply(t *testing.T) {
	t.Helper()
	if _, err := a.kubectl(t.Context(), "", "apply", "--kustomize", "."); err != nil {
		t.Fatal(err)
	}
}

// site is where people find it.
func (a *application) site() journey.Site {
	return journey.Site{URL: "http://" + a.host(), Address: a.ingress, Expiration: expiration}
}

// findIngress finds out where the ingress controller is: where it passes requests on to us.
func (a *application) findIngress(t *testing.T) {
	t.Helper()
	candidates := []string{"127.0.0.1:8080", "127.0.0.1:80"} // as in many clusters for development
	if given := os.Getenv("INGRESS"); given != "" {
		candidates = []string{given}
	} else if ingress, err := a.API.NetworkingV1().Ingresses(a.namespace).Get(t.Context(), "turnstile", meta.GetOptions{}); err == nil {
		for _, i := range ingress.Status.LoadBalancer.Ingress {
			candidates = append(candidates, i.IP+i.Hostname+":80")
		}
	}
	var failures []error
	begin := time.Now()
	for time.Since(begin) < patience/4 {
		failures = nil
		for _, address := range candidates {
			err := a.answersAt(t.Context(), address)
			if err == nil {
				a.ingress = address
				return
			}
			failures = append(failures, err)
		}
		time.Sleep(200 * time.Millisecond)
	}
	t.Fatalf("no ingress controller passes requests on to the application: set INGRESS to the host:port of one: %v", errors.Join(failures...))
}

func (a *application) answersAt(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/.well-known/jwks.json", nil)
	if err != nil {
		return err
	}
	request.Host = a.host()
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", address, response.Status)
	}
	return nil
}

// pods returns the pods of a workload, by age.
func (a *application) pods(t *testing.T, workload string) []core.Pod {
	t.Helper()
	pods, err := a.Pods(t.Context(), a.namespace, "app.kubernetes.io/name="+workload)
	if err != nil {
		t.Fatal(err)
	}
	return pods
}

// awaitReady waits until all that is wanted is there, ready, and nothing else, and all services say that nothing ails
// them.
func (a *application) awaitReady(t *testing.T) {
	t.Helper()
	if err := a.waitReady(context.WithoutCancel(t.Context()), 2*patience); err != nil {
		t.Fatalf("%v\n%s", err, a.state())
	}
}

func (a *application) waitReady(ctx context.Context, limit time.Duration) error {
	deadline := time.Now().Add(limit)
	for {
		err := a.unready(ctx)
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not ready within %v: %w", limit, err)
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w: %w", ctx.Err(), err)
		}
	}
}

// unready says what is not there or not as it should be.
func (a *application) unready(ctx context.Context) error {
	deployments, err := a.API.AppsV1().Deployments(a.namespace).List(ctx, meta.ListOptions{})
	if err != nil {
		return err
	}
	sets, err := a.API.AppsV1().StatefulSets(a.namespace).List(ctx, meta.ListOptions{})
	if err != nil {
		return err
	}
	for _, d := range deployments.Items {
		s, want := d.Status, *d.Spec.Replicas
		if s.ObservedGeneration < d.Generation || s.UpdatedReplicas != want || s.AvailableReplicas != want || s.Replicas != want {
			return fmt.Errorf("of %s there are %d, %d of them available, %d up to date; want %d", d.Name, s.Replicas, s.AvailableReplicas, s.UpdatedReplicas, want)
		}
	}
	for _, d := range sets.Items {
		if !setReady(&d) {
			return fmt.Errorf("of %s there are %d available, %d up to date; want %d", d.Name, d.Status.AvailableReplicas, d.Status.UpdatedReplicas, *d.Spec.Replicas)
		}
	}
	pods, err := a.API.CoreV1().Pods(a.namespace).List(ctx, meta.ListOptions{})
	if err != nil {
		return err
	}
	for _, p := range pods.Items {
		if !cluster.Ready(&p) {
			return fmt.Errorf("pod %s is not ready, or leaves", p.Name)
		}
		if p.Labels["app.kubernetes.io/component"] == "service" {
			if err := a.ails(ctx, p.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

func setReady(d *apps.StatefulSet) bool {
	s, want := d.Status, *d.Spec.Replicas
	return s.ObservedGeneration >= d.Generation && s.UpdatedReplicas == want && s.AvailableReplicas == want && s.Replicas == want
}

// state tells, for people, how things are: what a failed test needs.
func (a *application) state() string {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var b strings.Builder
	for _, args := range [][]string{
		{"get", "pods", "-o", "wide"},
		{"get", "events", "--sort-by=.lastTimestamp"},
		{"logs", "-l", "app.kubernetes.io/part-of=turnstile", "--tail=5", "--prefix", "--max-log-requests=50"},
	} {
		text, err := a.kubectl(ctx, "", args...)
		if err != nil {
			text += err.Error()
		}
		if lines := strings.Split(text, "\n"); len(lines) > 120 {
			text = strings.Join(lines[len(lines)-120:], "\n")
		}
		fmt.Fprintf(&b, "\nkubectl %s\n%s", strings.Join(args, " "), text)
	}
	return b.String()
}
