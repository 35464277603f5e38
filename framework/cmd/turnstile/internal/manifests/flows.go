package manifests

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/workspace"
)

// callsAnnotation names, as host:port, whom the pods of a workload call that is no service of the workspace and has it
// neither in its environment nor in its arguments.
const (
	callsAnnotation = "turnstile/calls"
	annotated       = "the annotation " + callsAnnotation
)

// flow is a connection that a workload opens: to others in the manifests, or to something else.
type flow struct {
	to      *workload // nil if it is something else
	port    int32
	outside end    // what it is then
	name    string // and how it is called
	why     string // what says so
}

// Which variables of a service are addresses of brokers, by the name of the broker in BROKER.
var brokerVariables = map[string]string{"stan": "NATS_URL", "jetstream": "JETSTREAM_URL"}

const databaseVariable = "DATABASE_URL"

// flows returns whom a workload calls, as far as it is declared: what its variables and arguments name. Names that
// cannot be right are problems.
func (c *checker) flows(w *workload) []flow {
	var flows []flow
	add := func(why string, found []flow) {
		for _, f := range found {
			f.why = why
			flows = append(flows, f)
		}
	}
	for _, container := range w.containers() {
		s := c.serviceOf(container)
		for _, v := range w.environment[container.Name] {
			switch {
			case s != nil && unused(w, s, v.name):
			case v.known:
				add(v.name, c.addresses(w, v.name, v.value))
			default:
				add(v.name, c.behindSecret(w, v))
			}
		}
		if s == nil {
			for _, text := range slices.Concat(container.Command, container.Args) {
				add("its arguments", c.addresses(w, text, text))
			}
		}
	}
	if w.service == nil {
		text := w.pod.Annotations[callsAnnotation]
		add(annotated, c.addresses(w, callsAnnotation, text))
		return flows
	}
	c.checkCalls(w, flows)
	return flows
}

// unused reports whether a service's variable is the address of something that the service does not call.
func unused(w *workload, s *Service, name string) bool {
	for broker, variable := range brokerVariables {
		if variable == name {
			return !slices.Contains(brokers(w, s), broker)
		}
	}
	i := slices.IndexFunc(s.Configuration, func(v workspace.Variable) bool { return v.Name == name })
	return i >= 0 && s.Configuration[i].Calls == s.Name // who verifies its own sessions needs no URL for that
}

// brokers are those that a service uses.
func brokers(w *workload, s *Service) []string {
	if len(s.Publishes)+len(s.Listens) == 0 {
		return nil
	}
	return strings.Split(w.value("BROKER"), "+")
}

// checkCalls has a service be told where those are whom it calls.
func (c *checker) checkCalls(w *workload, flows []flow) {
	needs := map[string]string{}
	for _, broker := range brokers(w, w.service) {
		if variable := brokerVariables[broker]; variable != "" {
			needs[variable] = ""
		}
	}
	for _, v := range w.service.Configuration {
		if v.Calls != "" && v.Calls != w.service.Name {
			needs[v.Name] = v.Calls
		}
	}
	for variable, service := range needs {
		set, is := w.variable(variable)
		if !is || set.known && set.value == "" {
			c.problem(w.object, "", "add "+variable, "container %s is not given %s, whose default %s is in the pod itself",
				w.container.Name, variable, w.value(variable))
			continue
		}
		if service == "" || !set.known {
			continue
		}
		if !slices.ContainsFunc(flows, func(f flow) bool {
			if f.why != variable || f.to == nil || f.to.service == nil || f.to.service.Name != service {
				return false
			}
			p, ok := f.to.port(intstr.FromString("http"))
			return ok && p.ContainerPort == f.port
		}) {
			c.problem(w.object, variable, fmt.Sprintf("name the port http of the Service %s in it", service),
				"%s is %q, which is not where %s serves HTTP", variable, set.value, service)
		}
	}
}

// Ports of URLs that have none.
var schemePorts = map[string]int32{"http": 80, "https": 443, "postgres": 5432, "postgresql": 5432, "nats": 4222, "tls": 4222}

