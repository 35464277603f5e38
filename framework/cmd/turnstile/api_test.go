package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestAPICommand(t *testing.T) {
	t.Setenv("GOWORK", "")
	for args, want := range map[string]string{
		"dif":          "there is no command 'api dif'; 'turnstile api --help' lists those that there are",
		"diff hats":    "there is no service hats; the workspace has ",
		"write --brek": "unknown flag: --brek",
	} {
		_, err := execute(t.Context(), apiCommand(), strings.NewReader(""), strings.Fields(args))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("api %s: %v, want %s", args, err, want)
		}
	}
}

func TestAPIReport(t *testing.T) {
	t.Parallel()
	const text = `{"openapi": "3.1.0", "info": {"title": "Hats", "version": "1"}, "paths": {"/hats": {"get": {
		"parameters": [{"in": "query", "name": "limit", "schema": {"type": "integer", "maximum": 200}}],
		"responses": {"204": {"description": "No Content"}}}}}}`
	less := strings.Replace(text, "200", "100", 1)
	for _, test := range []struct {
		committed, current string
		broken             int
		want               string
	}{
		{text, text, 0, ""},
		{less, text, 0, "hats/openapi.json: GET /hats: for the `query` request parameter `limit`, the max was increased from `100.00` to `200.00`\n"},
		{text, less, 1, "hats/openapi.json: GET /hats: for the `query` request parameter `limit`, the max was decreased from `200.00` to `100.00`: " +
			"clients break; go on taking what was taken before, and add what is new under another name\n"},
		{"", text, 0, "hats/openapi.json: there is none\n"},
	} {
		d := document{name: "hats/openapi.json", current: []byte(test.current)}
		if test.committed != "" {
			d.committed = []byte(test.committed)
		}
		var out bytes.Buffer
		broken, err := d.report(t.Context(), &out)
		if err != nil || broken != test.broken || out.String() != test.want {
			t.Errorf("%d, %v\n%swant %d\n%s", broken, err, out.String(), test.broken, test.want)
		}
	}
	d := document{name: "hats/openapi.json", committed: []byte("{"), current: []byte(text)}
	if _, err := d.report(t.Context(), &bytes.Buffer{}); err == nil || !strings.HasPrefix(err.Error(), "hats/openapi.json: the earlier document: ") {
		t.Errorf("a document that is none: %v", err)
	}
}
