package manifests

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/workspace"
)

// asked keeps what services say of an environment: most tests give them the same.
var asked sync.Map

// built is the workspace that this package belongs to, with its services as they are now.
type built struct {
	workspace *workspace.Workspace
	services  []Service
	images    []string
}

var (
	bin   string // folder of the services' programs
	build = sync.OnceValues(func() (*built, error) {
		ctx := context.Background()
		w, err := workspace.Find(ctx, ".")
		if err != nil {
			return nil, err
		}
		b := &built{workspace: w}
		if b.images, err = Images(w); err != nil {
			return nil, err
		}
		if err := w.Build(ctx, w.Services, bin, false); err != nil {
			return nil, err
		}
		for _, s := range w.Services {
			d, err := workspace.Describe(ctx, filepath.Join(bin, s.Name), nil)
			if err != nil {
				return nil, err
			}
			b.services = append(b.services, Service{Description: d, Program: filepath.Join(bin, s.Name)})
		}
		return b, nil
	})
)

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "turnstile-manifests-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	bin = dir
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// copied returns the workspace's services, and a folder with a copy of its manifests, in which they are where they are
// in the workspace.
func copied(t *testing.T) (*built, string) {
	t.Helper()
	if os.Getenv("GOWORK") == "off" {
		t.Skip("the manifests are those of the whole workspace, and GOWORK=off turns it off: unset GOWORK to have them checked")
	}
	b, err := build()
	if err != nil {
		t.Fatal(err)
	}
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(root, "infra", "k8s"), os.DirFS(filepath.Join(b.workspace.Root, "infra", "k8s"))); err != nil {
		t.Fatal(err)
	}
	return b, root
}

