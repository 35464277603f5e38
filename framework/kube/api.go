package kube

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/turnstile-go/turnstile/framework"
)

// api is what a pod uses of the Kubernetes API. Client-go's typed clients bring every type of Kubernetes along, 20 MB of
// them; the few fields that matter here are read from untyped objects.
type api struct {
	client    dynamic.Interface
	http      *http.Client
	namespace string
}

// connect returns the API as the pod of the service may use it. Outside of a cluster it returns none, and why, if that
// may be a mistake.
func connect(s *framework.Service, kubeconfig string) (_ *api, without string, err error) {
	var cfg *rest.Config
	switch inPod := s.Pod.Name != "" && s.Pod.Namespace != ""; {
	case !inPod && kubeconfig != "":
		return nil, "", fmt.Errorf("KUBE_CONFIG is %q, but not which pod this process is: set POD_NAME and POD_NAMESPACE too", kubeconfig)
	case !inPod:
		return nil, "", nil
	case kubeconfig != "":
		if cfg, err = clientcmd.BuildConfigFromFlags("", kubeconfig); err != nil {
			return nil, "", fmt.Errorf("KUBE_CONFIG: %w", err)
		}
	default:
		if cfg, err = rest.InClusterConfig(); err != nil {
			return nil, fmt.Sprintf("%v: the pod needs a ServiceAccount whose token is mounted (automountServiceAccountToken)", err), nil
		}
	}
	cfg.UserAgent = "turnstile-" + s.Name + "/" + s.Version
	cfg.QPS = -1 // there are few requests, and a lease must not wait for Events
	cfg.WarningHandler = rest.NoWarnings{}
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, "", fmt.Errorf("credentials for Kubernetes: %w", err)
	}
	api := &api{http: client, namespace: s.Pod.Namespace}
	if api.client, err = dynamic.NewForConfigAndClient(cfg, client); err != nil {
		return nil, "", fmt.Errorf("client of Kubernetes: %w", err)
	}
	return api, "", nil
}

func (a *api) close() { a.http.CloseIdleConnections() }

func (a *api) configMaps() dynamic.ResourceInterface { return a.resource("", "v1", "configmaps") }
func (a *api) endpointSlices() dynamic.ResourceInterface {
	return a.resource("discovery.k8s.io", "v1", "endpointslices")
}
func (a *api) events() dynamic.ResourceInterface { return a.resource("events.k8s.io", "v1", "events") }
func (a *api) leases() dynamic.ResourceInterface {
	return a.resource("coordination.k8s.io", "v1", "leases")
}

func (a *api) resource(group, version, name string) dynamic.ResourceInterface {
	return a.client.Resource(schema.GroupVersionResource{Group: group, Version: version, Resource: name}).Namespace(a.namespace)
}

// quiet keeps the library from a log of its own, past that of the service.
func quiet(ctx context.Context) context.Context { return klog.NewContext(ctx, logr.Discard()) }

// follow calls seen with all objects of a kind, or with that of the name, now and after every change, until ctx is
// done, and then returns at once. What fails is tried again, with growing pauses; asked is told how each request went.
func follow(ctx context.Context, r dynamic.ResourceInterface, name string, seen func([]*unstructured.Unstructured), asked func(error)) {
	only := func(o metav1.ListOptions) metav1.ListOptions {
		if name != "" {
			o.FieldSelector = "metadata.name=" + name
		}
		return o
	}
	var telling sync.Mutex
	tell := func(err error) {
		telling.Lock()
		defer telling.Unlock()
		if ctx.Err() == nil {
			asked(err)
		}
	}
	source := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := r.List(ctx, only(o))
			tell(err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			w, err := r.Watch(ctx, only(o))
			tell(err)
			return w, err
		},
	}
	cache.NewReflectorWithOptions(plain{source}, nil, &store{seen: seen}, cache.ReflectorOptions{
		Name: "kube", Backoff: &wait.Backoff{Duration: 200 * time.Millisecond, Factor: 2, Jitter: 1, Steps: 10, Cap: 10 * time.Second},
	}).RunWithContext(quiet(ctx))
	telling.Lock() // a list that ctx has ended may be about to tell
	defer telling.Unlock()
}

// plain lists and then watches. The newer way, in which a watch begins with what there is (WatchList), sleeps through the
// end of its context after a request that failed.
type plain struct{ *cache.ListWatch }

// IsWatchListSemanticsUnSupported is what client-go asks.
func (plain) IsWatchListSemanticsUnSupported() bool { return true }

// store has what is followed.
type store struct {
	objects map[string]*unstructured.Unstructured
	seen    func([]*unstructured.Unstructured)
}

func (s *store) Add(o any) error { return s.Update(o) }

func (s *store) Update(o any) error {
	return s.change(o, func(u *unstructured.Unstructured) { s.objects[u.GetName()] = u })
}

func (s *store) Delete(o any) error {
	return s.change(o, func(u *unstructured.Unstructured) { delete(s.objects, u.GetName()) })
}

func (s *store) Replace(all []any, _ string) error {
	s.objects = make(map[string]*unstructured.Unstructured, len(all))
	return s.change(nil, func(*unstructured.Unstructured) {
		for _, o := range all {
			if u, ok := o.(*unstructured.Unstructured); ok {
				s.objects[u.GetName()] = u
			}
		}
	})
}

func (s *store) Resync() error { return nil }

func (s *store) change(o any, change func(*unstructured.Unstructured)) error {
	u, ok := o.(*unstructured.Unstructured)
	if o != nil && !ok {
		return fmt.Errorf("kube: want an object, not %T", o)
	}
	change(u)
	s.seen(slices.Collect(maps.Values(s.objects)))
	return nil
}

// decode reads the fields of an object that v, a pointer to a struct, has.
func decode(u *unstructured.Unstructured, v any) error {
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, v); err != nil {
		return fmt.Errorf("read %s %s: %w", u.GetKind(), u.GetName(), err)
	}
	return nil
}
