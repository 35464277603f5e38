// Package openapi tells which changes of a service's API break the clients that it has.
package openapi

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
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
	rules := checker.NewConfig(checker.GetAllChecks(), checker.WithSeverityLevels(stricter))
	words := checker.NewDefaultLocalizer()
	changes := append(moved(earlier.Spec, later.Spec), closed(differences)...)
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

// stricter has what breaks clients, too, though the documents may be read so that it does not: a client is written for
// the answers that there are, and leaves out what has a default.
var stricter = map[string]checker.Level{
	checker.RequestParameterDefaultValueChangedId: checker.ERR,
	checker.RequestParameterDefaultValueRemovedId: checker.ERR,
	checker.RequestBodyDefaultValueChangedId:      checker.ERR,
	checker.RequestBodyDefaultValueRemovedId:      checker.ERR,
	checker.RequestPropertyDefaultValueChangedId:  checker.ERR,
	checker.RequestPropertyDefaultValueRemovedId:  checker.ERR,
	checker.ResponseOptionalPropertyRemovedId:     checker.ERR,
	checker.OptionalResponseHeaderRemovedId:       checker.ERR,
	checker.ResponseHeaderTypeSpecializedId:       checker.ERR,
	checker.ResponseHeaderTypeCompatibleId:        checker.ERR,
	checker.ResponseSuccessStatusAddedId:          checker.ERR,
}

// moved lists the servers at which there is no more what was there. The checker has no rule for them.
func moved(earlier, later *openapi3.T) (changes []Change) {
	gone := func(operation string, before, after openapi3.Servers) {
		for _, server := range before {
			if !slices.ContainsFunc(after, func(s *openapi3.Server) bool { return s.URL == server.URL }) {
				changes = append(changes, Change{
					Operation: operation, Detail: fmt.Sprintf("removed the server `%s`", server.URL), Fix: "go on answering there",
				})
			}
		}
	}
	gone("", servers(earlier, nil, nil), servers(later, nil, nil))
	if len(changes) > 0 {
		return changes // as all operations are concerned
	}
	for _, path := range slices.Sorted(maps.Keys(earlier.Paths.Map())) {
		before, after := earlier.Paths.Value(path), later.Paths.Value(path)
		for _, method := range slices.Sorted(maps.Keys(before.Operations())) {
			if after != nil && after.GetOperation(method) != nil {
				gone(method+" "+path, servers(earlier, before, before.GetOperation(method)), servers(later, after, after.GetOperation(method)))
			}
		}
	}
	return changes
}

// servers are where an operation is: the nearest that are said, and "/" if none are.
func servers(document *openapi3.T, path *openapi3.PathItem, operation *openapi3.Operation) openapi3.Servers {
	switch {
	case operation != nil && operation.Servers != nil && len(*operation.Servers) > 0:
		return *operation.Servers
	case path != nil && len(path.Servers) > 0:
		return path.Servers
	case len(document.Servers) > 0:
		return document.Servers
	}
	return openapi3.Servers{{URL: "/"}}
}

// closed lists the bodies that may have no members any more that nobody knows. The checker has no rule for them.
func closed(differences *diff.Diff) (changes []Change) {
	if differences == nil || differences.PathsDiff == nil {
		return nil
	}
	for path, item := range differences.PathsDiff.Modified {
		if item.OperationsDiff == nil {
			continue
		}
		for method, operation := range item.OperationsDiff.Modified {
			if operation.RequestBodyDiff == nil || operation.RequestBodyDiff.ContentDiff == nil {
				continue
			}
			for _, content := range operation.RequestBodyDiff.ContentDiff.MediaTypeModified {
				for _, where := range closedIn("the request's body", content.SchemaDiff) {
					changes = append(changes, Change{
						Operation: method + " " + path, Detail: where + " takes no unknown members any more",
						Fix: "go on ignoring them: there are clients that send more than is asked for",
					})
				}
			}
		}
	}
	slices.SortFunc(changes, func(a, b Change) int {
		return cmp.Or(strings.Compare(a.Operation, b.Operation), strings.Compare(a.Detail, b.Detail))
	})
	return slices.Compact(changes) // one of several media types
}

// closedIn names what is closed of a schema, and of those in it.
func closedIn(where string, d *diff.SchemaDiff) (names []string) {
	if d == nil {
		return nil
	}
	allowed, others := d.AdditionalPropertiesAllowedDiff, d.AdditionalPropertiesDiff
	if allowed != nil && allowed.To == false || others != nil && others.SchemaAdded && (allowed == nil || allowed.From != false) {
		names = append(names, where)
	}
	names = append(names, closedIn("each unknown member of "+where, others)...)
	names = append(names, closedIn("each item of "+where, d.ItemsDiff)...)
	for _, alternatives := range []*diff.SubschemasDiff{d.AllOfDiff, d.AnyOfDiff, d.OneOfDiff} {
		if alternatives != nil {
			for _, one := range alternatives.Modified {
				names = append(names, closedIn(where, one.Diff)...)
			}
		}
	}
	if d.PropertiesDiff != nil {
		for name, property := range d.PropertiesDiff.Modified {
			names = append(names, closedIn(fmt.Sprintf("`%s` of %s", name, where), property)...)
		}
	}
	return names
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
	case strings.Contains(rule, "default-value"):
		return "leave the default as it was: there are clients that do not send another"
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
