package manifests

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// What NetworkPolicies mean, as Kubernetes documents it:
//
//   - A pod that no policy of its namespace selects for a direction is open in that direction. One that some select is
//     isolated: what any rule of any of these allows is allowed, and nothing else. There are no rules that forbid.
//   - A policy is about Ingress unless it says otherwise, and about Egress, too, if it has egress rules.
//   - A rule allows what matches one of its peers and one of its ports; without peers it is everybody, without ports
//     every port.
//   - A peer with a podSelector alone is pods of the policy's own namespace; with a namespaceSelector, pods of all
//     namespaces that it selects, of these the ones that the podSelector selects, if there is one; an ipBlock is
//     addresses.
//   - A port is a number, a range, or a name: that of a port of the pod which is reached. Its protocol is TCP unless it
//     says otherwise.
//   - A connection needs both: that the egress of who opens it allows it, and the ingress of who is reached. Answers
//     need nothing.
//
// Whether an ipBlock also means pods is left to the network. Here it does when the question is what is open, and does
// not when it is what works.

const (
	ingress = networkingv1.PolicyTypeIngress
	egress  = networkingv1.PolicyTypeEgress
)

// rule is one of a policy, in either direction.
type rule struct {
	policy *object
	peers  []networkingv1.NetworkPolicyPeer
	ports  []networkingv1.NetworkPolicyPort
}

// isolation returns the rules that apply to a workload's pods in a direction, and whether these are isolated at all.
func (c *checker) isolation(w *workload, d networkingv1.PolicyType) (rules []rule, isolated bool) {
	for o, p := range each[networkingv1.NetworkPolicy](c.objects) {
		types := p.Spec.PolicyTypes
		if len(types) == 0 {
			types = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
			if len(p.Spec.Egress) > 0 {
				types = append(types, networkingv1.PolicyTypeEgress)
			}
		}
		if o.namespace != w.namespace || !slices.Contains(types, d) || !selector(&p.Spec.PodSelector).Matches(labels.Set(w.pod.Labels)) {
			continue
		}
		isolated = true
		if d == ingress {
			for _, r := range p.Spec.Ingress {
				rules = append(rules, rule{o, r.From, r.Ports})
			}
		} else {
			for _, r := range p.Spec.Egress {
				rules = append(rules, rule{o, r.To, r.Ports})
			}
		}
	}
	return rules, isolated
}

// end is one end of a connection.
type end struct {
	namespace labels.Set // labels of its namespace; nil if it is no pod
	pod       labels.Set // nil if they are not known: then a selector is taken to select it
	address   netip.Addr // of what is no pod
}

// matches reports whether a rule of a policy in namespace has this end among its peers.
func (r rule) matches(namespace labels.Set, e end, blocks bool) bool {
	if len(r.peers) == 0 {
		return true
	}
	return slices.ContainsFunc(r.peers, func(p networkingv1.NetworkPolicyPeer) bool {
		if p.IPBlock != nil {
			if e.namespace != nil {
				return blocks
			}
			return inBlock(p.IPBlock, e.address)
		}
		if e.namespace == nil {
			return false
		}
		if p.NamespaceSelector == nil {
			if !labels.Equals(namespace, e.namespace) {
				return false
			}
		} else if !selector(p.NamespaceSelector).Matches(e.namespace) {
			return false
		}
		return p.PodSelector == nil || e.pod == nil || selector(p.PodSelector).Matches(e.pod)
	})
}

// inBlock reports whether an address is in a block. The zero address is any: it is in every block.
func inBlock(b *networkingv1.IPBlock, address netip.Addr) bool {
	if !address.IsValid() {
		return true
	}
	in := func(cidr string) bool {
		prefix, err := netip.ParsePrefix(cidr)
		return err == nil && prefix.Contains(address)
	}
	return in(b.CIDR) && !slices.ContainsFunc(b.Except, in)
}

// port is one at which somebody may be reached. The zero number stands for any that nobody declares.
type port struct {
	number   int32
	name     string // as the pod calls it
	protocol corev1.Protocol
}

func (p port) String() string {
	switch {
	case p.number == 0:
		return "any port"
	case p.name == "":
		return fmt.Sprintf("port %d", p.number)
	default:
		return "port " + p.name
	}
}

// allows reports whether a rule has this port among its own.
func (r rule) allows(wanted port) bool {
	return len(r.ports) == 0 || slices.ContainsFunc(r.ports, func(p networkingv1.NetworkPolicyPort) bool {
		protocol := corev1.ProtocolTCP
		if p.Protocol != nil {
			protocol = *p.Protocol
		}
		switch {
		case protocol != wanted.protocol:
			return false
		case p.Port == nil:
			return true
		case p.Port.Type == intstr.String:
			return wanted.name != "" && p.Port.StrVal == wanted.name
		case p.EndPort != nil:
			return p.Port.IntVal <= wanted.number && wanted.number <= *p.EndPort
		default:
			return p.Port.IntVal == wanted.number
		}
	})
}

// namespaceLabels are those of a namespace: what is written in its object, and the name that Kubernetes adds.
func (c *checker) namespaceLabels(name string) labels.Set {
	set := labels.Set{corev1.LabelMetadataName: name}
	if _, n := named[corev1.Namespace](c.objects, name); n != nil {
		for key, value := range n.Labels {
			set[key] = value
		}
	}
	return set
}

// permitting returns the rules that allow a workload's pods one half of a connection: to be reached by the other end
// (ingress) or to reach it (egress). isolated is false if nothing forbids anything.
func (c *checker) permitting(w *workload, d networkingv1.PolicyType, other end, at port, blocks bool) (by []rule, isolated bool) {
	rules, isolated := c.isolation(w, d)
	own := c.namespaceLabels(w.namespace)
	for _, r := range rules {
		if r.matches(own, other, blocks) && r.allows(at) {
			by = append(by, r)
		}
	}
	return by, isolated
}

// end is a workload's pods as one end of a connection.
func (c *checker) end(w *workload) end {
	return end{namespace: c.namespaceLabels(w.namespace), pod: w.pod.Labels}
}

// outside reports whether a peer of a policy is, or may be, something else than pods of the policy's namespace.
func outside(p networkingv1.NetworkPolicyPeer) bool {
	return p.IPBlock != nil || p.NamespaceSelector != nil
}

// everywhereSelected reports whether a selector of namespaces is one of all.
func everywhereSelected(s *metav1.LabelSelector) bool {
	return s != nil && len(s.MatchLabels) == 0 && len(s.MatchExpressions) == 0
}
