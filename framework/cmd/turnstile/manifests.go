package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/manifests"
	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/workspace"
)

func manifestsCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "manifests", Short: "Hold Kubernetes manifests against what the services say of themselves",
	}
	group(c, manifestsCheckCommand(), manifestsSecretsCommand())
	return c
}

const manifestsCheckHelp = `Renders kustomizations and compares them with what every service of the workspace says of itself (<service> describe)
and of the environment that it would be given (<service> check): variables, ports and probes, the time to stop, paths
of Ingress and HTTPRoute, NetworkPolicies, Roles, and how pods are secured; so also the commands of this program that run
in pods: broker, gateway, external-metrics. A line names the file, the object, what is wrong with it and what to do. No
cluster is needed.

Without arguments that is every overlay in infra/k8s/overlays, and the overlay production with each component of
infra/k8s/components that it does not have.

Whom a service calls follows from its variables. What is no service (a broker, a job) calls whom its variables and
arguments name as host:port; if they do not, the annotation turnstile/calls of its pods does.`

func manifestsCheckCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "check [folder of a kustomization]...", Short: "Say where manifests and services do not fit together", Long: manifestsCheckHelp,
	}
	c.Flags().StringVarP(&output, "output", "o", "", "json for machines")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if output != "" && output != "json" {
			return fmt.Errorf("-o %s: the only other form is json", output)
		}
		ctx := cmd.Context()
		w, err := find(ctx)
		if err != nil {
			return err
		}
		options := manifests.Options{Root: w.Root, Commands: commandsInPods()}
		if options.Kustomizations, err = kustomizations(w, args); err != nil {
			return err
		}
		if options.Built, err = manifests.Images(w); err != nil {
			return err
		}
		if options.Services, err = describeAll(ctx, w); err != nil {
			return err
		}
		report, err := manifests.Check(ctx, options)
		if err != nil {
			return err
		}
		out := cmd.OutOrStdout()
		if output == "json" {
			text, err := json.MarshalIndent(report, "", "  ")
			if err != nil {
				return err
			}
			fmt.Fprintf(out, "%s\n", text)
		} else {
			fmt.Fprint(out, reportText(report))
		}
		if n := len(report.Problems); n > 0 {
			return fmt.Errorf("manifests do not fit the services: %s", plural(n, "problem"))
		}
		return nil
	}
	return c
}

// commandsInPods are the commands of this program that run in pods.
func commandsInPods() []manifests.Command {
	return []manifests.Command{brokerInPods(), gatewayInPods(), externalMetricsInPods()}
}

// flagsIn reads the arguments of a command, and returns what says what a flag is then.
func flagsIn(c *cobra.Command, args []string) (flag func(name string) string, err error) {
	if err := c.ParseFlags(args); err != nil {
		return nil, err
	}
	return func(name string) string { return c.Flags().Lookup(name).Value.String() }, c.ValidateArgs(c.Flags().Args())
}

// reportText is what people read of a report.
func reportText(r *manifests.Report) string {
	var b strings.Builder
	for _, p := range r.Problems {
		b.WriteString(p.String())
		if len(p.In) < len(r.Kustomizations) {
			fmt.Fprintf(&b, " (%s)", strings.Join(p.In, ", "))
		}
		b.WriteString("\n")
	}
	if len(r.Problems) > 0 {
		return b.String()
	}
	// Those of several kustomizations are the same, more or less: said once, with who has it.
	by := map[string][]string{}
	for _, k := range r.Kustomizations {
		var names []string
		for _, s := range r.Secrets[k] {
			names = append(names, s.Name)
		}
		if text := strings.Join(names, ", "); text != "" {
			by[text] = append(by[text], k)
		}
	}
	for _, names := range slices.Sorted(maps.Keys(by)) {
		fmt.Fprintf(&b, "%s: expects the Secrets %s\n", strings.Join(by[names], ", "), names)
	}
	fmt.Fprintf(&b, "manifests: ok (%s, %s, %s)\n",
		plural(len(r.Kustomizations), "kustomization"), plural(r.Services, "service"), plural(r.Objects, "object"))
	return b.String()
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// kustomizations are those that the user names, or else all of the workspace.
func kustomizations(w *workspace.Workspace, args []string) ([]manifests.Kustomization, error) {
	var named []manifests.Kustomization
	for _, arg := range args {
		dir, err := filepath.Abs(arg)
		if err == nil {
			dir, err = filepath.EvalSymlinks(dir)
		}
		if err != nil {
			return nil, fmt.Errorf("find the kustomization: %w", err)
		}
		named = append(named, manifests.Kustomization{Name: arg, Dir: dir})
	}
	if named != nil {
		return named, nil
	}
	dir := filepath.Join(w.Root, "infra", "k8s")
	all, err := manifests.Find(dir)
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("there are no overlays in %s: name the folder of a kustomization", filepath.Join(dir, "overlays"))
	}
	return all, err
}

// describeAll builds all services and asks each what it is.
func describeAll(ctx context.Context, w *workspace.Workspace) ([]manifests.Service, error) {
	bin := filepath.Join(w.Root, ".turnstile", "manifests")
	if err := w.Build(ctx, w.Services, bin, false); err != nil {
		return nil, err
	}
	list := make([]manifests.Service, len(w.Services))
	group, asking := errgroup.WithContext(ctx)
	for i, s := range w.Services {
		group.Go(func() (err error) {
			list[i].Program = filepath.Join(bin, s.Name)
			list[i].Description, err = workspace.Describe(asking, list[i].Program, nil)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return list, nil
}

const manifestsSecretsHelp = `Prints, as YAML, the Secrets that the pods of a kustomization name and that it does not contain, with random values, a
new one at every call. Values that depend on each other fit: a service's DATABASE_URL has the password that the
database server is given under the service's name, and a broker's URL the token that its servers are given.

  turnstile manifests secrets | kubectl create -f -

create refuses those that exist already; apply would replace them, and the servers would go on with the old ones. What
the manifests do not tell, such as the URL of a database elsewhere, is named on standard error and left to you.`

func manifestsSecretsCommand() *cobra.Command {
	var namespace string
	c := &cobra.Command{
		Use: "secrets [folder of a kustomization]", Short: "Make the Secrets that a kustomization expects", Long: manifestsSecretsHelp,
		Args: cobra.MaximumNArgs(1),
	}
	c.Flags().StringVarP(&namespace, "namespace", "n", "", "the namespace to write into them, if not the kustomization's own")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		w, err := find(cmd.Context())
		if err != nil {
			return err
		}
		if len(args) == 0 {
			args = []string{filepath.Join(w.Root, "infra", "k8s", "overlays", "production")}
		}
		named, err := kustomizations(w, args)
		if err != nil {
			return err
		}
		text, unknown, err := manifests.Secrets(w.Root, w.Names(), named[0], namespace)
		if err != nil {
			return err
		}
		for _, name := range unknown {
			fmt.Fprintf(cmd.ErrOrStderr(), "# the manifests do not tell what is to be in the Secret %s: make it yourself\n", name)
		}
		if len(text) == 0 && len(unknown) == 0 {
			return errors.New("there is nothing to make: all Secrets are in the kustomization")
		}
		_, err = cmd.OutOrStdout().Write(text)
		return err
	}
	return c
}
