package web

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/labstack/echo/v4"
)

// serveDocument serves the OpenAPI document, and a page for people made from it. Both are made when they are first wanted,
// because every operation has been registered then.
func (s *Server) serveDocument(e *echo.Echo) {
	e.GET("/api/"+s.name+"/openapi.json", func(c echo.Context) error {
		document, err := s.document()
		if err != nil {
			return err
		}
		c.Response().Header().Set("Cache-Control", "no-cache")
		return c.Blob(http.StatusOK, "application/json", document)
	})
	page := sync.OnceValues(func() (*docs, error) {
		if _, err := s.document(); err != nil {
			return nil, err
		}
		return newDocs(s.name, s.api.OpenAPI())
	})
	e.GET("/api/"+s.name+"/docs", func(c echo.Context) error {
		d, err := page()
		if err != nil {
			return err
		}
		var b bytes.Buffer
		if err := d.write(&b, c.Request()); err != nil {
			return err
		}
		h := c.Response().Header()
		h.Set("Cache-Control", "no-cache")
		h.Set("Content-Security-Policy", d.policy)
		return c.HTMLBlob(http.StatusOK, b.Bytes())
	})
}

//go:embed docs.html
var docsHTML string

//go:embed docs.css
var docsCSS string

// docs is the page.
type docs struct {
	Title, Document string
	Style           template.CSS
	Description     []template.HTML
	Sessions        []docsSession
	Operations      []docsOperation
	Schemas         []docsSchema

	policy    string
	template  *template.Template
	plainHost *regexp.Regexp
}

type docsSession struct {
	Name        string
	Description []template.HTML
}

type docsOperation struct {
	ID, Method, Path, Summary string
	Description               []template.HTML
	Session                   bool
	Curl                      string // with {host} for where the API is
	Params                    []docsParam
	Body                      *docsContent
	Success, Errors           []docsAnswer
}

type docsParam struct {
	Name, In, Doc, Type, Example string
	Required                     bool
}

type docsContent struct {
	Type    template.HTML
	Members []docsMember
	Example string
}

type docsAnswer struct {
	Status, Title string
	Headers       []docsParam
	Body          *docsContent
	Examples      []docsExample
}

type docsExample struct{ Summary, JSON string }

type docsSchema struct {
	Name    string
	Members []docsMember
}

type docsMember struct {
	Name, Doc, Bounds string
	Type              template.HTML
	Required          bool
}

// write renders the page for whoever asks with r: its commands have the address that led here.
func (d *docs) write(b *bytes.Buffer, r *http.Request) error {
	host := "localhost:8080"
	if d.plainHost.MatchString(r.Host) { // people paste it into shells
		host = r.Host
	}
	scheme := "http://"
	if ClientFrom(r.Context()).TLS {
		scheme = "https://"
	}
	page := *d
	page.Operations = slices.Clone(d.Operations)
	for i := range page.Operations {
		page.Operations[i].Curl = strings.ReplaceAll(page.Operations[i].Curl, "{host}", scheme+host)
	}
	return d.template.Execute(b, page)
}

func newDocs(name string, api *huma.OpenAPI) (*docs, error) {
	sum := sha256.Sum256([]byte(docsCSS))
	d := &docs{
		Title: api.Info.Title, Document: "/api/" + name + "/openapi.json",
		Style:       template.CSS(docsCSS), //nolint:gosec // our own
		Description: paragraphs(api.Info.Description),
		policy: "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
			"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
		plainHost: regexp.MustCompile(`^[a-zA-Z0-9.:\[\]-]+$`),
	}
	var err error
	if d.template, err = template.New("docs").Parse(docsHTML); err != nil {
		return nil, err
	}
	schemas := api.Components.Schemas.Map()
	if schemes := api.Components.SecuritySchemes; schemes != nil {
		for _, name := range slices.Sorted(maps.Keys(schemes)) {
			d.Sessions = append(d.Sessions, docsSession{name, paragraphs(schemes[name].Description)})
		}
	}
	for path, item := range api.Paths {
		for _, op := range operationsOf(item) {
			o, err := docsOf(path, op, schemas)
			if err != nil {
				return nil, fmt.Errorf("web: describe %s: %w", op.OperationID, err)
			}
			d.Operations = append(d.Operations, o)
		}
	}
	order := []string{"GET", "POST", "PUT", "PATCH", "DELETE"}
	slices.SortFunc(d.Operations, func(a, b docsOperation) int {
		return cmp.Or(strings.Compare(a.Path, b.Path), slices.Index(order, a.Method)-slices.Index(order, b.Method))
	})
	for _, name := range slices.Sorted(maps.Keys(schemas)) {
		d.Schemas = append(d.Schemas, docsSchema{name, membersOf(schemas[name])})
	}
	return d, nil
}

