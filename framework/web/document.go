package web

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

const problemType = "application/problem+json"

// Problems documents errors that an operation answers with, for its Responses: each is an example, and several may have one
// status. Those that every operation has, or every one with a session or a body, need not be named.
//
//	Responses: web.Problems(web.NotFound("Ticket not found"), web.Forbidden("This ticket is somebody else's")),
func Problems(problems ...*Problem) map[string]*huma.Response {
	responses := map[string]*huma.Response{}
	for _, p := range problems {
		addProblem(responses, p)
	}
	return responses
}

// addProblem adds an example of an error to what an operation answers.
func addProblem(responses map[string]*huma.Response, p *Problem) {
	status := strconv.Itoa(p.Status)
	r := responses[status]
	if r == nil || r.Content[problemType] == nil {
		r = &huma.Response{Headers: map[string]*huma.Param{}, Content: map[string]*huma.MediaType{
			problemType: {Examples: map[string]*huma.Example{}},
		}}
		responses[status] = r
	}
	for name := range p.header {
		r.Headers[name] = &huma.Param{Example: p.header.Get(name)}
	}
	messages := make([]string, len(p.Errors))
	for i, f := range p.Errors {
		messages[i] = f.Message
	}
	summary := strings.Join(messages, "; ")
	r.Content[problemType].Examples[slug(summary)] = &huma.Example{Summary: summary, Value: p}
}

// slug is a name made of the words of a text.
func slug(text string) string {
	words := strings.FieldsFunc(strings.ToLower(text), func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9')
	})
	return strings.Join(words, "-")
}

// DocumentOperation is called by huma.Register once for every operation: it notes what admit has to know of it, and
// documents what the shared rules make of it.
func (a *api) DocumentOperation(op *huma.Operation) {
	s := a.server
	if len(op.Security) > 0 && s.auth == nil {
		panic("web: operation " + op.OperationID + " requires a session: call Authenticate before registering it")
	}
	if op.RequestBody != nil {
		a.bodies[op] = a.bodyType(op)
		op.SkipValidateBody = true
		op.MaxBodyBytes = -1 // limited before
		op.BodyReadTimeout = 0
	}
	s.operations = append(s.operations, operation{
		Method: op.Method, Path: op.Path, ID: op.OperationID, Summary: op.Summary, Session: needsSession(op),
	})
	if op.Hidden {
		return
	}
	if len(op.Tags) == 0 {
		op.Tags = []string{s.name}
	}
	if creates(op) {
		documentIdempotencyKey(op)
	}
	documentConditional(op)
	// Huma has described its own error type: what remains of it are the statuses.
	statuses := op.Errors
	maps.DeleteFunc(op.Responses, func(status string, r *huma.Response) bool {
		media := r.Content[problemType]
		return (status == "default" || status >= "400") && (media == nil || media.Examples == nil)
	})
	for _, p := range a.problemsOf(op) {
		addProblem(op.Responses, p)
	}
	for _, status := range statuses {
		if op.Responses[strconv.Itoa(status)] == nil {
			addProblem(op.Responses, newProblem(status, ""))
		}
	}
	op.Responses["default"] = &huma.Response{
		Description: "Any other error", Content: map[string]*huma.MediaType{problemType: {Schema: a.problem}},
	}
	a.OpenAPI().AddOperation(op)
}

// bodyType is nil for an operation that takes the bytes of the JSON, because somebody has signed them, for example.
func (a *api) bodyType(op *huma.Operation) reflect.Type {
	if media := op.RequestBody.Content["application/json"]; media != nil && media.Schema != nil {
		if media.Schema.Format == "binary" {
			return nil
		}
		if media.Schema.Ref != "" {
			if t := a.OpenAPI().Components.Schemas.TypeFromRef(media.Schema.Ref); t != nil && t.Kind() == reflect.Struct {
				return t
			}
		}
	}
	panic("web: operation " + op.OperationID + ": its Body must be a struct, or it takes RawBody []byte of application/json")
}

// problemsOf lists, as they are answered, the errors that the shared rules make possible for an operation.
func (a *api) problemsOf(op *huma.Operation) []*Problem {
	auth := a.server.auth
	internal := newProblem(http.StatusInternalServerError, "Something went wrong")
	internal.TraceID = "4bf92f3577b34da6a3ce929d0e0e4736"
	problems := []*Problem{slowDown(1), internal, away()}
	if needsSession(op) {
		var refused *Problem
		if errors.As(auth.Require(context.Background()), &refused) {
			problems = append(problems, refused)
		}
	}
	if auth != nil && op.Method != http.MethodGet {
		problems = append(problems, OtherOrigin())
	}
	if t, ok := a.bodies[op]; ok {
		problems = append(problems, tooSlow(), tooLarge(), notJSON())
		if t != nil {
			problems = append(problems, checkBody([]byte("{"), t), cmp.Or(checkBody([]byte("{}"), t), checkBody(nil, t)))
		}
	}
	if creates(op) {
		problems = append(problems, underWay(), otherRequest())
	}
	params := queryOf(op)
	if len(params) > 0 {
		problems = append(problems, Invalid(Field{Message: malformedQuery}))
	}
	for _, p := range params {
		if p.Name == "cursor" {
			problems = append(problems, Invalid(Field{Name: p.Name, Message: p.Name + ": " + badCursor}))
		}
		for _, values := range [][]string{{"\x00"}, {"", ""}, {""}} {
			if f := checkParam(p, values); f.Message != "" {
				problems = append(problems, Invalid(f))
			}
		}
	}
	return problems
}

