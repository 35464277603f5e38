package fuzz

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/google/uuid"
)

// generator makes requests of what it has seen in answers, and of chance.
type generator struct {
	*rand.Rand
	ids     map[string][]string // by what they are of: the newest last
	cursors []string
	tags    []string // ETags
	keys    []string // for Idempotency-Key: a few, so that they come again
	users   []*user
}

// user is somebody who has signed up.
type user struct {
	email string
	token string // "" once it was given up
}

const password = "a long enough one"

// one returns one of some.
func one[T any](g *generator, some []T) T { return some[g.IntN(len(some))] }

// chance is true once in n times.
func (g *generator) chance(n int) bool { return g.IntN(n) == 0 }

// recent returns one of the last of some, "" if there is none.
func (g *generator) recent(some []string) string {
	if len(some) == 0 {
		return ""
	}
	return some[len(some)-1-g.IntN(min(len(some), 6))]
}

// remember keeps what may be used again.
func remember(list []string, s string) []string {
	const most = 200
	if s == "" || slices.Contains(list, s) {
		return list
	}
	if len(list) == most {
		list = list[1:]
	}
	return append(list, s)
}

// texts are strings that somebody somewhere did not expect.
var texts = []string{
	"", " ", "\t\r\n", "\x00", "a\x00b", "\xff\xfe", "\xed\xa0\x80", "\u202egnp", "\ufeff", "é", "e\u0301", "\U0001f3ab",
	"\U0010ffff",
	"' OR '1'='1", `"; --`, "1); DROP TABLE x; --", "%", "_", "%%%s%n%x", "\\", "${jndi:ldap://x.example/a}", "{{7*7}}", "#{7*7}",
	"<script>alert(1)</script>", "../../../etc/passwd", "..\\..\\x", "/dev/null", "\r\nX-Injected: yes", "\nX-Injected: yes\n\n",
	"null", "undefined", "true", "NaN", "-1", "0", "1e400", "0x10", "9223372036854775808", "-9223372036854775809",
	"1.7976931348623157e309",
	"{}", "[]", "__proto__", "constructor", "id", "2026-02-30T25:61:61Z", "Thu, 01 Jan 1970 00:00:00 GMT",
	"0190a0a0-0000-7000-8000-000000000000",
	"00000000-0000-0000-0000-000000000000", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF", "a@b.example, c@d.example", "a@[127.0.0.1]",
	"@", "mine",
	strings.Repeat("x", 201), strings.Repeat("\U0001f3ab", 201), strings.Repeat("ü", 129), strings.Repeat("a.", 200) + "example",
	strings.Repeat("0", 400), strings.Repeat("%", 300), strings.Repeat("(", 3000), strings.Repeat("x",
		5000), strings.Repeat("\x00", 50),
}

// values are JSON, and what looks like it, in any place of a body.
var values = []string{
	"null", "true", "false", "0", "-0", "-1", "1", "0.1", "1e400", "-1e400", "1e-400", "1E+400", "1e999999999999",
	"0e99999999999999999999",
	"9007199254740993", "9223372036854775807", "9223372036854775808", "18446744073709551616", "-9223372036854775809",
	"0.30000000000000004",
	strings.Repeat("9", 400), "0." + strings.Repeat("0",
		400) + "1", "[]", "{}", "[[]]", "[null]", `[{"a":[]}]`, `{"":""}`, `{"a":1,"a":2}`,
	`""`, `" "`, `"\u0000"`, `"\ud800"`, `"\udc00\ud800"`, `"\uD83C\uDFAB"`, "\"\xff\"", "\"\xc3\x28\"", `"\x"`, `"\u00"`,
	"\"\n\"", "\"\x00\"", `"`,
	"NaN", "Infinity", "-Infinity", "01", ".5", "5.", "+1", "0x10", "1_000", "'x'", "nul", "tru", "undefined", "/**/1", "1 //",
	"[1,]", "[,]", "{,}",
	`{"a"}`, `{a:1}`, "[", "{", "]", "}", ",", ":", "",
	strings.Repeat("[", 1000) + strings.Repeat("]", 1000), strings.Repeat(`{"a":`, 1000) + "1" + strings.Repeat("}", 1000),
	strings.Repeat("[", 20_000), `"` + strings.Repeat("x", 100_000) + `"`, `[` + strings.Repeat("1,", 20_000) + `1]`,
}

