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

// permission is one thing that one may do at the API server, in the namespace of the binding or in all.
type permission struct {
	group, resource, name, verb string
	cluster                     bool
}

func (p permission) String() string {
	resource := p.resource
	if p.group != "" {
		resource += "." + p.group
	}
	if p.name != "" {
		resource += " " + p.name
	}
	if p.cluster {
		resource += " of the whole cluster"
	}
	return p.verb + " " + resource
}

// permissions takes a rule apart.
func permissions(groups, resources, names, verbs []string, cluster bool, add func(permission)) {
	if len(names) == 0 {
		names = []string{""}
	}
	for _, group := range groups {
		for _, resource := range resources {
			for _, name := range names {
				for _, verb := range verbs {
					add(permission{group, resource, name, verb, cluster})
				}
			}
		}
	}
}

// grants returns what the ServiceAccount of a workload may do, with the Role that says so.
func (c *checker) grants(w *workload) map[permission]*object {
	granted := map[permission]*object{}
	grant := func(ref rbacv1.RoleRef, subjects []rbacv1.Subject, at *object) {
		if !slices.ContainsFunc(subjects, w.is) {
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
			permissions(r.APIGroups, r.Resources, r.ResourceNames, r.Verbs, at.kind == "ClusterRoleBinding", func(p permission) { granted[p] = from })
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

// is reports whether a subject of a binding is the ServiceAccount of a workload.
func (w *workload) is(s rbacv1.Subject) bool {
	return s.Kind == rbacv1.ServiceAccountKind && s.Name == cmp.Or(w.pod.Spec.ServiceAccountName, "default") &&
		(s.Namespace == "" || s.Namespace == w.namespace)
}

// checkBindings has each Role be bound to the ServiceAccount of one workload, and to nobody else.
func (c *checker) checkBindings() {
	check := func(o *object, ref rbacv1.RoleRef, subjects []rbacv1.Subject) {
		bound := false
		for _, s := range subjects {
			if !bound && slices.ContainsFunc(c.workloads, func(w *workload) bool { return w.is(s) }) {
				bound = true
				continue
			}
			c.problem(o, "name: "+s.Name, "bind it to the ServiceAccount of the pods that need it, and to nobody else",
				"it gives the rights of %s %s to %s %s, too", ref.Kind, ref.Name, s.Kind, s.Name)
		}
	}
	for o, b := range each[rbacv1.RoleBinding](c.objects) {
		check(o, b.RoleRef, b.Subjects)
	}
	for o, b := range each[rbacv1.ClusterRoleBinding](c.objects) {
		check(o, b.RoleRef, b.Subjects)
	}
}

// rules are what a workload does at the API server: in its namespace, and in the whole cluster.
func (w *workload) rules() (own, cluster []workspace.Rule) {
	switch {
	case w.service != nil:
		return w.service.Kubernetes.Rules, nil
	case w.command != nil:
		return w.command.Rules, w.command.ClusterRules
	}
	return nil, nil
}

// checkPermissions has a service or command be allowed what it does at the API server, and no more.
func (c *checker) checkPermissions(w *workload) {
	needed := map[permission]bool{}
	need := func(rules []workspace.Rule, cluster bool) {
		for _, r := range rules {
			if names, used := c.resourceNames(w, r); used {
				permissions(r.APIGroups, r.Resources, names, r.Verbs, cluster, func(p permission) { needed[p] = true })
			}
		}
	}
	own, cluster := w.rules()
	need(own, false)
	need(cluster, true)
	granted := c.grants(w)
	role, _ := named[rbacv1.Role](c.objects, w.program())
	if role == nil {
		role = c.objects.absent("Role", w.program())
	}
	for _, p := range slices.SortedFunc(maps.Keys(needed), comparePermissions) {
		switch {
		case granted[p] != nil:
		case p.cluster:
			c.problem(w.object, "", "add to the rules of its ClusterRole: "+p.rule(), "%s needs to %s, and may not", w.program(), p)
		default:
			c.problem(role, "", "add to its rules: "+p.rule(), "%s needs to %s, and may not", w.program(), p)
		}
	}
	for _, p := range slices.SortedFunc(maps.Keys(granted), comparePermissions) {
		if !needed[p] {
			fix := "take it out"
			if w.service != nil {
				fix = fmt.Sprintf("take it out; '%s describe' has what it needs", w.service.Name)
			}
			c.problem(granted[p], p.resource, fix, "%s may %s, and does not need to", w.program(), p)
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

func comparePermissions(a, b permission) int {
	return cmp.Or(cmp.Compare(a.rule(), b.rule()), cmp.Compare(a.String(), b.String()))
}

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
