package web

import (
	"net/url"
	"strings"
	"unicode/utf8"
)

const invalidQuery = "The query is not valid text"

// checkAddress refuses, in what a handler takes from the address, text that no database can store.
func checkAddress(u url.URL) *Problem {
	if !storable(u.Path) {
		return nothingHere()
	}
	for name, values := range u.Query() {
		for _, v := range values {
			if !storable(v) {
				return Invalid(Field{Name: strings.ToValidUTF8(name, "�"), Message: invalidQuery})
			}
		}
	}
	return nil
}

func storable(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }
