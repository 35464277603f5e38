package web

import (
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
)

const (
	invalidQuery   = "The query is not valid text"
	malformedQuery = "The query is not well-formed"
)

// checkAddress refuses what an operation cannot take from the address: text that no database can store, and a query of which
// something would be dropped silently. Of the query, only what the operation takes is looked at.
func checkAddress(u url.URL, op *huma.Operation) *Problem {
	if !storable(u.Path) {
		return nothingHere()
	}
	params := queryOf(op)
	if len(params) == 0 {
		return nil
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Invalid(Field{Message: malformedQuery})
	}
	var fields []Field
	for _, p := range params {
		if f := checkParam(p, query[p.Name]); f.Message != "" {
			fields = append(fields, f)
		}
	}
	if len(fields) > 0 {
		return Invalid(fields...)
	}
	return nil
}

// queryOf lists the parameters that an operation takes from the query.
func queryOf(op *huma.Operation) []*huma.Param {
	var params []*huma.Param
	for _, p := range op.Parameters {
		if p.In == "query" {
			params = append(params, p)
		}
	}
	return params
}

// checkParam returns what is wrong with the values of a parameter, before anybody asks what they mean. Text may be empty.
func checkParam(p *huma.Param, values []string) Field {
	for _, v := range values {
		if !storable(v) {
			return Field{Name: p.Name, Message: invalidQuery}
		}
	}
	switch {
	case len(values) > 1 && p.Schema.Type != huma.TypeArray:
		return Field{Name: p.Name, Message: p.Name + ": given more than once"}
	case len(values) == 1 && values[0] == "" && p.Schema.Type != huma.TypeString:
		return Field{Name: p.Name, Message: p.Name + ": empty"}
	}
	return Field{}
}

func storable(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }
