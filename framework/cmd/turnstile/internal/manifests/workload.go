package manifests

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	podsecurity "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/workspace"
)

// The label that says what a pod is part of the application as.
const (
	componentLabel = "app.kubernetes.io/component"
	isService      = "service"
	isDatabase     = "database"
	isBroker       = "broker"
)

// workload is something that has pods.
type workload struct {
	*object
	pod      *corev1.PodTemplateSpec
	replicas int32 // the most that there may be

	service     *Service              // what it runs, if that is a service of the workspace
	command     *Command              // or if it is a command
	container   *corev1.Container     // in which that is
	environment map[string][]variable // by container
}

// containers goes through all, those that run before the others first.
func (w *workload) containers() []*corev1.Container {
	var all []*corev1.Container
	for i := range w.pod.Spec.InitContainers {
		all = append(all, &w.pod.Spec.InitContainers[i])
	}
	for i := range w.pod.Spec.Containers {
		all = append(all, &w.pod.Spec.Containers[i])
	}
	return all
}

// ports are those that its containers declare.
func (w *workload) ports() []corev1.ContainerPort {
	var all []corev1.ContainerPort
	for _, container := range w.containers() {
		all = append(all, container.Ports...)
	}
	return all
}

// port finds a port by its number or name.
func (w *workload) port(wanted intstr.IntOrString) (corev1.ContainerPort, bool) {
	for _, p := range w.ports() {
		if wanted.Type == intstr.String && p.Name == wanted.StrVal || wanted.Type == intstr.Int && p.ContainerPort == wanted.IntVal {
			return p, true
		}
	}
	return corev1.ContainerPort{}, false
}

func (w *workload) component() string { return w.pod.Labels[componentLabel] }

// readWorkloads finds what has pods, and which services these run.
func (c *checker) readWorkloads() {
	add := func(o *object, pod *corev1.PodTemplateSpec, replicas *int32) {
		w := &workload{object: o, pod: pod, replicas: 1, environment: map[string][]variable{}}
		if replicas != nil {
			w.replicas = *replicas
		}
		for _, scaler := range each[autoscalingv2.HorizontalPodAutoscaler](c.objects) {
			if to := scaler.Spec.ScaleTargetRef; to.Kind == o.kind && to.Name == o.name {
				w.replicas = max(w.replicas, scaler.Spec.MaxReplicas)
			}
		}
		for i := range pod.Spec.Containers {
			if s := c.serviceOf(&pod.Spec.Containers[i]); s != nil && (w.service == nil || s.Name == o.name) && o.kind != "Job" && o.kind != "CronJob" {
				w.service, w.container = s, &pod.Spec.Containers[i]
			}
		}
		for i := range pod.Spec.Containers {
			if command := c.commandOf(&pod.Spec.Containers[i]); command != nil && w.service == nil {
				w.command, w.container = command, &pod.Spec.Containers[i]
			}
		}
		c.workloads = append(c.workloads, w)
	}
	for _, o := range c.objects.all {
		switch v := o.value.(type) {
		case *appsv1.Deployment:
			add(o, &v.Spec.Template, v.Spec.Replicas)
		case *appsv1.StatefulSet:
			add(o, &v.Spec.Template, v.Spec.Replicas)
		case *appsv1.DaemonSet:
			add(o, &v.Spec.Template, nil)
		case *batchv1.Job:
			add(o, &v.Spec.Template, v.Spec.Parallelism)
		case *batchv1.CronJob:
			add(o, &v.Spec.JobTemplate.Spec.Template, v.Spec.JobTemplate.Spec.Parallelism)
		}
	}
}

var imageTag = regexp.MustCompile(`^(.+?)(:[\w][\w.-]*)?(@sha256:[0-9a-f]{64})?$`)

// image splits an image's name into what is behind the last slash, and its tag and digest.
func image(name string) (base, tag, digest string) {
	rest := name[strings.LastIndex(name, "/")+1:]
	if match := imageTag.FindStringSubmatch(rest); match != nil {
		return match[1], strings.TrimPrefix(match[2], ":"), match[3]
	}
	return rest, "", ""
}

