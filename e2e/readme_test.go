package e2e

import (
	"go/format"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	blocks = regexp.MustCompile("(?s)```[a-z]*\n(.*?)```")
	named  = regexp.MustCompile(`^(?://|--) (services/\S+)\n`)
)

// exampleFiles returns the files of the service that a document shows: the blocks whose first line is a comment with
// a path.
func exampleFiles(t *testing.T, document string) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, block := range blocks.FindAllStringSubmatch(read(t, filepath.Join(root(), document)), -1) {
		if name := named.FindStringSubmatch(block[1]); name != nil {
			files[name[1]] = block[1]
		}
	}
	if len(files) == 0 {
		t.Fatalf("%s shows no files", document)
	}
	return files
}

// example writes the service that a document shows into a workspace, and returns its name.
func example(t *testing.T, document, dir string) (name string) {
	t.Helper()
	for file, text := range exampleFiles(t, document) {
		rest := strings.TrimPrefix(file, "services/")
		name, _, _ = strings.Cut(rest, "/")
		if strings.HasSuffix(file, ".go") {
			if formatted, err := format.Source([]byte(text)); err != nil || string(formatted) != text {
				t.Errorf("%s: %s is not formatted (%v)", document, file, err)
			}
		}
		write(t, filepath.Join(dir, filepath.FromSlash(rest)), text)
	}
	write(t, filepath.Join(dir, name, "go.mod"), "module "+path.Join("github.com/turnstile-go/turnstile/services", name)+"\n\ngo 1.26.0\n")
	return name
}
