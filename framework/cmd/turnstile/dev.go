package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/console"
	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/dev"
	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/workspace"
)

const devHelp = `Runs every service of the workspace, with a broker and a gateway in front, and rebuilds and restarts what a
changed file concerns. State is kept in .turnstile at the root of the workspace.

A service is a module in go.work that has cmd/<name>/main.go and a folder service/. What it is given follows from
what it says of itself (<service> describe). Your environment goes before that, and so does a file .env beside go.work:
  NAME=value             for every service that takes NAME
  <SERVICE>_NAME=value   for one service, such as ORDERS_DATABASE_URL
{service} in a value stands for the service's name. BROKER says which brokers to start. NATS_URL and JETSTREAM_URL stand
for brokers of yours, so that none is started for them.`

func devCommand(out *console.Console, stop *stopper) *cobra.Command {
	var listen, broker string
	var reset, debug, watch bool
	c := &cobra.Command{
		Use:   "dev",
		Short: "Run every service of the workspace and rebuild what changes",
		Long:  devHelp,
		Args:  cobra.NoArgs,
	}
	c.Flags().StringVar(&listen, "listen", "127.0.0.1:8080", "address of the gateway")
	c.Flags().StringVar(&broker, "broker", "", brokerUsage)
	c.Flags().BoolVar(&reset, "reset", false, "delete the databases and the broker's messages first")
	c.Flags().BoolVar(&watch, "watch", true, "rebuild and restart services when files change")
	c.Flags().BoolVar(&debug, "debug", false, "build services with what a debugger needs, which takes longer")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		began, ctx := time.Now(), cmd.Context()
		w, err := find(ctx)
		if err != nil {
			return err
		}
		state := filepath.Join(w.Root, ".turnstile")
		program, err := brokerProgram()
		if err != nil {
			return err
		}
		set := map[string]string{}
		if broker != "" {
			set["BROKER"] = broker
		}
		system := dev.New(dev.Options{
			Workspace: w, State: state, Bin: filepath.Join(state, "bin"), Reset: reset, Debug: debug,
			Listen: listen, Environ: os.Environ(), DotEnv: filepath.Join(w.Root, ".env"), Set: set, Broker: program, Console: out,
		})
		stop.on(func() { out.Say(console.Dim, "stopping; Ctrl-C again kills") }, system.KillAll)

		var watcher *workspace.Watcher
		ended := make(chan error, 1)
		if watch {
			if watcher, err = w.Watch(); err != nil {
				return err
			}
			watching, cancel := context.WithCancel(ctx)
			defer func() { cancel(); <-ended }()
			go func() { ended <- watcher.Run(watching); close(ended) }()
		}
		err = system.Run(ctx, func(ctx context.Context) error {
			announced := make(chan struct{})
			go func() {
				defer close(announced)
				announce(ctx, system, out, began, watch)
			}()
			defer func() { <-announced }()
			if watch {
				return system.Watch(ctx, watcher)
			}
			<-ctx.Done()
			return nil
		})
		if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
			out.Say(console.Dim, "stopped; state is kept in .turnstile (--reset deletes it)")
			return nil
		}
		return err
	}
	return c
}

// announce shows what runs where, as soon as all does, and what is missing if that takes long.
func announce(ctx context.Context, system *dev.System, out *console.Console, began time.Time, watch bool) {
	for {
		waiting, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := system.Await(waiting)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			break
		}
		out.Say(console.Warn, "not ready yet: %s", strings.Join(system.Unready(), ", "))
	}
	took := time.Since(began)
	hint := "Ctrl-C stops."
	if watch {
		hint = "Watching for changes. Ctrl-C stops."
	}
	out.Print("\n  " + out.Text(console.Bold, "Turnstile") + " is ready after " + out.Text(console.Good, fmt.Sprintf("%.2f s", took.Seconds())) + "\n\n" +
		system.Overview() + "\n  " + out.Text(console.Dim, hint) + "\n")
}

// find locates the workspace of the current folder.
func find(ctx context.Context) (*workspace.Workspace, error) {
	dir, err := os.Getwd()
	if err != nil {
		return nil, fmt.Errorf("find the current folder: %w", err)
	}
	return workspace.Find(ctx, dir)
}

// brokerProgram returns how to start the broker: as this very program.
func brokerProgram() ([]string, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program, which is the broker, too: %w", err)
	}
	return []string{program, "broker"}, nil
}

// builtByGoRun reports whether a program lies where `go run` puts it.
func builtByGoRun(program string) bool {
	return strings.Contains(program, string(filepath.Separator)+"go-build")
}
