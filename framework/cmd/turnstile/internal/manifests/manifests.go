// Package manifests holds Kubernetes manifests against what services say of themselves: whether each is given the
// variables that it needs, is probed and reached where it listens, may do at the API server what it does there, and may
// reach and be reached by those whom it names and nobody else.
//
// What it knows of a service is its description (`<service> describe`), and whether it could run with an environment
// (`<service> check`). What it knows of a command that runs in pods, as brokers do, is a [Command], which stands beside
// its code. What it knows of the manifests is what kustomize makes of them. Everything else follows from these; there is
// no list of services, ports or flows here.
package manifests

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/workspace"
)

// Service is a service of the workspace.
type Service struct {
	workspace.Description
	Program string // path of its binary
}

// Kustomization is what is deployed together.
type Kustomization struct {
	Name       string   // what problems call it, such as "production with jetstream"
	Dir        string   // absolute path of its folder
	Components []string // folders of components to put on top of it
}

// Options says what to check against what.
type Options struct {
	Root           string // absolute path of the workspace: files are named relative to it
	Services       []Service
	Built          []string // names of the images that are built from the workspace, besides those of the services
	Commands       []Command
	Kustomizations []Kustomization

	asked *sync.Map // what programs said of environments; nil is nothing yet
}

// Problem is something in the manifests that does not fit.
type Problem struct {
	File   string   `json:"file"`   // relative to the workspace, with the line if that is known
	Object string   `json:"object"` // Kind/name
	Detail string   `json:"detail"` // what is wrong
	Fix    string   `json:"fix"`    // what to do about it
	In     []string `json:"in"`     // the kustomizations that have it
}

func (p Problem) String() string {
	return fmt.Sprintf("%s: %s: %s; %s", p.File, p.Object, p.Detail, p.Fix)
}

// Report is what a check found.
type Report struct {
	Kustomizations []string  `json:"kustomizations"`
	Services       int       `json:"services"`
	Objects        int       `json:"objects"` // in all kustomizations, each counted once
	Problems       []Problem `json:"problems"`
	// Secrets are those that a kustomization names and does not contain, with their keys, by kustomization.
	Secrets map[string][]Reference `json:"secrets,omitempty"`
}

// Reference is a Secret that pods name.
type Reference struct {
	Name string   `json:"name"`
	Keys []string `json:"keys"`
}

// Check renders every kustomization and returns what does not fit. The error is one that prevented the check.
func Check(ctx context.Context, o Options) (*Report, error) {
	report := &Report{Services: len(o.Services), Problems: []Problem{}, Secrets: map[string][]Reference{}}
	if o.asked == nil {
		o.asked = new(sync.Map)
	}
	found := map[string]int{} // index in report.Problems
	seen := map[string]bool{}
	for _, k := range o.Kustomizations {
		rendered, refused := render(o.Root, k)
		c := &checker{ctx: ctx, options: o, objects: rendered}
		if refused != nil {
			c.problem(rendered.absent("Kustomization", k.Name), "", "see 'kubectl kustomize'", "kustomize refuses it: %v", refused)
		} else if err := c.check(); err != nil {
			return nil, fmt.Errorf("check %s: %w", k.Name, err)
		}
		report.Kustomizations = append(report.Kustomizations, k.Name)
		for _, object := range rendered.all {
			seen[object.String()+" "+object.namespace] = true
		}
		for _, p := range c.problems {
			i, again := found[p.String()]
			if !again {
				i = len(report.Problems)
				found[p.String()] = i
				report.Problems = append(report.Problems, p)
			}
			if in := &report.Problems[i].In; !slices.Contains(*in, k.Name) {
				*in = append(*in, k.Name)
			}
		}
		if missing := c.missingSecrets(); len(missing) > 0 {
			report.Secrets[k.Name] = missing
		}
	}
	report.Objects = len(seen)
	slices.SortStableFunc(report.Problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Object, b.Object))
	})
	return report, nil
}

