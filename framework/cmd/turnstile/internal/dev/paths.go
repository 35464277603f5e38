package dev

import (
	"slices"
	"strings"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/workspace"
)

// prefixes returns the paths under which a service is reached: /api/<name> for all below it, others as they are.
func prefixes(d workspace.Description) []string {
	var list []string
	for _, o := range d.Operations {
		path, _, _ := strings.Cut(o.Path, "{")
		parts := strings.Split(strings.Trim(path, "/"), "/")
		if parts[0] == "" {
			continue
		}
		prefix := "/" + strings.Join(parts, "/")
		if parts[0] == "api" && len(parts) > 1 {
			prefix = "/api/" + parts[1]
		}
		list = append(list, prefix)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// home returns the path that stands for a service: its API's.
func home(d workspace.Description) string {
	all := prefixes(d)
	for _, p := range all {
		if strings.HasPrefix(p, "/api/") {
			return p
		}
	}
	if len(all) > 0 {
		return all[0]
	}
	return ""
}

// docs returns the path of a service's documentation, or nothing if it serves no API.
func docs(d workspace.Description) string {
	if home := home(d); strings.HasPrefix(home, "/api/") {
		return home + "/docs"
	}
	return ""
}
