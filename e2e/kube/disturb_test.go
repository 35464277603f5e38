package kube

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/turnstile-go/turnstile/e2e/internal/cluster"
	"github.com/turnstile-go/turnstile/e2e/internal/journey"
)

// errNotYet says that what a test waits for has not happened.
var errNotYet = errors.New("not yet")

// patch changes something of a Deployment, as a strategic merge.
func (a *application) patch(t *testing.T, deployment, patch string) {
	t.Helper()
	_, err := a.API.AppsV1().Deployments(a.namespace).Patch(t.Context(), deployment, types.StrategicMergePatchType, []byte(patch), meta.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// restart begins a rolling update, as `kubectl rollout restart` does.
func (a *application) restart(t *testing.T, deployment string) {
	t.Helper()
	a.patch(t, deployment, fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"kubectl.kubernetes.io/restartedAt":%q}}}}}`,
		time.Now().Format(time.RFC3339Nano)))
}

// scale says how many replicas of a Deployment there are to be.
func (a *application) scale(t *testing.T, deployment string, replicas int) {
	t.Helper()
	a.patch(t, deployment, fmt.Sprintf(`{"spec":{"replicas":%d}}`, replicas))
}

// remove deletes a pod. Without grace it is killed.
func (a *application) remove(t *testing.T, pod string, grace bool) {
	t.Helper()
	var options meta.DeleteOptions
	if !grace {
		options.GracePeriodSeconds = new(int64)
	}
	if err := a.API.CoreV1().Pods(a.namespace).Delete(t.Context(), pod, options); err != nil {
		t.Fatal(err)
	}
}

// kill ends the container of a pod with SIGKILL.
func (a *application) kill(t *testing.T, p *core.Pod) {
	t.Helper()
	if err := a.Kill(t.Context(), p, p.Spec.Containers[0].Name); err != nil {
		t.Fatal(err)
	}
}

// awaitEnd waits until a pod is gone, or its container is not the one that it was.
func (a *application) awaitEnd(t *testing.T, old *core.Pod) {
	t.Helper()
	journey.Eventually(t, "pod "+old.Name+" is not what it was", func() error {
		p, err := a.API.CoreV1().Pods(a.namespace).Get(t.Context(), old.Name, meta.GetOptions{})
		if err == nil && p.UID == old.UID && slices.EqualFunc(p.Status.ContainerStatuses, old.Status.ContainerStatuses,
			func(a, b core.ContainerStatus) bool { return a.ContainerID == b.ContainerID && a.State.Running != nil }) {
			return errNotYet
		}
		return nil
	})
}

// needNode skips a test that has to reach the node.
func needNode(t *testing.T) {
	t.Helper()
	if len(cluster.NodeCommand()) == 0 {
		t.Skip(`NODE_COMMAND is not set: set it to what runs a command on the only node, such as "docker exec kind-control-plane"`)
	}
}

// recovery returns after how long people can buy and sell again, from one end to the other, and after how long
// everything is as it was, now that something has come to its end.
func (a *application) recovery(t *testing.T, victim *core.Pod) (people, all time.Duration) {
	t.Helper()
	begin := time.Now()
	done := make(chan struct{})
	go func() {
		defer close(done)
		journey.Purchase(t, a.site())
		people = time.Since(begin)
	}()
	a.awaitEnd(t, victim) // until the cluster has noticed, all seems well
	a.awaitReady(t)
	all = time.Since(begin)
	<-done
	return people, all
}

// median of durations, and the longest.
func median(all []time.Duration) (middle, most time.Duration) {
	if len(all) == 0 {
		return 0, 0
	}
	all = slices.Sorted(slices.Values(all))
	return all[len(all)/2].Round(time.Millisecond), all[len(all)-1].Round(time.Millisecond)
}