var (
	urls     = regexp.MustCompile(`[a-z][a-z0-9+.-]*://[^\s,]+`)
	hostPort = regexp.MustCompile(`^[a-zA-Z0-9.-]*[a-zA-Z][a-zA-Z0-9.-]*:[0-9]{1,5}$`)
)

// addresses finds the hosts with ports that a text names. at is where it is.
func (c *checker) addresses(w *workload, at, text string) []flow {
	var flows []flow
	add := func(host string, port int32) {
		if port > 0 {
			flows = append(flows, c.lookUp(w, at, host, port)...)
		}
	}
	for _, match := range urls.FindAllString(text, -1) {
		u, err := url.Parse(match)
		if err != nil {
			continue
		}
		port := schemePorts[u.Scheme]
		for host := range strings.SplitSeq(u.Host, ",") { // PostgreSQL takes several
			name, number, err := net.SplitHostPort(host)
			if err != nil {
				add(strings.Trim(host, "[]"), port)
			} else if n, err := strconv.ParseUint(number, 10, 16); err == nil {
				add(name, int32(n))
			}
		}
	}
	for token := range strings.FieldsFuncSeq(urls.ReplaceAllString(text, ""), func(r rune) bool { return strings.ContainsRune(" \t\n,=", r) }) {
		if !hostPort.MatchString(token) {
			continue
		}
		host, number, _ := net.SplitHostPort(token)
		if n, err := strconv.ParseUint(number, 10, 16); err == nil {
			add(host, int32(n))
		}
	}
	return flows
}

// lookUp does what the cluster's DNS and its Services do: it returns who is at a host and port.
func (c *checker) lookUp(w *workload, at, host string, number int32) []flow {
	if ip := net.ParseIP(host); host == "localhost" || ip != nil && (ip.IsLoopback() || ip.IsUnspecified()) {
		return nil
	} else if ip != nil {
		address, _ := netip.AddrFromSlice(ip)
		return []flow{{port: number, outside: end{address: address.Unmap()}, name: host}}
	}
	parts := strings.Split(host, ".")
	o, service := named[corev1.Service](c.objects, parts[0])
	rest := parts[1:]
	if o == nil && len(parts) > 1 { // a pod of a StatefulSet
		o, service = named[corev1.Service](c.objects, parts[1])
		rest = parts[2:]
	}
	ours := len(rest) == 0 || rest[0] == w.namespace || rest[0] == "svc"
	switch {
	case o == nil && len(parts) == 1:
		var names []string
		for s := range each[corev1.Service](c.objects) {
			names = append(names, s.name)
		}
		c.problem(w.object, at, suggest("name a Service: "+list(names), host, names), "%s names the host %s, which is no Service here", short(at), host)
		return nil
	case o == nil || !ours:
		// As in collector.observability.svc; in a name of the internet it is the name of no namespace.
		return []flow{{port: number, name: host, outside: end{namespace: labels.Set{corev1.LabelMetadataName: parts[1]}}}}
	case len(service.Spec.Selector) == 0:
		return []flow{{port: number, name: host}}
	}
	target := intstr.FromInt32(number)
	if service.Spec.ClusterIP != corev1.ClusterIPNone {
		i := slices.IndexFunc(service.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == number })
		if i < 0 {
			var ports []string
			for _, p := range service.Spec.Ports {
				ports = append(ports, strconv.Itoa(int(p.Port)))
			}
			c.problem(w.object, at, "name one that it has: "+list(ports), "%s names port %d of the Service %s, which has none such", short(at), number, o.name)
			return nil
		}
		target = targetOf(service.Spec.Ports[i])
	}
	var flows []flow
	for _, to := range c.selected(labels.SelectorFromSet(service.Spec.Selector)) {
		if p, ok := to.port(target); ok {
			number = p.ContainerPort
		}
		flows = append(flows, flow{to: to, port: number})
	}
	return flows
}

// short is text that stands in a problem.
func short(text string) string {
	if len(text) > 40 {
		return text[:37] + "..."
	}
	return text
}