// document returns the OpenAPI document, complete: it says what Huma cannot know. It is called once, when every operation
// has been registered.
func (a *api) document() ([]byte, error) {
	api := a.OpenAPI()
	service := api.Info.Description
	api.Info.Description = strings.TrimSpace(service + "\n\n" + strings.ReplaceAll(rules, "'", "`"))
	schemas := api.Components.Schemas.Map()
	maps.DeleteFunc(schemas, func(name string, _ *huma.Schema) bool {
		return name == "ErrorModel" || name == "ErrorDetail"
	})
	for _, schema := range schemas {
		for _, property := range schema.Properties {
			neverNull(property)
		}
	}
	var tags []string
	for _, item := range api.Paths {
		for _, op := range operationsOf(item) {
			tags = append(tags, op.Tags...)
			a.complete(op)
		}
	}
	slices.Sort(tags)
	for _, tag := range slices.Compact(tags) {
		if !slices.ContainsFunc(api.Tags, func(t *huma.Tag) bool { return t.Name == tag }) {
			api.Tags = append(api.Tags, &huma.Tag{Name: tag, Description: service})
		}
	}
	return json.Marshal(api) // Huma's types are written for encoding/json
}

// complete adds to an operation's description what is known when all schemas are: examples above all.
func (a *api) complete(op *huma.Operation) {
	if op.RequestBody != nil {
		op.RequestBody.Required = true
		a.addExamples(op.RequestBody.Content)
	}
	for _, p := range op.Parameters {
		p.Example = cmp.Or(p.Example, a.exampleOf(p.Schema))
	}
	for _, r := range op.Responses {
		if media := r.Content["application/json"]; media != nil {
			a.addExamples(r.Content)
			neverNull(media.Schema)
		}
		for name, h := range r.Headers {
			describeHeader(op, r, name, h)
		}
		if media := r.Content[problemType]; media != nil && media.Examples != nil {
			media.Schema = a.problem
			var all []string
			for _, name := range slices.Sorted(maps.Keys(media.Examples)) {
				example := *media.Examples[name]
				if p, ok := example.Value.(*Problem); ok {
					answered := *p
					answered.Instance = examplePath(op)
					example.Value = answered
					media.Examples[name] = &example
				}
				all = append(all, example.Summary)
			}
			r.Description = cmp.Or(r.Description, strings.Join(all, ". Or: "))
		}
	}
}

// describeHeader says what the headers are for that HTTP gives a meaning.
func describeHeader(op *huma.Operation, r *huma.Response, name string, h *huma.Param) {
	var address string
	if media := r.Content["application/json"]; media != nil {
		if body, ok := media.Example.(map[string]any); ok {
			address = fmt.Sprint(op.Path, "/", body["id"])
		}
	}
	known := map[string]struct{ description, example string }{
		"Allow": {"The methods that there are at this address", "GET, HEAD, OPTIONS"},
		"Etag":  {"The version of what is answered, for If-Match and If-None-Match", `"0"`},
		"Link": {`Where the next page is (rel="next"); absent on the last one`,
			"<" + op.Path + `?cursor=IjAxOWFhZjNlIg&limit=50>; rel="next"`},
		"Location":    {"The address of what was created", address},
		"Retry-After": {"After how many seconds it is worth another try", ""},
		"Set-Cookie": {"The session, in a cookie that no script can read",
			"session=eyJhbGciOiJFZERTQSJ9.e30.c2ln; Path=/; HttpOnly; SameSite=Lax"},
	}[http.CanonicalHeaderKey(name)]
	h.Description = cmp.Or(h.Description, known.description)
	h.Required = h.Required || known.description != "" && name != "Link"
	if h.Schema == nil {
		h.Schema = &huma.Schema{Type: huma.TypeString}
	} else {
		h.Description = cmp.Or(h.Schema.Description, h.Description)
	}
	if len(h.Schema.Examples) > 0 {
		h.Example = cmp.Or(h.Example, h.Schema.Examples[0])
	} else if h.Example == nil && known.example != "" {
		h.Example = known.example
	}
}

func neverNull(s *huma.Schema) {
	if s != nil && s.Type == huma.TypeArray {
		s.Nullable = false
		neverNull(s.Items)
	}
}

// operationsOf lists the operations of one path.
func operationsOf(item *huma.PathItem) []*huma.Operation {
	return slices.DeleteFunc([]*huma.Operation{item.Get, item.Post, item.Put, item.Patch, item.Delete},
		func(op *huma.Operation) bool { return op == nil })
}

// rules is what holds for every operation of every API, in Markdown.
const rules = `Bodies are JSON, with times in UTC (RFC 3339, milliseconds) and opaque ids. Members that are not known are ignored on
both sides: more may come with time.

Every error is a problem (RFC 9457, 'application/problem+json') with at least one entry in 'errors', for people to read;
'field' names the member of the request that is to blame, if there is one. Beside the errors that operations list there
are 404 where there is nothing, and 405 with 'Allow' for a method that an address does not have. Every answer has an
'X-Request-Id', to be named when something goes wrong.

Collections are plain arrays. The next page is where the header 'Link' with 'rel="next"' says. 'HEAD' is answered as 'GET'
is, without the body, and 'OPTIONS' with 'Allow'.`
