package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	yaml "github.com/pb33f/go-yaml"
	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/schema_validation"
	"github.com/pb33f/libopenapi/datamodel/high/base"
	v3 "github.com/pb33f/libopenapi/datamodel/high/v3"
)

// TestOpenAPI holds the documents of the services, as they are committed, against OpenAPI itself, and their examples
// against the schemas that they are examples of. What everybody wants to know is in them.
func TestOpenAPI(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join(root(), "services", "*", "openapi.json"))
	if err != nil || len(files) < 4 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(filepath.Dir(file)), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, fault := range faultsOf(t, text) {
				t.Error(fault)
			}
		})
	}
}

// TestOpenAPIFaults has the check find what it is there for.
func TestOpenAPIFaults(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(root(), "services", "tickets", "openapi.json"))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]struct{ from, to, fault string }{
		"not OpenAPI":             {`"operationId"`, `"operationID"`, "operationID"},
		"wrong type of a schema":  {`"type": "number"`, `"type": "decimal"`, "is not valid against metaschema"},
		"an example that is none": {`"price": 19.99`, `"price": true`, "price"},
		"an example that lacks":   {`"message": "Ticket not found"`, `"text": "Ticket not found"`, "message"},
		"a header without":        {`"description": "The version of what is answered, for If-Match and If-None-Match",`, "", "ETag"},
		"an operation without":    {`"description": "The caller becomes its seller.",`, "", "POST /api/tickets: it has no description"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if !strings.Contains(string(text), change.from) {
				t.Fatalf("the document does not have %s", change.from)
			}
			faults := faultsOf(t, []byte(strings.Replace(string(text), change.from, change.to, 1)))
			if !strings.Contains(strings.Join(faults, "\n"), change.fault) {
				t.Errorf("%s is not found: %q", change.fault, faults)
			}
		})
	}
}

// faultsOf lists what is wrong with an OpenAPI document, or missing.
func faultsOf(t *testing.T, text []byte) []string {
	t.Helper()
	document, err := libopenapi.NewDocument(text)
	if err != nil {
		return []string{err.Error()}
	}
	if version := document.GetVersion(); !strings.HasPrefix(version, "3.1.") {
		return []string{"the version is " + version}
	}
	check, errs := validator.NewValidator(document)
	if len(errs) > 0 {
		return []string{errs[0].Error()}
	}
	c := openAPICheck{schemas: schema_validation.NewSchemaValidator()}
	if _, failures := check.ValidateDocument(); len(failures) > 0 {
		for _, failure := range failures {
			c.add("", failure.Error())
			for _, detail := range failure.SchemaValidationErrors {
				c.add("", detail.Error())
			}
		}
		return c.faults
	}
	model, err := document.BuildV3Model()
	if err != nil {
		return []string{err.Error()}
	}
	c.document(&model.Model)
	return c.faults
}

type openAPICheck struct {
	schemas schema_validation.SchemaValidator
	faults  []string
}

func (c *openAPICheck) add(where, what string) {
	if where != "" {
		what = where + ": " + what
	}
	c.faults = append(c.faults, what)
}

func (c *openAPICheck) want(where, what string, there bool) {
	if !there {
		c.add(where, "it has no "+what)
	}
}

func (c *openAPICheck) document(d *v3.Document) {
	c.want("the document", "description", d.Info.Description != "")
	c.want("the document", "version", d.Info.Version != "")
	c.want("the document", "servers", len(d.Servers) > 0)
	for name, scheme := range d.Components.SecuritySchemes.FromOldest() {
		c.want("security scheme "+name, "description", scheme.Description != "")
	}
	var tags []string
	for _, tag := range d.Tags {
		tags = append(tags, tag.Name)
		c.want("tag "+tag.Name, "description", tag.Description != "")
	}
	for path, item := range d.Paths.PathItems.FromOldest() {
		for method, op := range item.GetOperations().FromOldest() {
			where := strings.ToUpper(method) + " " + path
			c.operation(where, op)
			for _, tag := range op.Tags {
				if !slices.Contains(tags, tag) {
					c.add(where, "its tag "+tag+" is not described")
				}
			}
		}
	}
}

func (c *openAPICheck) operation(where string, op *v3.Operation) {
	c.want(where, "id", op.OperationId != "")
	c.want(where, "summary", op.Summary != "")
	c.want(where, "description", op.Description != "")
	c.want(where, "tags", len(op.Tags) > 0)
	for _, p := range op.Parameters {
		if p.In != "path" {
			c.want(where+": parameter "+p.Name, "description", p.Description != "")
		}
		c.example(where+": parameter "+p.Name, p.Schema, p.Example)
	}
	wanted := []int{http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusServiceUnavailable}
	if op.RequestBody != nil {
		c.content(where+": body", op.RequestBody.Content.First().Value())
		wanted = append(wanted, http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType,
			http.StatusUnprocessableEntity)
	}
	if len(op.Security) > 0 && !slices.ContainsFunc(op.Security, func(r *base.SecurityRequirement) bool { return r.Requirements.Len() == 0 }) {
		wanted = append(wanted, http.StatusUnauthorized)
	}
	if slices.ContainsFunc(op.Parameters, func(p *v3.Parameter) bool { return p.In == "query" }) {
		wanted = append(wanted, http.StatusUnprocessableEntity)
	}
	for _, status := range wanted {
		c.want(where, "answer "+strconv.Itoa(status), op.Responses.Codes.GetOrZero(strconv.Itoa(status)) != nil)
	}
	c.want(where, "answer for any other error", op.Responses.Default != nil)
	for status, r := range op.Responses.Codes.FromOldest() {
		where := where + ": " + status
		c.want(where, "description", r.Description != "")
		for name, h := range r.Headers.FromOldest() {
			c.want(where+": header "+name, "description", h.Description != "")
			c.example(where+": header "+name, h.Schema, h.Example)
		}
		if status == "429" || status == "503" {
			c.want(where, "Retry-After", r.Headers.GetOrZero("Retry-After") != nil)
		}
		for _, media := range r.Content.FromOldest() {
			c.content(where, media)
		}
	}
}

// content checks that there are examples, and each.
func (c *openAPICheck) content(where string, media *v3.MediaType) {
	if media.Examples.Len() == 0 {
		c.example(where, media.Schema, media.Example)
	}
	for name, example := range media.Examples.FromOldest() {
		c.want(where+": example "+name, "summary", example.Summary != "")
		c.example(where+": example "+name, media.Schema, example.Value)
	}
}

func (c *openAPICheck) example(where string, schema *base.SchemaProxy, example *yaml.Node) {
	c.want(where, "schema", schema != nil)
	c.want(where, "example", example != nil)
	if schema == nil || example == nil {
		return
	}
	var value any
	if err := example.Decode(&value); err != nil {
		c.add(where, "the example cannot be read: "+err.Error())
		return
	}
	plain, err := json.Marshal(value) // what is valid is judged of JSON, not of YAML
	if err != nil {
		c.add(where, "the example is no JSON: "+err.Error())
		return
	}
	if ok, failures := c.schemas.ValidateSchemaBytesWithVersion(schema.Schema(), plain, 3.1); !ok {
		for _, failure := range failures {
			c.add(where, "the example does not fit: "+failure.Error())
			for _, detail := range failure.SchemaValidationErrors {
				c.add(where, detail.Error())
			}
		}
	}
}
