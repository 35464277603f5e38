package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/openapi"
	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/workspace"
)

func apiCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "api", Short: "Hold the services' APIs against what their clients were told",
	}
	group(c, apiDiffCommand(), apiWriteCommand())
	return c
}

const apiDiffHelp = `Compares the OpenAPI document that every service of the workspace has now (<service> describe) with the one that is
committed with it, openapi.json in the service's folder, and fails if a client that was written for the committed one
may break: because an operation, a parameter, a member or an answer is gone, because more is asked of requests, or
because answers hold what they did not before. A line names the document, the operation, the change, and what to do.

What breaks nobody is listed, too, and is no failure without --exact.`

func apiDiffCommand() *cobra.Command {
	var exact bool
	c := &cobra.Command{Use: "diff [service]...", Short: "Say which changes break clients", Long: apiDiffHelp}
	c.Flags().BoolVar(&exact, "exact", false, "fail as well if a committed document is not, to the letter, the one that the service has")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		documents, err := documentsOf(cmd.Context(), args)
		if err != nil {
			return err
		}
		broken, missing, stale := 0, 0, 0
		for _, d := range documents {
			n, err := d.report(cmd.Context(), cmd.OutOrStdout())
			if err != nil {
				return err
			}
			broken += n
			switch {
			case d.committed == nil:
				missing++
			case !bytes.Equal(d.committed, d.current):
				stale++
			}
		}
		switch {
		case broken > 0:
			return fmt.Errorf("clients break: %s; if that is meant, 'turnstile api write --breaking' notes the new documents",
				plural(broken, "change"))
		case missing > 0:
			return fmt.Errorf("%s not committed: 'turnstile api write' makes what is to be", plural(missing, "document"))
		case stale > 0 && exact:
			return fmt.Errorf("%s not as committed: 'turnstile api write' notes what is new", plural(stale, "document"))
		}
		fmt.Fprintf(cmd.OutOrStdout(), "api: ok (%s)\n", plural(len(documents), "document"))
		return nil
	}
	return c
}

const apiWriteHelp = `Writes the OpenAPI document of every service of the workspace to openapi.json in the service's folder, to be committed:
'turnstile api diff' compares with it from then on. What would break clients is listed and not written without --breaking.`

func apiWriteCommand() *cobra.Command {
	var breaking bool
	c := &cobra.Command{Use: "write [service]...", Short: "Note the services' APIs as they are now", Long: apiWriteHelp}
	c.Flags().BoolVar(&breaking, "breaking", false, "write what breaks clients, too")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		documents, err := documentsOf(cmd.Context(), args)
		if err != nil {
			return err
		}
		broken := 0
		for _, d := range documents {
			n, err := d.report(cmd.Context(), cmd.OutOrStdout())
			if err != nil {
				return err
			}
			broken += n
		}
		if broken > 0 && !breaking {
			return fmt.Errorf("nothing is written, because clients break: %s; if that is meant, say --breaking", plural(broken, "change"))
		}
		for _, d := range documents {
			if bytes.Equal(d.committed, d.current) {
				continue
			}
			if err := os.WriteFile(d.file, d.current, 0o644); err != nil { //nolint:gosec // no secret: it is committed
				return fmt.Errorf("write the OpenAPI document: %w", err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: written\n", d.name)
		}
		return nil
	}
	return c
}

// document is the OpenAPI document of one API.
type document struct {
	file, name string // where it is committed: absolute, and as it is shown
	committed  []byte // nil if it is not
	current    []byte
}

// documentsOf asks the services that are named, or all, for their documents.
func documentsOf(ctx context.Context, names []string) ([]document, error) {
	w, err := find(ctx)
	if err != nil {
		return nil, err
	}
	if len(names) > 0 {
		for _, name := range names {
			if !slices.Contains(w.Names(), name) {
				return nil, fmt.Errorf("there is no service %s; the workspace has %s", name, w.Names())
			}
		}
		w.Services = slices.DeleteFunc(w.Services, func(s workspace.Service) bool { return !slices.Contains(names, s.Name) })
	}
	described, err := describeAll(ctx, w)
	if err != nil {
		return nil, err
	}
	var list []document
	for i, service := range w.Services {
		apis := described[i].Description.OpenAPI
		for _, api := range slices.Sorted(maps.Keys(apis)) {
			d := document{file: filepath.Join(service.Dir, "openapi.json")}
			if len(apis) > 1 {
				d.file = filepath.Join(service.Dir, "openapi."+api+".json")
			}
			if d.name, err = filepath.Rel(w.Root, d.file); err != nil {
				return nil, fmt.Errorf("find the OpenAPI document: %w", err)
			}
			var b bytes.Buffer
			if err := json.Indent(&b, apis[api], "", "  "); err != nil {
				return nil, fmt.Errorf("%s: %w", d.name, err)
			}
			b.WriteByte('\n')
			d.current = b.Bytes()
			if d.committed, err = os.ReadFile(d.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("read the OpenAPI document: %w", err)
			}
			list = append(list, d)
		}
	}
	if len(list) == 0 {
		return nil, errors.New("no service has an API: each describes its own with web.NewServer")
	}
	return list, nil
}

// report writes how the current document differs from the committed one, and returns how many of the changes break clients.
func (d document) report(ctx context.Context, out io.Writer) (broken int, err error) {
	if d.committed == nil {
		fmt.Fprintf(out, "%s: there is none\n", d.name)
		return 0, nil
	}
	changes, err := openapi.Compare(ctx, d.committed, d.current)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", d.name, err)
	}
	for _, c := range changes {
		where := d.name
		if c.Operation != "" {
			where += ": " + c.Operation
		}
		if c.Breaks() {
			broken++
			fmt.Fprintf(out, "%s: %s: clients break; %s\n", where, c.Detail, c.Fix)
		} else {
			fmt.Fprintf(out, "%s: %s\n", where, c.Detail)
		}
	}
	return broken, nil
}
