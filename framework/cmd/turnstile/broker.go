package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/manifests"
	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/process"
	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/workspace"
	"github.com/turnstile-go/turnstile/framework/event/jetstream/jetstreamserver"
	"github.com/turnstile-go/turnstile/framework/event/stan/stanserver"
	"github.com/turnstile-go/turnstile/framework/internal/adminport"
	"github.com/turnstile-go/turnstile/framework/internal/memory"
)

const (
	// leaveDelay is how long a server that is told to end goes on when it is not ready any more: the time that load
	// balancers take to notice.
	leaveDelay = 2 * time.Second

	// startPatience is how long a server that is told to end while it starts may take to do both.
	startPatience = 5 * time.Second
)

// brokerInPods is what its manifests are held against. One without a token would take everybody.
func brokerInPods() manifests.Command {
	return manifests.Command{
		Image: "turnstile", Name: "broker",
		Variables: []workspace.Variable{{Name: "BROKER_TOKEN", Required: true, Secret: true}, {Name: "LOG_LEVEL"}, {Name: "READY_FILE"}},
		Probes:    workspace.Probes{Live: "/livez", Ready: "/readyz", Startup: "/startupz"},
		Read: func(args []string) (said manifests.Arguments, err error) {
			flag, err := flagsIn(brokerCommand(), args)
			if err != nil {
				return said, err
			}
			peers, err := parsePeers(flag("peers"), flag("name"))
			return manifests.Arguments{Probed: flag("admin"), Servers: max(1, len(peers))}, err
		},
	}
}

func brokerCommand() *cobra.Command {
	var o brokerOptions
	var peers string
	c := &cobra.Command{
		Use:   "broker",
		Short: "Run a NATS Streaming or JetStream server: for development, or one of a cluster",
		Long: `Runs a NATS Streaming server, or with --kind jetstream a NATS server with JetStream, until SIGTERM or SIGINT. dev and
demo start it as a child process, so that it can be killed like a real one; with --peers it is one of a cluster, in which
each message is kept by all and acknowledged when more than half have it. Its log is JSON at level LOG_LEVEL (WARN if not
set). When clients can connect it writes its address to the file READY_FILE, if that is set.

Clients must present BROKER_TOKEN, if that is set, as in nats://token@127.0.0.1:4222, and so must the servers of a cluster,
which all have the same.`,
		Example: `  turnstile broker --dir data
  BROKER_TOKEN=hush turnstile broker --dir data --name b --host 0.0.0.0 --peers a=host-a:6222,b=host-b:6222,c=host-c:6222`,
		Args: cobra.NoArgs,
	}
	c.Flags().StringVar(&o.kind, "kind", "stan", "what to run: stan or jetstream")
	c.Flags().StringVar(&o.dir, "dir", "", "folder to keep messages in; if empty, they are forgotten at the end")
	c.Flags().StringVar(&o.host, "host", "127.0.0.1", "address to listen on; 0.0.0.0 is all of this machine's")
	c.Flags().IntVar(&o.port, "port", 4222, "port for clients; 0 picks a free one")
	c.Flags().StringVar(&o.clusterID, "cluster-id", "turnstile", "NATS Streaming cluster id")
	c.Flags().StringVar(&o.name, "name", "", "name of this server among --peers; it keeps it")
	c.Flags().StringVar(&peers, "peers", "",
		"all servers of the cluster, this one included, and where they reach one another, as in a=host:6222,b=...; it runs alone if empty")
	c.Flags().StringVar(&o.admin, "admin", "", "address for probes, as in :9090: /livez, /readyz, /startupz; none if empty")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		var err error
		if o.log, err = jsonLog(slog.LevelWarn); err != nil {
			return err
		}
		memory.Fit(cmd.Context(), o.log)
		o.token = os.Getenv("BROKER_TOKEN")
		if o.peers, err = parsePeers(peers, o.name); err != nil {
			return err
		}
		return runBroker(cmd.Context(), o)
	}
	return c
}