func check(t *testing.T, b *built, root string, kustomizations ...Kustomization) *Report {
	t.Helper()
	report, err := Check(t.Context(), Options{Root: root, Services: b.services, Built: b.images, Kustomizations: kustomizations, asked: &asked})
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// TestManifests has the manifests of this workspace fit its services.
func TestManifests(t *testing.T) {
	t.Parallel()
	b, root := copied(t)
	all, err := Find(filepath.Join(root, "infra", "k8s"))
	if err != nil {
		t.Fatal(err)
	}
	report := check(t, b, root, all...)
	for _, p := range report.Problems {
		t.Errorf("%s (%s)", p, strings.Join(p.In, ", "))
	}
	if len(report.Kustomizations) < 3 || report.Services != len(b.workspace.Services) || report.Objects < 40 {
		t.Errorf("checked %v, %d services and %d objects: that is not everything", report.Kustomizations, report.Services, report.Objects)
	}
}

// change is what somebody gets wrong in a manifest.
type change struct {
	name     string
	on       string // the kustomization: a component on top of production, or an overlay; empty is production
	file     string // below infra/k8s
	old, new string // new in the place of the first old
	want     string // a problem has all of these words, separated by " … ", in this order; LINE is that of the change
}

const (
	everyDeployment = "base/services/every-deployment.yaml"
	ordersFile      = "base/services/orders.yaml"
	authFile        = "base/services/auth.yaml"
	clusterFile     = "overlays/production/cluster.yaml"
	postgresFile    = "base/postgres/postgres.yaml"
	natsFile        = "base/nats-streaming/nats-streaming.yaml"
	devFile         = "overlays/dev/kustomization.yaml"
	orders          = "Deployment/orders: "
)

var changes = []change{
	// Variables.
	{"a required variable is missing", "", ordersFile, "            - {name: DATABASE_URL, valueFrom: {secretKeyRef: {name: orders-database, key: url}}}\n", "",
		"base/services/orders.yaml: " + orders + " … DATABASE_URL is required and not set … add it to the env"},
	{"a variable is misspelled", "", everyDeployment, "name: DRAIN_TIMEOUT", "name: DRAIN_TIMOUT",
		"base/services/every-deployment.yaml:LINE: " + orders + " … given DRAIN_TIMOUT, which orders does not know; did you mean DRAIN_TIMEOUT?"},
	{"a variable is not a duration", "", everyDeployment, "{name: DRAIN_TIMEOUT, value: 25s}", `{name: DRAIN_TIMEOUT, value: "25"}`,
		"every-deployment.yaml:LINE: " + orders + ` … DRAIN_TIMEOUT is "25", want a duration`},
	{"a variable is not an integer", "", everyDeployment, `{name: DATABASE_MAX_CONNS, value: "8"}`, `{name: DATABASE_MAX_CONNS, value: eight}`,
		`DATABASE_MAX_CONNS is "eight", want a whole number`},
	{"a broker that there is not", "", everyDeployment, "{name: BROKER, value: stan}", "{name: BROKER, value: kafka}",
		orders + ` … BROKER is "kafka": want stan, jetstream or stan+jetstream`},
	{"a secret is written", "", ordersFile, "{name: DATABASE_URL, valueFrom: {secretKeyRef: {name: orders-database, key: url}}}", "{name: DATABASE_URL, value: sqlite:x.db}",
		"orders.yaml:LINE: " + orders + " … DATABASE_URL … is secret, and is written here; take it from a Secret"},
	{"a token is written", "", everyDeployment, "{name: NATS_URL, valueFrom: {secretKeyRef: {name: nats-streaming, key: url}}}", `{name: NATS_URL, value: "nats://t0ken@nats-streaming:4222"}`,
		orders + " … NATS_URL … has a password or token in it; take it from a Secret"},
	{"a variable of OpenTelemetry is misspelled", "", everyDeployment, "            - {name: BROKER, value: stan}\n", "            - {name: BROKER, value: stan}\n            - {name: OTEL_SERVICE_NAM, value: shop}\n",
		orders + " … given OTEL_SERVICE_NAM, which orders does not know; did you mean OTEL_SERVICE_NAME?"},
	{"the collector is misspelled", "observability", "components/observability/services.yaml", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPONT",
		"observability/services.yaml:LINE: " + orders + " … given OTEL_EXPORTER_OTLP_ENDPONT … did you mean OTEL_EXPORTER_OTLP_ENDPOINT?"},
	{"a variable is made of none", "", everyDeployment, "{name: DRAIN_TIMEOUT, value: 25s}", "{name: DRAIN_TIMEOUT, value: $(DRAIN)}",
		"every-deployment.yaml:LINE: " + orders + "container service names $(DRAIN), which it is not given; add it to the env"},
	{"a pod is not told its name", "", everyDeployment, "            - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}\n", "",
		orders + " … is not given POD_NAME; add {name: POD_NAME"},
	{"a pod is told another's name", "", everyDeployment, "{name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}", "{name: POD_NAME, value: orders}",
		orders + " … POD_NAME … is not the pod's own metadata.name; set valueFrom"},
	{"the address of who is called is missing", "", ordersFile, `            - {name: SESSION_JWKS_URL, value: "http://auth:8080/.well-known/jwks.json"}` + "\n", "",
		orders + " … is not given SESSION_JWKS_URL, whose default http://127.0.0.1:8081/.well-known/jwks.json is in the pod itself; add SESSION_JWKS_URL"},
	{"who is called is somebody else", "", ordersFile, "http://auth:8080", "http://tickets:8080", "orders.yaml:LINE: " + orders + "SESSION_JWKS_URL … is not where auth serves HTTP; name the port http of the Service auth"},
	{"who is called is at another port", "", ordersFile, "http://auth:8080", "http://auth:80", orders + "SESSION_JWKS_URL names port 80 of the Service auth, which has none such; name one that it has: 8080, 9090"},
	{"who is called is misspelled", "", ordersFile, "http://auth:8080", "http://aut:8080", orders + "SESSION_JWKS_URL names the host aut, which is no Service here; did you mean auth?"},
	{"the broker's address is missing", "both-brokers", "components/both-brokers/services.yaml", "            - {name: JETSTREAM_URL, valueFrom: {secretKeyRef: {name: jetstream, key: url}}}\n", "",
		orders + " … is not given JETSTREAM_URL … add JETSTREAM_URL"},

	// Settings and Secrets.
	{"a setting is misspelled", "", ordersFile, "LOG_LEVEL: INFO", "LOG_LEVL: DEBUG", "ConfigMap/orders-settings: LOG_LEVL cannot be changed while orders runs; did you mean LOG_LEVEL?"},
	{"a setting cannot change", "", ordersFile, "LOG_LEVEL: INFO", "ORDER_EXPIRATION: 5m", "ConfigMap/orders-settings: ORDER_EXPIRATION cannot be changed while orders runs; move it"},
	{"a setting has a wrong value", "", ordersFile, "LOG_LEVEL: INFO", "LOG_LEVEL: LOUD", "orders.yaml:LINE: ConfigMap/orders-settings: LOG_LEVEL … want DEBUG, INFO, WARN or ERROR … correct its value"},
	{"the settings are elsewhere", "", ordersFile, "value: orders-settings", "value: orders-setings", orders + " … watches the ConfigMap orders-setings, which there is not; add it"},
	{"a Secret is not generated", "dev", devFile, "  - name: orders-database\n    literals: [\"url=postgres://orders:dev-only@postgres/orders?sslmode=disable\"]\n", "",
		orders + "it names the Secret orders-database, and there are others but not that; generate it"},
	{"a Secret has not the key", "dev", devFile, `["url=postgres://orders:`, `["uri=postgres://orders:`, "overlays/dev/kustomization.yaml … Secret/orders-database: Deployment/orders takes the key url from it, which it does not have; add the key"},
	{"a generated URL leads nowhere", "dev", devFile, "dev-only@postgres/orders", "dev-only@postgre/orders", orders + "DATABASE_URL names the host postgre, which is no Service here; did you mean postgres?"},

	// Ports, probes, Services.
	{"a probe asks elsewhere", "", everyDeployment, "path: /readyz", "path: /ready", "every-deployment.yaml:LINE: " + orders + "readinessProbe … asks /ready, and orders answers on /readyz; set httpGet: {path: /readyz, port: admin}"},
	{"a probe asks another port", "", everyDeployment, "{path: /livez, port: admin}", "{path: /livez, port: http}", orders + "livenessProbe … asks port http, and ADMIN_ADDR is :9090; set httpGet: {path: /livez"},
	{"a port is another", "", everyDeployment, "{name: admin, containerPort: 9090}", "{name: admin, containerPort: 9091}", orders + " … has port admin at 9091, and ADMIN_ADDR is :9090; set containerPort: 9090"},
	{"a service listens elsewhere", "", everyDeployment, "            - {name: BROKER, value: stan}\n", "            - {name: BROKER, value: stan}\n            - {name: HTTP_ADDR, value: \":8081\"}\n",
		orders + " … has port http at 8080, and HTTP_ADDR is :8081; set containerPort: 8081"},
	{"a service listens for itself", "", everyDeployment, "            - {name: BROKER, value: stan}\n", "            - {name: BROKER, value: stan}\n            - {name: HTTP_ADDR, value: \"127.0.0.1:8080\"}\n",
		orders + "HTTP_ADDR … which others than the pod itself cannot reach; set HTTP_ADDR"},
	{"a Service leads nowhere", "", ordersFile, "targetPort: http", "targetPort: web", "Service/orders: port http leads to port web of Deployment/orders, which has none such; set targetPort to one of http, admin"},
	{"a Service selects others", "", ordersFile, "  selector: {app.kubernetes.io/name: orders}\n", "  selector: {app.kubernetes.io/name: order}\n", "orders.yaml … Service/orders: it selects no pods; select"},
	{"a budget is for nobody", "", ordersFile, "  selector: {matchLabels: {app.kubernetes.io/name: orders}}\n  maxUnavailable: 1", "  selector: {matchLabels: {app.kubernetes.io/name: order}}\n  maxUnavailable: 1",
		"PodDisruptionBudget/orders: it selects no pods"},
	{"a budget is for another", "", ordersFile, "  selector: {matchLabels: {app.kubernetes.io/name: orders}}\n  maxUnavailable: 1", "  selector: {matchLabels: {app.kubernetes.io/name: tickets}}\n  maxUnavailable: 1",
		orders + "no PodDisruptionBudget selects its pods, and all may be evicted at once; add one"},
	{"a budget is the second", "", ordersFile, "  selector: {matchLabels: {app.kubernetes.io/name: orders}}\n  maxUnavailable: 1", "  selector: {matchLabels: {app.kubernetes.io/name: tickets}}\n  maxUnavailable: 1",
		"Deployment/tickets: 2 PodDisruptionBudgets select its pods; leave it one"},
	{"a budget is for all", "", ordersFile, "  selector: {matchLabels: {app.kubernetes.io/name: orders}}\n  maxUnavailable: 1", "  selector: {matchLabels: {app.kubernetes.io/component: service}}\n  maxUnavailable: 1",
		"PodDisruptionBudget/orders: it selects the pods of both … have one for each"},
	{"a budget keeps what does not work", "", ordersFile, "  unhealthyPodEvictionPolicy: AlwaysAllow\n", "", "PodDisruptionBudget/orders: a node cannot be emptied while its pods are not ready; set unhealthyPodEvictionPolicy: AlwaysAllow"},
	{"an autoscaler is for nobody", "", ordersFile, "kind: Deployment, name: orders}", "kind: Deployment, name: order}", "HorizontalPodAutoscaler/orders: it scales Deployment/order, which there is not; name a workload"},
	{"an autoscaler is undone", "", ordersFile, "spec:\n  selector: {matchLabels: {app.kubernetes.io/name: orders}}\n  template", "spec:\n  replicas: 3\n  selector: {matchLabels: {app.kubernetes.io/name: orders}}\n  template",
		orders + "it has replicas: 3, which would undo what HorizontalPodAutoscaler/orders did each time it is applied; leave it out"},
	{"a monitor asks nowhere", "observability", "components/observability/servicemonitor.yaml", "{port: admin,", "{port: metrics,",
		"ServiceMonitor/turnstile: it asks port metrics of the Service auth, which has none such; name a port"},
	{"a monitor selects nothing", "observability", "components/observability/servicemonitor.yaml", "app.kubernetes.io/component: service", "app.kubernetes.io/component: services", "ServiceMonitor/turnstile: it selects no Services"},
	{"a service is not deployed", "", "base/services/kustomization.yaml", "  - payments.yaml\n", "", "Deployment/payments: the service payments has no Deployment; add a Deployment payments"},
	{"an image is misspelled", "", ordersFile, "image: orders", "image: oders", orders + " … has the image oders, and no service of the workspace is named so; did you mean orders?"},
	{"pods are somebody else", "", ordersFile, "serviceAccountName: orders", "serviceAccountName: tickets", `orders.yaml:LINE: ` + orders + `its pods are the ServiceAccount "tickets", not one of their own; set serviceAccountName: orders`},

	// Paths.
	{"a path is missing", "", "base/ingress.yaml", "          - path: /api/tickets\n            pathType: Prefix\n            backend: {service: {name: tickets, port: {name: http}}}\n", "",
		"base/ingress.yaml: Ingress/turnstile: no path leads to … of tickets; add the path /api/tickets to tickets, port http"},
	{"a path leads to another", "", "base/ingress.yaml", "name: tickets, port", "name: orders, port", "Ingress/turnstile: the path /api/tickets leads GET … to orders, and it is tickets that serves it"},
	{"a path is misspelled", "", "base/ingress.yaml", "/api/orders", "/api/order", "Ingress/turnstile: the path /api/order leads to orders, which serves nothing there, or more than it serves; have the paths of orders be /api/orders"},
	{"a path is too wide", "", "base/ingress.yaml", "- path: /api/orders", "- path: /", "Ingress/turnstile: the path / leads to orders, which serves nothing there, or more"},
	{"a path leads nowhere", "", "base/ingress.yaml", "name: tickets, port", "name: ticket, port", `Ingress/turnstile: the path /api/tickets leads to the Service "ticket", which there is not; did you mean tickets?`},
	{"a path is for operators", "", "base/ingress.yaml", "name: tickets, port: {name: http}", "name: tickets, port: {name: admin}", "Ingress/turnstile: the path /api/tickets leads to port admin … not for the public; name its port http"},
	{"a path is there twice", "", "base/ingress.yaml", "- path: /api/orders", "- path: /api/tickets", "Ingress/turnstile: the path /api/tickets is in it twice"},
	{"a path is missing in an HTTPRoute", "gateway-api", "components/gateway-api/httproute.yaml", "/api/payments", "/api/payment", "HTTPRoute/turnstile: no path leads to … of payments; add the path /api/payments"},
	{"a path is missing in the gateway", "dev", "overlays/dev/gateway.yaml", "            - --route=/api/payments=payments:8080\n", "", "Deployment/gateway: no path leads to … of payments; add"},

	// Stopping and updates.
	{"too little time to stop", "", everyDeployment, "terminationGracePeriodSeconds: 65", "terminationGracePeriodSeconds: 60",
		orders + "its pods are killed 1m0s after they are told to stop, and may take 1m0.5s … KUBE_DRAIN_LIMIT 10s … then 5.5s … set terminationGracePeriodSeconds to 61 or more"},
	{"updates take pods away", "", everyDeployment, "maxUnavailable: 0", "maxUnavailable: 1", orders + "an update takes pods away before there are new ones; set strategy.rollingUpdate.maxUnavailable: 0"},
	{"too few connections", "", "base/postgres/postgresql.conf", "max_connections = 740", "max_connections = 200", "ConfigMap/postgres- … StatefulSet/postgres takes 200 connections, and the services may open … set max_connections to"},

	{"too few connections of a role", "", "base/postgres/roles.sql", ":'orders' CONNECTION LIMIT 180", ":'orders' CONNECTION LIMIT 90", "ConfigMap/postgres-roles- … the role orders may have 90 connections, and the service may open 99 during an update; set its CONNECTION LIMIT to 99"},

	// Who may reach whom.
	{"nothing is denied", "", "base/network.yaml", "  podSelector: {}\n", "  podSelector: {matchLabels: {app.kubernetes.io/name: nobody}}\n", "StatefulSet/postgres: nothing limits the egress of its pods; have a NetworkPolicy"},
	{"a call is not let out", "", ordersFile, "podSelector: {matchLabels: {app.kubernetes.io/name: auth}}", "podSelector: {matchLabels: {app.kubernetes.io/name: aut}}",
		orders + "SESSION_JWKS_URL names port 8080 of Deployment/auth, and no NetworkPolicy allows the egress of that; have a NetworkPolicy allow its egress to auth at port 8080"},
	{"a call is not let in", "", authFile, "values: [tickets, orders, payments]", "values: [tickets, payments]",
		orders + "SESSION_JWKS_URL names port 8080 of Deployment/auth, and no NetworkPolicy allows the ingress of that; have a NetworkPolicy allow auth at port http"},
	{"a call that nobody makes is let in", "", authFile, "values: [tickets, orders, payments]", "values: [tickets, orders, payments, postgres]",
		"auth.yaml: NetworkPolicy/auth: it opens the ingress from postgres to Deployment/auth at port http, and nothing declares that flow; narrow its ingress"},
	{"a call that nobody makes is let out", "", ordersFile, "podSelector: {matchLabels: {app.kubernetes.io/name: auth}}", "podSelector: {matchExpressions: [{key: app.kubernetes.io/name, operator: NotIn, values: [postgres]}]}",
		"orders.yaml: NetworkPolicy/orders: it opens the egress from orders to Deployment/payments at port http"},
	{"the namespace is open", "", postgresFile, "        - podSelector: {matchLabels: {app.kubernetes.io/component: service}}\n      ports:\n        - {port: postgres}", "        - podSelector: {}\n      ports:\n        - {port: postgres}",
		"NetworkPolicy/postgres: it opens the ingress from nats-streaming … to StatefulSet/postgres at port postgres"},
	{"every port is open", "", postgresFile, "        - podSelector: {matchLabels: {app.kubernetes.io/component: service}}\n      ports:\n        - {port: postgres}", "        - podSelector: {matchLabels: {app.kubernetes.io/component: service}}",
		"NetworkPolicy/postgres: it opens the ingress from … orders … to StatefulSet/postgres at any port"},
	{"everybody is let in", "", postgresFile, "    - from:\n        - podSelector: {matchLabels: {app.kubernetes.io/component: service}}\n      ports:\n        - {port: postgres}", "    - ports:\n        - {port: postgres}",
		"NetworkPolicy/postgres: it lets everybody reach StatefulSet/postgres at port postgres; name in from who may"},
	{"the database is open to another namespace", "", postgresFile, "        - podSelector: {matchLabels: {app.kubernetes.io/component: service}}\n      ports:\n        - {port: postgres}",
		"        - podSelector: {matchLabels: {app.kubernetes.io/component: service}}\n        - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}\n      ports:\n        - {port: postgres}",
		"NetworkPolicy/postgres: it lets others than this namespace reach StatefulSet/postgres at port postgres, which is not for them; leave it out"},
	{"the broker's clients are not let in", "", natsFile, "        - {port: nats, protocol: TCP}", "        - {port: peers, protocol: TCP}",
		orders + "NATS_URL names port 4222 of StatefulSet/nats-streaming, and no NetworkPolicy allows the ingress of that"},
	{"the broker's servers are not let out", "", natsFile, "  egress:\n    - to:\n        - podSelector:\n            matchLabels: {app.kubernetes.io/name: nats-streaming}", "  egress:\n    - to:\n        - podSelector:\n            matchLabels: {app.kubernetes.io/name: nats}",
		"StatefulSet/nats-streaming: PEERS names port 6222 of StatefulSet/nats-streaming, and no NetworkPolicy allows the egress of that"},
	{"by UDP instead of TCP", "", natsFile, "        - {port: nats, protocol: TCP}", "        - {port: nats, protocol: UDP}", orders + "NATS_URL names port 4222 … no NetworkPolicy allows the ingress"},
	{"names cannot be looked up", "", clusterFile, "        - {protocol: UDP, port: 53}\n", "", orders + "its pods are given names to look up, and no NetworkPolicy allows them to, by UDP; have a NetworkPolicy allow its egress to DNS"},
	{"names are looked up at addresses alone", "", clusterFile, "        - namespaceSelector: {}\n", "", orders + "its pods are given names to look up, and no NetworkPolicy allows them to, by TCP; have a NetworkPolicy … by a namespaceSelector"},
	{"the API server cannot be reached", "", clusterFile, "        - {port: 443}\n        - {port: 6443}\n", "        - {port: 8443}\n", orders + "its pods call the API server, and no NetworkPolicy allows that"},
	{"more than the API server can be reached", "", clusterFile, "        - {port: 443}\n", "        - {port: 443}\n        - {port: 22}\n", "NetworkPolicy/api-server: it lets the pods of orders out of the namespace to port 22, which they do not call; leave it out"},
	{"anything can be reached", "", clusterFile, "      ports:\n        - {port: 443}\n        - {port: 6443}\n", "", "NetworkPolicy/api-server: it lets the pods of orders out to any port; name the ports"},
	{"a range of ports can be reached", "", clusterFile, "        - {port: 443}\n", "        - {port: 1, endPort: 65535}\n", "NetworkPolicy/api-server: it lets the pods of orders out of the namespace to ports 1 to 65535"},
	{"nobody leads people in", "", clusterFile, "        - {port: http}\n", "        - {port: web}\n", orders + "orders has operations for the public, and no NetworkPolicy lets anybody from outside reach them; have a NetworkPolicy allow the ingress controller"},
	{"all namespaces may administer", "", clusterFile, "        - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}", "        - namespaceSelector: {}",
		"NetworkPolicy/prometheus: it lets everybody reach Deployment/orders at port admin; name in from who may"},
	{"who leads people in may administer", "", clusterFile, "        - {port: http}\n", "        - {port: http}\n        - {port: admin}\n",
		"cluster.yaml … NetworkPolicy/ingress-controller: it lets those who lead people to Deployment/orders reach it at port admin, too; leave it out"},
	{"the collector cannot be reached", "observability", "components/observability/network.yaml", "        - {port: 4318}", "        - {port: 4317}", orders + "OTEL_EXPORTER_OTLP_ENDPOINT names collector.observability at port 4318, and no NetworkPolicy allows its egress"},
	{"who asks for metrics does not say whom", "autoscaling", "components/autoscaling/external-metrics.yaml", "tickets:9090 orders:9090", "tickets:9090", "NetworkPolicy/external-metrics: it opens the egress from external-metrics to Deployment/orders at port admin"},

	// The API server.
	{"a right too many", "", ordersFile, "resources: [endpointslices], verbs: [list, watch]", "resources: [endpointslices], verbs: [list, watch, delete]",
		"orders.yaml … Role/orders: orders may delete endpointslices.discovery.k8s.io, and does not need to; take it out"},
	{"a right too few", "", ordersFile, "resources: [events], verbs: [create, patch]", "resources: [events], verbs: [create]",
		`Role/orders: orders needs to patch events.events.k8s.io, and may not; add to its rules: {apiGroups: ["events.k8s.io"], resources: [events], verbs: [patch]}`},
	{"a right to all of a kind", "", ordersFile, "resources: [configmaps], resourceNames: [orders-settings], verbs", "resources: [configmaps], verbs", "Role/orders: orders may list configmaps, and does not need to"},
	{"a right to another's lease", "", ordersFile, "resourceNames: [orders-prune]", "resourceNames: [tickets-prune]", "Role/orders: orders needs to get leases.coordination.k8s.io orders-prune, and may not"},
	{"the rights are another's", "", ordersFile, "  - {kind: ServiceAccount, name: orders}", "  - {kind: ServiceAccount, name: order}", "Role/orders: orders needs to list endpointslices.discovery.k8s.io, and may not"},
	{"a binding of nothing", "", ordersFile, "kind: Role, name: orders}", "kind: Role, name: order}", "RoleBinding/orders: it binds Role order, which there is not; add it"},
	{"a group has the rights, too", "", ordersFile, "  - {kind: ServiceAccount, name: orders}\n", "  - {kind: ServiceAccount, name: orders}\n  - {kind: Group, name: system:authenticated, apiGroup: rbac.authorization.k8s.io}\n",
		"RoleBinding/orders: it gives the rights of Role orders to Group system:authenticated, too; bind it to the ServiceAccount"},
	{"a right in the whole cluster", "", ordersFile, "kind: RoleBinding\n", "kind: ClusterRoleBinding\n", "Role/orders: orders may list endpointslices.discovery.k8s.io of the whole cluster, and does not need to"},
	{"no token", "", everyDeployment, "automountServiceAccountToken: true", "automountServiceAccountToken: false", orders + "orders calls the API server, and its pods are given no token for it; set automountServiceAccountToken: true"},
	{"a token for nothing", "", postgresFile, "      automountServiceAccountToken: false\n", "      automountServiceAccountToken: true\n", "StatefulSet/postgres: its pods are given a token for the API server, and do not call it; set automountServiceAccountToken: false"},

	// Pods.
	{"as root", "", everyDeployment, "        runAsNonRoot: true\n", "", orders + "pod security restricted: runAsNonRoot != true"},
	{"with capabilities", "", everyDeployment, "            capabilities: {drop: [ALL]}\n", "", orders + "pod security restricted: unrestricted capabilities"},
	{"on the node's network", "", postgresFile, "      enableServiceLinks: false\n", "      enableServiceLinks: false\n      hostNetwork: true\n", "StatefulSet/postgres: pod security restricted: host namespaces"},
	{"a root file system to write to", "", everyDeployment, "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", orders + " … may write to its root file system; set securityContext.readOnlyRootFilesystem: true"},
	{"no limit of memory", "", everyDeployment, `limits: {cpu: "1", memory: 256Mi}`, `limits: {cpu: "1"}`, orders + " … has no limits of memory; set resources.limits.memory"},
	{"an image of today", "", postgresFile, "image: postgres:18.1", "image: postgres:latest", "postgres.yaml:LINE: StatefulSet/postgres: … has the image postgres:latest, which is another one every day; name a version"},
	{"an image without a version", "", postgresFile, "image: postgres:18.1", "image: postgres", "StatefulSet/postgres: … has the image postgres, which is not built here and has no version; name a version, as in postgres:1.2.3"},
	{"a field that there is not", "", everyDeployment, "terminationGracePeriodSeconds", "terminationGracePeriodSecond", orders + `Kubernetes knows no field "terminationGracePeriodSecond"; correct its name`},
	{"several patches that delete", "", clusterFile, "# The namespace of Prometheus.\n",
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: orders-settings}\n$patch: delete\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: tickets-settings}\n$patch: delete\n---\n",
		"overlays/production/cluster.yaml: Kustomization/production: several patches in one file delete something … delete with one patch"},
	{"a patch of what there is not", "", clusterFile, "  name: api-server", "  name: api-servers", "Kustomization/production: kustomize refuses it: … api-servers"},
}