// Find returns the kustomizations to check by default, below dir: every overlay, and the overlay production with each
// component that is not part of it, one at a time.
func Find(dir string) ([]Kustomization, error) {
	overlays, err := folders(filepath.Join(dir, "overlays"))
	if err != nil {
		return nil, fmt.Errorf("find the overlays: %w", err)
	}
	var all []Kustomization
	for _, overlay := range overlays {
		all = append(all, Kustomization{Name: filepath.Base(overlay), Dir: overlay})
	}
	production := filepath.Join(dir, "overlays", "production")
	if !slices.Contains(overlays, production) {
		return all, nil
	}
	used, err := components(production, map[string]bool{})
	if err != nil {
		return nil, fmt.Errorf("find the components: %w", err)
	}
	free, err := folders(filepath.Join(dir, "components"))
	if err != nil {
		return nil, fmt.Errorf("find the components: %w", err)
	}
	for _, component := range free {
		if !used[component] {
			all = append(all, Kustomization{
				Name: "production with " + filepath.Base(component), Dir: production, Components: []string{component},
			})
		}
	}
	return all, nil
}

// folders returns the folders in dir that kustomize could build, sorted.
func folders(dir string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*", "kustomization.yaml"))
	if err != nil {
		return nil, err
	}
	list := make([]string, len(files))
	for i, file := range files {
		list[i] = filepath.Dir(file)
	}
	return list, nil
}

// components adds to used the folders of the components that a kustomization is made with.
func components(dir string, used map[string]bool) (map[string]bool, error) {
	k, err := readKustomization(dir)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Concat(k.Components, k.Resources) {
		next := filepath.Join(dir, name)
		if info, err := os.Stat(next); err != nil || !info.IsDir() || used[next] {
			continue
		}
		used[next] = true
		if _, err := components(next, used); err != nil {
			return nil, err
		}
	}
	return used, nil
}

// Images returns the names of the programs of a workspace that are no services: they are built as images, too.
func Images(w *workspace.Workspace) ([]string, error) {
	var names []string
	for _, m := range w.Modules {
		mains, err := fs.Glob(os.DirFS(m.Dir), "cmd/*/main.go")
		if err != nil {
			return nil, err
		}
		for _, file := range mains {
			if name := filepath.Base(filepath.Dir(file)); !slices.Contains(w.Names(), name) {
				names = append(names, name)
			}
		}
	}
	return names, nil
}

// checker checks one kustomization.
type checker struct {
	ctx      context.Context
	options  Options
	objects  *objects
	problems []Problem

	workloads []*workload
	uses      []use
}

func (c *checker) check() error {
	c.problems = append(c.problems, c.objects.problems...)
	c.readWorkloads()
	for _, w := range c.workloads {
		c.readEnvironments(w)
	}
	c.checkServices()
	for _, w := range c.workloads {
		c.checkPod(w)
		if err := c.checkEnvironment(w); err != nil {
			return err
		}
		if w.service != nil {
			c.checkListening(w)
			c.checkDrain(w)
		}
		if w.service != nil || w.command != nil {
			c.checkPermissions(w)
		}
	}
	c.checkBindings()
	c.checkSelectors()
	c.checkConnections()
	c.checkRoutes()
	c.checkPolicies()
	return nil
}

// problem notes that something in an object does not fit. Its file is that in which the object, or a patch of it,
// has the text at; if at is empty, the one that the object comes from.
func (c *checker) problem(o *object, at, fix, detail string, args ...any) {
	c.problems = append(c.problems, Problem{
		File: c.objects.where(o, at), Object: o.String(), Detail: fmt.Sprintf(detail, args...), Fix: fix,
	})
}

// nearest returns the name that is most like one that is not known, if any is.
func nearest(name string, known []string) string {
	best, least := "", 1+len(name)/3
	for _, k := range known {
		if d := distance(strings.ToLower(name), strings.ToLower(k)); d <= least && d < max(len(name), len(k)) {
			if best == "" || d < least {
				best, least = k, d
			}
		}
	}
	return best
}

// distance is how many letters must be changed, added or left out to get from a to b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// list is names in one line of text.
func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