type brokerOptions struct {
	kind, dir, host, clusterID, name, token, admin string
	port                                           int
	peers                                          map[string]string
	log                                            *slog.Logger
}

// parsePeers reads what --peers says, as in a=host:6222, b=host:6223.
func parsePeers(text, own string) (map[string]string, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	peers := map[string]string{}
	for part := range strings.SplitSeq(text, ",") {
		name, addr, ok := strings.Cut(strings.TrimSpace(part), "=")
		_, _, err := net.SplitHostPort(addr)
		if !ok || name == "" || err != nil {
			return nil, fmt.Errorf("--peers: %q is not a name and an address such as a=host:6222", part)
		}
		if _, twice := peers[name]; twice {
			return nil, fmt.Errorf("--peers: there are two servers %s", name)
		}
		peers[name] = addr
	}
	if _, ok := peers[own]; !ok {
		return nil, fmt.Errorf("--name %q is none of those in --peers, which are all of the cluster, this one included: %s", own, text)
	}
	return peers, nil
}

// broker is a server of either kind.
type broker interface {
	URL() string
	Ready(ctx context.Context) error
	Leads() bool
	Shutdown()
}

func (o brokerOptions) start() (broker, error) {
	switch o.kind {
	case "stan":
		return stanserver.Start(stanserver.Options{
			Dir: o.dir, Host: o.host, Port: o.port, Token: o.token, ClusterID: o.clusterID, Name: o.name, Peers: o.peers, Log: o.log,
		})
	case "jetstream":
		return jetstreamserver.Start(jetstreamserver.Options{
			Dir: o.dir, Host: o.host, Port: o.port, Token: o.token, Name: o.name, Peers: o.peers, Log: o.log,
		})
	}
	return nil, fmt.Errorf("--kind %s: there are stan and jetstream", o.kind)
}

// runBroker runs a server until ctx is done.
func runBroker(ctx context.Context, o brokerOptions) error {
	var probes brokerProbes
	if o.admin != "" {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", o.admin)
		if err != nil {
			return fmt.Errorf("listen for probes (--admin): %w", err)
		}
		defer adminport.Serve(listener, probes.pages(), o.log).Close()
	}
	server, err := startBroker(ctx, o)
	if server == nil {
		return err
	}
	defer server.Shutdown()
	probes.started(server)
	if file := os.Getenv("READY_FILE"); file != "" {
		if err := ready(file, server.URL()); err != nil {
			return err
		}
	}
	<-ctx.Done()
	probes.leaving()
	if o.admin != "" {
		time.Sleep(leaveDelay)
	}
	return nil
}

// startBroker returns nothing at all if ctx is done before the server has started.
func startBroker(ctx context.Context, o brokerOptions) (broker, error) {
	type result struct {
		server broker
		err    error
	}
	started := make(chan result, 1)
	go func() {
		server, err := o.start()
		if err != nil {
			server = nil // not an interface with nothing in it
		}
		started <- result{server, err}
	}()
	select {
	case r := <-started:
		return r.server, r.err
	case <-ctx.Done():
	}
	// It cannot be interrupted, and may be waiting for other servers. We end without it: the next start repairs what it leaves.
	select {
	case r := <-started:
		return r.server, r.err
	case <-time.After(startPatience):
		return nil, nil
	}
}

// ready writes the file in one step: who sees it sees all of it.
func ready(file, url string) error {
	text, err := json.Marshal(process.Ready{
		Name: "broker", PID: os.Getpid(), Addresses: map[string]string{"nats": strings.TrimPrefix(url, "nats://")},
	})
	if err != nil {
		return fmt.Errorf("write READY_FILE: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".ready-*")
	if err != nil {
		return fmt.Errorf("write READY_FILE: %w", err)
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return fmt.Errorf("write READY_FILE: %w", errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}