// behindSecret is whom a variable names whose value is in a Secret that is not here: for a broker, the Service of the
// Secret's name; for a database, those that are labelled as such, or a server elsewhere.
func (c *checker) behindSecret(w *workload, v variable) []flow {
	wanted := isBroker
	switch v.name {
	case databaseVariable:
		wanted = isDatabase
	case brokerVariables["stan"], brokerVariables["jetstream"]:
		if o, _ := named[corev1.Service](c.objects, v.secret); o != nil {
			return c.lookUp(w, v.name, v.secret, schemePorts["nats"])
		}
	default:
		return nil
	}
	number := map[string]int32{isBroker: schemePorts["nats"], isDatabase: schemePorts["postgres"]}[wanted]
	var flows []flow
	for _, to := range c.workloads {
		if _, listens := to.port(intstr.FromInt32(number)); listens && to.component() == wanted {
			flows = append(flows, flow{to: to, port: number})
		}
	}
	if len(flows) == 0 {
		flows = []flow{{port: number, name: "the " + wanted}}
	}
	return flows
}

// edge is a flow between two workloads.
type edge struct {
	from, to *workload
	port     int32
}

// checkPolicies has NetworkPolicies allow the flows that are declared, and nothing else.
func (c *checker) checkPolicies() {
	declared := map[edge]string{}
	flows := map[*workload][]flow{}
	for _, w := range c.workloads {
		flows[w] = c.flows(w)
		for _, f := range flows[w] {
			if f.to != nil {
				declared[edge{w, f.to, f.port}] = f.why
			}
		}
	}
	for _, w := range c.workloads {
		for _, d := range []networkingv1.PolicyType{ingress, egress} {
			if _, isolated := c.isolation(w, d); !isolated {
				c.problem(w.object, "", "have a NetworkPolicy with policyTypes: ["+string(d)+"] select its pods",
					"nothing limits the %s of its pods", strings.ToLower(string(d)))
			}
		}
		c.checkReach(w, flows[w])
		c.checkExposure(w)
	}
	c.checkEdges(declared)
}

// opening is one half of a connection that policies allow.
type opening struct {
	policy *object
	half   networkingv1.PolicyType
	to     *workload
	port   port
}

// checkEdges goes through every port of every pair of workloads, in both directions: what is declared has to be
// allowed, and what is not must not be, not even in one direction.
func (c *checker) checkEdges(declared map[edge]string) {
	open := map[opening][]string{} // who may, by name
	var order []opening
	for _, from := range c.workloads {
		for _, to := range c.workloads {
			if from.namespace != to.namespace {
				continue
			}
			for _, p := range reachable(to) {
				why, is := declared[edge{from, to, p.number}]
				if !is && from == to && from.replicas < 2 && c.peerPort(to, p) {
					continue // of no use while there is one, and of no harm
				}
				for _, half := range []networkingv1.PolicyType{egress, ingress} {
					w, other := from, to
					if half == ingress {
						w, other = to, from
					}
					by, isolated := c.permitting(w, half, c.end(other), p, !is)
					if is && isolated && len(by) == 0 {
						c.refused(from, to, p, half, why)
					}
					for _, r := range by {
						o := opening{r.policy, half, to, p}
						if is || len(r.peers) == 0 || slices.Contains(open[o], from.name) {
							continue // a rule for everybody is spoken of by checkReach and checkExposure
						}
						if open[o] == nil {
							order = append(order, o)
						}
						open[o] = append(open[o], from.name)
					}
				}
			}
		}
	}
	for _, o := range order {
		half := strings.ToLower(string(o.half))
		c.problem(o.policy, "", "narrow its "+half, "it opens the %s from %s to %s at %s, and nothing declares that flow", half, list(open[o]), o.to, o.port)
	}
}

// refused notes that policies do not allow one half of a connection that is declared.
func (c *checker) refused(from, to *workload, p port, half networkingv1.PolicyType, why string) {
	allow := fmt.Sprintf("have a NetworkPolicy allow its egress to %s at port %d", to.name, p.number)
	if half == ingress {
		allow = fmt.Sprintf("have a NetworkPolicy allow %s at %s from its pods", to.name, p)
	}
	c.problem(from.object, "", allow, "%s names port %d of %s, and no NetworkPolicy allows the %s of that", short(why), p.number, to, strings.ToLower(string(half)))
}

