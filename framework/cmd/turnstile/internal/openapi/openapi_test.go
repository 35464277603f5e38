package openapi

import (
	"encoding/json"
	"strings"
	"testing"
)

const hats = `{
  "openapi": "3.1.0",
  "info": {"title": "Hats", "version": "1"},
  "servers": [{"url": "/"}],
  "paths": {
    "/hats": {
      "get": {
        "operationId": "list-hats",
        "parameters": [
          {"in": "query", "name": "q", "schema": {"type": "string"}},
          {"in": "query", "name": "limit", "schema": {"type": "integer", "maximum": 200, "default": 50}}
        ],
        "responses": {"200": {"description": "OK",
          "headers": {"Link": {"schema": {"type": "string"}}, "ETag": {"required": true, "schema": {"type": "string"}}},
          "content": {"application/json": {"schema": {"type": "array", "items": {"$ref": "#/components/schemas/Hat"}}}}}}
      },
      "post": {
        "operationId": "create-hat",
        "security": [{"cookie": []}],
        "requestBody": {"required": true, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/NewHat"}}}},
        "responses": {
          "201": {"description": "Created", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Hat"}}}},
          "409": {"description": "Conflict"}
        }
      }
    },
    "/hats/{id}": {
      "parameters": [{"in": "path", "name": "id", "required": true, "schema": {"type": "string"}}],
      "delete": {"operationId": "delete-hat", "responses": {"204": {"description": "No Content"}}}
    }
  },
  "components": {
    "securitySchemes": {"cookie": {"type": "apiKey", "in": "cookie", "name": "session"}},
    "schemas": {
      "Hat": {"type": "object", "required": ["id", "size"], "properties": {
        "id": {"type": "string"}, "size": {"type": "integer", "maximum": 100}, "note": {"type": "string"},
        "brim": {"type": "string", "enum": ["wide", "narrow"]}}},
      "NewHat": {"type": "object", "required": ["size"], "properties": {
        "size": {"type": "integer", "maximum": 100}, "title": {"type": "string", "maxLength": 20},
        "brim": {"type": "string", "enum": ["wide", "narrow"]},
        "band": {"type": "object", "additionalProperties": true, "properties": {"colour": {"type": "string"}}}}}
    }
  }
}`

