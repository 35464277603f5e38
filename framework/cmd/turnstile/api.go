package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
may break: because an API, an operation, a parameter, a member or an answer is gone, because more is asked of requests,
or because answers hold what they did not before. A line names the document, the operation, the change, and what to do.
Of a service with several APIs each has its own document, openapi.<api>.json.

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
		return diffDocuments(cmd.Context(), cmd.OutOrStdout(), documents, exact)
	}
	return c
}

func diffDocuments(ctx context.Context, out io.Writer, documents []document, exact bool) error {
	broken, missing, stale := 0, 0, 0
	for _, d := range documents {
		n, err := d.report(ctx, out)
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
	fmt.Fprintf(out, "api: ok (%s)\n", plural(len(documents), "document"))
	return nil
}

const apiWriteHelp = `Writes the OpenAPI document of every service of the workspace to openapi.json in the service's folder, to be committed:
'turnstile api diff' compares with it from then on. What would break clients is listed and not written without --breaking,
with which the documents of APIs that are gone are removed, too.`

func apiWriteCommand() *cobra.Command {
	var breaking bool
	c := &cobra.Command{Use: "write [service]...", Short: "Note the services' APIs as they are now", Long: apiWriteHelp}
	c.Flags().BoolVar(&breaking, "breaking", false, "write what breaks clients, too")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		documents, err := documentsOf(cmd.Context(), args)
		if err != nil {
			return err
		}
		return writeDocuments(cmd.Context(), cmd.OutOrStdout(), documents, breaking)
	}
	return c
}

func writeDocuments(ctx context.Context, out io.Writer, documents []document, breaking bool) error {
	broken := 0
	for _, d := range documents {
		n, err := d.report(ctx, out)
		if err != nil {
			return err
		}
		broken += n
	}
	if broken > 0 && !breaking {
		return fmt.Errorf("nothing is written, because clients break: %s; if that is meant, say --breaking", plural(broken, "change"))
	}
	for _, d := range documents {
		switch {
		case d.current == nil:
			if err := os.Remove(d.file); err != nil {
				return fmt.Errorf("remove the OpenAPI document: %w", err)
			}
			fmt.Fprintf(out, "%s: removed\n", d.name)
		case !bytes.Equal(d.committed, d.current):
			if err := os.WriteFile(d.file, d.current, 0o644); err != nil { //nolint:gosec // no secret: it is committed
				return fmt.Errorf("write the OpenAPI document: %w", err)
			}
			fmt.Fprintf(out, "%s: written\n", d.name)
		}
	}
	return nil
}

// document is the OpenAPI document of one API.
type document struct {
	file, name string // where it is committed: absolute, and as it is shown
	committed  []byte // nil if it is not
	current    []byte // nil if there is no such API any more
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
		dirs := map[string]bool{} // a module may have several services, whose documents are in one folder
		for _, s := range w.Services {
			dirs[s.Dir] = dirs[s.Dir] || slices.Contains(names, s.Name)
		}
		w.Services = slices.DeleteFunc(w.Services, func(s workspace.Service) bool { return !dirs[s.Dir] })
	}
	described, err := describeAll(ctx, w)
	if err != nil {
		return nil, err
	}
	apis := map[string]map[string]json.RawMessage{} // by folder and name
	for i, s := range w.Services {
		if apis[s.Dir] == nil {
			apis[s.Dir] = map[string]json.RawMessage{}
		}
		maps.Copy(apis[s.Dir], described[i].Description.OpenAPI)
	}
	var list []document
	for _, dir := range slices.Sorted(maps.Keys(apis)) {
		documents, err := documentsIn(w.Root, dir, apis[dir])
		if err != nil {
			return nil, err
		}
		list = append(list, documents...)
	}
	if len(list) == 0 {
		return nil, errors.New("no service has an API: each describes its own with web.NewServer")
	}
	return list, nil
}

// documentsIn returns the documents of the APIs whose documents are committed in a folder, and then those committed there
// that no API has.
func documentsIn(root, dir string, apis map[string]json.RawMessage) ([]document, error) {
	files, err := filepath.Glob(filepath.Join(dir, "openapi.*json")) // openapi.json and openapi.<api>.json
	if err != nil {
		return nil, fmt.Errorf("find the OpenAPI documents: %w", err)
	}
	committed := map[string][]byte{}
	for _, file := range files {
		if committed[file], err = os.ReadFile(file); err != nil {
			return nil, fmt.Errorf("read the OpenAPI document: %w", err)
		}
	}
	var list []document
	add := func(file string, current []byte) error {
		name, err := filepath.Rel(root, file)
		if err != nil {
			return fmt.Errorf("find the OpenAPI document: %w", err)
		}
		list = append(list, document{file, name, committed[file], current})
		delete(committed, file)
		return nil
	}
	for _, api := range slices.Sorted(maps.Keys(apis)) {
		// An only API's document stays where it is when another API comes, so that it is compared with what it was.
		only, own := filepath.Join(dir, "openapi.json"), filepath.Join(dir, "openapi."+api+".json")
		file := own
		if committed[own] == nil && (len(apis) == 1 || titleOf(committed[only]) == titleOf(apis[api])) {
			file = only
		}
		var b bytes.Buffer
		if err := json.Indent(&b, apis[api], "", "  "); err != nil {
			return nil, fmt.Errorf("the OpenAPI document of %s: %w", api, err)
		}
		b.WriteByte('\n')
		if err := add(file, b.Bytes()); err != nil {
			return nil, err
		}
	}
	for _, file := range slices.Sorted(maps.Keys(committed)) {
		if err := add(file, nil); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// titleOf is the title of an OpenAPI document, "" if it is none.
func titleOf(text []byte) string {
	var d struct{ Info struct{ Title string } }
	if json.Unmarshal(text, &d) != nil {
		return ""
	}
	return d.Info.Title
}

// report writes how the current document differs from the committed one, and returns how many of the changes break clients.
func (d document) report(ctx context.Context, out io.Writer) (broken int, err error) {
	if d.committed == nil {
		fmt.Fprintf(out, "%s: there is none\n", d.name)
		return 0, nil
	}
	if d.current == nil {
		fmt.Fprintf(out, "%s: there is no such API any more: clients break; keep it, marked as deprecated, until no client uses it\n", d.name)
		return 1, nil
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
