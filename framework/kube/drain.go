package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Drain returns when no EndpointSlice of the namespace sends work to the pod any more: when its endpoints are gone, not
// ready, or terminating. It waits no longer than Config.DrainLimit, also when the API server cannot be asked, and then
// returns an error. What passes the EndpointSlices on takes a moment longer: see DRAIN_DELAY.
func (p *Pod) Drain(ctx context.Context) error {
	if p.api == nil || p.cfg.DrainLimit == 0 {
		return nil
	}
	began := time.Now()
	waiting, done := context.WithTimeout(ctx, p.cfg.DrainLimit)
	defer done()
	failed := errors.New("the API server does not answer")
	var in []string // slices that still send
	known, gone := false, false
	follow(waiting, p.api.endpointSlices(), "", func(found []*unstructured.Unstructured) {
		in, known = p.sentBy(found), true
		if len(in) == 0 {
			gone = true
			done()
		}
	}, func(err error) {
		if err != nil {
			failed = err
		}
	})
	switch {
	case gone:
		p.service.Log.InfoContext(ctx, "kubernetes: no EndpointSlice has this pod any more", "after", time.Since(began))
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case !known:
		return fmt.Errorf("kube: whether work is still sent to this pod is not known after %s (KUBE_DRAIN_LIMIT): %w", p.cfg.DrainLimit, failed)
	default:
		return fmt.Errorf("kube: work may still be sent to this pod after %s (KUBE_DRAIN_LIMIT): it is ready in EndpointSlice %v", p.cfg.DrainLimit, in)
	}
}

// endpointSlice is what matters of one.
type endpointSlice struct {
	Endpoints []struct {
		Addresses  []string `json:"addresses"`
		Conditions struct {
			Ready       *bool `json:"ready"`
			Terminating *bool `json:"terminating"`
		} `json:"conditions"`
		TargetRef struct {
			Kind string `json:"kind"`
			Name string `json:"name"`
		} `json:"targetRef"`
	} `json:"endpoints"`
}

// sentBy has the names of the slices by which work is sent to this pod.
func (p *Pod) sentBy(all []*unstructured.Unstructured) []string {
	var names []string
	for _, u := range all {
		var slice endpointSlice
		if err := decode(u, &slice); err != nil {
			continue // it is not of the form that anybody could use
		}
		for _, e := range slice.Endpoints {
			mine := e.TargetRef.Kind == "Pod" && e.TargetRef.Name == p.service.Pod.Name || slices.Contains(e.Addresses, p.service.Pod.IP)
			// No condition is to be taken for ready. A Service may publish what is not: its endpoints are ready for ever.
			ready := e.Conditions.Ready == nil || *e.Conditions.Ready
			terminating := e.Conditions.Terminating != nil && *e.Conditions.Terminating
			if mine && ready && !terminating {
				names = append(names, u.GetName())
				break
			}
		}
	}
	slices.Sort(names)
	return names
}