func docsOf(path string, op *huma.Operation, schemas map[string]*huma.Schema) (o docsOperation, err error) {
	o = docsOperation{
		ID: op.OperationID, Method: op.Method, Path: path, Summary: op.Summary, Description: paragraphs(op.Description),
		Session: needsSession(op),
	}
	for _, p := range op.Parameters {
		o.Params = append(o.Params, docsParam{
			Name: p.Name, In: p.In, Doc: p.Description, Type: boundsOf(p.Schema), Example: textOf(p.Example), Required: p.Required,
		})
	}
	if op.RequestBody != nil {
		if o.Body, err = contentOf(op.RequestBody.Content, schemas); err != nil {
			return o, err
		}
	}
	for _, status := range slices.Sorted(maps.Keys(op.Responses)) {
		r := op.Responses[status]
		code, _ := strconv.Atoi(status)
		answer := docsAnswer{Status: status, Title: cmp.Or(http.StatusText(code), r.Description)}
		for _, name := range slices.Sorted(maps.Keys(r.Headers)) {
			h := r.Headers[name]
			answer.Headers = append(answer.Headers, docsParam{Name: name, Doc: h.Description, Example: textOf(h.Example)})
		}
		if code != 0 && code < 400 {
			if answer.Body, err = contentOf(r.Content, schemas); err != nil {
				return o, err
			}
			o.Success = append(o.Success, answer)
			continue
		}
		if media := r.Content[problemType]; media != nil {
			for _, name := range slices.Sorted(maps.Keys(media.Examples)) {
				text, err := indent(media.Examples[name].Value)
				if err != nil {
					return o, err
				}
				answer.Examples = append(answer.Examples, docsExample{media.Examples[name].Summary, text})
			}
		}
		o.Errors = append(o.Errors, answer)
	}
	o.Curl, err = curl(op)
	return o, err
}

// curl is a command that calls an operation with its examples.
func curl(op *huma.Operation) (string, error) {
	words := []string{"curl -i"}
	for _, r := range op.Responses {
		if r.Headers["Set-Cookie"] != nil {
			words = append(words, "-c cookies.txt")
		}
	}
	if len(op.Security) > 0 {
		words = append(words, "-b cookies.txt")
	}
	if op.Method != http.MethodGet && (op.Method != http.MethodPost || op.RequestBody == nil) {
		words = append(words, "-X "+op.Method)
	}
	words = append(words, quote("{host}"+examplePath(op)))
	if op.RequestBody != nil {
		if media := op.RequestBody.Content["application/json"]; media != nil && media.Example != nil {
			body, err := json.Marshal(media.Example)
			if err != nil {
				return "", err
			}
			words = append(words, "--json "+quote(string(body)))
		}
	}
	return strings.Join(words, " "), nil
}

// quote makes one word of a shell command of a text.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func contentOf(content map[string]*huma.MediaType, schemas map[string]*huma.Schema) (*docsContent, error) {
	if len(content) == 0 {
		return nil, nil
	}
	media := content[slices.Min(slices.Collect(maps.Keys(content)))]
	c := &docsContent{Type: typeName(media.Schema)}
	if media.Schema != nil && media.Schema.Ref != "" {
		c.Members = membersOf(schemas[media.Schema.Ref[strings.LastIndexByte(media.Schema.Ref, '/')+1:]])
	}
	if media.Example == nil {
		return c, nil
	}
	var err error
	c.Example, err = indent(media.Example)
	return c, err
}

func indent(v any) (string, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(v)
	return strings.TrimSpace(b.String()), err
}

func membersOf(s *huma.Schema) []docsMember {
	if s == nil {
		return nil
	}
	var members []docsMember
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		p := s.Properties[name]
		members = append(members, docsMember{
			Name: name, Doc: p.Description, Bounds: boundsOf(p), Type: typeName(p), Required: slices.Contains(s.Required, name),
		})
	}
	return members
}

// boundsOf says in words what a schema asks of a value beside its type.
func boundsOf(s *huma.Schema) string {
	if s == nil {
		return ""
	}
	var words []string
	add := func(format string, args ...any) { words = append(words, fmt.Sprintf(format, args...)) }
	if len(s.Enum) > 0 {
		choices := make([]string, len(s.Enum))
		for i, v := range s.Enum {
			choices[i] = textOf(v)
		}
		add("%s", strings.Join(choices, ", "))
	}
	switch {
	case s.MinLength != nil && s.MaxLength != nil:
		add("%d to %d characters", *s.MinLength, *s.MaxLength)
	case s.MinLength != nil && *s.MinLength > 1:
		add("at least %d characters", *s.MinLength)
	case s.MinLength != nil:
		add("not empty")
	case s.MaxLength != nil:
		add("at most %d characters", *s.MaxLength)
	}
	if s.Minimum != nil {
		add("at least %v", *s.Minimum)
	}
	if s.ExclusiveMinimum != nil {
		add("above %v", *s.ExclusiveMinimum)
	}
	if s.Maximum != nil {
		add("at most %v", *s.Maximum)
	}
	for _, choice := range s.OneOf {
		if bounds := boundsOf(choice); bounds != "" {
			add("%s", bounds)
		}
	}
	if s.Default != nil {
		add("%s by default", textOf(s.Default))
	}
	return strings.Join(words, ", ")
}

func textOf(v any) string {
	if v == nil {
		return ""
	}
	return fmt.Sprint(v)
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

// paragraphs renders the little Markdown that descriptions have: paragraphs, and `code`.
func paragraphs(markdown string) []template.HTML {
	var list []template.HTML
	for text := range strings.SplitSeq(strings.TrimSpace(markdown), "\n\n") {
		if text == "" {
			continue
		}
		var b strings.Builder
		for i, part := range strings.Split(text, "`") {
			part = template.HTMLEscapeString(part)
			if i%2 == 1 {
				part = "<code>" + part + "</code>"
			}
			b.WriteString(part)
		}
		list = append(list, template.HTML(b.String())) //nolint:gosec // escaped above
	}
	return list
}
