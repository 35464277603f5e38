package manifests

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/workspace"
)

// variable is one that a container is given.
type variable struct {
	name   string
	value  string
	known  bool   // or else the value is in a Secret that is not here
	secret string // the Secret that it comes from
	key    string
	field  string  // the field of the pod that it comes from
	at     *object // where the value is, if not in the workload
}

// value returns what a variable of the workload's service is: set, or else its default.
func (w *workload) value(name string) string {
	for _, v := range w.environment[w.container.Name] {
		if v.name == name && v.value != "" {
			return v.value
		}
	}
	v, _ := w.described(name)
	return v.Default
}

// variable returns what a variable of the workload's service is set to.
func (w *workload) variable(name string) (variable, bool) {
	list := w.environment[w.container.Name]
	if i := slices.IndexFunc(list, func(v variable) bool { return v.name == name }); i >= 0 {
		return list[i], true
	}
	return variable{}, false
}

func (w *workload) described(name string) (workspace.Variable, bool) {
	if i := slices.IndexFunc(w.service.Configuration, func(v workspace.Variable) bool { return v.Name == name }); i >= 0 {
		return w.service.Configuration[i], true
	}
	return workspace.Variable{}, false
}

// Variables of Go's and of its HTTP client that every program takes.
var everywhere = []string{
	"GOMEMLIMIT", "GOMAXPROCS", "GOGC", "GODEBUG", "GOTRACEBACK", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "TZ",
}

// Variables of OpenTelemetry's specification that the SDK in every service takes by itself. What begins with OTEL_GO_X_ is
// its as well: what it tries out.
var openTelemetry = []string{
	"OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG",
	"OTEL_BSP_SCHEDULE_DELAY", "OTEL_BSP_EXPORT_TIMEOUT", "OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
	"OTEL_METRIC_EXPORT_INTERVAL", "OTEL_METRIC_EXPORT_TIMEOUT", "OTEL_METRICS_EXEMPLAR_FILTER",
	"OTEL_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
	"OTEL_SPAN_EVENT_COUNT_LIMIT", "OTEL_SPAN_LINK_COUNT_LIMIT", "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
	"OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_METRICS_HEADERS",
	"OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT",
	"OTEL_EXPORTER_OTLP_COMPRESSION", "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION",
	"OTEL_EXPORTER_OTLP_CERTIFICATE", "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE",
	"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE",
	"OTEL_EXPORTER_OTLP_CLIENT_KEY", "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY",
	"OTEL_EXPORTER_OTLP_INSECURE", "OTEL_EXPORTER_OTLP_TRACES_INSECURE", "OTEL_EXPORTER_OTLP_METRICS_INSECURE",
	"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
}

// What the downward API has to give the variables of framework.Pod.
var podFields = map[string]string{
	"POD_NAME": "metadata.name", "POD_NAMESPACE": "metadata.namespace", "POD_UID": "metadata.uid", "POD_IP": "status.podIP", "NODE_NAME": "spec.nodeName",
}

var (
	expansion   = regexp.MustCompile(`\$\(([A-Za-z_][A-Za-z0-9_]*)\)`)
	credentials = regexp.MustCompile(`://[^/\s@]+@`)
)

// readEnvironments reads what the containers of a workload are given.
func (c *checker) readEnvironments(w *workload) {
	for _, volume := range w.pod.Spec.Volumes {
		c.checkVolume(w, volume)
	}
	for _, container := range w.containers() {
		w.environment[container.Name] = c.readEnvironment(w, container)
	}
}

// checkEnvironment has the services and commands among the containers of a workload judge it.
func (c *checker) checkEnvironment(w *workload) error {
	for _, container := range w.containers() {
		c.checkReferences(w, container)
		if s := c.serviceOf(container); s != nil {
			if err := c.judge(w, container, s); err != nil {
				return err
			}
		} else if command := c.commandOf(container); command != nil {
			c.judgeCommand(w, container, command)
		}
	}
	return nil
}

