package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
)

// ails asks a service's pod on its admin port what is not in order with it: nil if nothing is.
func (a *application) ails(ctx context.Context, pod string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s.%s:9090/readyz", pod, a.namespace), nil)
	if err != nil {
		return err
	}
	response, err := a.Client().Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	var said struct {
		Status string
		Checks map[string]string
	}
	if err := json.NewDecoder(response.Body).Decode(&said); err != nil {
		return fmt.Errorf("/readyz of pod %s: %w", pod, err)
	}
	if said.Status == "ready" {
		return nil
	}
	maps.DeleteFunc(said.Checks, func(_, what string) bool { return what == "ok" })
	return fmt.Errorf("pod %s says that it is %s: %v", pod, said.Status, said.Checks)
}
