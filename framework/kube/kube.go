// Package kube is what a service asks of Kubernetes: one of its processes is elected for a task, settings change while
// it runs, what people should know is told where they look, and it stops only when no more work is sent to it.
//
//	pod, err := kube.New(s, cfg.Kube)
//	if err != nil {
//		return err
//	}
//	cfg.Events.Lead = pod.Lead("prune")
//	s.Add("kubernetes", pod) // the first part: it stops last, and tells of the others
//
// A process that is not in a pod, or has no credentials, does without all of it: see [Pod]. The API server may be away
// for any time, also when the service starts; nothing waits for it but who wants to lead.
package kube

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/turnstile-go/turnstile/framework"
)

// Config says what a service asks of Kubernetes.
type Config struct {
	// ConfigMap is the name of the ConfigMap, in the namespace of the pod, that is followed as
	// [framework.Service.Adjust] says. Empty is none.
	ConfigMap string `env:"KUBE_CONFIGMAP" doc:"ConfigMap, in the pod's namespace, with the variables that may change while the service runs; none if not set"`
	// DrainLimit is the longest that Drain waits. Zero is not at all.
	DrainLimit time.Duration `env:"KUBE_DRAIN_LIMIT" envDefault:"10s" doc:"the longest to wait, when the service is to stop, until the pod's address has left all EndpointSlices"`
	// LeaseDuration is after how long a process that was killed is succeeded in its tasks: whole seconds, 3 or more. Zero
	// is 15 s. Two thirds of it after it could last renew its lease, a process gives up.
	LeaseDuration time.Duration `env:"KUBE_LEASE_DURATION" envDefault:"15s" doc:"after how long another process takes over the tasks of one that was killed"`
	// Kubeconfig is a file with the API server's address and credentials. Empty is those that a pod is given.
	Kubeconfig string `env:"KUBE_CONFIG" doc:"kubeconfig file for a process that is not in a pod, with POD_NAME and POD_NAMESPACE; the pod's credentials if not set"`
}

// Pod is the part of a service that speaks with Kubernetes, as the pod that [framework.Service.Pod] names. Where that has
// no name or no namespace, or there are no credentials, its methods do nothing, and Lead is nil. All else is done between
// Start and the end of Run.
type Pod struct {
	cfg     Config
	service *framework.Service
	api     *api   // nil outside of a cluster
	without string // why it is nil, if people should know
	tasks   []string

	recorder *recorder
	stop     func() // set by Start: ends what it began, and waits for that
}

// New returns the part, to be added before all others. An error is of the configuration; nothing is asked of the API
// server.
func New(s *framework.Service, cfg Config) (*Pod, error) {
	cfg.LeaseDuration = cmp.Or(cfg.LeaseDuration, 15*time.Second)
	switch {
	case cfg.LeaseDuration < 3*time.Second || cfg.LeaseDuration%time.Second != 0:
		return nil, fmt.Errorf("KUBE_LEASE_DURATION is %s: want whole seconds, 3s or more", cfg.LeaseDuration)
	case cfg.DrainLimit < 0:
		return nil, fmt.Errorf("KUBE_DRAIN_LIMIT is %s: want 0s or more", cfg.DrainLimit)
	}
	p := &Pod{cfg: cfg, service: s}
	var err error
	if p.api, p.without, err = connect(s, cfg.Kubeconfig); err != nil || p.api == nil {
		return p, err
	}
	p.recorder = newRecorder(p.api, s)
	s.OnNotice(p.recorder.record)
	return p, nil
}

// Start says in the log what is on, and begins to tell notices and to follow the settings: LOG_LEVEL may show why another
// part does not start.
func (p *Pod) Start(ctx context.Context) error {
	log := p.service.Log
	if p.api == nil {
		switch {
		case p.without != "":
			log.WarnContext(ctx, "kubernetes: this pod does without", "reason", p.without)
		case p.cfg.ConfigMap != "":
			log.WarnContext(ctx, "kubernetes: KUBE_CONFIGMAP is not followed: this process is in no pod (POD_NAME and POD_NAMESPACE are not set)")
		}
		return nil
	}
	log.InfoContext(ctx, "kubernetes: notices become Events of the pod",
		"namespace", p.service.Pod.Namespace, "pod", p.service.Pod.Name, "settings", cmp.Or(p.cfg.ConfigMap, "none"), "tasks", p.tasks)
	if p.service.Pod.UID == "" {
		log.WarnContext(ctx, "kubernetes: POD_UID is not set: kubectl describe pod does not show the Events")
	}
	stopRecorder := background(ctx, p.recorder.run)
	p.stop = stopRecorder
	if p.cfg.ConfigMap != "" {
		stopFollowing := background(ctx, p.followSettings)
		p.stop = func() { stopFollowing(); stopRecorder() } // which has notices of the settings, too
	}
	return nil
}

// background calls do, and returns what ends it and waits until it has returned. That ctx ends does not.
func background(ctx context.Context, do func(ctx context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		do(ctx)
	}()
	return func() { cancel(); <-done }
}

// Run waits until ctx is done. Then it stops following the settings, and has the last notices told, for two seconds at the
// most.
func (p *Pod) Run(ctx context.Context) error {
	<-ctx.Done()
	if p.api == nil {
		return nil
	}
	p.stop()
	p.api.close()
	return nil
}

// rule is a PolicyRule of a Role.
type rule struct {
	APIGroups     []string `json:"apiGroups"`
	Resources     []string `json:"resources"`
	ResourceNames []string `json:"resourceNames,omitempty"`
	Verbs         []string `json:"verbs"`
}

// Describe has the rights that the pod needs, as the rules of a Role in its namespace. Without KUBE_CONFIGMAP, the
// ConfigMap is called $(KUBE_CONFIGMAP): where that variable is not set, its rule is not needed.
func (p *Pod) Describe() map[string]any {
	rules := []rule{
		{[]string{""}, []string{"configmaps"}, []string{cmp.Or(p.cfg.ConfigMap, "$(KUBE_CONFIGMAP)")}, []string{"list", "watch"}},
		{[]string{"discovery.k8s.io"}, []string{"endpointslices"}, nil, []string{"list", "watch"}},
		{[]string{"events.k8s.io"}, []string{"events"}, nil, []string{"create", "patch"}},
	}
	if len(p.tasks) > 0 {
		names := make([]string, len(p.tasks))
		for i, task := range p.tasks {
			names[i] = leaseName(p.service, task)
		}
		slices.Sort(names)
		rules = append(rules,
			rule{[]string{"coordination.k8s.io"}, []string{"leases"}, nil, []string{"create"}}, // what is not there has no name
			rule{[]string{"coordination.k8s.io"}, []string{"leases"}, names, []string{"get", "list", "update", "watch"}},
		)
	}
	return map[string]any{"kubernetes": map[string]any{"rules": rules}}
}

// trouble tells of something that fails once, and once that it works again.
type trouble struct {
	log  *slog.Logger
	what string // fails
	is   bool
}

func (t *trouble) set(ctx context.Context, err error) {
	switch {
	case err != nil && !t.is:
		t.log.WarnContext(ctx, "kubernetes: "+t.what+"; trying again", "error", err)
	case err == nil && t.is:
		t.log.InfoContext(ctx, "kubernetes: the API server answers again", "before", t.what)
	}
	t.is = err != nil
}
