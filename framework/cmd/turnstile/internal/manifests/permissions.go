package manifests

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/workspace"
)

// permission is one thing that one may do at the API server.
type permission struct{ group, resource, name, verb string }

func (p permission) String() string {
	resource := p.resource
	if p.group != "" {
		resource += "." + p.group
	}
	if p.name != "" {
		resource += " " + p.name
	}
	return p.verb + " " + resource
}

// permissions takes a rule apart.
func permissions(groups, resources, names, verbs []string, add func(permission)) {
	if len(names) == 0 {
		names = []string{""}
	}
	for _, group := range groups {
		for _, resource := range resources {
			for _, name := range names {
				for _, verb := range verbs {
					add(permission{group, resource, name, verb})
				}
			}
		}
	}
}

// grants returns what the ServiceAccount of a workload may do, with the Role that says so.
func (c *checker) grants(w *workload) map[permission]*object {
	granted := map[permission]*object{}
	grant := func(ref rbacv1.RoleRef, subjects []rbacv1.Subject, at *object) {
		if !slices.ContainsFunc(subjects, func(s rbacv1.Subject) bool {
			return s.Kind == rbacv1.ServiceAccountKind && s.Name == cmp.Or(w.pod.Spec.ServiceAccountName, "default") &&
				(s.Namespace == "" || s.Namespace == w.namespace)
		}) {
			return
		}
		var rules []rbacv1.PolicyRule
		var from *object
		if ref.Kind == "Role" {
			if o, r := named[rbacv1.Role](c.objects, ref.Name); o != nil {
				from, rules = o, r.Rules
			}
		} else if o, r := named[rbacv1.ClusterRole](c.objects, ref.Name); o != nil {
			from, rules = o, r.Rules
		}
		if from == nil {
			c.problem(at, ref.Name, "add it, or leave the binding out", "it binds %s %s, which there is not", ref.Kind, ref.Name)
		}
		for _, r := range rules {
			permissions(r.APIGroups, r.Resources, r.ResourceNames, r.Verbs, func(p permission) { granted[p] = from })
		}
	}
	for o, b := range each[rbacv1.RoleBinding](c.objects) {
		grant(b.RoleRef, b.Subjects, o)
	}
	for o, b := range each[rbacv1.ClusterRoleBinding](c.objects) {
		grant(b.RoleRef, b.Subjects, o)
	}
	return granted
}

// hasRole reports whether a workload's pods may do anything at the API server.
func (c *checker) hasRole(w *workload) bool { return len(c.grants(w)) > 0 }

// checkPermissions has a service be allowed what it does at the API server, and no more.
func (c *checker) checkPermissions(w *workload) {
	needed := map[permission]bool{}
	for _, r := range w.service.Kubernetes.Rules {
		names, used := c.resourceNames(w, r)
		if used {
			permissions(r.APIGroups, r.Resources, names, r.Verbs, func(p permission) { needed[p] = true })
		}
	}
	granted := c.grants(w)
	role, _ := named[rbacv1.Role](c.objects, w.service.Name)
	if role == nil {
		role = c.objects.absent("Role", w.service.Name)
	}
	for _, p := range slices.SortedFunc(maps.Keys(needed), comparePermissions) {
		if granted[p] == nil {
			c.problem(role, "", "add to its rules: "+p.rule(), "%s needs to %s, and may not", w.service.Name, p)
		}
	}
	for _, p := range slices.SortedFunc(maps.Keys(granted), comparePermissions) {
		if !needed[p] {
			c.problem(granted[p], p.resource, fmt.Sprintf("take it out; '%s describe' has what it needs", w.service.Name), "%s may %s, and does not need to", w.service.Name, p)
		}
	}
}

// rule is the rule of a Role that grants a permission.
func (p permission) rule() string {
	name := ""
	if p.name != "" {
		name = fmt.Sprintf("resourceNames: [%s], ", p.name)
	}
	return fmt.Sprintf("{apiGroups: [%q], resources: [%s], %sverbs: [%s]}", p.group, p.resource, name, p.verb)
}

func comparePermissions(a, b permission) int { return cmp.Compare(a.rule(), b.rule()) }

// resourceNames puts the service's variables in for $(NAME). A rule of something that has no name because its variable is
// not set is of no use.
func (c *checker) resourceNames(w *workload, r workspace.Rule) (names []string, used bool) {
	if len(r.ResourceNames) == 0 {
		return nil, true
	}
	for _, name := range r.ResourceNames {
		if match := expansion.FindStringSubmatch(name); match != nil {
			name = strings.ReplaceAll(name, match[0], w.value(match[1]))
		}
		if name != "" {
			names = append(names, name)
		}
	}
	return names, len(names) > 0
}
