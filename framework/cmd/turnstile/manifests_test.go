package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/manifests"
)

func TestManifestsCommand(t *testing.T) {
	t.Setenv("GOWORK", "")
	for args, want := range map[string]string{
		"chek":          "there is no command 'manifests chek'; 'turnstile manifests --help' lists those that there are",
		"check -o yaml": "-o yaml: the only other form is json",
		"check nowhere": "find the kustomization: ",
		"secrets ../../../infra/k8s/overlays/dev": "there is nothing to make: all Secrets are in the kustomization",
	} {
		_, err := execute(t.Context(), manifestsCommand(), strings.NewReader(""), strings.Fields(args))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("manifests %s: %v, want %s", args, err, want)
		}
	}
	out, err := execute(t.Context(), manifestsCommand(), strings.NewReader(""), []string{"secrets", "--namespace", "shop"})
	if err != nil || !strings.Contains(out, "name: orders-database\n  namespace: shop\n") || !strings.Contains(out, "@postgres:5432/orders") {
		t.Errorf("manifests secrets: %v\n%s", err, out)
	}
}

// checkCopy changes a copy of the manifests and holds that against the commands that run in pods. It knows no services, and
// says so in problems that are of no interest here.
func checkCopy(t *testing.T, overlay, component, file, old, changed string) []manifests.Problem {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	k8s := filepath.Join(root, "infra", "k8s")
	if err := os.CopyFS(k8s, os.DirFS("../../../infra/k8s")); err != nil {
		t.Fatal(err)
	}
	if file != "" {
		text, err := os.ReadFile(filepath.Join(k8s, file))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), old) {
			t.Fatalf("%s has no %q: this test is of manifests as they were", file, old)
		}
		if err := os.WriteFile(filepath.Join(k8s, file), []byte(strings.Replace(string(text), old, changed, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	k := manifests.Kustomization{Name: overlay, Dir: filepath.Join(k8s, "overlays", overlay)}
	if component != "" {
		k.Components = []string{filepath.Join(k8s, "components", component)}
	}
	report, err := manifests.Check(t.Context(), manifests.Options{
		Root: root, Built: []string{"turnstile"}, Commands: commandsInPods(), Kustomizations: []manifests.Kustomization{k},
	})
	if err != nil {
		t.Fatal(err)
	}
	return report.Problems
}

func TestCommandsInPods(t *testing.T) {
	t.Parallel()
	for component, overlay := range map[string]string{"": "dev", "both-brokers": "production", "autoscaling": "production"} {
		for _, p := range checkCopy(t, overlay, component, "", "", "") {
			_, name, _ := strings.Cut(p.Object, "/")
			if slices.Contains([]string{"nats-streaming", "jetstream", "external-metrics", "turnstile-external-metrics", "gateway"}, name) && !strings.HasPrefix(p.Object, "NetworkPolicy") {
				t.Errorf("%s with %q: %s", overlay, component, p)
			}
		}
	}
}

// TestChangesOfCommands has what somebody gets wrong in the manifests of commands be found.
func TestChangesOfCommands(t *testing.T) {
	t.Parallel()
	const (
		external = "components/autoscaling/external-metrics.yaml"
		stan     = "base/nats-streaming/nats-streaming.yaml"
		token    = "            - {name: BROKER_TOKEN, valueFrom: {secretKeyRef: {name: nats-streaming, key: token}}}\n"
		broker   = "StatefulSet/nats-streaming: "
	)
	for name, c := range map[string]struct{ overlay, component, file, old, changed, want string }{
		"a verb is another": {"production", "autoscaling", external, "verbs: [list]", "verbs: [watch]",
			`Role/external-metrics: external-metrics needs to list endpointslices.discovery.k8s.io, and may not; add to its rules: {apiGroups: ["discovery.k8s.io"]`},
		"everything is allowed": {"production", "autoscaling", external, `apiGroups: [discovery.k8s.io]
    resources: [endpointslices]
    verbs: [list]`, `apiGroups: ["*"]
    resources: ["*"]
    verbs: ["*"]`, "Role/external-metrics: external-metrics may * *.*, and does not need to; take it out"},
		"a probe asks elsewhere": {"production", "", stan, "path: /readyz", "path: /ready",
			broker + "readinessProbe of container nats-streaming asks /ready, and broker answers on /readyz; set httpGet: {path: /readyz, port: admin}"},
		"a probe is missing": {"production", "", stan, "          livenessProbe:\n            httpGet: {path: /livez, port: admin}\n            periodSeconds: 10\n            timeoutSeconds: 5\n            failureThreshold: 6\n", "",
			broker + "container nats-streaming has no livenessProbe by HTTP; set httpGet: {path: /livez, port: admin}"},
		"probes are answered elsewhere": {"production", "", stan, "--admin=:9090", "--admin=:9091",
			broker + "readinessProbe of container nats-streaming asks port admin, and it answers them at :9091; set httpGet: {path: /readyz, port: 9091}"},
		"probes are not answered": {"production", "", stan, "            - --admin=:9090\n", "", broker + `container nats-streaming answers probes at "", which is no port`},
		"a flag is misspelled":    {"production", "", stan, "--host=", "--hots=", broker + "container nats-streaming: unknown flag: --hots; correct its args; 'turnstile broker --help' lists them"},
		"the peers are not set": {"production", "", stan, "name: PEERS", "name: PEER",
			broker + "container nats-streaming names $(PEERS), which it is not given; add it to the env"},
		"a peer is no address":      {"production", "", stan, "nats-streaming-1=", "nats-streaming-1:", broker + "container nats-streaming: --peers: "},
		"more replicas than peers":  {"production", "", stan, "replicas: 3", "replicas: 5", broker + "it has replicas: 5, and its arguments name 3 servers; set replicas: 3, or name the others"},
		"fewer replicas than peers": {"dev", "", "overlays/dev/broker.yaml", "            - {name: PEERS, value: \"\"}\n", "            - {name: LOG_LEVEL, value: WARN}\n", broker + "it has replicas: 1, and its arguments name 3 servers"},
		"a token is misspelled": {"production", "", stan, "name: BROKER_TOKEN", "name: BROKER_TOKN",
			broker + "container nats-streaming is given BROKER_TOKN, which turnstile broker does not know; did you mean BROKER_TOKEN?"},
		"a token is missing":      {"production", "", stan, token, "", broker + "container nats-streaming is not given BROKER_TOKEN; add it to the env of the container"},
		"a token is written":      {"production", "", stan, "{name: BROKER_TOKEN, valueFrom: {secretKeyRef: {name: nats-streaming, key: token}}}", "{name: BROKER_TOKEN, value: hush}", broker + "BROKER_TOKEN of container nats-streaming is secret, and is written here"},
		"metrics are elsewhere":   {"production", "autoscaling", external, "args: [external-metrics]", "args: [external-metrics, --listen=:9443]", "Deployment/external-metrics: livenessProbe of container external-metrics asks port https, and it answers them at :9443"},
		"a metric is misspelled":  {"production", "autoscaling", "components/autoscaling/orders.yaml", "turnstile_event_in_flight_age_seconds", "turnstile_event_age_seconds", "HorizontalPodAutoscaler/orders: external-metrics serves no such metric: there is no external metric turnstile_event_age_seconds"},
		"a metric is of another":  {"production", "autoscaling", "components/autoscaling/orders.yaml", "{service: orders}", "{service: tickets}", "HorizontalPodAutoscaler/orders: it asks how far the Service tickets is behind, and scales Deployment/orders; name the Service"},
		"a metric is of no label": {"production", "autoscaling", "components/autoscaling/orders.yaml", "{service: orders}", "{app: orders}", "HorizontalPodAutoscaler/orders: external-metrics serves no such metric: the label selector"},
		"a route is no flag":      {"dev", "", "overlays/dev/gateway.yaml", "--route=/api/users", "--rout=/api/users", "Deployment/gateway: container gateway: unknown flag: --rout"},
		"more of the cluster is allowed": {"production", "autoscaling", external, "    resourceNames: [extension-apiserver-authentication]\n", "",
			"ClusterRole/turnstile-external-metrics: external-metrics may get configmaps of the whole cluster, and does not need to"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var all strings.Builder
			for _, p := range checkCopy(t, c.overlay, c.component, c.file, c.old, c.changed) {
				if strings.Contains(p.String(), c.want) {
					return
				}
				all.WriteString("\n  " + p.String())
			}
			t.Errorf("no problem is like\n  %s\nfound:%s", c.want, all.String())
		})
	}
}

func TestReportText(t *testing.T) {
	r := &manifests.Report{
		Kustomizations: []string{"dev", "production", "production with jetstream"}, Services: 1, Objects: 57,
		Secrets: map[string][]manifests.Reference{"production": {{Name: "a"}, {Name: "b"}}, "production with jetstream": {{Name: "a"}, {Name: "b"}}},
	}
	want := "production, production with jetstream: expects the Secrets a, b\nmanifests: ok (3 kustomizations, 1 service, 57 objects)\n"
	if got := reportText(r); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	r.Problems = []manifests.Problem{
		{File: "base/orders.yaml:7", Object: "Role/orders", Detail: "it may too much", Fix: "take it out", In: []string{"dev"}},
		{File: "base/x.yaml", Object: "Deployment/x", Detail: "it is not known", Fix: "leave it out", In: r.Kustomizations},
	}
	want = "base/orders.yaml:7: Role/orders: it may too much; take it out (dev)\nbase/x.yaml: Deployment/x: it is not known; leave it out\n"
	if got := reportText(r); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}
