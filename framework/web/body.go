package web

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// encode writes v as every answer is written: nil slices as [], times in UTC with milliseconds.
func encode(v any) ([]byte, error) { return json.Marshal(v, encoding) }

var encoding = json.JoinOptions(
	json.Deterministic(true),
	jsontext.AllowInvalidUTF8(true),
	json.WithMarshalers(json.MarshalToFunc(func(e *jsontext.Encoder, t time.Time) error {
		return e.WriteToken(jsontext.String(t.UTC().Format("2006-01-02T15:04:05.000Z")))
	})),
)

// readBody returns r's body, which must be JSON of at most HTTP_BODY_LIMIT bytes.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request) ([]byte, *Problem) {
	limit := s.cfg.BodyLimit
	if !isJSON(r.Header) {
		return nil, notJSON()
	}
	if r.ContentLength > limit {
		return nil, tooLarge()
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var over *http.MaxBytesError
	var network net.Error
	switch {
	case err == nil:
		return body, nil
	case errors.As(err, &over):
		return nil, tooLarge()
	case errors.As(err, &network) && network.Timeout():
		return nil, tooSlow()
	case s.ending.Load():
		return nil, away() // the connection was shut under it
	default:
		return nil, newProblem(http.StatusBadRequest, "The body could not be read")
	}
}

func notJSON() *Problem {
	return newProblem(http.StatusUnsupportedMediaType, "Content-Type must be application/json")
}

func tooLarge() *Problem {
	return newProblem(http.StatusRequestEntityTooLarge, "The body is too large")
}

func tooSlow() *Problem {
	return newProblem(http.StatusRequestTimeout, "The body did not arrive in time")
}

func isJSON(h http.Header) bool {
	media, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil || media != "application/json" {
		return false
	}
	if charset, ok := params["charset"]; ok && !strings.EqualFold(charset, "utf-8") {
		return false
	}
	encoding := h.Get("Content-Encoding")
	return encoding == "" || strings.EqualFold(encoding, "identity")
}

// checkBody decodes data into a new value of the struct type t and returns everything that is wrong with it, or nil.
func checkBody(data []byte, t reflect.Type) *Problem {
	if fine(data, t) {
		return nil
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return Invalid(Field{Message: "A JSON object is required"})
	}
	dec := jsontext.NewDecoder(bytes.NewReader(data))
	object, err := dec.ReadValue()
	if err == nil {
		object = object.Clone()
		if _, err = dec.ReadToken(); errors.Is(err, io.EOF) {
			err = nil
		} else if err == nil {
			err = errors.New("more than one value")
		}
	}
	if err != nil {
		return newProblem(http.StatusBadRequest, "The body is not well-formed JSON")
	}
	if object.Kind() != '{' {
		return Invalid(Field{Message: "A JSON object is required"})
	}
	var members map[string]jsontext.Value
	if err := json.Unmarshal(object, &members); err != nil {
		return newProblem(http.StatusBadRequest, "The body is not well-formed JSON")
	}

	// What cannot be decoded is reported and left out, so that the rest is validated, too.
	wrong := map[string]string{}
	for name, value := range members {
		if hasNUL(value) {
			wrong[name] = "must not contain the character U+0000"
		}
	}
	v, err := decode(members, t)
	for err != nil {
		var semantic *json.SemanticError
		if !errors.As(err, &semantic) {
			return newProblem(http.StatusBadRequest, "The body is not well-formed JSON")
		}
		name := ""
		for token := range semantic.JSONPointer.Tokens() {
			name = token
			break
		}
		if _, ok := members[name]; !ok {
			return Invalid(Field{Message: "The body cannot be read"})
		}
		wrong[name] = "must be " + describe(semantic.GoType)
		delete(members, name)
		v, err = decode(members, t)
	}

	fields := validate(v)
	names := memberNames(t)
	for _, name := range names {
		reported := slices.ContainsFunc(fields, func(f Field) bool { return f.Name == name })
		if what, ok := wrong[name]; ok && !reported {
			fields = append(fields, Field{Name: name, Message: name + " " + what})
		}
	}
	if len(fields) == 0 {
		return nil
	}
	slices.SortStableFunc(fields, func(a, b Field) int { return slices.Index(names, a.Name) - slices.Index(names, b.Name) })
	return Invalid(fields...)
}

// fine reports whether nothing is wrong with data, as with most: to say what is wrong takes much longer.
func fine(data []byte, t reflect.Type) bool {
	v := reflect.New(t).Interface()
	return jsontext.Value(data).Kind() == '{' && !mayHaveNUL(data) && json.Unmarshal(data, v) == nil && len(validate(v)) == 0
}

// validate asks v, a pointer to a struct, what is wrong with it, if it knows.
func validate(v any) []Field {
	if b, ok := v.(interface{ Validate() []Field }); ok {
		return b.Validate()
	}
	return nil
}

func decode(members map[string]jsontext.Value, t reflect.Type) (any, error) {
	data, err := json.Marshal(members)
	if err != nil {
		return nil, err
	}
	v := reflect.New(t).Interface()
	return v, json.Unmarshal(data, v)
}

// mayHaveNUL is false of most JSON that has no U+0000 in a string, and never of JSON that has.
func mayHaveNUL(data []byte) bool { return bytes.Contains(data, []byte(`\u0000`)) }

// hasNUL reports whether a string in v holds U+0000, which PostgreSQL cannot store.
func hasNUL(v jsontext.Value) bool {
	if !mayHaveNUL(v) {
		return false
	}
	dec := jsontext.NewDecoder(bytes.NewReader(v))
	for {
		token, err := dec.ReadToken()
		if err != nil {
			return false
		}
		if token.Kind() == '"' && strings.ContainsRune(token.String(), 0) {
			return true
		}
	}
}

func describe(t reflect.Type) string {
	if t == nil {
		return "of another type"
	}
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number within range"
	case reflect.Float32, reflect.Float64:
		return "a number within range"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Map:
		return "an object"
	default:
		return "valid"
	}
}

// memberNames lists the JSON members of the struct type t in the order of its fields.
func memberNames(t reflect.Type) []string {
	var names []string
	for _, f := range reflect.VisibleFields(t) {
		if !f.IsExported() || f.Anonymous {
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch name {
		case "-":
		case "":
			names = append(names, f.Name)
		default:
			names = append(names, name)
		}
	}
	return names
}