// serviceOf returns the service whose image a container has, or nil.
func (c *checker) serviceOf(container *corev1.Container) *Service {
	base, _, _ := image(container.Image)
	return c.serviceNamed(base)
}

func (c *checker) serviceNamed(name string) *Service {
	for i := range c.options.Services {
		if c.options.Services[i].Name == name {
			return &c.options.Services[i]
		}
	}
	return nil
}

func (c *checker) serviceNames() []string {
	names := make([]string, len(c.options.Services))
	for i, s := range c.options.Services {
		names[i] = s.Name
	}
	return names
}

// workloadOf returns the workload that runs a service, or nil.
func (c *checker) workloadOf(service string) *workload {
	for _, w := range c.workloads {
		if w.service != nil && w.service.Name == service {
			return w
		}
	}
	return nil
}

// selected are the workloads whose pods a selector finds.
func (c *checker) selected(s labels.Selector) []*workload {
	var all []*workload
	for _, w := range c.workloads {
		if s.Matches(labels.Set(w.pod.Labels)) {
			all = append(all, w)
		}
	}
	return all
}

// checkServices has every service of the workspace deployed, and nothing deployed as a service that is none.
func (c *checker) checkServices() {
	missing := func(s Service, kind string) {
		c.problem(c.objects.absent(kind, s.Name), "", fmt.Sprintf("add a %s %s", kind, s.Name), "the service %s has no %s", s.Name, kind)
	}
	for _, s := range c.options.Services {
		w := c.workloadOf(s.Name)
		if w == nil {
			missing(s, "Deployment")
			continue
		}
		o, service := named[corev1.Service](c.objects, s.Name)
		switch {
		case o == nil:
			missing(s, "Service")
		case !slices.Contains(c.selected(labels.SelectorFromSet(service.Spec.Selector)), w):
			c.problem(o, "selector", "select its labels", "it does not select the pods of %s", w)
		}
		account := w.pod.Spec.ServiceAccountName
		if account != s.Name {
			c.problem(w.object, "serviceAccountName", "set serviceAccountName: "+s.Name, "its pods are the ServiceAccount %q, not one of their own", cmp.Or(account, "default"))
		}
		if o, _ := named[corev1.ServiceAccount](c.objects, s.Name); o == nil {
			missing(s, "ServiceAccount")
		}
	}
	for _, w := range c.workloads {
		if w.component() != isService || w.service != nil {
			continue
		}
		for _, container := range w.pod.Spec.Containers {
			if c.serviceOf(&container) == nil {
				base, _, _ := image(container.Image)
				c.problem(w.object, "image: "+container.Image, suggest("use the image of one: "+list(c.serviceNames()), base, c.serviceNames()),
					"container %s has the image %s, and no service of the workspace is named so", container.Name, container.Image)
			}
		}
	}
}

// suggest is what to do about a name that is not known.
func suggest(otherwise, name string, known []string) string {
	if n := nearest(name, known); n != "" {
		return "did you mean " + n + "?"
	}
	return otherwise
}

