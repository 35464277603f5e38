// Package config fills a struct from environment variables and says, of all variables at once, what is
// wrong with them and what they are for.
//
// Parsing is caarlos0/env (tags env, envDefault, envPrefix, envSeparator); this package adds the report by
// variable name, the tags doc (what the variable is for), example (a value that would do), secret:"true"
// (never shown, as is a secret.String) and calls (the name of the service whose URL it takes).
package config

import (
	"cmp"
	"encoding"
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"

	"github.com/turnstile-go/turnstile/framework/secret"
)

// Variable describes one environment variable.
type Variable struct {
	Name string `json:"name"`
	// Type is one of string, integer, number, boolean, duration, url, map, or "list of " one of these.
	Type     string `json:"type"`
	Default  string `json:"default,omitempty"`
	Required bool   `json:"required"`
	Secret   bool   `json:"secret"`
	// Adjustable is a variable that may change while the service runs. Reading the struct does not tell.
	Adjustable bool `json:"adjustable,omitempty"`
	// Calls is the name of the service that is called at the URL which the variable takes.
	Calls   string `json:"calls,omitempty"`
	Doc     string `json:"doc,omitempty"`
	Example string `json:"example,omitempty"`
}

// Problem is what is wrong with one variable.
type Problem struct {
	Variable Variable
	Detail   string
}

// Error is every problem of an environment, in the order of the fields.
type Error struct{ Problems []Problem }

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("configuration is not usable:")
	for _, p := range e.Problems {
		fmt.Fprintf(&b, "\n  %s %s", p.Variable.Name, p.Detail)
	}
	return b.String()
}

// Load fills the struct that target points to from environ. A variable set to the empty string counts as
// not set. The error is an *[Error] unless the struct itself is at fault.
func Load(target any, environ map[string]string) error {
	leaves, err := collect(target)
	if err != nil {
		return err
	}
	set := make(map[string]string, len(environ))
	for name, value := range environ {
		if value != "" {
			set[name] = value
		}
	}
	parseErr := env.ParseWithOptions(target, env.Options{Environment: set})
	if parseErr == nil {
		return nil
	}
	// The library names the struct's field, not the variable: try the fields one by one.
	failed := &Error{}
	for _, l := range leaves {
		if detail, ok := l.check(set); !ok {
			failed.Problems = append(failed.Problems, Problem{Variable: l.variable, Detail: detail})
		}
	}
	if len(failed.Problems) == 0 {
		return fmt.Errorf("configuration struct: %w", parseErr)
	}
	return failed
}

// Examples fills the struct that target points to with its defaults, and what is required with the values
// of the example tags, looking at no environment. What has neither keeps its zero value.
func Examples(target any) error {
	leaves, err := collect(target)
	if err != nil {
		return err
	}
	environ := make(map[string]string, len(leaves))
	for _, l := range leaves {
		if l.variable.Required && l.variable.Default == "" && l.variable.Example != "" {
			environ[l.variable.Name] = l.variable.Example
		}
	}
	err = env.ParseWithOptions(target, env.Options{Environment: environ})
	var all env.AggregateError
	if !errors.As(err, &all) {
		return err
	}
	var wrong []error
	for _, e := range all.Errors {
		if !errors.As(e, new(env.VarIsNotSetError)) && !errors.As(e, new(env.EmptyVarError)) {
			wrong = append(wrong, e)
		}
	}
	return errors.Join(wrong...)
}

// Variables lists what the struct that target points to takes from the environment, in the order of its
// fields. It is an error for two fields to declare one variable differently.
func Variables(target any) ([]Variable, error) {
	leaves, err := collect(target)
	if err != nil {
		return nil, err
	}
	variables := make([]Variable, len(leaves))
	for i, l := range leaves {
		variables[i] = l.variable
	}
	return variables, nil
}

// leaf is one field that a variable sets.
type leaf struct {
	variable Variable
	field    reflect.StructField
	prefix   string
}

func collect(target any) ([]leaf, error) {
	t := reflect.TypeOf(target)
	if t == nil || t.Kind() != reflect.Pointer || t.Elem().Kind() != reflect.Struct {
		return nil, fmt.Errorf("configuration must be a struct, not %v", t)
	}
	var leaves []leaf
	walk(t.Elem(), "", &leaves)
	byName := make(map[string]Variable, len(leaves))
	unique := leaves[:0]
	for _, l := range leaves {
		earlier, again := byName[l.variable.Name]
		switch {
		case !again:
			byName[l.variable.Name] = l.variable
			unique = append(unique, l)
		case earlier.Type != l.variable.Type || earlier.Default != l.variable.Default:
			return nil, fmt.Errorf("configuration declares %s twice: as %s with default %q, and as %s with default %q",
				l.variable.Name, earlier.Type, earlier.Default, l.variable.Type, l.variable.Default)
		}
	}
	return unique, nil
}