// TestChanges has every change of the manifests above be found, with its place and what to do.
func TestChanges(t *testing.T) {
	t.Parallel()
	for _, c := range changes {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b, root := copied(t)
			k8s := filepath.Join(root, "infra", "k8s")
			file := filepath.Join(k8s, c.file)
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(text), c.old) {
				t.Fatalf("%s has no %q: this test is of manifests as they were", c.file, c.old)
			}
			if err := os.WriteFile(file, []byte(strings.Replace(string(text), c.old, c.new, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			k := Kustomization{Name: "production", Dir: filepath.Join(k8s, "overlays", "production")}
			if c.on == "dev" {
				k = Kustomization{Name: "dev", Dir: filepath.Join(k8s, "overlays", "dev")}
			} else if c.on != "" {
				k.Components = []string{filepath.Join(k8s, "components", c.on)}
			}
			report := check(t, b, root, k)
			before, _, _ := strings.Cut(string(text), c.old)
			want := strings.ReplaceAll(c.want, "LINE", strconv.Itoa(1+strings.Count(before, "\n")))
			var all strings.Builder
			for _, p := range report.Problems {
				line := p.String()
				if inOrder(line, strings.Split(want, " … ")) {
					return
				}
				all.WriteString("\n  " + line)
			}
			t.Errorf("no problem is like\n  %s\nfound:%s", want, all.String())
		})
	}
}

func inOrder(text string, words []string) bool {
	for _, word := range words {
		_, after, found := strings.Cut(text, word)
		if !found {
			return false
		}
		text = after
	}
	return true
}
