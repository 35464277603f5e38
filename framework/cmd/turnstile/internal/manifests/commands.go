package manifests

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/workspace"
)

// Command is a command that runs in pods and is no service, as it says of itself.
type Command struct {
	Image string // that of its program
	Name  string // its first argument

	// What it does at the API server, in the namespaces of the services and in the whole cluster.
	Rules, ClusterRules []workspace.Rule
}

// commandOf returns the command that a container runs, or nil.
func (c *checker) commandOf(container *corev1.Container) *Command {
	base, _, _ := image(container.Image)
	for i, command := range c.options.Commands {
		if command.Image == base && len(container.Args) > 0 && container.Args[0] == command.Name {
			return &c.options.Commands[i]
		}
	}
	return nil
}

// program is the name of the service or command that a workload runs.
func (w *workload) program() string {
	switch {
	case w.service != nil:
		return w.service.Name
	case w.command != nil:
		return w.command.Name
	}
	return w.name
}