func walk(t reflect.Type, prefix string, leaves *[]leaf) {
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() {
			continue
		}
		name, options, _ := strings.Cut(f.Tag.Get("env"), ",")
		switch {
		case name == "-":
		case name != "":
			kind, hidden := typeName(f.Type)
			hidden = hidden || f.Tag.Get("secret") == "true"
			required := false
			for option := range strings.SplitSeq(options, ",") {
				required = required || option == "required" || option == "notEmpty"
			}
			def, hasDefault := f.Tag.Lookup("envDefault")
			*leaves = append(*leaves, leaf{
				field: f, prefix: prefix,
				variable: Variable{
					Name: prefix + name, Type: kind, Default: def, Required: required && !hasDefault, Secret: hidden,
					Calls: f.Tag.Get("calls"), Doc: f.Tag.Get("doc"), Example: f.Tag.Get("example"),
				},
			})
		case f.Type.Kind() == reflect.Struct:
			walk(f.Type, prefix+f.Tag.Get("envPrefix"), leaves)
		}
	}
}

// check parses the one field, and tells what is wrong if that fails.
func (l leaf) check(environ map[string]string) (detail string, ok bool) {
	one := reflect.New(reflect.StructOf([]reflect.StructField{{Name: l.field.Name, Type: l.field.Type, Tag: l.field.Tag}}))
	err := env.ParseWithOptions(one.Interface(), env.Options{Environment: environ, Prefix: l.prefix})
	if err == nil {
		return "", true
	}
	if errors.As(err, new(env.VarIsNotSetError)) || errors.As(err, new(env.EmptyVarError)) {
		detail = "is required and not set, want a " + l.variable.Type
		if l.variable.Example != "" {
			detail += " such as " + l.variable.Example
		}
		if l.variable.Doc != "" {
			detail += ": " + l.variable.Doc
		}
		return detail, false
	}
	value, source := environ[l.variable.Name], "is"
	if value == "" {
		value, source = l.variable.Default, "has the default"
	}
	return fmt.Sprintf("%s %s%s", source, l.show(value), l.expected(err)), false
}

// show quotes value as far as it may be seen.
func (l leaf) show(value string) string {
	if l.variable.Secret {
		return secret.New(value).String()
	}
	if scheme, rest, ok := strings.Cut(value, "://"); ok && strings.Contains(rest, "@") {
		// Everything up to the last @ may be a password, even where the rest is no URL.
		value = scheme + "://***@" + rest[strings.LastIndex(rest, "@")+1:]
	}
	return fmt.Sprintf("%q", value)
}

// expected says what the variable takes. Types of the service's own say it themselves, by the error of
// their UnmarshalText.
func (l leaf) expected(err error) string {
	switch kind := l.variable.Type; {
	case kind == "integer":
		return ", want a whole number" + bits(l.field.Type)
	case kind == "number":
		return ", want a number"
	case kind == "boolean":
		return ", want true or false"
	case kind == "duration":
		return ", want a duration such as 500ms, 30s or 5m"
	case kind == "url":
		return ", want a URL"
	case strings.HasPrefix(kind, "list of ") && kind != "list of string":
		return ", want a " + kind + "s, separated by " + cmp.Or(l.field.Tag.Get("envSeparator"), "commas")
	case l.variable.Secret:
		return ", which is not of the form it takes"
	}
	var parse env.ParseError
	if errors.As(err, &parse) {
		err = parse.Err
	}
	return " (" + err.Error() + ")"
}

// bits tells the range of the narrower and the unsigned integers. The library reads an int as 32 bits.
func bits(t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Uint, reflect.Uint32, reflect.Uint64:
		return ", 0 or more"
	case reflect.Int8:
		return " from -128 to 127"
	case reflect.Uint8:
		return " from 0 to 255"
	case reflect.Int16:
		return " from -32768 to 32767"
	case reflect.Uint16:
		return " from 0 to 65535"
	default:
		return ""
	}
}

func typeName(t reflect.Type) (name string, hidden bool) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == reflect.TypeFor[secret.String]():
		return "string", true
	case t == reflect.TypeFor[time.Duration]():
		return "duration", false
	case t == reflect.TypeFor[url.URL]():
		return "url", false
	case reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		return "string", false
	}
	switch t.Kind() {
	case reflect.Bool:
		return "boolean", false
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "integer", false
	case reflect.Float32, reflect.Float64:
		return "number", false
	case reflect.Slice:
		name, hidden = typeName(t.Elem())
		return "list of " + name, hidden
	case reflect.Map:
		return "map", false
	default:
		return "string", false
	}
}
