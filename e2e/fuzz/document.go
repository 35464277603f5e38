package fuzz

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// schema is a JSON Schema as it is in a document.
type schema map[string]any

// document is what is used of an OpenAPI document.
type document struct {
	Paths      map[string]map[string]description
	Components struct{ Schemas map[string]schema }
}

type description struct {
	OperationID string
	Parameters  []parameter
	RequestBody struct {
		Content map[string]struct{ Schema schema }
	}
	Responses map[string]struct {
		Content map[string]struct{ Schema schema }
	}
	Security []map[string][]string
}

type parameter struct {
	Name, In string
	Required bool
	Schema   schema
}

// operation is one of a service's.
type operation struct {
	addr         string // of the service
	method, path string
	parameters   []parameter
	body         schema // nil for none
	session      bool   // is required
	answers      map[string]content

	document *document
}

func (o *operation) String() string { return o.method + " " + o.path }

// content is what an answer may be, by media type; with none it has no body.
type content map[string]*jsonschema.Schema

// load reads the document of the API of the given name from the service that serves it.
func load(ctx context.Context, name, addr string) ([]*operation, error) {
	address := "http://" + addr + "/api/" + name + "/openapi.json"
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, fmt.Errorf("fuzz: get the document of %s: %w", name, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("fuzz: get the document of %s: %w", name, err)
	}
	operations, err := parse(address, text)
	if err != nil {
		return nil, fmt.Errorf("fuzz: the document of %s: %w", name, err)
	}
	for _, o := range operations {
		o.addr = addr
	}
	return operations, nil
}

// parse returns the operations of a document, in the same order each time.
func parse(address string, text []byte) (operations []*operation, err error) {
	var d document
	if err := json.Unmarshal(text, &d); err != nil {
		return nil, err
	}
	resource, err := jsonschema.UnmarshalJSON(strings.NewReader(string(text)))
	if err != nil {
		return nil, err
	}
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	if err := compiler.AddResource(address, resource); err != nil {
		return nil, err
	}
	for _, path := range slices.Sorted(maps.Keys(d.Paths)) {
		for _, method := range slices.Sorted(maps.Keys(d.Paths[path])) {
			from := d.Paths[path][method]
			o := &operation{
				method: strings.ToUpper(method), path: path, parameters: from.Parameters,
				body:    from.RequestBody.Content["application/json"].Schema,
				session: required(from.Security), answers: map[string]content{}, document: &d,
			}
			for status, answer := range from.Responses {
				o.answers[status] = content{}
				for media := range answer.Content {
					at := pointer("paths", path, method, "responses", status, "content", media, "schema")
					if o.answers[status][media], err = compiler.Compile(address + "#" + at); err != nil {
						return nil, err
					}
				}
			}
			operations = append(operations, o)
		}
	}
	return operations, nil
}

// required reports whether one of some ways to say who calls has to be used: an empty one is to say nothing.
func required(security []map[string][]string) bool {
	return len(security) > 0 && !slices.ContainsFunc(security, func(way map[string][]string) bool { return len(way) == 0 })
}

// pointer is a JSON pointer (RFC 6901) for a URL's fragment.
func pointer(tokens ...string) (p string) {
	escape := strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D", "+", "%2B")
	for _, t := range tokens {
		p += "/" + escape.Replace(t)
	}
	return p
}

// resolve follows references.
func (d *document) resolve(s schema) schema {
	for {
		ref, ok := s["$ref"].(string)
		if !ok {
			return s
		}
		s = d.Components.Schemas[ref[strings.LastIndexByte(ref, '/')+1:]]
	}
}

// sub returns the schema under a keyword.
func (s schema) sub(keyword string) schema {
	m, _ := s[keyword].(map[string]any)
	return m
}

// types returns the types that a schema allows.
func (s schema) types() (types []string) {
	switch t := s["type"].(type) {
	case string:
		return []string{t}
	case []any:
		for _, name := range t {
			types = append(types, fmt.Sprint(name))
		}
	}
	return types
}

// choices returns the schemas of which one is to hold.
func (s schema) choices() (choices []schema) {
	for _, keyword := range []string{"oneOf", "anyOf"} {
		list, _ := s[keyword].([]any)
		for _, c := range list {
			if m, ok := c.(map[string]any); ok {
				choices = append(choices, m)
			}
		}
	}
	return choices
}

// answer returns what may be said with a status, and whether it is documented. The answer for any other error does not count:
// it is for what comes from below the operation, such as 405, and every error of its own is to be listed.
func (o *operation) answer(status int) (content, bool) {
	c, ok := o.answers[fmt.Sprint(status)]
	if !ok {
		c, ok = o.answers[fmt.Sprint(status/100)+"XX"]
	}
	return c, ok
}
