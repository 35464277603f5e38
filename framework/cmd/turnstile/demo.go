package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/console"
	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/demo"
	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/dev"
)

const demoHelp = `Runs the ticketing services on free ports and a temporary folder and proves what the framework promises: it signs up two
people, sells tickets through the gateway, lets orders expire, and kills processes with SIGKILL while events are in flight.
At the end it compares what every service committed with what every listener group made of it: each event must have had
its effect exactly once, in the order of its key. The last line is

  demo: ok orders=N events=N lost=0 duplicated=0 misordered=0 p50=… p99=…

where p50 and p99 are from an event's commit to its effect. Anything else is a failure, with what was found, and exit
code 1. An order in ten is left to expire.`

func demoCommand(out *console.Console, stop *stopper) *cobra.Command {
	var o demo.Options
	var kill []string
	var broker string
	var chaos, keep, logs bool
	c := &cobra.Command{
		Use:   "demo",
		Short: "Sell tickets, kill processes in the middle, and prove that no event was lost",
		Long:  demoHelp,
		Args:  cobra.NoArgs,
	}
	c.Flags().IntVar(&o.Orders, "orders", 6, "how many orders to place; with --kill and --chaos at least one more than there are kills")
	c.Flags().StringVar(&broker, "broker", cmp.Or(os.Getenv("BROKER"), "stan"), brokerUsage)
	c.Flags().StringSliceVar(&kill, "kill", []string{dev.Broker}, "whom to kill, one after the other: services, broker, stan, jetstream, all, or none")
	c.Flags().BoolVar(&chaos, "chaos", false, "kill the broker and every service, once each (--kill all)")
	c.Flags().DurationVar(&o.Window, "window", 0, "how long an order may wait for its payment (default 12s, or 25s if services are killed)")
	c.Flags().IntVar(&o.Lines, "timeline", 120, "how many lines of the timeline to show; 0 shows all")
	c.Flags().BoolVar(&keep, "keep", false, "keep the temporary folder, with databases and logs")
	c.Flags().BoolVar(&logs, "logs", false, "show the services' logs instead of keeping them in the temporary folder")
	c.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		o.Began = time.Now()
		ctx := cmd.Context()
		w, err := find(ctx)
		if err != nil {
			return err
		}
		if chaos {
			kill = []string{"all"}
		}
		brokers, err := dev.Brokers(broker)
		if err != nil {
			return err
		}
		if o.Kill, err = victims(kill, w.Names(), brokers); err != nil {
			return err
		}
		if !cmd.Flags().Changed("orders") {
			o.Orders = max(o.Orders, 2*o.Rounds())
		}
		if o.Orders < o.Rounds() {
			return fmt.Errorf("--orders %d is too few: with %d kills there are %d rounds of business, and each has an order", o.Orders, len(o.Kill), o.Rounds())
		}
		if o.Window == 0 {
			o.Window = 12 * time.Second
			if slices.ContainsFunc(o.Kill, func(name string) bool { return !slices.Contains(brokers, name) }) {
				o.Window = 25 * time.Second
			}
		}
		program, err := brokerProgram()
		if err != nil {
			return err
		}
		state, err := os.MkdirTemp("", "turnstile-demo-")
		if err != nil {
			return fmt.Errorf("create a temporary folder: %w", err)
		}
		defer func() {
			if keep {
				out.Say(console.Dim, "kept in %s", state)
			} else {
				err = errors.Join(err, os.RemoveAll(state))
			}
		}()
		so := dev.Options{
			Workspace: w, State: state, Bin: filepath.Join(w.Root, ".turnstile", "demo"), Listen: "127.0.0.1:0",
			Environ: os.Environ(), Hermetic: true, Set: map[string]string{"BROKER": broker, "ORDER_EXPIRATION": o.Window.String()},
			Broker: program, Console: out,
		}
		if !logs {
			so.Logs = filepath.Join(state, "logs")
		}
		o.System, o.Console = dev.New(so), out
		stop.on(func() { out.Status(""); out.Say(console.Dim, "stopping; Ctrl-C again kills") }, o.System.KillAll)
		err = o.System.Run(ctx, func(ctx context.Context) error { return demo.Run(ctx, o) })
		if ctx.Err() != nil {
			return errInterrupted
		}
		if err != nil {
			keep = true // somebody will want to look into it
		}
		return err
	}
	return c
}

const brokerUsage = "broker to use: stan, jetstream, or stan+jetstream for both (BROKER)"

// victims resolves the names given to --kill.
func victims(names, services, brokers []string) (list []string, err error) {
	for _, name := range names {
		switch {
		case name == "none":
		case name == "all":
			list = append(append(list, brokers...), services...)
		case name == dev.Broker:
			list = append(list, brokers...)
		case slices.Contains(brokers, name) || slices.Contains(services, name):
			list = append(list, name)
		default:
			return nil, fmt.Errorf("--kill %s: there are %s, %s, all and none", name, strings.Join(services, ", "), strings.Join(brokers, ", "))
		}
	}
	return list, nil
}