// text is a string that is likely to be accepted where the name says what it is.
func (g *generator) text(name string, s schema) string {
	lower := strings.ToLower(name)
	switch {
	case lower == "email":
		return g.email()
	case lower == "password":
		return password
	case lower == "token":
		return one(g, []string{"tok_visa", "tok_visa", "tok_chargeDeclined", "tok_insufficientFunds", "tok_timeout", "tok_unknown"})
	case lower == "cursor":
		return g.recent(g.cursors)
	case strings.HasSuffix(lower, "id"):
		return g.id(strings.TrimSuffix(lower, "id"))
	case lower == "if-match":
		return g.recent(g.tags)
	case lower == "idempotency-key":
		return one(g, g.keys)
	case lower == "q":
		return one(g, []string{"", "ticket", "a", "%", "TICKET", "ü"})
	}
	if examples, ok := s["examples"].([]any); ok && len(examples) > 0 && g.chance(4) {
		return fmt.Sprint(one(g, examples))
	}
	return one(g, []string{"A ticket", "Ein Fährschein", "座席", "a", strings.Repeat("x", 200),
		"ticket " + fmt.Sprint(g.IntN(1000))})
}

func (g *generator) email() string {
	if len(g.users) > 0 && g.chance(3) {
		return one(g, g.users).email
	}
	return fmt.Sprintf("u%x@example.com", g.Uint64())
}

// id is one of a thing that was seen, or of another thing, or of nothing.
func (g *generator) id(of string) string {
	if id := g.recent(g.ids[of]); id != "" && !g.chance(12) {
		return id
	}
	if of == "" || g.chance(2) {
		for _, ids := range g.ids {
			if id := g.recent(ids); id != "" && len(g.ids) == 1 {
				return id
			}
		}
	}
	var id [16]byte
	for i := range id {
		id[i] = byte(g.Uint32())
	}
	return uuid.UUID(id).String()
}

// How often something in a body is wrong, other than once in so many times.
const (
	never = 0
	once  = -1 // in one member of an object
)

// value makes JSON that is as the schema says, but for something wrong as often as that.
func (g *generator) value(d *document, s schema, name string, wrong int) string {
	if wrong > 0 && g.chance(wrong) {
		return g.wrong()
	}
	s = d.resolve(s)
	if choices := s.choices(); len(choices) > 0 {
		return g.value(d, one(g, choices), name, wrong)
	}
	if enum, ok := s["enum"].([]any); ok {
		text, err := json.Marshal(one(g, enum))
		if err != nil {
			panic(err) // it was JSON before
		}
		return string(text)
	}
	types := s.types()
	if len(types) == 0 {
		types = []string{"number", "string"}
	}
	switch one(g, types) {
	case "object":
		return g.object(d, s, wrong)
	case "array":
		var items []string
		for range g.IntN(4) {
			items = append(items, g.value(d, s.sub("items"), name, wrong))
		}
		return "[" + strings.Join(items, ",") + "]"
	case "boolean":
		return one(g, []string{"true", "false"})
	case "null":
		return "null"
	case "integer":
		return fmt.Sprint(g.IntN(100))
	case "number":
		return one(g, []string{"19.99", "1", "0.01", "1e3", "1000000", "20.00", "7.5", "12.340", fmt.Sprint(1 + g.IntN(1000))})
	}
	if strings.EqualFold(name, "price") {
		return quote(one(g, []string{"19.99", "1e3", "0.50", "1999e-2"}))
	}
	return quote(g.text(name, s))
}

