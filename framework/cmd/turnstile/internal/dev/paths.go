package dev

import (
	"strings"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/workspace"
)

// home returns the path that stands for a service: its API's.
func home(d workspace.Description) string {
	all := d.Prefixes()
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