func TestCompare(t *testing.T) {
	t.Parallel()
	const (
		query  = `{"in": "query", "name": "q", "schema": {"type": "string"}}`
		newHat = `"NewHat": {"type": "object", "required": ["size"], "properties": {
        "size": {"type": "integer", "maximum": 100}, "title": {"type": "string", "maxLength": 20},`
		hat = `"Hat": {"type": "object", "required": ["id", "size"], "properties": {
        "id": {"type": "string"}, "size": {"type": "integer", "maximum": 100}, "note": {"type": "string"},`
		conflict = `,
          "409": {"description": "Conflict"}`
		deletion = `"delete": {"operationId": "delete-hat", "responses": {"204": {"description": "No Content"}}}`
	)
	tests := []struct {
		name          string
		before, after string // what of the document becomes what
		breaks        bool
		says          string // of one of the changes; empty for none
	}{
		{"nothing", `"Hats"`, `"Hats"`, false, ""},
		{"a title", `"Hats"`, `"Caps"`, false, ""},
		{"a description", `"operationId": "list-hats",`, `"operationId": "list-hats", "description": "All hats",`, false, ""},
		{"an example", `"id": {"type": "string"},`, `"id": {"type": "string", "examples": ["7"]},`, false, ""},

		{"an operation is new", deletion, deletion + `, "get": {"responses": {"204": {"description": "No Content"}}}`, false, "endpoint added"},
		{"an operation is gone", deletion, `"get": {"responses": {"204": {"description": "No Content"}}}`, true, "removed"},
		{"a path has another name", `"/hats/{id}"`, `"/caps/{id}"`, true, "api path removed"},

		{"an optional parameter is new", query, query + `, {"in": "query", "name": "r", "schema": {"type": "string"}}`, false, "added the new optional `query`"},
		{"a required parameter is new", query, query + `, {"in": "query", "name": "r", "required": true, "schema": {"type": "string"}}`, true,
			"added the new required `query`"},
		{"a parameter is required", query, strings.Replace(query, `"q",`, `"q", "required": true,`, 1), true, "became required"},
		{"a parameter is gone", query + ",", "", true, "`q`"},
		{"a parameter has another type", query, strings.Replace(query, "string", "integer", 1), true, "`q`"},
		{"a parameter is bounded more narrowly", `"maximum": 200`, `"maximum": 100`, true, "`limit`"},
		{"a parameter is bounded more widely", `"maximum": 200`, `"maximum": 500`, false, "`limit`"},
		{"a parameter has another default", `"default": 50`, `"default": 20`, true, "`limit`"},
		{"a parameter has no default any more", `, "default": 50`, "", true, "`limit`"},
		{"a parameter has a default", query, strings.Replace(query, `"string"`, `"string", "default": "hat"`, 1), false, "`q`"},
		{"a header is required", query, query + `, {"in": "header", "name": "If-Match", "required": true, "schema": {"type": "string"}}`, true, "If-Match"},

		{"an optional member is new in requests", newHat, newHat + `"at": {"type": "string"},`, false, "new optional request property `at`"},
		{"a required member is new in requests", newHat, strings.Replace(newHat, `["size"]`, `["size", "at"]`, 1) + `"at": {"type": "string"},`, true,
			"new required request property `at`"},
		{"a member is required in requests", newHat, strings.Replace(newHat, `["size"]`, `["size", "title"]`, 1), true, "`title`"},
		{"a required member is optional in requests", newHat, strings.Replace(newHat, `"required": ["size"], `, "", 1), false, "`size`"},
		{"a member is gone from requests", newHat, strings.Replace(newHat, `"title": {"type": "string", "maxLength": 20},`, "", 1), true, "`title`"},
		{"a member is bounded more narrowly in requests", `"maxLength": 20`, `"maxLength": 10`, true, "maxLength was decreased"},
		{"a member is bounded more widely in requests", `"maxLength": 20`, `"maxLength": 30`, false, "maxLength was increased"},
		{"a member has another type in requests", `"title": {"type": "string", "maxLength": 20}`, `"title": {"type": "integer"}`, true, "`title`"},
		{"a member has more types in requests", `"title": {"type": "string", "maxLength": 20}`,
			`"title": {"type": ["string", "null"], "maxLength": 20}`, false, "`title`"},
		{"a value is gone from requests", newHat + `
        "brim": {"type": "string", "enum": ["wide", "narrow"]}`, newHat + `
        "brim": {"type": "string", "enum": ["wide"]}`, true, "`narrow`"},
		{"a value is new in requests", newHat + `
        "brim": {"type": "string", "enum": ["wide", "narrow"]}`, newHat + `
        "brim": {"type": "string", "enum": ["wide", "narrow", "none"]}`, false, "`none`"},

		{"unknown members are refused in requests", `"NewHat": {`, `"NewHat": {"additionalProperties": false, `, true,
			"takes no unknown members any more"},
		{"unknown members of a kind are refused in requests", `"NewHat": {`, `"NewHat": {"additionalProperties": {"type": "string"}, `, true,
			"takes no unknown members any more"},
		{"unknown members are refused deep in requests", `"additionalProperties": true`, `"additionalProperties": false`, true, "band"},
		{"unknown members are said to be taken in requests", `"NewHat": {`, `"NewHat": {"additionalProperties": true, `, false, ""},
		{"unknown members are no more in answers", `"Hat": {`, `"Hat": {"additionalProperties": false, `, false, ""},

		{"a member is new in answers", hat, hat + `"at": {"type": "string"},`, false, "`at`"},
		{"a required member is gone from answers", hat, strings.Replace(strings.Replace(hat, `, "size"]`, "]", 1), `"size": {"type": "integer", "maximum": 100}, `, "", 1),
			true, "removed the required property `size`"},
		{"an optional member is gone from answers", hat, strings.Replace(hat, `"note": {"type": "string"},`, "", 1), true, "`note`"},
		{"a member is optional in answers", hat, strings.Replace(hat, `, "size"]`, "]", 1), true, "`size`"},
		{"a member has another type in answers", hat, strings.Replace(hat, `"note": {"type": "string"}`, `"note": {"type": "integer"}`, 1), true, "`note`"},
		{"a member may be null in answers", hat, strings.Replace(hat, `"note": {"type": "string"}`, `"note": {"type": ["string", "null"]}`, 1), true, "`note`"},
		{"a value is new in answers", `"brim": {"type": "string", "enum": ["wide", "narrow"]}}},
      "NewHat"`, `"brim": {"type": "string", "enum": ["wide", "narrow", "none"]}}},
      "NewHat"`, true, "`none`"},
		{"a member is bounded more widely in answers", hat, strings.Replace(hat, "100", "200", 1), true, "`size`"},

		{"another status says that it succeeded", `"201"`, `"200"`, true, "201"},
		{"one more status says that it succeeded", `"201": {`, `"202": {"description": "Accepted"}, "201": {`, true, "202"},
		{"one more status says that it succeeded, with an answer", `"204": {`, `"200": {"description": "OK"}, "204": {`, true, "200"},
		{"an error is new", conflict, conflict + `, "422": {"description": "Unprocessable"}`, false, "422"},
		{"an error is gone", conflict, "", false, "409"},
		{"a header is gone that may be there", `"Link": {"schema": {"type": "string"}}, `, "", true, "Link"},
		{"a header has another type", `"ETag": {"required": true, "schema": {"type": "string"}}`,
			`"ETag": {"required": true, "schema": {"type": "integer"}}`, true, "ETag"},
		{"a header is gone", `, "ETag": {"required": true, "schema": {"type": "string"}}`, "", true, "ETag"},
		{"a header is new", `"Link": {"schema": {"type": "string"}}`, `"Link": {"schema": {"type": "string"}}, "Vary": {"schema": {"type": "string"}}`, false, ""},
		{"another media type", `"application/json": {"schema": {"type": "array"`, `"text/plain": {"schema": {"type": "array"`, true, "application/json"},

		{"a session is needed", `"operationId": "list-hats",`, `"operationId": "list-hats", "security": [{"cookie": []}],`, true, "cookie"},
		{"another server", `[{"url": "/"}]`, `[{"url": "/v2"}]`, true, "removed the server `/`"},
		{"one more server", `[{"url": "/"}]`, `[{"url": "/"}, {"url": "/v2"}]`, false, ""},
		{"the server is not said, which is /", `"servers": [{"url": "/"}],`, "", false, ""},
		{"an operation has another server", `"operationId": "list-hats",`, `"operationId": "list-hats", "servers": [{"url": "/v2"}],`, true,
			"removed the server `/`"},
		{"a path has another server", `"/hats/{id}": {`, `"/hats/{id}": {"servers": [{"url": "/v2"}],`, true, "removed the server `/`"},
		{"no session is needed any more", `"security": [{"cookie": []}],`, "", false, "anonymous"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if strings.Count(hats, test.before) != 1 {
				t.Fatalf("the document has %d times: %s", strings.Count(hats, test.before), test.before)
			}
			after := strings.Replace(hats, test.before, test.after, 1)
			if !json.Valid([]byte(after)) {
				t.Fatalf("not JSON: %s", after)
			}
			changes, err := Compare(t.Context(), []byte(hats), []byte(after))
			if err != nil {
				t.Fatal(err)
			}
			breaks, said := false, test.says == ""
			for _, c := range changes {
				breaks = breaks || c.Breaks()
				said = said || strings.Contains(c.Detail, test.says)
			}
			if breaks != test.breaks || !said {
				t.Errorf("breaks: %t, and says %q: %t, in\n%+v", breaks, test.says, said, changes)
			}
		})
	}
}

func TestCompareSaysWhereAndWhatToDo(t *testing.T) {
	t.Parallel()
	after := strings.Replace(hats, `"maximum": 200`, `"maximum": 100`, 1)
	changes, err := Compare(t.Context(), []byte(hats), []byte(after))
	if err != nil || len(changes) != 1 || changes[0].Operation != "GET /hats" || !strings.HasPrefix(changes[0].Fix, "go on taking") {
		t.Errorf("%v\n%+v", err, changes)
	}
}

func TestCompareRefusesWhatIsNoDocument(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "{", `{"openapi": "3.1.0"}`, strings.Replace(hats, `"in": "path", `, "", 1),
		strings.Replace(hats, "schemas/NewHat", "schemas/OldHat", 1)} {
		if _, err := Compare(t.Context(), []byte(text), []byte(hats)); err == nil || !strings.HasPrefix(err.Error(), "the earlier document: it is not valid OpenAPI: ") {
			t.Errorf("%v, for\n%s", err, text)
		}
		if _, err := Compare(t.Context(), []byte(hats), []byte(text)); err == nil || !strings.HasPrefix(err.Error(), "the later document: it is not valid OpenAPI: ") {
			t.Errorf("%v, for\n%s", err, text)
		}
	}
}
