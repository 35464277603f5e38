package manifests

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// httpRoute is an HTTPRoute of the Gateway API, as far as it is needed here.
type httpRoute struct {
	Spec struct {
		Hostnames []string `json:"hostnames"`
		Rules     []struct {
			Matches []struct {
				Path *struct {
					Type  string `json:"type"`
					Value string `json:"value"`
				} `json:"path"`
			} `json:"matches"`
			Filters []struct {
				Type string `json:"type"`
			} `json:"filters"`
			BackendRefs []struct {
				Name string `json:"name"`
				Port int32  `json:"port"`
			} `json:"backendRefs"`
		} `json:"rules"`
	} `json:"spec"`
}

// route is a path that leads people to a Service.
type route struct {
	from    *object
	host    string
	path    string
	exact   bool
	service string
	port    string // number or name
}

func (r route) String() string {
	if r.exact {
		return r.path + " (exact)"
	}
	return r.path
}

// leads reports whether requests for path take the route: a prefix is one of whole elements.
func (r route) leads(path string) bool {
	prefix := strings.TrimSuffix(r.path, "/")
	return path == r.path || !r.exact && (path == prefix || strings.HasPrefix(path, prefix+"/"))
}

// gatewayRoute is an argument of `turnstile gateway`.
var gatewayRoute = regexp.MustCompile(`^--route=(/[^=]*)=([^:]+):(\d+)$`)

// routes are those of all Ingresses, of all HTTPRoutes, and of turnstile's own gateway, by kind.
func (c *checker) routes() map[string][]route {
	all := map[string][]route{}
	for o, i := range each[networkingv1.Ingress](c.objects) {
		for _, r := range i.Spec.Rules {
			if r.HTTP == nil {
				continue
			}
			for _, p := range r.HTTP.Paths {
				n := route{from: o, host: r.Host, path: p.Path, exact: p.PathType != nil && *p.PathType == networkingv1.PathTypeExact}
				if b := p.Backend.Service; b != nil {
					n.service, n.port = b.Name, b.Port.Name
					if n.port == "" {
						n.port = strconv.Itoa(int(b.Port.Number))
					}
				}
				all[o.kind] = append(all[o.kind], n)
			}
		}
	}
	for o, h := range each[httpRoute](c.objects) {
		for _, r := range h.Spec.Rules {
			for _, f := range r.Filters {
				if f.Type == "URLRewrite" || f.Type == "RequestRedirect" {
					c.problem(o, f.Type, "leave it out: services have their whole paths", "a rule changes paths (%s)", f.Type)
				}
			}
			for _, b := range r.BackendRefs {
				n := route{from: o, host: strings.Join(h.Spec.Hostnames, " "), path: "/", service: b.Name, port: strconv.Itoa(int(b.Port))}
				if len(r.Matches) == 0 {
					all[o.kind] = append(all[o.kind], n)
				}
				for _, m := range r.Matches {
					if n.path, n.exact = "/", false; m.Path != nil {
						n.path, n.exact = m.Path.Value, m.Path.Type == "Exact"
					}
					all[o.kind] = append(all[o.kind], n)
				}
			}
		}
	}
	for _, w := range c.workloads {
		for _, container := range w.containers() {
			for _, arg := range container.Args {
				if m := gatewayRoute.FindStringSubmatch(arg); m != nil && container.Args[0] == "gateway" {
					all[w.kind] = append(all[w.kind], route{from: w.object, path: m[1], service: m[2], port: m[3]})
				}
			}
		}
	}
	return all
}

var parameter = regexp.MustCompile(`\{[^}]*\}`)

// checkRoutes has every operation be reached by one path, and every path lead to operations.
func (c *checker) checkRoutes() {
	kinds := c.routes()
	if len(kinds) == 0 && slices.ContainsFunc(c.options.Services, func(s Service) bool { return len(s.Operations) > 0 }) {
		c.problem(c.objects.absent("Ingress", "turnstile"), "", "add one, or an HTTPRoute", "nothing leads people to the services")
	}
	for kind, routes := range kinds {
		for i, r := range routes {
			c.checkRoute(r)
			if slices.ContainsFunc(routes[:i], func(other route) bool { return other.host == r.host && other.path == r.path && other.exact == r.exact }) {
				c.problem(r.from, r.path, "leave out one of the two", "the path %s is in it twice", r)
			}
		}
		for _, s := range c.options.Services {
			c.checkOperations(kind, routes, s)
		}
	}
}

// checkRoute has a path lead to a port that is there, and to what its service serves, not less and not more.
func (c *checker) checkRoute(r route) {
	o, service := named[corev1.Service](c.objects, r.service)
	if o == nil {
		c.problem(r.from, r.service, suggest("name one of "+list(c.serviceNames()), r.service, c.serviceNames()),
			"the path %s leads to the Service %q, which there is not", r, r.service)
		return
	}
	i := slices.IndexFunc(service.Spec.Ports, func(p corev1.ServicePort) bool { return p.Name == r.port || strconv.Itoa(int(p.Port)) == r.port })
	s := c.serviceNamed(r.service)
	switch {
	case i < 0:
		c.problem(r.from, r.path, "name its port http", "the path %s leads to port %s of the Service %s, which has none such", r, r.port, r.service)
	case s == nil:
	case service.Spec.Ports[i].Name != "http":
		c.problem(r.from, r.path, "name its port http", "the path %s leads to port %s of the Service %s, which is not for the public", r, r.port, r.service)
	}
	if s == nil {
		return
	}
	prefixes := s.Prefixes()
	if !slices.ContainsFunc(prefixes, func(prefix string) bool { return route{path: prefix}.leads(strings.TrimSuffix(r.path, "/")) }) {
		c.problem(r.from, r.path, "have the paths of "+s.Name+" be "+list(prefixes),
			"the path %s leads to %s, which serves nothing there, or more than it serves", r, s.Name)
	}
}

// checkOperations has every operation of a service be reached.
func (c *checker) checkOperations(kind string, routes []route, s Service) {
	prefixes := s.Prefixes()
	reported := map[string]bool{} // one problem for each prefix
	for _, operation := range s.Operations {
		path := parameter.ReplaceAllString(operation.Path, "x")
		var best *route
		for i, r := range routes {
			if r.leads(path) && (best == nil || !best.exact && (r.exact || len(r.path) > len(best.path))) {
				best = &routes[i]
			}
		}
		if best != nil && best.service == s.Name {
			continue
		}
		i := slices.IndexFunc(prefixes, func(prefix string) bool { return route{path: prefix}.leads(path) })
		if i < 0 || reported[prefixes[i]] {
			continue
		}
		reported[prefixes[i]] = true
		fix := fmt.Sprintf("add the path %s to %s, port http", prefixes[i], s.Name)
		if best == nil {
			from := c.objects.absent(kind, "turnstile")
			if len(routes) > 0 {
				from = routes[0].from
			}
			c.problem(from, "", fix, "no path leads to %s %s of %s", operation.Method, operation.Path, s.Name)
		} else {
			c.problem(best.from, best.path, fix, "the path %s leads %s %s to %s, and it is %s that serves it", best, operation.Method, operation.Path, best.service, s.Name)
		}
	}
}
