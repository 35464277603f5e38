package console

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// plain returns a console without colours whose clock stands still.
func plain(out *bytes.Buffer) *Console {
	c := New(out)
	c.now = func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local) }
	c.Align("orders", "payments")
	return c
}

func TestLine(t *testing.T) {
	at := time.Date(2026, 1, 2, 10, 20, 30, 456e6, time.Local).Format(time.RFC3339Nano)
	for name, test := range map[string]struct{ in, want string }{
		"record": {
			`{"time":"` + at + `","level":"INFO","msg":"service ready","service":"orders","instance":"x","http":"127.0.0.1:80","after":1.5}`,
			"10:20:30.456 orders    INFO  service ready http=127.0.0.1:80 after=1.5\n",
		},
		"order of attributes, quotes, groups": {
			`{"time":"` + at + `","level":"WARN","msg":"m","z":"two words","a":"","q":"say \"x\"","g":{"b":true,"h":{"c":null}},"l":[1, 2]}`,
			`10:20:30.456 orders    WARN  m z="two words" a="" q="say \"x\"" g.b=true g.h.c=null l=[1, 2]` + "\n",
		},
		"text of many lines": {
			`{"time":"` + at + `","level":"ERROR","msg":"panic","stack":"one\n\ttwo\n","n":1}`,
			"10:20:30.456 orders    ERROR panic n=1\n" + strings.Repeat(" ", 29) + "one\n" + strings.Repeat(" ", 29) + "\ttwo\n",
		},
		"no record":               {`panic: boom`, "03:04:05.000 orders    panic: boom\n"},
		"JSON, but no record":     {`{"a":1}`, "03:04:05.000 orders    {\"a\":1}\n"},
		"broken JSON":             {`{"time":"`, "03:04:05.000 orders    {\"time\":\"\n"},
		"text after the object":   {`{"time":"` + at + `","level":"INFO","msg":"m"}x`, "03:04:05.000 orders    {\"time\":\"" + at + "\",\"level\":\"INFO\",\"msg\":\"m\"}x\n"},
		"terminal commands":       {"a\x1b[2J\x07b\r", "03:04:05.000 orders    a[2Jb\n"},
		"colours":                 {"\x1b[31mred\x1b[0m", "03:04:05.000 orders    red\n"},
		"commands within records": {`{"time":"` + at + `","level":"INFO","msg":"a\u001b[2Jb"}`, "10:20:30.456 orders    INFO  a[2Jb\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			plain(&out).Line("orders", []byte(test.in))
			if got := out.String(); got != test.want {
				t.Errorf("got  %q\nwant %q", got, test.want)
			}
		})
	}
}

func TestSay(t *testing.T) {
	var out bytes.Buffer
	c := plain(&out)
	c.Say(Bad, "one\n%s", "two")
	c.Tell("payments", Good, "fine")
	want := "03:04:05.000 turnstile one\n                       two\n03:04:05.000 payments  fine\n"
	if got := out.String(); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestColours(t *testing.T) {
	var out bytes.Buffer
	c := plain(&out)
	if got := c.Text(Bad, "x") + c.Name("orders"); got != "xorders" {
		t.Errorf("colours where there is no terminal: %q", got)
	}
	c.colour = true
	if got := c.Text(Bad, "x"); got != "\x1b[31mx\x1b[0m" {
		t.Errorf("bad text = %q", got)
	}
	if c.Name("orders") == c.Name("payments") || !strings.Contains(c.Name("orders"), "orders") {
		t.Errorf("services cannot be told apart: %q and %q", c.Name("orders"), c.Name("payments"))
	}
	if again := plain(&out); func() bool { again.colour = true; return again.Name("orders") != c.Name("orders") }() {
		t.Error("a service's colour depends on more than its place")
	}
}

func TestTableAlignsWhatIsStyled(t *testing.T) {
	got := Table([][]string{{"A", "B", "C"}, {"\x1b[31mlonger\x1b[0m", "é", ""}, {"x", "bb", "c"}})
	want := "  A        B    C\n  \x1b[31mlonger\x1b[0m   é\n  x        bb   c\n"
	if got != want {
		t.Errorf("got\n%q\nwant\n%q", got, want)
	}
}

func TestStatusStaysBelow(t *testing.T) {
	var out bytes.Buffer
	c := plain(&out)
	c.Status("not shown: no terminal")
	if out.Len() != 0 {
		t.Errorf("status without a terminal: %q", out.String())
	}
	c.live, c.room = true, func() int { return 5 }
	c.Status("busy for long")
	c.Print("line")
	c.Status("")
	if got, want := out.String(), "\r\x1b[Kbusy\r\x1b[Kline\nbusy\r\x1b[K"; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}