// checkVolume has the ConfigMaps and Secrets exist that files come from.
func (c *checker) checkVolume(w *workload, volume corev1.Volume) {
	var keys []string
	switch {
	case volume.Secret != nil && (volume.Secret.Optional == nil || !*volume.Secret.Optional):
		for _, item := range volume.Secret.Items {
			keys = append(keys, item.Key)
		}
		c.secret(w, "", volume.Secret.SecretName, keys...)
	case volume.ConfigMap != nil && (volume.ConfigMap.Optional == nil || !*volume.ConfigMap.Optional):
		o, m := named[corev1.ConfigMap](c.objects, volume.ConfigMap.Name)
		if o == nil {
			c.problem(w.object, volume.ConfigMap.Name, "add it", "volume %s is the ConfigMap %s, which there is not", volume.Name, volume.ConfigMap.Name)
			return
		}
		for _, item := range volume.ConfigMap.Items {
			if _, ok := m.Data[item.Key]; !ok && m.BinaryData[item.Key] == nil {
				c.problem(w.object, item.Key, "add it", "volume %s takes the key %s of the ConfigMap %s, which has none such", volume.Name, item.Key, o.name)
			}
		}
	}
}

// use is a key of a Secret that a workload is given: as a variable, or in a file.
type use struct {
	workload              *workload
	variable, secret, key string
}

// secret notes that a Secret is named, and returns the values that it has for keys, if it is here. If the kustomization
// has Secrets, it has to have all.
func (c *checker) secret(w *workload, variable, name string, keys ...string) map[string]string {
	for _, key := range keys {
		c.uses = append(c.uses, use{w, variable, name, key})
	}
	o, s := named[corev1.Secret](c.objects, name)
	if o == nil {
		if c.hasSecrets() {
			c.problem(w.object, name, "generate it as well", "it names the Secret %s, and there are others but not that", name)
		}
		return nil
	}
	values := maps.Clone(s.StringData)
	if values == nil {
		values = map[string]string{}
	}
	for key, value := range s.Data {
		values[key] = string(value)
	}
	for _, key := range keys {
		if _, ok := values[key]; !ok {
			c.problem(o, name, "add the key", "%s takes the key %s from it, which it does not have", w, key)
		}
	}
	return values
}

func (c *checker) hasSecrets() bool {
	for range each[corev1.Secret](c.objects) {
		return true
	}
	return false
}

// missingSecrets are those that pods name, and that are not here.
func (c *checker) missingSecrets() []Reference {
	keys := map[string][]string{}
	for _, u := range c.uses {
		if o, _ := named[corev1.Secret](c.objects, u.secret); o == nil && !slices.Contains(keys[u.secret], u.key) {
			keys[u.secret] = append(keys[u.secret], u.key)
		}
	}
	var missing []Reference
	for _, name := range slices.Sorted(maps.Keys(keys)) {
		missing = append(missing, Reference{name, slices.Sorted(slices.Values(keys[name]))})
	}
	return missing
}

// readEnvironment returns what a container is given, each variable once. What it is to come from and is not there is a
// problem.
func (c *checker) readEnvironment(w *workload, container *corev1.Container) []variable {
	var list []variable
	set := func(v variable) {
		list = slices.DeleteFunc(list, func(old variable) bool { return old.name == v.name })
		list = append(list, v)
	}
	for _, from := range container.EnvFrom {
		switch {
		case from.ConfigMapRef != nil:
			o, m := named[corev1.ConfigMap](c.objects, from.ConfigMapRef.Name)
			if o == nil {
				if from.ConfigMapRef.Optional == nil || !*from.ConfigMapRef.Optional {
					c.problem(w.object, from.ConfigMapRef.Name, "add it", "container %s takes the ConfigMap %s, which there is not", container.Name, from.ConfigMapRef.Name)
				}
				continue
			}
			for _, key := range slices.Sorted(maps.Keys(m.Data)) {
				set(variable{name: from.Prefix + key, value: m.Data[key], known: true, at: o})
			}
		case from.SecretRef != nil:
			values := c.secret(w, "", from.SecretRef.Name)
			for _, key := range slices.Sorted(maps.Keys(values)) {
				set(variable{name: from.Prefix + key, value: values[key], known: true, secret: from.SecretRef.Name, key: key})
			}
		}
	}
	for _, e := range container.Env {
		v := variable{name: e.Name, value: e.Value, known: true}
		from := e.ValueFrom
		switch {
		case from == nil:
			v.value = expansion.ReplaceAllStringFunc(e.Value, func(reference string) string {
				name := reference[2 : len(reference)-1]
				i := slices.IndexFunc(list, func(earlier variable) bool { return earlier.name == name })
				if i < 0 {
					return reference
				}
				v.known = v.known && list[i].known
				if list[i].secret != "" {
					v.secret, v.key = list[i].secret, list[i].key
				}
				return list[i].value
			})
		case from.SecretKeyRef != nil:
			v.secret, v.key = from.SecretKeyRef.Name, from.SecretKeyRef.Key
			if from.SecretKeyRef.Optional != nil && *from.SecretKeyRef.Optional {
				v.known = false
				break
			}
			v.value, v.known = c.secret(w, e.Name, v.secret, v.key)[v.key]
		case from.ConfigMapKeyRef != nil:
			o, m := named[corev1.ConfigMap](c.objects, from.ConfigMapKeyRef.Name)
			there := false
			if o != nil {
				v.at = o
				v.value, there = m.Data[from.ConfigMapKeyRef.Key]
			}
			if optional := from.ConfigMapKeyRef.Optional; !there && (optional == nil || !*optional) {
				c.problem(w.object, e.Name, "add it", "%s of container %s is the key %s of the ConfigMap %s, which there is not",
					e.Name, container.Name, from.ConfigMapKeyRef.Key, from.ConfigMapKeyRef.Name)
			}
		case from.FieldRef != nil:
			v.field = from.FieldRef.FieldPath
			v.value = map[string]string{
				"metadata.name": w.name + "-0", "metadata.namespace": w.namespace, "metadata.uid": "00000000-0000-0000-0000-000000000000",
				"status.podIP": "10.0.0.1", "spec.nodeName": "node",
			}[v.field]
		default: // what it is, is known on the node alone
			v.value = "1"
		}
		set(v)
	}
	return list
}

