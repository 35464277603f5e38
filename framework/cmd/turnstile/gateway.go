package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/console"
	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/gateway"
	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/manifests"
)

// gatewayInPods is what its manifests are held against.
func gatewayInPods() manifests.Command {
	return manifests.Command{
		Image: "turnstile", Name: "gateway",
		Read: func(args []string) (said manifests.Arguments, err error) {
			_, err = flagsIn(gatewayCommand(nil), args)
			return said, err
		},
	}
}

func gatewayCommand(out *console.Console) *cobra.Command {
	var listen string
	var routes []string
	c := &cobra.Command{
		Use:   "gateway",
		Short: "Run the gateway of dev alone, in front of services that run elsewhere",
		Long: `Passes requests on by their paths, as the gateway of dev does, to services that something else runs: in a cluster for
development, whatever ingress it has or has not. It lists the services at /.`,
		Example: "  turnstile gateway --listen :8080 --route /api/orders=orders:8080 --route /api/users=auth:8080",
		Args:    cobra.NoArgs,
	}
	c.Flags().StringVar(&listen, "listen", "127.0.0.1:8080", "address to listen on")
	c.Flags().StringArrayVar(&routes, "route", nil, "`PATH=HOST:PORT`: who serves a path and all below it; may be repeated")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		g := gateway.New(0) // nobody tells when a service comes back
		defer g.Close()
		if err := setRoutes(g, routes); err != nil {
			return err
		}
		return serveGateway(cmd.Context(), out, g, listen)
	}
	return c
}

// setRoutes has the gateway pass on what routes (PATH=HOST:PORT) say.
func setRoutes(g *gateway.Gateway, routes []string) error {
	if len(routes) == 0 {
		return errors.New("nothing to pass on: say --route PATH=HOST:PORT, such as --route /api/orders=orders:8080")
	}
	paths := map[string][]string{} // by address
	for _, r := range routes {
		path, addr, _ := strings.Cut(r, "=")
		if _, port, err := net.SplitHostPort(addr); err != nil || port == "" || !strings.HasPrefix(path, "/") {
			return fmt.Errorf("--route %s: want PATH=HOST:PORT, such as /api/orders=orders:8080", r)
		}
		paths[addr] = append(paths[addr], path)
	}
	for addr, prefixes := range paths {
		if err := g.Route(addr, prefixes, prefixes[0]+"/docs"); err != nil {
			return err
		}
		g.Set(addr, gateway.Status{Phase: gateway.Up, Addr: addr})
	}
	g.Open()
	return nil
}

// serveGateway serves until ctx is done, and then answers what has been asked.
func serveGateway(ctx context.Context, out *console.Console, g *gateway.Gateway, listen string) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", listen)
	if err != nil {
		return fmt.Errorf("gateway: %w; choose another address with --listen", err)
	}
	server := g.Server()
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	out.Say(console.Good, "gateway on %s", listener.Addr())
	select {
	case err := <-served:
		return fmt.Errorf("gateway: %w", err)
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := server.Shutdown(last); err != nil {
		return fmt.Errorf("gateway: requests were cut off: %w", err)
	}
	return nil
}