// checkPod holds a pod to the Pod Security Standard "restricted" and to what else every pod is to have.
func (c *checker) checkPod(w *workload) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		panic("manifests: pod security: " + err.Error()) // its own checks contradict each other
	}
	restricted := podsecurity.LevelVersion{Level: podsecurity.LevelRestricted, Version: podsecurity.LatestVersion()}
	for _, result := range evaluator.EvaluatePod(restricted, &w.pod.ObjectMeta, &w.pod.Spec) {
		if !result.Allowed {
			c.problem(w.object, "", "change that: the namespace would refuse its pods",
				"pod security restricted: %s: %s", result.ForbiddenReason, result.ForbiddenDetail)
		}
	}
	for _, container := range w.containers() {
		if s := container.SecurityContext; s == nil || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
			c.problem(w.object, "readOnlyRootFilesystem", "set securityContext.readOnlyRootFilesystem: true",
				"container %s may write to its root file system", container.Name)
		}
		for _, kind := range []struct {
			name string
			list corev1.ResourceList
		}{{"requests", container.Resources.Requests}, {"limits", container.Resources.Limits}} {
			for _, resource := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
				if amount, ok := kind.list[resource]; !ok || amount.IsZero() {
					c.problem(w.object, kind.name, fmt.Sprintf("set resources.%s.%s", kind.name, resource),
						"container %s has no %s of %s", container.Name, kind.name, resource)
				}
			}
		}
		base, tag, digest := image(container.Image)
		switch built := c.serviceNamed(base) != nil || slices.Contains(c.options.Built, base); {
		case digest != "", built && tag == "", tag != "" && tag != "latest":
		case tag == "latest":
			c.problem(w.object, "image: "+container.Image, "name a version", "container %s has the image %s, which is another one every day", container.Name, container.Image)
		default:
			names := slices.Concat(c.serviceNames(), c.options.Built)
			c.problem(w.object, "image: "+container.Image, suggest("name a version, as in "+base+":1.2.3", base, names),
				"container %s has the image %s, which is not built here and has no version", container.Name, container.Image)
		}
	}
	token := w.pod.Spec.AutomountServiceAccountToken
	if token == nil {
		if _, account := named[corev1.ServiceAccount](c.objects, w.pod.Spec.ServiceAccountName); account != nil {
			token = account.AutomountServiceAccountToken
		}
	}
	mounted := token == nil || *token
	own, cluster := w.rules()
	switch needed := len(own)+len(cluster) > 0; {
	case mounted && !needed && !c.hasRole(w):
		c.problem(w.object, "automountServiceAccountToken", "set automountServiceAccountToken: false",
			"its pods are given a token for the API server, and do not call it")
	case !mounted && needed:
		c.problem(w.object, "automountServiceAccountToken", "set automountServiceAccountToken: true",
			"%s calls the API server, and its pods are given no token for it", w.program())
	}
}

// checkListening holds the ports and probes of a service's container to where the service listens.
func (c *checker) checkListening(w *workload) {
	s, container := w.service, w.container
	names := map[string]string{"ADMIN_ADDR": "admin"}
	if len(s.Operations) > 0 {
		names["HTTP_ADDR"] = "http"
	}
	for _, variable := range slices.Sorted(maps.Keys(names)) {
		name, address := names[variable], w.value(variable)
		port, err := listening(address)
		if err != nil {
			c.problem(w.object, variable, "set "+variable+" to a port of all addresses, as in :8080", "%s is %q, %v", variable, address, err)
			continue
		}
		i := slices.IndexFunc(container.Ports, func(p corev1.ContainerPort) bool { return p.Name == name })
		switch {
		case i < 0:
			c.problem(w.object, "ports:", fmt.Sprintf("add the port {name: %s, containerPort: %d}", name, port),
				"container %s has no port named %s", container.Name, name)
		case container.Ports[i].ContainerPort != port:
			c.problem(w.object, "name: "+name, fmt.Sprintf("set containerPort: %d", port),
				"container %s has port %s at %d, and %s is %s", container.Name, name, container.Ports[i].ContainerPort, variable, address)
		}
		o, service := named[corev1.Service](c.objects, s.Name)
		if o != nil && !slices.ContainsFunc(service.Spec.Ports, func(p corev1.ServicePort) bool {
			target, ok := w.port(targetOf(p))
			return p.Name == name && ok && target.ContainerPort == port
		}) {
			c.problem(o, "name: "+name, fmt.Sprintf("give it {name: %s, port: %d, targetPort: %s}", name, port, name),
				"it has no port %s that leads to port %d, where %s listens", name, port, s.Name)
		}
	}
	admin, err := listening(w.value("ADMIN_ADDR"))
	if err != nil {
		return // reported
	}
	c.checkProbes(w, container, s.Name, s.Probes, admin, "ADMIN_ADDR is "+w.value("ADMIN_ADDR"))
}

