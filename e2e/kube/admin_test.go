package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
)

// readiness is what a pod of ours says of itself on its admin port.
type readiness struct {
	Status string
	Role   string            // of a broker among the others
	Checks map[string]string // of a service
}

func (a *application) readiness(ctx context.Context, pod string) (r readiness, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s.%s:9090/readyz", pod, a.namespace), nil)
	if err != nil {
		return r, err
	}
	response, err := a.Client().Do(request)
	if err != nil {
		return r, err
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&r); err != nil {
		return r, fmt.Errorf("/readyz of pod %s: %w", pod, err)
	}
	return r, nil
}

// ails says what is not in order with a pod of a service: nil if nothing is.
func (a *application) ails(ctx context.Context, pod string) error {
	r, err := a.readiness(ctx, pod)
	if err != nil || r.Status == "ready" {
		return err
	}
	maps.DeleteFunc(r.Checks, func(_, what string) bool { return what == "ok" })
	return fmt.Errorf("pod %s says that it is %s: %v", pod, r.Status, r.Checks)
}
