package externalmetrics

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/workspace"
)

// Rules are what it does at the API server in the namespaces of the services, and ClusterRules what it does elsewhere.
var (
	Rules        = []workspace.Rule{{APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}, Verbs: []string{"list"}}}
	ClusterRules = []workspace.Rule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{authentication}, Verbs: []string{"get"}}}
)

// authentication is the ConfigMap of kube-system that tells how to know the aggregator.
const authentication = "extension-apiserver-authentication"

// adminPort is the name of a Service's port at which its pods have /metrics.
const adminPort = "admin"

// cluster is what is read from the API server.
type cluster struct{ client rest.Interface }

func newCluster(cfg *rest.Config) (*cluster, error) {
	cfg = rest.CopyConfig(cfg)
	refusals := runtime.NewScheme() // the API server's own words are all that the client has to understand
	metav1.AddToGroupVersion(refusals, schema.GroupVersion{Version: "v1"})
	cfg.NegotiatedSerializer = serializer.NewCodecFactory(refusals).WithoutConversion()
	client, err := rest.UnversionedRESTClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("a client of the API server: %w", err)
	}
	return &cluster{client}, nil
}

// aggregator finds out how to know the aggregator.
func (c *cluster) aggregator(ctx context.Context) (*aggregator, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	const from = "the ConfigMap kube-system/" + authentication
	var found struct {
		Data map[string]string `json:"data"`
	}
	err := c.read(ctx, c.client.Get().AbsPath("/api/v1/namespaces/kube-system/configmaps", authentication), &found)
	if err != nil {
		return nil, fmt.Errorf("read %s, which the ClusterRole of component autoscaling allows: %w", from, err)
	}
	a, err := newAggregator(found.Data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from, err)
	}
	return a, nil
}

// endpointSlices is as much of an EndpointSliceList as matters here.
type endpointSlices struct {
	Items []struct {
		Endpoints []struct {
			Addresses  []string `json:"addresses"`
			Conditions struct {
				Ready *bool `json:"ready"`
			} `json:"conditions"`
		} `json:"endpoints"`
		Ports []struct {
			Name string `json:"name"`
			Port int    `json:"port"`
		} `json:"ports"`
	} `json:"items"`
}

// pods returns host and port of the admin port of every ready pod of a Service.
func (c *cluster) pods(ctx context.Context, of service) (addresses []string, err error) {
	var slices endpointSlices
	err = c.read(ctx, c.client.Get().AbsPath("/apis/discovery.k8s.io/v1/namespaces", of.namespace, "endpointslices").
		Param("labelSelector", "kubernetes.io/service-name="+of.name), &slices)
	if err != nil {
		return nil, fmt.Errorf("list the pods of Service %s: %w", of, err)
	}
	if len(slices.Items) == 0 {
		return nil, missing(fmt.Sprintf("there is no Service %s with pods", of))
	}
	pods, asked := 0, 0
	for _, slice := range slices.Items {
		pods += len(slice.Endpoints)
		for _, port := range slice.Ports {
			if port.Name != adminPort {
				continue
			}
			asked += len(slice.Endpoints)
			for _, e := range slice.Endpoints {
				if (e.Conditions.Ready == nil || *e.Conditions.Ready) && len(e.Addresses) > 0 {
					addresses = append(addresses, net.JoinHostPort(e.Addresses[0], strconv.Itoa(port.Port)))
				}
			}
		}
	}
	switch {
	case pods > 0 && asked == 0:
		return nil, missing(fmt.Sprintf("Service %s has no port with the name %s", of, adminPort))
	case len(addresses) == 0:
		return nil, fmt.Errorf("no pod of Service %s is ready", of)
	}
	return addresses, nil
}

func (c *cluster) read(ctx context.Context, request *rest.Request, into any) error {
	result := request.Do(ctx)
	if err := result.Error(); err != nil {
		return err
	}
	text, err := result.Raw()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s: %w", request.URL(), err)
	}
	return nil
}