// checkProbes holds the probes of a container to where its program answers them, at a port of which said says why.
func (c *checker) checkProbes(w *workload, container *corev1.Container, program string, answers workspace.Probes, at int32, said string) {
	name := strconv.Itoa(int(at))
	if p, ok := w.port(intstr.FromInt32(at)); ok {
		name = cmp.Or(p.Name, name)
	}
	for _, p := range []struct {
		field, path string
		probe       *corev1.Probe
	}{
		{"startupProbe", answers.Startup, container.StartupProbe},
		{"readinessProbe", answers.Ready, container.ReadinessProbe},
		{"livenessProbe", answers.Live, container.LivenessProbe},
	} {
		want := fmt.Sprintf("set httpGet: {path: %s, port: %s}", p.path, name)
		if p.probe == nil || p.probe.HTTPGet == nil {
			c.problem(w.object, p.field, want, "container %s has no %s by HTTP", container.Name, p.field)
			continue
		}
		get := p.probe.HTTPGet
		if get.Path != p.path {
			c.problem(w.object, get.Path, want, "%s of container %s asks %s, and %s answers on %s", p.field, container.Name, get.Path, program, p.path)
		}
		if port, ok := w.port(get.Port); get.Port.IntVal != at && (!ok || port.ContainerPort != at) {
			c.problem(w.object, "port: "+get.Port.String(), want, "%s of container %s asks port %s, and %s", p.field, container.Name, get.Port.String(), said)
		}
	}
}

// listening returns the port of an address to listen on.
func listening(address string) (int32, error) {
	host, text, err := net.SplitHostPort(address)
	port, parseErr := strconv.ParseUint(text, 10, 16)
	if err != nil || parseErr != nil || port == 0 {
		return 0, fmt.Errorf("which is no port")
	}
	if ip := net.ParseIP(host); host != "" && (ip == nil || !ip.IsUnspecified()) {
		return 0, fmt.Errorf("which others than the pod itself cannot reach")
	}
	return int32(port), nil
}

// targetOf is the port of the pods that a Service's port leads to.
func targetOf(p corev1.ServicePort) intstr.IntOrString {
	if p.TargetPort == (intstr.IntOrString{}) {
		return intstr.FromInt32(p.Port)
	}
	return p.TargetPort
}

// drainVariables are what a service takes one after the other to stop.
var drainVariables = []string{"KUBE_DRAIN_LIMIT", "DRAIN_DELAY_MAX", "DRAIN_TIMEOUT"}

// checkDrain has a service's pods stop, and be replaced, without anybody noticing.
func (c *checker) checkDrain(w *workload) {
	grace := 30 * time.Second
	if s := w.pod.Spec.TerminationGracePeriodSeconds; s != nil {
		grace = time.Duration(*s) * time.Second
	}
	var sum time.Duration
	var parts []string
	takes := func(what, text string) {
		if d, err := time.ParseDuration(text); err == nil { // what does not parse is reported with the environment
			sum += d
			parts = append(parts, what+" "+d.String())
		}
	}
	for _, name := range drainVariables {
		takes(name, w.value(name))
	}
	takes("then", w.service.Stop.AfterDrain)
	if sum >= grace {
		c.problem(w.object, "terminationGracePeriodSeconds", fmt.Sprintf("set terminationGracePeriodSeconds to %d or more", int(sum.Seconds())+1),
			"its pods are killed %s after they are told to stop, and may take %s (%s)", grace, sum, strings.Join(parts, ", "))
	}
	if d, ok := w.object.value.(*appsv1.Deployment); ok {
		rolling := d.Spec.Strategy.RollingUpdate
		if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType || rolling == nil || rolling.MaxUnavailable == nil ||
			(*rolling.MaxUnavailable != intstr.FromInt32(0) && *rolling.MaxUnavailable != intstr.FromString("0%")) {
			c.problem(w.object, "strategy", "set strategy.rollingUpdate.maxUnavailable: 0", "an update takes pods away before there are new ones")
		}
	}
}