// wrong is JSON, or not, that is hardly what somebody wants.
func (g *generator) wrong() string {
	if g.chance(2) {
		return quote(g.hostile())
	}
	return one(g, values)
}

func (g *generator) object(d *document, s schema, wrong int) string {
	properties := s.sub("properties")
	names := make([]string, 0, len(properties))
	for name := range properties {
		names = append(names, name)
	}
	slices.Sort(names)
	g.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	var members []string
	for i, name := range names {
		here := wrong
		if wrong == once {
			here = never
			if i == 0 {
				here = 1
			}
		}
		of, _ := properties[name].(map[string]any)
		member := func(name string) { members = append(members, quote(name)+":"+g.value(d, of, name, here)) }
		if here == never || !g.chance(2*here) {
			member(name)
			continue
		}
		if wrong == once {
			here = never // it is the member itself
		}
		switch g.IntN(5) {
		case 0: // there is none
		case 1:
			member(name)
			member(name)
		case 2:
			member(strings.ToUpper(name))
		case 3:
			member(name)
			member(strings.ToUpper(name))
		default:
			members = append(members, quote(g.hostile())+":"+one(g, values))
			member(name)
		}
	}
	return "{" + strings.Join(members, ",") + "}"
}

// quote makes a JSON string of any bytes; those that are no UTF-8 stay as they are.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < 0x20:
			fmt.Fprintf(&b, `\u%04x`, c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// hostile is a string that is likely to be refused, or should be.
func (g *generator) hostile() string {
	switch g.IntN(8) {
	case 0:
		b := make([]byte, g.IntN(60))
		for i := range b {
			b[i] = byte(g.Uint32())
		}
		return string(b)
	case 1:
		return g.flip(g.id(one(g, []string{"ticket", "order", "user", "payment"})))
	case 2: // what databases and logs mind most
		return one(g, []string{"\x00", "ticket\x00", "\xff", "ticket\xc3\x28", "%s%n", "\r\nX-Injected: yes"})
	default:
		return one(g, texts)
	}
}

// flip changes a string somewhere.
func (g *generator) flip(s string) string {
	if s == "" {
		return "x"
	}
	b := []byte(s)
	i := g.IntN(len(b))
	switch g.IntN(4) {
	case 0:
		b[i] ^= 1 << g.IntN(8)
	case 1:
		b = b[:i]
	case 2:
		b = slices.Insert(b, i, byte(g.Uint32()))
	default:
		b = append(b, b[i:]...)
	}
	return string(b)
}

// content makes a body that is right, or wrong somewhere.
func (g *generator) content(o *operation, wrong bool) []byte {
	if !wrong {
		return []byte(g.value(o.document, o.body, "", never))
	}
	if g.chance(2) {
		return []byte(g.value(o.document, o.body, "", once))
	}
	body := g.value(o.document, o.body, "", 2+g.IntN(5))
	switch g.IntN(24) {
	case 0:
		return []byte(one(g, values))
	case 1:
		return []byte(g.flip(body))
	case 2:
		return []byte(body + one(g, []string{body, "x", "]", "\x00", " null", strings.Repeat(" ", 2000)}))
	case 3:
		return []byte(one(g, []string{"\ufeff", "\xff\xfe", ")]}',\n", "// x\n", "x=", "<?xml version='1.0'?>"}) + body)
	case 4:
		return []byte(g.hostile())
	case 5:
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write([]byte(body)) // into memory
		_ = z.Close()
		return b.Bytes()
	case 6:
		if g.chance(20) {
			return []byte(`{"a":"` + strings.Repeat("x", 1<<20) + `"}`)
		}
		return []byte(`{"a":` + strings.Repeat(one(g, []string{"[", `{"a":`}), 50_000))
	}
	return []byte(body)
}
