package workspace

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	quiet    = 40 * time.Millisecond  // how long the files must be left alone before a change is reported
	quietMax = 500 * time.Millisecond // after which it is reported all the same
)

// Watcher reports changed files in the modules of a workspace.
type Watcher struct {
	fs      *fsnotify.Watcher
	changes chan []string
}

// Watch starts to look for changes in the modules' folders and in the root itself. The caller runs Run.
func (w *Workspace) Watch() (*Watcher, error) {
	n, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, watchError(err)
	}
	watcher := &Watcher{fs: n, changes: make(chan []string)}
	if err := n.Add(w.Root); err != nil {
		return nil, errors.Join(watchError(err), n.Close())
	}
	for _, m := range w.Modules {
		if _, err := watcher.add(m.Dir); err != nil {
			return nil, errors.Join(watchError(err), n.Close())
		}
	}
	return watcher, nil
}

func watchError(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EMFILE) {
		return fmt.Errorf("watch files: %w: the system's limit is reached; on Linux raise fs.inotify.max_user_watches and max_user_instances, or run with --watch=false", err)
	}
	return fmt.Errorf("watch files: %w", err)
}

// Changes delivers the absolute paths of changed files, sorted, once the files have been left alone for a moment. It
// is closed when Run returns.
func (w *Watcher) Changes() <-chan []string { return w.changes }

// Run watches until ctx is done. It collects changes while nobody receives them.
func (w *Watcher) Run(ctx context.Context) error {
	defer close(w.changes)
	defer w.fs.Close()
	changed := map[string]bool{}
	var first time.Time
	var report []string
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	for {
		var out chan []string
		if report != nil {
			out = w.changes
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-w.fs.Errors:
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				return watchError(err)
			}
			continue // too much at once, such as a checkout of another branch: what was seen will do
		case e := <-w.fs.Events:
			files := w.concerns(e)
			if len(files) == 0 {
				continue
			}
			if len(changed) == 0 {
				first = time.Now()
			}
			for _, f := range files {
				changed[f] = true
			}
			report = nil
			timer.Reset(min(quiet, max(0, quietMax-time.Since(first))))
		case <-timer.C:
			report = slices.Sorted(maps.Keys(changed))
		case out <- report:
			report, changed = nil, map[string]bool{}
		}
	}
}

// concerns returns the files that a file system event is about, and starts to watch new folders.
func (w *Watcher) concerns(e fsnotify.Event) []string {
	if e.Op == fsnotify.Chmod || ignored(filepath.Base(e.Name)) {
		return nil
	}
	if e.Has(fsnotify.Create) {
		if info, err := os.Stat(e.Name); err == nil && info.IsDir() {
			files, _ := w.add(e.Name) // gone again: its removal is reported
			return files
		}
	}
	return []string{e.Name}
}

// add watches dir and the folders in it, and returns the files that are there already.
func (w *Watcher) add(dir string) (files []string, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		if path != dir && ignored(d.Name()) {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		if !d.IsDir() {
			files = append(files, path)
			return nil
		}
		return w.fs.Add(path)
	})
	return files, err
}

// ignored reports whether a file or folder is none that a service is built from: hidden ones (.git, .turnstile, but
// not .env), tests and what they use, dependencies of other languages, and what editors leave behind.
func ignored(name string) bool {
	switch {
	case name == ".env":
		return false
	case strings.HasPrefix(name, "."), strings.HasPrefix(name, "#"), strings.HasSuffix(name, "~"),
		strings.HasSuffix(name, ".swp"), strings.HasSuffix(name, ".swx"), strings.HasSuffix(name, ".tmp"), strings.HasSuffix(name, ".bak"),
		strings.HasSuffix(name, "_test.go"),
		name == "4913", // vim tries with this file whether it may write
		name == "testdata", name == "node_modules", name == "vendor":
		return true
	}
	return false
}
