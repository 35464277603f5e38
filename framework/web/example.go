package web

import (
	"net/url"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// addExamples gives content an example made of those of its schema's members, unless it has one.
func (a *api) addExamples(content map[string]*huma.MediaType) {
	for _, media := range content {
		if media.Example == nil && media.Examples == nil && media.Schema != nil {
			media.Example = a.exampleOf(media.Schema)
		}
	}
}

// exampleOf makes an example of what a schema describes from the tags example of the fields in it. It returns nil where
// they do not suffice: none is better than one that is made up.
func (a *api) exampleOf(s *huma.Schema) any { return a.exampleWithin(s, 8) }

func (a *api) exampleWithin(s *huma.Schema, depth int) any {
	switch {
	case s == nil || depth == 0:
		return nil
	case len(s.Examples) > 0:
		return s.Examples[0]
	case s.Ref != "":
		return a.exampleWithin(a.OpenAPI().Components.Schemas.SchemaFromRef(s.Ref), depth-1)
	case s.Default != nil:
		return s.Default
	case len(s.Enum) > 0:
		return s.Enum[0]
	case s.Type == huma.TypeBoolean:
		return true
	case s.Type == huma.TypeString && s.Format == "date-time":
		return "2026-01-02T15:04:05.678Z"
	case s.Type == huma.TypeArray:
		if item := a.exampleWithin(s.Items, depth-1); item != nil {
			return []any{item}
		}
	case s.Type == huma.TypeObject && s.Properties != nil:
		return a.exampleObject(s, depth)
	}
	for _, choices := range [][]*huma.Schema{s.OneOf, s.AnyOf} {
		for _, choice := range choices {
			if example := a.exampleWithin(choice, depth-1); example != nil {
				return example
			}
		}
	}
	return nil
}

func (a *api) exampleObject(s *huma.Schema, depth int) any {
	object := map[string]any{}
	for name, property := range s.Properties {
		if example := a.exampleWithin(property, depth-1); example != nil {
			object[name] = example
		}
	}
	for _, name := range s.Required {
		if object[name] == nil {
			return nil
		}
	}
	return object
}

// examplePath is the path of an operation with examples for its parameters.
func examplePath(op *huma.Operation) string {
	path := op.Path
	for _, p := range op.Parameters {
		if text, ok := exampleOfParam(p); ok && p.In == "path" {
			path = strings.ReplaceAll(path, "{"+p.Name+"}", url.PathEscape(text))
		}
	}
	return path
}

func exampleOfParam(p *huma.Param) (string, bool) {
	if p.Schema == nil || len(p.Schema.Examples) == 0 {
		return "", false
	}
	text, ok := p.Schema.Examples[0].(string)
	return text, ok
}
