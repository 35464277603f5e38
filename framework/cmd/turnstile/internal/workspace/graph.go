package workspace

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Graph knows which files every service is made of. The zero value knows none.
type Graph struct {
	root     string
	services []string
	packages map[string]*pkg   // by folder
	modules  map[string]string // folder → module path, of the modules in the workspace
}

type pkg struct {
	module   string
	embeds   []string // patterns, relative to the folder
	services []string // the services that it is linked into
}

// Load reads the import graph of the services from the go command. Packages that do not compile at the moment are
// no obstacle.
func (w *Workspace) Load(ctx context.Context) (*Graph, error) {
	args := []string{"list", "-e", "-deps", "-json=ImportPath,Dir,Standard,Module,EmbedPatterns,Deps"}
	for _, s := range w.Services {
		args = append(args, s.Main)
	}
	out, stderr, err := w.run(ctx, args...)
	if err != nil {
		if _, refused := errors.AsType[*exec.ExitError](err); refused {
			return nil, fmt.Errorf("read the import graph: %w: %s", err, strings.TrimSpace(stderr))
		}
		return nil, fmt.Errorf("read the import graph: %w", err)
	}
	g := &Graph{root: w.Root, services: w.Names(), packages: map[string]*pkg{}, modules: map[string]string{}}
	for _, m := range w.Modules {
		g.modules[m.Dir] = m.Path
	}
	byPath, deps := map[string]*pkg{}, map[string][]string{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			ImportPath, Dir     string
			Standard            bool
			Module              *struct{ Path, Dir string }
			EmbedPatterns, Deps []string
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("read the import graph: %w", err)
		}
		if p.Standard || p.Dir == "" || p.Module == nil || g.modules[p.Module.Dir] == "" {
			continue // only what lives in the workspace can change
		}
		n := &pkg{module: p.Module.Path, embeds: p.EmbedPatterns}
		g.packages[p.Dir], byPath[p.ImportPath], deps[p.ImportPath] = n, n, p.Deps
	}
	for _, s := range w.Services {
		for _, path := range append(deps[s.Main], s.Main) {
			if p := byPath[path]; p != nil {
				p.services = append(p.services, s.Name)
			}
		}
	}
	return g, nil
}

// Affected returns the names of the services that must be built again after file (an absolute path) was written,
// created or removed: those that import its package, embed it, or depend on its module if it is a go.mod. The
// workspace file concerns all of them; tests and unknown files concern none.
func (g *Graph) Affected(file string) []string {
	dir, name := filepath.Split(file)
	dir = filepath.Clean(dir)
	if dir == g.root && (name == "go.work" || name == "go.work.sum") {
		return slices.Clone(g.services)
	}
	var names []string
	if name == "go.mod" || name == "go.sum" {
		for _, p := range g.packages {
			if p.module == g.modules[dir] {
				names = append(names, p.services...)
			}
		}
	}
	if p := g.packages[dir]; p != nil && IsSource(name) {
		names = append(names, p.services...)
	}
	for folder, p := range g.packages {
		if p.embed(folder, file) {
			names = append(names, p.services...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// IsSource reports whether the go command compiles files of this name into a program. Tests are none.
func IsSource(name string) bool {
	if strings.HasSuffix(name, "_test.go") {
		return false
	}
	switch filepath.Ext(name) {
	case ".go", ".s", ".S", ".c", ".h", ".cc", ".cpp", ".hpp", ".syso":
		return true
	}
	return false
}

// embed reports whether the package in folder has a //go:embed pattern that takes in file.
func (p *pkg) embed(folder, file string) bool {
	rel, err := filepath.Rel(folder, file)
	if err != nil || !filepath.IsLocal(rel) {
		return false
	}
	rel = filepath.ToSlash(rel)
	for _, pattern := range p.embeds {
		pattern = strings.TrimPrefix(pattern, "all:")
		// A pattern that matches a folder embeds what is in it, so every parent of the file is tried.
		for name := rel; name != "."; name = path.Dir(name) {
			if ok, _ := path.Match(pattern, name); ok {
				return true
			}
		}
	}
	return false
}