// reachable is every port that a workload declares, and one that it does not.
func reachable(w *workload) []port {
	list := []port{{protocol: corev1.ProtocolTCP}}
	for _, p := range w.ports() {
		list = append(list, port{p.ContainerPort, p.Name, cmp.Or(p.Protocol, corev1.ProtocolTCP)})
	}
	return list
}

// peerPort reports whether a port is one at which the pods of a workload reach each other: a headless Service of its
// own has it.
func (c *checker) peerPort(w *workload, p port) bool {
	for _, s := range each[corev1.Service](c.objects) {
		if s.Spec.ClusterIP == corev1.ClusterIPNone && selected(s.Spec.Selector, w) &&
			slices.ContainsFunc(s.Spec.Ports, func(sp corev1.ServicePort) bool {
				t, ok := w.port(targetOf(sp))
				return ok && t.ContainerPort == p.number
			}) {
			return true
		}
	}
	return false
}

const dnsPort = 53

// API servers listen on one of these.
var apiServerPorts = []int32{443, 6443}

// checkReach has a workload's pods reach what they need outside of the manifests, and nothing else there.
func (c *checker) checkReach(w *workload, flows []flow) {
	rules, isolated := c.isolation(w, egress)
	if !isolated {
		return
	}
	own := c.namespaceLabels(w.namespace)
	may := map[int32]bool{dnsPort: true}
	allowed := func(e end, blocks bool, numbers []int32, protocol corev1.Protocol) bool {
		return slices.ContainsFunc(rules, func(r rule) bool {
			return r.matches(own, e, blocks) && slices.ContainsFunc(numbers, func(n int32) bool { return r.allows(port{number: n, protocol: protocol}) })
		})
	}
	if c.callsAPIServer(w) {
		for _, p := range apiServerPorts {
			may[p] = true
		}
		if !allowed(end{}, true, apiServerPorts, corev1.ProtocolTCP) {
			c.problem(w.object, "", "have a NetworkPolicy allow its egress to the API server, by ipBlock, at port 443 or 6443",
				"its pods call the API server, and no NetworkPolicy allows that")
		}
	}
	names := slices.ContainsFunc(flows, func(f flow) bool {
		return f.why != annotated && !f.outside.address.IsValid() // who has the name alone in an annotation knows addresses
	})
	dns := end{namespace: labels.Set{corev1.LabelMetadataName: "kube-system"}, pod: labels.Set{"k8s-app": "kube-dns"}}
	for _, protocol := range []corev1.Protocol{corev1.ProtocolUDP, corev1.ProtocolTCP} {
		if names && !allowed(dns, false, []int32{dnsPort}, protocol) {
			c.problem(w.object, "", "have a NetworkPolicy allow its egress to DNS at port 53, UDP and TCP, by a namespaceSelector: an ipBlock does not reach pods everywhere",
				"its pods are given names to look up, and no NetworkPolicy allows them to, by %s", protocol)
		}
	}
	for _, f := range flows {
		if f.to != nil {
			continue
		}
		may[f.port] = true
		if !allowed(f.outside, true, []int32{f.port}, corev1.ProtocolTCP) && !allowed(end{}, true, []int32{f.port}, corev1.ProtocolTCP) {
			c.problem(w.object, f.why, "have a NetworkPolicy allow it", "%s names %s at port %d, and no NetworkPolicy allows its egress", f.why, f.name, f.port)
		}
	}
	for _, r := range rules {
		if len(r.peers) > 0 && !slices.ContainsFunc(r.peers, outside) {
			continue
		}
		if len(r.ports) == 0 {
			c.problem(r.policy, "", "name the ports", "it lets the pods of %s out to any port", w.name)
		}
		for _, p := range r.ports {
			if p.Port == nil || p.EndPort != nil || p.Port.Type == intstr.Int && !may[p.Port.IntVal] {
				c.problem(r.policy, "", "leave it out, or have the service declare what it calls",
					"it lets the pods of %s out of the namespace to %s, which they do not call", w.name, rangeText(p))
			}
		}
	}
}

