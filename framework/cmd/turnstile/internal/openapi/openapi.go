// Package openapi tells which changes of a service's API break the clients that it has.
package openapi

import (
	"context"
	"fmt"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/oasdiff/oasdiff/checker"
	"github.com/oasdiff/oasdiff/diff"
	"github.com/oasdiff/oasdiff/load"
)

// Change is one difference between two OpenAPI documents that a client may notice.
type Change struct {
	Operation string // such as "GET /api/tickets"; empty for what concerns the API as a whole
	Detail    string
	Fix       string // what to do instead; empty if the change breaks no client
}

// Breaks reports whether a client that was written for the earlier document may fail.
func (c Change) Breaks() bool { return c.Fix != "" }

// Compare lists what has changed from one OpenAPI 3.1 document to the next, what breaks clients first. Descriptions and
// examples are no changes.
func Compare(ctx context.Context, before, after []byte) ([]Change, error) {
	earlier, err := parse(ctx, before)
	if err != nil {
		return nil, fmt.Errorf("the earlier document: %w", err)
	}
	later, err := parse(ctx, after)
	if err != nil {
		return nil, fmt.Errorf("the later document: %w", err)
	}
	differences, sources, err := diff.GetWithOperationsSourcesMap(diff.NewConfig(), earlier, later)
	if err != nil {
		return nil, fmt.Errorf("compare the documents: %w", err)
	}
	rules, words := checker.NewConfig(checker.GetAllChecks()), checker.NewDefaultLocalizer()
	var changes []Change
	for _, c := range checker.CheckBackwardCompatibilityUntilLevel(rules, differences, sources, checker.INFO) {
		change := Change{
			Operation: strings.TrimSpace(c.GetOperation() + " " + c.GetPath()),
			Detail:    strings.TrimSuffix(c.GetUncolorizedText(words), "."),
		}
		if c.IsBreaking() {
			change.Fix = fix(c.GetId())
		}
		changes = append(changes, change)
	}
	return changes, nil
}

func parse(ctx context.Context, text []byte) (*load.SpecInfo, error) {
	document, err := openapi3.NewLoader().LoadFromData(text)
	if err == nil {
		err = document.Validate(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("it is not valid OpenAPI: %w", err)
	}
	return &load.SpecInfo{Spec: document}, nil
}

// fix says what to do instead of a change that breaks clients, by the id of the rule that it breaks.
func fix(rule string) string {
	switch {
	case strings.HasPrefix(rule, "new-required-"), strings.Contains(rule, "became-required"), strings.Contains(rule, "-added-required-"):
		return "make it optional: the clients that there are do not send it"
	case strings.Contains(rule, "removed"), strings.Contains(rule, "became-optional"):
		return "keep it, marked as deprecated, until no client uses it"
	case strings.Contains(rule, "security"):
		return "go on admitting those who were admitted"
	case strings.Contains(rule, "response"):
		return "go on answering as before, and add what is new under another name"
	default:
		return "go on taking what was taken before, and add what is new under another name"
	}
}