// checkSelectors has what selects pods or names workloads find some.
func (c *checker) checkSelectors() {
	for o, s := range each[corev1.Service](c.objects) {
		if len(s.Spec.Selector) == 0 {
			continue // its endpoints are elsewhere
		}
		found := c.selected(labels.SelectorFromSet(s.Spec.Selector))
		if len(found) == 0 {
			c.problem(o, "selector", "select the labels of pods that there are", "it selects no pods")
		}
		for _, p := range s.Spec.Ports {
			target := targetOf(p)
			for _, w := range found {
				if _, ok := w.port(target); !ok {
					c.problem(o, p.Name, fmt.Sprintf("set targetPort to one of %s", list(portNames(w))),
						"port %s leads to port %s of %s, which has none such", cmp.Or(p.Name, strconv.Itoa(int(p.Port))), target.String(), w)
				}
			}
		}
	}
	c.checkBudgets()
	for o, h := range each[autoscalingv2.HorizontalPodAutoscaler](c.objects) {
		to := h.Spec.ScaleTargetRef
		i := slices.IndexFunc(c.workloads, func(w *workload) bool { return w.kind == to.Kind && w.name == to.Name })
		if i < 0 {
			c.problem(o, "scaleTargetRef", "name a workload that there is", "it scales %s/%s, which there is not", to.Kind, to.Name)
			continue
		}
		w := c.workloads[i]
		if d, ok := w.object.value.(*appsv1.Deployment); ok && d.Spec.Replicas != nil {
			c.problem(w.object, "replicas:", "leave it out", "it has replicas: %d, which would undo what %s did each time it is applied", *d.Spec.Replicas, o)
		}
		for _, metric := range h.Spec.Metrics {
			if metric.External != nil {
				c.checkMetric(o, w, metric.External.Metric)
			}
		}
	}
	for o, m := range each[serviceMonitor](c.objects) {
		found := 0
		for service, s := range each[corev1.Service](c.objects) {
			if !selector(&m.Spec.Selector).Matches(labels.Set(s.Labels)) {
				continue
			}
			found++
			for _, e := range m.Spec.Endpoints {
				if e.Port != "" && !slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return p.Name == e.Port }) {
					c.problem(o, "port: "+e.Port, "name a port of the Service", "it asks port %s of the Service %s, which has none such", e.Port, service.name)
				}
			}
		}
		if found == 0 {
			c.problem(o, "selector", "select the labels of Services that there are", "it selects no Services")
		}
	}
}

// serviceMonitor is a ServiceMonitor of the Prometheus operator, as far as it is needed here.
type serviceMonitor struct {
	Spec struct {
		Selector  metav1.LabelSelector `json:"selector"`
		Endpoints []struct {
			Port string `json:"port"`
		} `json:"endpoints"`
	} `json:"spec"`
}

// checkMetric has an autoscaler ask for a metric that is served, of what it scales. Where somebody else serves external
// metrics, nothing is known of them.
func (c *checker) checkMetric(scaler *object, of *workload, metric autoscalingv2.MetricIdentifier) {
	for _, w := range c.workloads {
		if w.command == nil || w.command.Metric == nil {
			continue
		}
		name, err := w.command.Metric(metric.Name, metav1.FormatLabelSelector(metric.Selector))
		if err != nil {
			c.problem(scaler, metric.Name, "correct the metric", "%s serves no such metric: %v", w.name, err)
			continue
		}
		_, service := named[corev1.Service](c.objects, name)
		switch {
		case service == nil || !selected(service.Spec.Selector, of):
			c.problem(scaler, "selector", "name the Service of what it scales", "it asks how far the Service %s is behind, and scales %s", name, of)
		case of.service != nil && len(of.service.Listens) == 0:
			c.problem(scaler, metric.Name, "leave the metric out", "%s listens to no events, and is never behind", of.service.Name)
		}
	}
}

