package dev

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/console"
	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/workspace"
)

// settle is how long the import graph waits for restarted services to be ready, so as not to take the processor from
// them.
const settle = 2 * time.Second

// Watch rebuilds and restarts what changed files concern, until ctx is done. Call it from Run's body, with a watcher
// that was made before Run, so that no change is missed.
func (s *System) Watch(ctx context.Context, watcher *workspace.Watcher) error {
	var graph *workspace.Graph
	for {
		if graph == nil {
			s.quiet(ctx)
			loaded, err := s.o.Workspace.Load(ctx)
			if ctx.Err() != nil {
				return nil
			}
			if err != nil {
				s.o.Console.Say(console.Bad, "%v", err)
				loaded = &workspace.Graph{}
			}
			graph = loaded
		}
		select {
		case <-ctx.Done():
			return nil
		case files, ok := <-watcher.Changes():
			for ok && len(files) > 0 && ctx.Err() == nil { // until no change comes in between
				var built bool
				files, built = s.rebuild(ctx, graph, files, watcher.Changes())
				if built {
					graph = nil // imports may have changed
				}
				if graph == nil && len(files) > 0 {
					if graph, _ = s.o.Workspace.Load(ctx); graph == nil {
						graph = &workspace.Graph{}
					}
				}
			}
			if !ok {
				return errors.New("watching files ended unexpectedly")
			}
		}
	}
}

// quiet waits a moment for all services to be ready.
func (s *System) quiet(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	_ = s.Await(ctx) // ready or not, we go on
}

// rebuild acts on changed files. If further changes come in while it builds, it gives up and returns them together
// with the first.
func (s *System) rebuild(ctx context.Context, graph *workspace.Graph, files []string, more <-chan []string) (rest []string, built bool) {
	root := s.o.Workspace.Root
	if slices.Contains(files, filepath.Join(root, ".env")) {
		s.reload(ctx)
	}
	if slices.Contains(files, filepath.Join(root, "go.work")) {
		if now, err := workspace.Find(ctx, root); err == nil && !slices.Equal(now.Services, s.o.Workspace.Services) {
			s.o.Console.Say(console.Warn, "go.work has other services now: %s; start turnstile dev again to run them", strings.Join(now.Names(), ", "))
		}
	}
	services := s.affected(graph, files)
	if len(services) == 0 {
		return nil, false
	}
	names := make([]string, len(services))
	wereBroken := false
	for i, w := range services {
		names[i] = w.Name
		wereBroken = wereBroken || s.services[w.Name].broken
	}
	s.o.Console.Say(console.Dim, "%s changed, building %s", s.relative(graph, files), strings.Join(names, ", "))
	began := time.Now()

	building, cancel := context.WithCancel(ctx)
	defer cancel()
	type outcome struct {
		failed map[string]bool
		err    error
	}
	done := make(chan outcome, 1)
	go func() {
		failed, err := s.build(building, services)
		done <- outcome{failed, err}
	}()
	var result outcome
	for waiting := true; waiting; {
		select {
		case result = <-done:
			waiting = false
		case further, ok := <-more:
			if !ok {
				more = nil
			}
			if len(s.affected(graph, further)) > 0 {
				cancel()
				<-done
				return append(files, further...), false
			}
		}
	}
	if result.err != nil {
		if ctx.Err() == nil {
			s.o.Console.Say(console.Bad, "%v", result.err)
		}
		return nil, false
	}
	var good []*service
	for _, w := range services {
		v := s.services[w.Name]
		if v.broken = result.failed[w.Name]; !v.broken {
			good = append(good, v)
		}
	}
	restarted, err := s.apply(ctx, good, began)
	if ctx.Err() != nil {
		return nil, false
	}
	switch {
	case len(result.failed) > 0:
		s.o.Console.Say(console.Bad, "what ran before goes on running")
	case wereBroken:
		s.o.Console.Say(console.Good, "everything compiles again")
	}
	if len(restarted) > 0 {
		s.o.Console.Say(console.Dim, "built in %s, restarting %s", seconds(time.Since(began)), strings.Join(restarted, ", "))
	} else if len(good) > 0 && err == nil {
		s.o.Console.Say(console.Dim, "built in %s: the same program as before, so nothing is restarted", seconds(time.Since(began)))
	}
	if err != nil {
		s.o.Console.Say(console.Bad, "%v", err)
	}
	return nil, true
}

// affected returns the services that changed files concern. Those that did not compile at last are concerned by every
// source: the missing package, say, that no import graph knows yet.
func (s *System) affected(graph *workspace.Graph, files []string) []workspace.Service {
	concerned := map[string]bool{}
	for _, file := range files {
		for _, name := range graph.Affected(file) {
			concerned[name] = true
		}
		if workspace.IsSource(filepath.Base(file)) {
			for _, v := range s.services {
				concerned[v.Name] = concerned[v.Name] || v.broken
			}
		}
	}
	var list []workspace.Service
	for _, w := range s.o.Workspace.Services {
		if concerned[w.Name] {
			list = append(list, w)
		}
	}
	return list
}

// reload reads .env again and starts anew the services that it makes a difference to.
func (s *System) reload(ctx context.Context) {
	if err := s.surround(); err != nil {
		s.o.Console.Say(console.Bad, "%v", err)
		return
	}
	var built []*service
	for _, w := range s.o.Workspace.Services {
		if v := s.services[w.Name]; v.sum != "" {
			built = append(built, v)
		}
	}
	s.o.Console.Say(console.Dim, ".env changed")
	if _, err := s.apply(ctx, built, time.Now()); err != nil && ctx.Err() == nil {
		s.o.Console.Say(console.Bad, "%v", err)
	}
}

// relative names changed files as the developer knows them, leaving out those that made no difference.
func (s *System) relative(graph *workspace.Graph, files []string) string {
	var names []string
	for _, file := range files {
		if len(s.affected(graph, []string{file})) == 0 {
			continue
		}
		if name, err := filepath.Rel(s.o.Workspace.Root, file); err == nil {
			file = name
		}
		names = append(names, file)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) > 3 {
		return fmt.Sprintf("%s and %d more files", strings.Join(names[:2], ", "), len(names)-2)
	}
	return strings.Join(names, ", ")
}
