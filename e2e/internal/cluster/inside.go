package cluster

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// restricted is what the pod security standard of that name asks of a container.
func restricted() *core.SecurityContext {
	no, yes, nobody := false, true, int64(65532)
	return &core.SecurityContext{
		AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes, RunAsNonRoot: &yes, RunAsUser: &nobody,
		Capabilities:   &core.Capabilities{Drop: []core.Capability{"ALL"}},
		SeccompProfile: &core.SeccompProfile{Type: core.SeccompProfileTypeRuntimeDefault},
	}
}

// RunInside runs an image inside of a pod, as an ephemeral container: it has the pod's address, and is judged by its
// network policies. It returns what the program has written. The container stays in the pod's description.
func (c *Cluster) RunInside(ctx context.Context, namespace, pod, image string, args ...string) (string, error) {
	pods := c.API.CoreV1().Pods(namespace)
	p, err := pods.Get(ctx, pod, meta.GetOptions{})
	if err != nil {
		return "", err
	}
	name := "inside-" + strings.ToLower(rand.Text()[:6])
	p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, core.EphemeralContainer{
		EphemeralContainerCommon: core.EphemeralContainerCommon{Name: name, Image: image, Args: args, SecurityContext: restricted()},
	})
	if _, err := pods.UpdateEphemeralContainers(ctx, pod, p, meta.UpdateOptions{}); err != nil {
		return "", fmt.Errorf("run %s inside of pod %s: %w", image, pod, err)
	}
	return c.output(ctx, namespace, pod, name, func(p *core.Pod) []core.ContainerStatus { return p.Status.EphemeralContainerStatuses })
}

// RunPod runs an image as a pod of its own, which is deleted afterwards, and returns what the program has written.
func (c *Cluster) RunPod(ctx context.Context, namespace, image string, args ...string) (string, error) {
	pods := c.API.CoreV1().Pods(namespace)
	no := false
	p, err := pods.Create(ctx, &core.Pod{
		ObjectMeta: meta.ObjectMeta{GenerateName: "probe-"},
		Spec: core.PodSpec{
			RestartPolicy: core.RestartPolicyNever, AutomountServiceAccountToken: &no,
			Containers: []core.Container{{Name: "probe", Image: image, Args: args, SecurityContext: restricted()}},
		},
	}, meta.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("run %s: %w", image, err)
	}
	defer func() { _ = pods.Delete(context.WithoutCancel(ctx), p.Name, meta.DeleteOptions{}) }()
	return c.output(ctx, namespace, p.Name, "probe", func(p *core.Pod) []core.ContainerStatus { return p.Status.ContainerStatuses })
}

// output waits until a container has ended, and returns what it has written.
func (c *Cluster) output(ctx context.Context, namespace, pod, container string, of func(*core.Pod) []core.ContainerStatus) (string, error) {
	pods := c.API.CoreV1().Pods(namespace)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		p, err := pods.Get(ctx, pod, meta.GetOptions{})
		if err != nil {
			return "", err
		}
		for _, s := range of(p) {
			if s.Name != container || s.State.Terminated == nil {
				continue
			}
			stream, err := pods.GetLogs(pod, &core.PodLogOptions{Container: container}).Stream(ctx)
			if err != nil {
				return "", fmt.Errorf("read what %s of pod %s has written: %w", container, pod, err)
			}
			defer stream.Close()
			text, err := io.ReadAll(stream)
			if err == nil && s.State.Terminated.ExitCode != 0 {
				err = fmt.Errorf("%s in pod %s ended with exit code %d: %s", container, pod, s.State.Terminated.ExitCode, text)
			}
			return string(text), err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return "", fmt.Errorf("%s in pod %s has not ended: %w", container, pod, ctx.Err())
		}
	}
}
