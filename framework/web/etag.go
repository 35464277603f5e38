package web

import (
	"strconv"
	"strings"
)

// ETag returns the entity tag of a thing's version, for the ETag header.
func ETag(version int64) string { return `"` + strconv.FormatInt(version, 10) + `"` }

// IfMatch reports whether the value of an If-Match header admits a thing whose tag is etag. An absent header (empty) and *
// admit everything; weak tags and what is not a tag match nothing.
func IfMatch(header, etag string) bool {
	rest := strings.TrimSpace(header)
	if rest == "" || rest == "*" {
		return true
	}
	for rest != "" {
		rest = strings.TrimLeft(rest, ", \t")
		weak := strings.HasPrefix(rest, "W/")
		rest = strings.TrimPrefix(rest, "W/")
		if !strings.HasPrefix(rest, `"`) {
			return false
		}
		end := strings.IndexByte(rest[1:], '"')
		if end < 0 {
			return false
		}
		tag := rest[:end+2]
		if tag == etag && !weak {
			return true
		}
		rest = strings.TrimSpace(rest[end+2:])
	}
	return false
}
