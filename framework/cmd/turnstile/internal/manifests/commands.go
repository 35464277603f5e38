package manifests

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/workspace"
)

// Command is a command that runs in pods and is no service, as it says of itself.
type Command struct {
	Image     string // that of its program
	Name      string // its first argument
	Variables []workspace.Variable
	Probes    workspace.Probes // where it answers; empty if it does not

	// What it does at the API server, in the namespaces of the services and in the whole cluster.
	Rules, ClusterRules []workspace.Rule

	// Read reads its other arguments. The error says what is wrong with them.
	Read func(args []string) (Arguments, error)

	// Metric, of a command that serves external metrics, returns the Service that one is of, by its name and label selector.
	Metric func(name, selector string) (service string, err error)
}

// Arguments is what the arguments of a command say.
type Arguments struct {
	Probed  string // the address at which it answers probes
	Servers int    // how many it is one of; 0 if it does not matter
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

// judgeCommand holds what a command's container is given against what the command takes.
func (c *checker) judgeCommand(w *workload, container *corev1.Container, command *Command) {
	name := command.Image + " " + command.Name
	c.judgeVariables(w, container, name, "", command.Variables, everywhere)
	for _, v := range command.Variables {
		given := func(g variable) bool { return g.name == v.Name && (g.value != "" || !g.known) }
		if v.Required && !slices.ContainsFunc(w.environment[container.Name], given) {
			c.problem(w.object, "", "add it to the env of the container", "container %s is not given %s", container.Name, v.Name)
		}
	}
	args := make([]string, len(container.Args)-1)
	for i, arg := range container.Args[1:] {
		args[i] = expand(arg, w.environment[container.Name])
	}
	said, err := command.Read(args)
	if err != nil {
		c.problem(w.object, "args", "correct its args; '"+name+" --help' lists them", "container %s: %v", container.Name, err)
		return
	}
	if said.Servers > 0 && int(w.replicas) != said.Servers {
		c.problem(w.object, "replicas", fmt.Sprintf("set replicas: %d, or name the others", said.Servers),
			"it has replicas: %d, and its arguments name %d servers", w.replicas, said.Servers)
	}
	if command.Probes == (workspace.Probes{}) {
		return
	}
	port, err := listening(said.Probed)
	if err != nil {
		c.problem(w.object, "args", "have it answer them at a port of all addresses", "container %s answers probes at %q, %v", container.Name, said.Probed, err)
		return
	}
	c.checkProbes(w, container, command.Name, command.Probes, port, "it answers them at "+said.Probed)
}

// expand puts variables in for $(NAME), as Kubernetes does.
func expand(text string, list []variable) string {
	return expansion.ReplaceAllStringFunc(text, func(reference string) string {
		for _, v := range list {
			if reference == "$("+v.name+")" {
				return v.value
			}
		}
		return reference
	})
}

// checkReferences has the variables be there that a container's arguments and other variables are made of.
func (c *checker) checkReferences(w *workload, container *corev1.Container) {
	list := w.environment[container.Name]
	texts := slices.Concat(container.Command, container.Args)
	for i := range texts {
		texts[i] = expand(texts[i], list)
	}
	for _, v := range list {
		if v.at == nil { // or else it is taken as it is
			texts = append(texts, v.value)
		}
	}
	for _, text := range texts {
		if match := expansion.FindStringSubmatch(text); match != nil && !strings.Contains(text, "$$(") {
			c.problem(w.object, match[0], "add it to the env of the container, before what is made of it", "container %s names $(%s), which it is not given", container.Name, match[1])
		}
	}
}
