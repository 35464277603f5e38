package manifests

import (
	"bytes"
	"encoding/json"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/resource"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// objects is what kustomize makes of a kustomization.
type objects struct {
	root     string
	dir      string // of the kustomization
	all      []*object
	sources  *sources
	problems []Problem // fields that Kubernetes does not know, and patches that kubectl does not survive
}

// object is one of them.
type object struct {
	kind, name, namespace string
	file                  string // absolute path of the file that it would come from, if it is not there; else see from
	value                 any    // a pointer to what Kubernetes' own types make of it; nil of a kind that is of no interest here
}

func (o *object) String() string { return o.kind + "/" + o.name }

// kinds makes a value of every kind that is looked into.
var kinds = map[string]func() any{
	"apps/v1 Deployment":                              func() any { return new(appsv1.Deployment) },
	"apps/v1 StatefulSet":                             func() any { return new(appsv1.StatefulSet) },
	"apps/v1 DaemonSet":                               func() any { return new(appsv1.DaemonSet) },
	"batch/v1 Job":                                    func() any { return new(batchv1.Job) },
	"batch/v1 CronJob":                                func() any { return new(batchv1.CronJob) },
	"v1 ConfigMap":                                    func() any { return new(corev1.ConfigMap) },
	"v1 Namespace":                                    func() any { return new(corev1.Namespace) },
	"v1 Secret":                                       func() any { return new(corev1.Secret) },
	"v1 Service":                                      func() any { return new(corev1.Service) },
	"v1 ServiceAccount":                               func() any { return new(corev1.ServiceAccount) },
	"networking.k8s.io/v1 Ingress":                    func() any { return new(networkingv1.Ingress) },
	"networking.k8s.io/v1 NetworkPolicy":              func() any { return new(networkingv1.NetworkPolicy) },
	"policy/v1 PodDisruptionBudget":                   func() any { return new(policyv1.PodDisruptionBudget) },
	"autoscaling/v2 HorizontalPodAutoscaler":          func() any { return new(autoscalingv2.HorizontalPodAutoscaler) },
	"rbac.authorization.k8s.io/v1 Role":               func() any { return new(rbacv1.Role) },
	"rbac.authorization.k8s.io/v1 ClusterRole":        func() any { return new(rbacv1.ClusterRole) },
	"rbac.authorization.k8s.io/v1 RoleBinding":        func() any { return new(rbacv1.RoleBinding) },
	"rbac.authorization.k8s.io/v1 ClusterRoleBinding": func() any { return new(rbacv1.ClusterRoleBinding) },
	"gateway.networking.k8s.io/v1 HTTPRoute":          func() any { return new(httpRoute) },
	"apiregistration.k8s.io/v1 APIService":            func() any { return new(apiService) },
	"monitoring.coreos.com/v1 ServiceMonitor":         func() any { return new(serviceMonitor) },
}

// kustomization is what is read of a kustomization.yaml here.
type kustomization struct {
	Resources  []string `json:"resources,omitempty"`
	Components []string `json:"components,omitempty"`
}

func readKustomization(dir string) (k kustomization, err error) {
	file := filepath.Join(dir, "kustomization.yaml")
	text, err := os.ReadFile(file)
	if err == nil {
		err = yaml.Unmarshal(text, &k)
	}
	if err != nil {
		return k, fmt.Errorf("read %s: %w", file, err)
	}
	return k, nil
}

// render has kustomize build a kustomization with its components. With an error, there are no objects in what it
// returns.
func render(root string, k Kustomization) (*objects, error) {
	read := &sources{FileSystem: filesys.MakeFsOnDisk(), kustomization: filepath.Join(k.Dir, "kustomization.yaml"), components: k.Components}
	list := &objects{root: root, dir: k.Dir, sources: read}
	rendered, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(read, k.Dir)
	if err != nil {
		return list, err
	}
	for _, r := range rendered.Resources() {
		if err := list.add(r); err != nil {
			list.all = nil
			return list, fmt.Errorf("%s/%s: %w", r.GetKind(), r.GetName(), err)
		}
	}
	for _, name := range read.crashing {
		list.problems = append(list.problems, Problem{
			File: list.relative(name), Object: "Kustomization/" + filepath.Base(filepath.Dir(name)),
			Detail: "several patches in one file delete something, and kubectl up to 1.33 crashes then",
			Fix:    "delete with one patch, by a target with a labelSelector",
		})
	}
	return list, nil
}

// add notes an object. A field that Kubernetes does not know is a problem of its own.
func (l *objects) add(r *resource.Resource) error {
	o := &object{kind: r.GetKind(), name: r.GetName(), namespace: r.GetNamespace()}
	l.all = append(l.all, o)
	group, version := r.GetGvk().Group, r.GetGvk().Version
	if group != "" {
		version = group + "/" + version
	}
	create := kinds[version+" "+o.kind]
	if create == nil {
		return nil
	}
	text, err := r.MarshalJSON()
	if err != nil {
		return err
	}
	o.value = create()
	if err := json.Unmarshal(text, o.value); err != nil {
		return err
	}
	switch o.value.(type) {
	case *httpRoute, *apiService, *serviceMonitor: // types of our own, without all of the fields
		return nil
	}
	strict := json.NewDecoder(bytes.NewReader(text))
	strict.DisallowUnknownFields()
	if err := strict.Decode(create()); err != nil {
		field := strings.Trim(strings.TrimPrefix(err.Error(), "json: unknown field "), `"`)
		l.problems = append(l.problems, Problem{
			File: l.where(o, field), Object: o.String(), Detail: fmt.Sprintf("Kubernetes knows no field %q", field), Fix: "correct its name",
		})
	}
	return nil
}

// each goes through the objects of one type.
func each[T any](l *objects) iter.Seq2[*object, *T] {
	return func(yield func(*object, *T) bool) {
		for _, o := range l.all {
			if v, ok := o.value.(*T); ok && !yield(o, v) {
				return
			}
		}
	}
}

// named returns the object of a type and name, or nil.
func named[T any](l *objects, name string) (*object, *T) {
	for o, v := range each[T](l) {
		if o.name == name {
			return o, v
		}
	}
	return nil, nil
}

// absent stands for an object that there should be: it would come from the kustomization itself.
func (l *objects) absent(kind, name string) *object {
	return &object{kind: kind, name: name, file: filepath.Join(l.dir, "kustomization.yaml")}
}

// generated is what kustomize puts behind the name of what it generates.
var generated = regexp.MustCompile(`-[a-z0-9]{10}$`)

// from returns the file that an object comes from: the first that has it, since kustomize reads what there is before it
// reads what changes it; or else the kustomization that generates it. kustomize would say so itself (originAnnotations),
// but takes three times as long then.
func (l *objects) from(o *object) string {
	if o.file != "" {
		return o.file
	}
	name := "name: " + generated.ReplaceAllString(o.name, "")
	generator := filepath.Join(l.dir, "kustomization.yaml")
	for _, d := range l.sources.all() {
		switch {
		case d.kind == o.kind && d.name == o.name:
			return d.file
		case filepath.Base(d.file) == "kustomization.yaml" && slices.ContainsFunc(d.lines, func(line string) bool { return strings.HasSuffix(line, name) }):
			generator = d.file
		}
	}
	return generator
}

// where returns the place, relative to the workspace, at which an object, or a patch of it, has a text: of several the
// last that kustomize read, which is that of the outermost overlay. If at is empty or nowhere, it is the file that the
// object comes from.
func (l *objects) where(o *object, at string) string {
	file := l.relative(l.from(o))
	if at == "" {
		return file
	}
	best := 0
	for _, d := range l.sources.all() {
		rank := 0
		switch {
		case d.kind == o.kind && d.name == o.name:
			rank = 3
		case d.kind == o.kind && !slices.ContainsFunc(l.all, func(other *object) bool { return other.kind == d.kind && other.name == d.name }):
			rank = 2 // a patch for many
		case filepath.Base(d.file) == "kustomization.yaml":
			rank = 1
		}
		if rank == 0 || rank < best {
			continue
		}
		for i, line := range d.lines {
			if code, _, _ := strings.Cut(line, "#"); strings.Contains(code, at) {
				best, file = rank, fmt.Sprintf("%s:%d", l.relative(d.file), d.first+i)
				break
			}
		}
	}
	return file
}

func (l *objects) relative(file string) string {
	if relative, err := filepath.Rel(l.root, file); err == nil {
		return filepath.ToSlash(relative)
	}
	return file
}

// sources is the disk, and notes what was read. In what it gives of the kustomization itself, the components are added as
// if they were written there.
type sources struct {
	filesys.FileSystem
	kustomization string
	components    []string
	unread        []file
	documents     []document
	crashing      []string // files that crash kubectl
}

// deletion is a patch in a file of its own that deletes an object.
var deletion = regexp.MustCompile(`(?m)^\$patch: delete$`)

type file struct {
	name string
	text []byte
}

// document is one of those in a YAML file.
type document struct {
	file, kind, name string
	first            int // its first line's number
	lines            []string
}

// ReadFile implements filesys.FileSystem.
func (s *sources) ReadFile(name string) ([]byte, error) {
	text, err := s.FileSystem.ReadFile(name)
	if err != nil {
		return nil, err
	}
	if strings.HasSuffix(name, ".yaml") {
		s.unread = append(s.unread, file{name, text})
		if len(deletion.FindAll(text, 2)) > 1 {
			s.crashing = append(s.crashing, name)
		}
	}
	if name != s.kustomization || len(s.components) == 0 {
		return text, nil
	}
	var whole map[string]any
	if err := yaml.Unmarshal(text, &whole); err != nil {
		return nil, err
	}
	list, _ := whole["components"].([]any)
	for _, dir := range s.components {
		relative, err := filepath.Rel(filepath.Dir(name), dir)
		if err != nil {
			return nil, err
		}
		list = append(list, relative)
	}
	whole["components"] = list
	return yaml.Marshal(whole)
}

// all returns the documents of what was read so far. They are taken apart when somebody asks: most never does.
func (s *sources) all() []document {
	for _, f := range s.unread {
		s.note(f.name, f.text)
	}
	s.unread = nil
	return s.documents
}

func (s *sources) note(file string, text []byte) {
	lines := strings.Split(string(text), "\n")
	for first := 0; first < len(lines); {
		end := first
		for end < len(lines) && strings.TrimRight(lines[end], " ") != "---" {
			end++
		}
		var head struct {
			Kind     string
			Metadata struct{ Name string }
		}
		if yaml.Unmarshal([]byte(strings.Join(lines[first:end], "\n")), &head) == nil {
			s.documents = append(s.documents, document{
				file: file, kind: head.Kind, name: head.Metadata.Name, first: first + 1, lines: lines[first:end],
			})
		}
		first = end + 1
	}
}
