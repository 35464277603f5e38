package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/dev"
	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/event/admin"
)

const eventsHelp = `Shows the events of services, what waits and why, and mends what no service can mend by itself.

Each service has a ledger in its own database. Which ones to look at is said by any number of
  --database URL        a database, postgres://… or sqlite:path; the service's name is that of the database or file,
                        or goes before it: orders=postgres://…
  --admin URL           the admin port of a running service, as in http://orders:9090
  --service NAME        a service that 'turnstile dev' runs in this workspace
and without them it is all services of the workspace. What spans services (trace, lag, audit, broker-status) is only as
complete as the ledgers that it is given. Services may run meanwhile.

With -o json there is one JSON document on standard output. Exit codes: 0 done, 1 failed, or the audit found something,
3 broker-status says to wait.`

// eventsFlags are what all commands about events have in common.
type eventsFlags struct {
	databases, services, ports []string
	output                     string
	now                        func() time.Time
}

func eventsCommand() *cobra.Command { return (&eventsFlags{now: time.Now}).command() }

func (f *eventsFlags) command() *cobra.Command {
	c := &cobra.Command{
		Use: "events", Short: "See what became of events, and mend what holds them up", Long: eventsHelp,
	}
	c.PersistentFlags().StringArrayVar(&f.databases, "database", nil, "a service's database; may be repeated")
	c.PersistentFlags().StringArrayVar(&f.ports, "admin", nil, "a running service's admin port; may be repeated")
	c.PersistentFlags().StringArrayVar(&f.services, "service", nil, "a service that 'turnstile dev' runs here; may be repeated")
	c.PersistentFlags().StringVarP(&f.output, "output", "o", "", "json for machines")
	group(c, f.listCommand(), f.showCommand(), f.traceCommand(), f.deadCommand(), f.parkedCommand(), f.lagCommand(),
		f.redriveCommand(), f.skipCommand(), f.replayCommand(), f.auditCommand(), f.brokerStatusCommand())
	return c
}

// run makes a command's RunE of what it does with the ledgers. What do returns is written as JSON, if that is asked for,
// or else by print; both also together with an error, but only if there is something.
func run[T any](f *eventsFlags, do func(cmd *cobra.Command, ledgers []*admin.Ledger, args []string) (*T, error), print func(w *table, v *T)) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if f.output != "" && f.output != "json" {
			return fmt.Errorf("-o %s: the only other form is json", f.output)
		}
		ctx := cmd.Context()
		ledgers, closeAll, err := f.open(ctx)
		if err == nil {
			var v *T
			if v, err = do(cmd, ledgers, args); v != nil {
				err = errors.Join(err, f.write(cmd.OutOrStdout(), v, func(w *table) { print(w, v) }))
			}
			err = errors.Join(err, closeAll())
		}
		if ctx.Err() != nil {
			return errInterrupted
		}
		return err
	}
}

func (f *eventsFlags) write(out io.Writer, v any, print func(*table)) error {
	if f.output == "json" {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		return e.Encode(v)
	}
	t := newTable(out, f.now())
	print(t)
	return t.err
}

// open opens the ledgers that the flags name.
func (f *eventsFlags) open(ctx context.Context) (ledgers []*admin.Ledger, closeAll func() error, err error) {
	var opened []*database.DB
	shut := func() (err error) {
		for _, db := range opened {
			err = errors.Join(err, db.Close())
		}
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, shut())
		}
	}()
	add := func(service, url string) error {
		db, err := openDatabase(service, url)
		if err == nil {
			opened, ledgers = append(opened, db), append(ledgers, admin.New(service, db))
		}
		return err
	}
	for _, d := range f.databases {
		service, url := nameDatabase(d)
		if err := add(service, url); err != nil {
			return nil, nil, err
		}
	}
	for _, address := range f.ports {
		l, err := admin.Dial(ctx, address, &http.Client{Timeout: time.Minute})
		if err != nil {
			return nil, nil, err
		}
		ledgers = append(ledgers, l)
	}
	if len(f.services) > 0 || len(ledgers) == 0 {
		if err := f.openWorkspace(ctx, add); err != nil {
			return nil, nil, err
		}
	}
	return ledgers, shut, nil
}