// judgeVariables has a container be given no variable that its program does not take, and what is secret by a Secret. more
// are variables that the program takes besides, and help is who lists them.
func (c *checker) judgeVariables(w *workload, container *corev1.Container, program, help string, takes []workspace.Variable, more []string) {
	known, names := map[string]workspace.Variable{}, slices.Clone(more)
	for _, v := range takes {
		known[v.Name] = v
		names = append(names, v.Name)
	}
	for _, v := range w.environment[container.Name] {
		at := w.object
		if v.at != nil {
			at = v.at
		}
		described, takes := known[v.name]
		switch {
		case !takes && (slices.Contains(more, v.name) || referred(container, v.name)):
		case !takes:
			c.problem(at, v.name, suggest("leave it out"+help, v.name, names), "container %s is given %s, which %s does not know", container.Name, v.name, program)
		case described.Secret && v.secret == "":
			c.problem(at, v.name, "take it from a Secret, by secretKeyRef", "%s of container %s is secret, and is written here", v.name, container.Name)
		case v.secret == "" && credentials.MatchString(v.value):
			c.problem(at, v.name, "take it from a Secret, by secretKeyRef", "%s of container %s has a password or token in it", v.name, container.Name)
		case podFields[v.name] != "" && v.field != podFields[v.name]:
			c.problem(at, v.name, "set valueFrom: {fieldRef: {fieldPath: "+podFields[v.name]+"}}",
				"%s of container %s is not the pod's own %s", v.name, container.Name, podFields[v.name])
		}
	}
}

// judge holds what a service's container is given against what the service takes.
func (c *checker) judge(w *workload, container *corev1.Container, s *Service) error {
	more := slices.Concat(everywhere, openTelemetry)
	for _, v := range w.environment[container.Name] {
		if strings.HasPrefix(v.name, "OTEL_GO_X_") {
			more = append(more, v.name)
		}
	}
	c.judgeVariables(w, container, s.Name, "; '"+s.Name+" describe' lists all variables", s.Configuration, more)
	known := map[string]workspace.Variable{}
	for _, v := range s.Configuration {
		known[v.Name] = v
	}
	environ, given := map[string]string{}, map[string]variable{}
	for _, v := range w.environment[container.Name] {
		given[v.name] = v
		described, takes := known[v.name]
		switch {
		case !takes:
		case v.known:
			environ[v.name] = v.value
		case described.Default == "" && (described.Required || v.secret != "" && described.Example != ""):
			environ[v.name] = described.Example // stands in for what nobody knows here
		}
	}
	if len(s.Kubernetes.Rules) > 0 {
		for _, name := range slices.Sorted(maps.Keys(podFields)) {
			if _, takes := known[name]; takes && given[name].name == "" {
				c.problem(w.object, "", fmt.Sprintf("add {name: %s, valueFrom: {fieldRef: {fieldPath: %s}}}", name, podFields[name]),
					"container %s is not given %s", container.Name, name)
			}
		}
	}
	refused, err := c.ask(s, environ)
	if err != nil {
		return err
	}
	for _, r := range refused {
		at := w.object
		if v := given[r.variable]; v.at != nil {
			at = v.at
		}
		text, fix := r.variable, "correct its value"
		if _, set := given[r.variable]; !set {
			text, fix = "", "add it to the env of the container"
		}
		c.problem(at, text, fix, "container %s: %s %s", container.Name, r.variable, r.detail)
	}
	return c.judgeSettings(w, container, s, environ)
}

