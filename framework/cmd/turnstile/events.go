package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/dev"
	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/event/admin"
)

const eventsHelp = `Shows the events that a service cannot deal with by itself, has them tried again, or gives them up.

The service's database is named by --database (postgres://… or sqlite:…), or by --service for one that
'turnstile dev' runs. The service may be running meanwhile: it goes on within a second.

Kinds of letter:
  dead       every attempt failed; the key's later events wait behind it (redrive or skip)
  gap        a number of the key does not arrive (skip, or have its producer send it again)
  fork       a producer gave a number out twice, as after a restored backup (skip removes the letter)
  malformed  a message that is no event (skip removes the letter)`

// letterFlags name a database and, in it, a letter.
type letterFlags struct {
	database, service string
	yes               bool
	output            string
	letter            admin.Letter
}

func eventsCommand() *cobra.Command {
	var f letterFlags
	c := &cobra.Command{Use: "events", Short: "See and mend what listeners could not deal with", Long: eventsHelp}
	c.PersistentFlags().StringVar(&f.database, "database", "", "the service's database")
	c.PersistentFlags().StringVar(&f.service, "service", "", "a service that 'turnstile dev' runs in this workspace")
	c.MarkFlagsMutuallyExclusive("database", "service")

	list := &cobra.Command{
		Use:   "dead",
		Short: "List dead letters, oldest first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.output != "" && f.output != "json" {
				return fmt.Errorf("-o %s: the only other form is json", f.output)
			}
			return f.with(cmd.Context(), func(ctx context.Context, db *database.DB) error {
				letters, err := admin.New(f.service, db).Letters(ctx, admin.Filter{})
				if err != nil {
					return err
				}
				if f.output == "json" {
					return json.NewEncoder(cmd.OutOrStdout()).Encode(letters)
				}
				return printLetters(cmd.OutOrStdout(), letters)
			})
		},
	}
	list.Flags().StringVarP(&f.output, "output", "o", "", "json for machines")
	c.AddCommand(list,
		f.command("redrive", "Try a dead event again from its first attempt", (*admin.Ledger).Redrive),
		f.command("skip", "Give a dead event or a gap up, or remove another letter", (*admin.Ledger).Skip))
	return c
}

// command returns a command that changes the one letter its flags name.
func (f *letterFlags) command(use, short string, do func(*admin.Ledger, context.Context, admin.Letter) error) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs}
	c.Flags().StringVar(&f.letter.Group, "group", "", "listener group")
	c.Flags().StringVar(&f.letter.Stream, "stream", "", "stream")
	c.Flags().StringVar(&f.letter.Key, "key", "", "key")
	c.Flags().Int64Var(&f.letter.Sequence, "sequence", 0, "number in the key")
	c.Flags().StringVar(&f.letter.Kind, "kind", "dead", "kind of letter")
	c.Flags().BoolVar(&f.yes, "yes", false, "do not ask")
	for _, name := range []string{"group", "stream"} {
		_ = c.MarkFlagRequired(name) // the flag exists
	}
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		return f.with(cmd.Context(), func(ctx context.Context, db *database.DB) error {
			if !f.yes {
				if err := confirm(cmd.InOrStdin(), cmd.OutOrStdout(), use+" the "+f.letter.String()+" in "+db.String()); err != nil {
					return err
				}
			}
			if err := do(admin.New(f.service, db), ctx, f.letter); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: done\n", use)
			return err
		})
	}
	return c
}

// with opens the database that the flags name.
func (f *letterFlags) with(ctx context.Context, do func(context.Context, *database.DB) error) error {
	url := f.database
	switch {
	case f.service != "":
		w, err := find(ctx)
		if err != nil {
			return err
		}
		path := dev.DatabasePath(filepath.Join(w.Root, ".turnstile"), f.service)
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("service %s has no database here: %w; has 'turnstile dev' run it?", f.service, err)
		}
		url = "sqlite:" + path
	case url == "":
		return errors.New("which database? Name it with --database, or a service of 'turnstile dev' with --service")
	}
	db, err := database.New(database.Config{URL: url})
	if err != nil {
		return err
	}
	return errors.Join(do(ctx, db), db.Close())
}

func printLetters(out io.Writer, letters []admin.Letter) error {
	if len(letters) == 0 {
		_, err := fmt.Fprintln(out, "no dead letters")
		return err
	}
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "KIND\tGROUP\tSTREAM\tKEY\tNO.\tATTEMPTS\tSINCE\tERROR")
	for _, l := range letters {
		reason, _, _ := strings.Cut(l.Error, "\n")
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\n", l.Kind, l.Group, l.Stream, l.Key, l.Sequence, l.Attempts, l.At.Local().Format(time.DateTime), reason)
	}
	return t.Flush()
}

// confirm asks for a yes.
func confirm(in io.Reader, out io.Writer, what string) error {
	fmt.Fprintf(out, "%s? [y/N] ", what)
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
		return errors.New("nothing was changed")
	}
	return nil
}
