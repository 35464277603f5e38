// Package cluster reaches into a Kubernetes cluster, whichever KUBECONFIG names: it deploys with kubectl, connects to
// the ports of pods as `kubectl port-forward` does, kills containers on their node, and runs a program inside of a pod.
package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// ErrNone says that no cluster is named.
var ErrNone = errors.New("KUBECONFIG is not set: set it to the kubeconfig of a cluster, such as one made by kind or k3d")

// Cluster is a cluster. Create it with Connect.
type Cluster struct {
	API *kubernetes.Clientset

	config *rest.Config
}

// Connect returns the cluster that KUBECONFIG names, once it has answered. It returns ErrNone if KUBECONFIG is not set.
func Connect(ctx context.Context) (*Cluster, error) {
	if os.Getenv("KUBECONFIG") == "" {
		return nil, ErrNone
	}
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		clientcmd.NewDefaultClientConfigLoadingRules(), nil).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read KUBECONFIG: %w", err)
	}
	config.QPS, config.Burst = 100, 200 // tests look often
	config.WarningHandler = rest.NoWarnings{}
	api, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("connect to the cluster of KUBECONFIG: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if _, err := api.CoreV1().Namespaces().List(ctx, meta.ListOptions{Limit: 1}); err != nil {
		return nil, fmt.Errorf("the cluster of KUBECONFIG (%s) does not answer: %w", config.Host, err)
	}
	return &Cluster{API: api, config: config}, nil
}

// Run runs a program, such as kubectl, in a folder, and returns what it has written to standard output. Its error has
// what it has written to standard error.
func Run(ctx context.Context, dir, stdin string, command ...string) (string, error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(stdin)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return "", fmt.Errorf("%w: install it", err)
		}
		return out.String(), fmt.Errorf("%s: %w\n%s", strings.Join(command, " "), err, errs.String())
	}
	return out.String(), nil
}

// Pods returns the pods with a label (name=value) that are not about to go, by age.
func (c *Cluster) Pods(ctx context.Context, namespace, label string) ([]core.Pod, error) {
	list, err := c.API.CoreV1().Pods(namespace).List(ctx, meta.ListOptions{LabelSelector: label})
	if err != nil {
		return nil, fmt.Errorf("list the pods with %s: %w", label, err)
	}
	pods := slices.DeleteFunc(list.Items, func(p core.Pod) bool { return p.DeletionTimestamp != nil })
	slices.SortFunc(pods, func(a, b core.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	return pods, nil
}

// Ready reports whether a pod says that it is ready.
func Ready(p *core.Pod) bool {
	return p.DeletionTimestamp == nil && slices.ContainsFunc(p.Status.Conditions, func(c core.PodCondition) bool {
		return c.Type == core.PodReady && c.Status == core.ConditionTrue
	})
}

// Client is an HTTP client that reaches the ports of pods: the host of a URL is <pod>.<namespace>.
func (c *Cluster) Client() *http.Client {
	return &http.Client{
		Timeout: 5 * time.Second,
		Transport: &http.Transport{
			DisableKeepAlives: true, // so that one which is gone is asked again
			DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
				host, port, err := net.SplitHostPort(addr)
				if err != nil {
					return nil, err
				}
				pod, namespace, ok := strings.Cut(host, ".")
				number, err := strconv.Atoi(port)
				if err != nil || !ok {
					return nil, fmt.Errorf("%s is not the address of a pod: it has to be <pod>.<namespace>:<port>", addr)
				}
				return c.Dial(ctx, namespace, pod, number)
			},
		},
	}
}

// NodeCommand is what runs a command on a cluster's only node, such as "docker exec kind-control-plane"; nil if
// NODE_COMMAND does not say.
func NodeCommand() []string { return strings.Fields(os.Getenv("NODE_COMMAND")) }

// Kill ends a container of a pod with SIGKILL, on the node, with NodeCommand and containerd's ctr.
func (c *Cluster) Kill(ctx context.Context, p *core.Pod, container string) error {
	for _, s := range p.Status.ContainerStatuses {
		if s.Name != container {
			continue
		}
		_, id, ok := strings.Cut(s.ContainerID, "://")
		if !ok || s.State.Running == nil {
			return fmt.Errorf("container %s of pod %s does not run", container, p.Name)
		}
		command := append(NodeCommand(), "ctr", "--namespace", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", id)
		if _, err := Run(ctx, "", "", command...); err != nil {
			return fmt.Errorf("kill container %s of pod %s: %w", container, p.Name, err)
		}
		return nil
	}
	return fmt.Errorf("pod %s has no container %s", p.Name, container)
}