func rangeText(p networkingv1.NetworkPolicyPort) string {
	switch {
	case p.Port == nil:
		return "any port"
	case p.EndPort != nil:
		return fmt.Sprintf("ports %s to %d", p.Port.String(), *p.EndPort)
	default:
		return "port " + p.Port.String()
	}
}

// callsAPIServer reports whether a workload's pods call the API server.
func (c *checker) callsAPIServer(w *workload) bool {
	own, cluster := w.rules()
	return len(own)+len(cluster) > 0 || w.service == nil && c.hasRole(w)
}

// checkExposure has a workload's pods be reached from outside of the namespace where they are to be, and nowhere else:
// services by who leads people to them, admin ports by named namespaces, and what the API server calls by everybody,
// since no selector can name that.
func (c *checker) checkExposure(w *workload) {
	rules, isolated := c.isolation(w, ingress)
	if !isolated {
		return
	}
	public := w.service != nil && len(w.service.Operations) > 0
	reached := false
	var visitors []networkingv1.NetworkPolicyPeer // who may reach what is for the public
	for _, r := range rules {
		if public && slices.ContainsFunc(reachable(w), func(p port) bool { return p.name == "http" && r.allows(p) }) {
			visitors = append(visitors, r.peers...)
		}
	}
	visits := func(peer networkingv1.NetworkPolicyPeer) bool {
		return outside(peer) && slices.ContainsFunc(visitors, func(v networkingv1.NetworkPolicyPeer) bool { return reflect.DeepEqual(v, peer) })
	}
	for _, r := range rules {
		if len(r.peers) > 0 && !slices.ContainsFunc(r.peers, outside) {
			continue
		}
		for _, p := range reachable(w) {
			if !r.allows(p) {
				continue
			}
			all := len(r.peers) == 0 || slices.ContainsFunc(r.peers, func(peer networkingv1.NetworkPolicyPeer) bool { return everywhereSelected(peer.NamespaceSelector) })
			blocks := slices.ContainsFunc(r.peers, func(peer networkingv1.NetworkPolicyPeer) bool { return peer.IPBlock != nil })
			switch {
			case c.calledByAPIServer(w, p):
			case public && p.name == "http" && !all:
				reached = true
			case p.name == "admin" && slices.ContainsFunc(r.peers, visits):
				c.problem(r.policy, "port: admin", "leave it out", "it lets those who lead people to %s reach it at %s, too", w, p)
			case p.name == "admin" && !all && !blocks:
			case all:
				c.problem(r.policy, "", "name in from who may", "it lets everybody reach %s at %s", w, p)
			default:
				c.problem(r.policy, "", "leave it out", "it lets others than this namespace reach %s at %s, which is not for them", w, p)
			}
		}
	}
	if public && !reached {
		c.problem(w.object, "", "have a NetworkPolicy allow the ingress controller or gateway at port http",
			"%s has operations for the public, and no NetworkPolicy lets anybody from outside reach them", w.service.Name)
	}
}

// calledByAPIServer reports whether a port is what an APIService leads to.
func (c *checker) calledByAPIServer(w *workload, p port) bool {
	for _, a := range each[apiService](c.objects) {
		to := a.Spec.Service
		if to == nil {
			continue
		}
		_, s := named[corev1.Service](c.objects, to.Name)
		if s == nil || !selected(s.Spec.Selector, w) {
			continue
		}
		for _, sp := range s.Spec.Ports {
			if target, ok := w.port(targetOf(sp)); ok && sp.Port == cmp.Or(to.Port, 443) && target.ContainerPort == p.number {
				return true
			}
		}
	}
	return false
}

// selected reports whether a Service with this selector has a workload's pods.
func selected(of map[string]string, w *workload) bool {
	return len(of) > 0 && labels.SelectorFromSet(of).Matches(labels.Set(w.pod.Labels))
}

// apiService is an APIService, as far as it is needed here.
type apiService struct {
	Spec struct {
		Service *struct {
			Name string `json:"name"`
			Port int32  `json:"port"`
		} `json:"service"`
	} `json:"spec"`
}
