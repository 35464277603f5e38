// Chaos runs the application as processes, has people use it, and does it harm at random: it kills and pauses services
// and brokers, disturbs their connections, restarts the database, and deletes what the brokers have kept. Then it lets
// the application recover, and looks in the databases whether anything was lost, doubled, put out of order, sold twice,
// or left open.
//
//	go run ./e2e/cmd/chaos -duration 60s -seed 1 -broker stan -db postgres -replicas 2
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/turnstile-go/turnstile/e2e/internal/fleet"
)

const usage = `Chaos runs the application as processes, has people use it, and does it harm at random for the given time. Then it lets
the application recover, and compares in the databases what was promised and committed with what came of it. Run it in
the repository:

  go run ./e2e/cmd/chaos -duration 60s -seed 1 -broker stan -db postgres -replicas 2

What happens is on standard error. The last line, on standard output, is

  chaos: ok faults=N commands=N events=N lost=0 duplicated=0 misordered=0 doublesold=0 unsettled=0

Anything else is a failure: the exit code is 1, and the whole history of each event that went wrong is printed, as far
as the databases know it. Ctrl-C ends the harm early, and checks what was done so far; the second one exits at once.

`

// options are what the command line says.
type options struct {
	duration time.Duration
	seed     uint64
	brokers  []string
	postgres bool
	replicas int
	people   int
	keep     bool
}

func main() {
	o, err := parse(os.Args[1:], os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		os.Exit(2) // flag has told
	}
	os.Exit(run(interrupted(), o))
}

// parse reads the command line. What is wrong with it, it tells out.
func parse(args []string, out io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("chaos", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.Usage = func() {
		fmt.Fprint(out, usage)
		flags.PrintDefaults()
	}
	var broker, db string
	flags.DurationVar(&o.duration, "duration", time.Minute, "how long to do harm")
	flags.Uint64Var(&o.seed, "seed", 1, "decides which harm is done and what people want; what comes of it differs from run to run")
	flags.StringVar(&broker, "broker", "stan", "message broker: stan, jetstream, or stan+jetstream for both at once")
	flags.StringVar(&db, "db", "sqlite", "database: sqlite, or postgres for a server of our own")
	flags.IntVar(&o.replicas, "replicas", 0, "processes of each service (default 2 with postgres, and 1 with sqlite, where more are not possible)")
	flags.IntVar(&o.people, "people", 8, "how many people use the application at once")
	flags.BoolVar(&o.keep, "keep", false, "keep the folder of the run, with databases and logs; it is kept anyway if something is wrong")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	o.brokers = strings.Split(broker, "+")
	o.postgres = db == "postgres"
	if o.replicas == 0 {
		o.replicas = 1
		if o.postgres {
			o.replicas = 2
		}
	}
	wrong := func() string {
		switch {
		case flags.NArg() > 0:
			return fmt.Sprintf("there is no argument %q", flags.Arg(0))
		case o.duration <= 0:
			return "-duration must be more than 0"
		case broker != fleet.Stan && broker != fleet.JetStream && broker != fleet.Stan+"+"+fleet.JetStream:
			return fmt.Sprintf("-broker %q: want stan, jetstream or stan+jetstream", broker)
		case db != "sqlite" && db != "postgres":
			return fmt.Sprintf("-db %q: want sqlite or postgres", db)
		case o.replicas < 1:
			return "-replicas must be 1 or more"
		case o.replicas > 1 && !o.postgres:
			return fmt.Sprintf("-replicas %d needs -db postgres: a SQLite file belongs to one process", o.replicas)
		case o.people < 1:
			return "-people must be 1 or more"
		}
		return ""
	}()
	if wrong != "" {
		fmt.Fprintln(out, "chaos: "+wrong+"; see -h")
		return o, errors.New(wrong)
	}
	return o, nil
}

// interrupted returns a context that is done at the first Ctrl-C or SIGTERM. At the second the process exits, and all
// that it has started dies with it.
func interrupted() context.Context {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		cancel(fmt.Errorf("%v", <-signals))
		<-signals
		os.Exit(130)
	}()
	return ctx
}