// referred reports whether another variable of a container is made of this one.
func referred(container *corev1.Container, name string) bool {
	in := func(text string) bool { return strings.Contains(text, "$("+name+")") }
	return slices.ContainsFunc(container.Env, func(e corev1.EnvVar) bool { return in(e.Value) }) ||
		slices.ContainsFunc(container.Args, in) || slices.ContainsFunc(container.Command, in)
}

// judgeSettings does so with what a service may be given while it runs.
func (c *checker) judgeSettings(w *workload, container *corev1.Container, s *Service, environ map[string]string) error {
	name := environ["KUBE_CONFIGMAP"]
	if name == "" {
		return nil
	}
	o, m := named[corev1.ConfigMap](c.objects, name)
	if o == nil {
		c.problem(w.object, "KUBE_CONFIGMAP", "add it, with no data for a start", "container %s watches the ConfigMap %s, which there is not", container.Name, name)
		return nil
	}
	if m.Immutable != nil && *m.Immutable {
		c.problem(o, "immutable", "leave out immutable", "%s watches it for changes, and it cannot change", s.Name)
	}
	var adjustable []string
	for _, v := range s.Configuration {
		if v.Adjustable {
			adjustable = append(adjustable, v.Name)
		}
	}
	with := maps.Clone(environ)
	for _, key := range slices.Sorted(maps.Keys(m.Data)) {
		if !slices.Contains(adjustable, key) {
			c.problem(o, key, suggest("move it to the environment of its container; what may change is "+list(adjustable), key, adjustable),
				"%s cannot be changed while %s runs", key, s.Name)
			continue
		}
		with[key] = m.Data[key]
	}
	refused, err := c.ask(s, with)
	if err != nil {
		return err
	}
	for _, r := range refused {
		if _, here := m.Data[r.variable]; here {
			c.problem(o, r.variable, "correct its value", "%s %s", r.variable, r.detail)
		}
	}
	return nil
}

// refusal is what a service does not like of its environment.
type refusal struct{ variable, detail string }

// refusals reads what `<service> check` prints: a variable and what is wrong with it in each line.
var refusals = regexp.MustCompile(`(?m)^(?:  |\S+: (?:build \S+: )?)?([A-Z][A-Z0-9_]*) (.+)$`)

// ask has a service's program judge an environment.
func (c *checker) ask(s *Service, environ map[string]string) ([]refusal, error) {
	env := make([]string, 0, len(environ))
	for _, name := range slices.Sorted(maps.Keys(environ)) {
		env = append(env, name+"="+environ[name])
	}
	key := s.Name + "\x00" + strings.Join(env, "\x00")
	said, asked := "", false
	if known, ok := c.options.asked.Load(key); ok {
		said, asked = known.(string)
	}
	if !asked {
		ctx, cancel := context.WithTimeout(c.ctx, 30*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, s.Program, "check")
		cmd.Env = env
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		err := cmd.Run()
		exit, exited := errors.AsType[*exec.ExitError](err)
		if err != nil && (!exited || exit.ExitCode() != 2) {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			return nil, fmt.Errorf("%s check: %w\n%s", s.Program, err, bytes.TrimSpace(stderr.Bytes()))
		}
		said = stderr.String()
		c.options.asked.Store(key, said)
	}
	if said == "" {
		return nil, nil
	}
	var list []refusal
	for _, match := range refusals.FindAllStringSubmatch(said, -1) {
		list = append(list, refusal{match[1], match[2]})
	}
	if list == nil {
		list = []refusal{{"the environment", "is refused: " + strings.TrimSpace(said)}}
	}
	return list, nil
}
