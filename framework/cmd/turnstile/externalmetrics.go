package main

import (
	"fmt"
	"log/slog"
	"net"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/externalmetrics"
	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/manifests"
	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/workspace"
	"github.com/turnstile-go/turnstile/framework/internal/memory"
)

// externalMetricsInPods is what its manifests are held against.
func externalMetricsInPods() manifests.Command {
	return manifests.Command{
		Image: "turnstile", Name: "external-metrics",
		Variables: []workspace.Variable{{Name: "LOG_LEVEL"}},
		Probes:    workspace.Probes{Live: "/livez", Ready: "/readyz", Startup: "/readyz"},
		Rules:     externalmetrics.Rules, ClusterRules: externalmetrics.ClusterRules,
		Read: func(args []string) (said manifests.Arguments, err error) {
			flag, err := flagsIn(externalMetricsCommand(), args)
			if err != nil {
				return said, err
			}
			return manifests.Arguments{Probed: flag("listen")}, nil
		},
		Metric: func(name, selector string) (service string, err error) {
			if name != externalmetrics.Metric {
				return "", fmt.Errorf("there is no external metric %s, only %s", name, externalmetrics.Metric)
			}
			return externalmetrics.ServiceOf(selector)
		},
	}
}

func externalMetricsCommand() *cobra.Command {
	var address string
	c := &cobra.Command{
		Use:   "external-metrics",
		Short: "Tell Kubernetes how far services are behind with their events, for it to scale them",
		Long: `Serves Kubernetes's external metrics API, until SIGTERM or SIGINT, with one metric:

  ` + externalmetrics.Metric + `

is how many seconds ago the oldest event was committed that a service is at. A HorizontalPodAutoscaler names the Service
with the selector service=<name>. It runs in a pod; infra/k8s/components/autoscaling has all that it needs. Its log is
JSON at level LOG_LEVEL (INFO if not set).`,
		Args: cobra.NoArgs,
	}
	c.Flags().StringVar(&address, "listen", ":8443", "address to listen on, for the API server and for probes at /livez and /readyz")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		log, err := jsonLog(slog.LevelInfo)
		if err != nil {
			return err
		}
		memory.Fit(cmd.Context(), log)
		cfg, err := rest.InClusterConfig()
		if err != nil {
			return fmt.Errorf("external-metrics runs in a pod, with the token of a ServiceAccount: %w", err)
		}
		server, err := externalmetrics.New(cfg, log)
		if err != nil {
			return err
		}
		listener, err := new(net.ListenConfig).Listen(cmd.Context(), "tcp", address)
		if err != nil {
			return err
		}
		return server.Run(cmd.Context(), listener)
	}
	return c
}