// checkBudgets has what runs more than once keep all pods but one while nodes are emptied, and nodes be emptied even while
// pods are not ready: they wait for a database, say, and another node is as good for that.
func (c *checker) checkBudgets() {
	budgets := map[*workload]int{}
	for o, b := range each[policyv1.PodDisruptionBudget](c.objects) {
		found := c.selected(selector(b.Spec.Selector))
		switch len(found) {
		case 0:
			c.problem(o, "selector", "select the labels of pods that there are", "it selects no pods")
		case 1:
		default:
			c.problem(o, "selector", "have one for each", "it selects the pods of both %s and %s", found[0], found[1])
		}
		for _, w := range found {
			budgets[w]++
		}
		if p := b.Spec.UnhealthyPodEvictionPolicy; p == nil || *p != policyv1.AlwaysAllow {
			c.problem(o, "unhealthyPodEvictionPolicy", "set unhealthyPodEvictionPolicy: AlwaysAllow", "a node cannot be emptied while its pods are not ready")
		}
	}
	for _, w := range c.workloads {
		switch n := budgets[w]; {
		case n > 1:
			c.problem(w.object, "", "leave it one: Kubernetes evicts no pod that has several", "%d PodDisruptionBudgets select its pods", n)
		case n == 0 && w.replicas > 1 && (w.kind == "Deployment" || w.kind == "StatefulSet"):
			c.problem(w.object, "", "add one with maxUnavailable: 1", "no PodDisruptionBudget selects its pods, and all may be evicted at once")
		}
	}
}

func portNames(w *workload) []string {
	var names []string
	for _, p := range w.ports() {
		names = append(names, cmp.Or(p.Name, strconv.Itoa(int(p.ContainerPort))))
	}
	return names
}

// selector is a LabelSelector in a form that can be asked. One that is not valid selects nothing; nil does, too.
func selector(s *metav1.LabelSelector) labels.Selector {
	parsed, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return parsed
}

var (
	maxConnections = regexp.MustCompile(`(?m)^\s*max_connections\s*=\s*'?(\d+)|max_connections=(\d+)`)
	roles          = regexp.MustCompile(`(?m)^CREATE ROLE (\S+) .*CONNECTION LIMIT (\d+)`)
)

// connections is how many a service may open to its database: all replicas, with one more of each for notifications, while
// one is being replaced. It is 0 if that is not known.
func (w *workload) connections() int {
	each, err := strconv.Atoi(w.value("DATABASE_MAX_CONNS"))
	if err != nil {
		return 0
	}
	return int(w.replicas+1) * (each + 1)
}

// checkConnections has a database server, and the role of each service there, take the connections that these may open.
func (c *checker) checkConnections() {
	var server *workload
	for _, w := range c.workloads {
		if w.component() == isDatabase {
			server = w
		}
	}
	if server == nil {
		return
	}
	allowed, at := 100, server.object // PostgreSQL's default
	texts := map[*object]string{}
	for _, container := range server.containers() {
		texts[server.object] += strings.Join(slices.Concat(container.Command, container.Args), "\n") + "\n"
	}
	for _, volume := range server.pod.Spec.Volumes {
		if volume.ConfigMap == nil {
			continue
		}
		if o, m := named[corev1.ConfigMap](c.objects, volume.ConfigMap.Name); o != nil {
			texts[o] = strings.Join(slices.Collect(maps.Values(m.Data)), "\n")
		}
	}
	for o, text := range texts {
		if match := maxConnections.FindStringSubmatch(text); match != nil {
			if n, err := strconv.Atoi(cmp.Or(match[1], match[2])); err == nil {
				allowed, at = n, o
			}
		}
		for _, match := range roles.FindAllStringSubmatch(text, -1) {
			w := c.workloadOf(match[1])
			limit, err := strconv.Atoi(match[2])
			if w == nil || err != nil {
				continue
			}
			if most := w.connections(); limit < most {
				c.problem(o, "", fmt.Sprintf("set its CONNECTION LIMIT to %d or more, or DATABASE_MAX_CONNS to less", most),
					"the role %s may have %d connections, and the service may open %d during an update", match[1], limit, most)
			}
		}
	}
	sum := 0
	var parts []string
	for _, w := range c.workloads {
		if w.service == nil {
			continue
		}
		if most := w.connections(); most > 0 {
			sum += most
			parts = append(parts, fmt.Sprintf("%s %d×%d", w.service.Name, w.replicas+1, most/int(w.replicas+1)))
		}
	}
	if sum > allowed {
		c.problem(at, "max_connections", fmt.Sprintf("set max_connections to %d or more, or DATABASE_MAX_CONNS to less", sum),
			"%s takes %d connections, and the services may open %d during an update (%s)", server, allowed, sum, strings.Join(parts, ", "))
	}
}
