package web

import (
	"bytes"
	"cmp"
	_ "embed"
	"encoding/json"
	"html/template"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/labstack/echo/v4"
)

// serveDocument serves the OpenAPI document, and a page for people made from it. Both are rendered at the first request,
// when every operation has been registered.
func (s *Server) serveDocument(e *echo.Echo) {
	finish := sync.OnceFunc(s.api.finish)
	document := sync.OnceValues(func() ([]byte, error) {
		finish()
		return json.Marshal(s.api.OpenAPI()) // Huma's types are written for encoding/json
	})
	page := sync.OnceValues(func() ([]byte, error) {
		t, err := template.New("docs").Parse(docsHTML)
		if err != nil {
			return nil, err
		}
		finish()
		var b bytes.Buffer
		err = t.Execute(&b, docsOf(s.name, s.api.OpenAPI()))
		return b.Bytes(), err
	})
	for path, content := range map[string]struct {
		media string
		body  func() ([]byte, error)
	}{
		"openapi.json": {"application/json", document},
		"docs":         {"text/html; charset=utf-8", page},
	} {
		e.GET("/api/"+s.name+"/"+path, func(c echo.Context) error {
			body, err := content.body()
			if err != nil {
				return err
			}
			h := c.Response().Header()
			h.Set("Cache-Control", "no-cache")
			h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
			return c.Blob(http.StatusOK, content.media, body)
		})
	}
}

//go:embed docs.html
var docsHTML string

type docs struct {
	Title, Document string
	Operations      []docsOperation
	Schemas         []docsSchema
}

type docsOperation struct {
	ID, Method, Path, Summary, Description string
	Session                                bool
	Params                                 []*huma.Param
	Body                                   template.HTML
	Responses                              []docsResponse
}

type docsResponse struct {
	Status, Description string
	Body                template.HTML
}

type docsSchema struct {
	Name    string
	Members []docsMember
}

type docsMember struct {
	Name, Doc string
	Type      template.HTML
	Required  bool
}

func docsOf(name string, api *huma.OpenAPI) docs {
	d := docs{Title: api.Info.Title, Document: "/api/" + name + "/openapi.json"}
	for path, item := range api.Paths {
		for _, op := range operationsOf(item) {
			o := docsOperation{
				ID: op.OperationID, Method: op.Method, Path: path, Summary: op.Summary, Description: op.Description,
				Session: len(op.Security) > 0, Params: op.Parameters,
			}
			if op.RequestBody != nil {
				o.Body = mediaType(op.RequestBody.Content)
			}
			for _, status := range slices.Sorted(maps.Keys(op.Responses)) {
				r := op.Responses[status]
				o.Responses = append(o.Responses, docsResponse{status, r.Description, mediaType(r.Content)})
			}
			d.Operations = append(d.Operations, o)
		}
	}
	order := []string{"GET", "POST", "PUT", "PATCH", "DELETE"}
	slices.SortFunc(d.Operations, func(a, b docsOperation) int {
		return cmp.Or(strings.Compare(a.Path, b.Path), slices.Index(order, a.Method)-slices.Index(order, b.Method))
	})
	schemas := api.Components.Schemas.Map()
	for _, name := range slices.Sorted(maps.Keys(schemas)) {
		s := docsSchema{Name: name}
		for _, member := range slices.Sorted(maps.Keys(schemas[name].Properties)) {
			property := schemas[name].Properties[member]
			s.Members = append(s.Members, docsMember{
				Name: member, Doc: property.Description, Type: typeName(property),
				Required: slices.Contains(schemas[name].Required, member),
			})
		}
		d.Schemas = append(d.Schemas, s)
	}
	return d
}

func mediaType(content map[string]*huma.MediaType) template.HTML {
	for _, name := range slices.Sorted(maps.Keys(content)) {
		if schema := content[name].Schema; schema != nil {
			return typeName(schema)
		}
	}
	return ""
}

// typeName names a schema, with a link where it is described on the same page.
func typeName(s *huma.Schema) template.HTML {
	switch {
	case s == nil:
		return "anything"
	case s.Ref != "":
		name := template.HTMLEscapeString(s.Ref[strings.LastIndexByte(s.Ref, '/')+1:])
		return template.HTML(`<a href="#` + name + `">` + name + `</a>`) //nolint:gosec // escaped above
	case len(s.AnyOf)+len(s.OneOf) > 0:
		var names []string
		for _, choice := range slices.Concat(s.AnyOf, s.OneOf) {
			names = append(names, string(typeName(choice)))
		}
		return template.HTML(strings.Join(names, " or ")) //nolint:gosec // each is escaped
	case s.Type == huma.TypeArray:
		return "list of " + typeName(s.Items)
	case s.Format != "":
		return template.HTML(template.HTMLEscapeString(s.Type + " (" + s.Format + ")")) //nolint:gosec // escaped
	default:
		return template.HTML(template.HTMLEscapeString(cmp.Or(s.Type, "anything"))) //nolint:gosec // escaped
	}
}