// openWorkspace adds the databases of the workspace's services: of those that are named, or of all that have one.
func (f *eventsFlags) openWorkspace(ctx context.Context, add func(service, url string) error) error {
	w, err := find(ctx)
	if err != nil {
		if len(f.services) == 0 {
			return fmt.Errorf("which ledgers? Name databases with --database, or admin ports with --admin; for those of a workspace, be in its folder: %w", err)
		}
		return err
	}
	names := f.services
	if len(names) == 0 {
		names = w.Names()
	}
	found := false
	for _, name := range names {
		url, err := dev.DatabaseURL(filepath.Join(w.Root, ".turnstile"), filepath.Join(w.Root, ".env"), os.Environ(), name)
		if err != nil {
			return err
		}
		if err := add(name, url); errors.Is(err, os.ErrNotExist) {
			if len(f.services) > 0 {
				return fmt.Errorf("service %s has no database here: %w; has 'turnstile dev' run it? The services are %s", name, err, strings.Join(w.Names(), ", "))
			}
			continue
		} else if err != nil {
			return err
		}
		found = true
	}
	if !found {
		return errors.New("no service of this workspace has a database yet: run 'turnstile dev', or name others with --database or --admin")
	}
	return nil
}

// named is a database with the service's name before it.
var named = regexp.MustCompile(`^([\w.-]+)=((?:postgres|postgresql|sqlite):.*)$`)

// nameDatabase takes the value of --database apart.
func nameDatabase(flag string) (service, address string) {
	if parts := named.FindStringSubmatch(flag); parts != nil {
		return parts[1], parts[2]
	}
	if path, ok := strings.CutPrefix(flag, "sqlite:"); ok {
		return strings.TrimSuffix(filepath.Base(path), filepath.Ext(path)), flag
	}
	if u, err := url.Parse(flag); err == nil && strings.Trim(u.Path, "/") != "" {
		return strings.Trim(u.Path, "/"), flag
	}
	return "database", flag
}

// openDatabase opens the database, but makes none.
func openDatabase(service, url string) (*database.DB, error) {
	if path, ok := strings.CutPrefix(url, "sqlite:"); ok && path != ":memory:" {
		if _, err := os.Stat(strings.TrimPrefix(path, "//")); err != nil {
			return nil, fmt.Errorf("the database of %s: %w", service, err)
		}
	}
	db, err := database.New(database.Config{URL: url, MaxConns: 2})
	if err != nil {
		return nil, fmt.Errorf("the database of %s: %w", service, err)
	}
	return db, nil
}

// confirm asks for a yes, on a terminal.
func confirm(cmd *cobra.Command, yes bool, format string, args ...any) error {
	if yes {
		return nil
	}
	in := cmd.InOrStdin()
	if file, ok := in.(*os.File); ok && !term.IsTerminal(int(file.Fd())) {
		return fmt.Errorf("this would %s: say --yes, for nobody can be asked here", fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(cmd.ErrOrStderr(), format+"? [y/N] ", args...)
	answers := make(chan string, 1)
	go func() {
		answer, _ := bufio.NewReader(in).ReadString('\n') // without an answer, nothing is done
		answers <- answer
	}()
	select {
	case answer := <-answers:
		if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
			return errors.New("nothing was changed")
		}
		return nil
	case <-cmd.Context().Done(): // who reads stays behind; the process ends
		fmt.Fprintln(cmd.ErrOrStderr())
		return errInterrupted
	}
}

// moment reads a time: RFC 3339, or how long ago it was.
func moment(value string, now time.Time) (time.Time, error) {
	if value == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(value); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	if t, err := time.Parse(time.RFC3339, value); err == nil {
		return t, nil
	}
	return time.Time{}, fmt.Errorf("--since %s: want how long ago, as in 90s or 36h, or a time as in 2026-01-31T15:04:05Z", value)
}
