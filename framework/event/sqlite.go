package event

import "strings"

// sqlite says how SQLite spells what differs. It has one writer, so there is
// nothing to lock.
var sqlite = dialect{
	rows: func(columns string) string {
		var b strings.Builder
		b.WriteString("(SELECT ")
		for i, c := range strings.Split(columns, ",") {
			name, _, _ := strings.Cut(strings.TrimSpace(c), " ")
			if i > 0 {
				b.WriteString(", ")
			}
			b.WriteString("value->>'" + name + "' AS " + name)
		}
		b.WriteString(" FROM json_each($1)) AS t")
		return b.String()
	},
	now:     "$2",
	workers: 1,
}
