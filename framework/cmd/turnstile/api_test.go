package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
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

func TestAPIDocuments(t *testing.T) {
	t.Parallel()
	api := func(title string) json.RawMessage {
		return json.RawMessage(`{"openapi":"3.1.0","info":{"title":"` + title + `","version":"1"},"paths":{}}`)
	}
	hats, caps := api("Hats"), api("Caps")
	for _, test := range []struct {
		name      string
		committed map[string]json.RawMessage // by file
		apis      map[string]json.RawMessage
		diff      string // part of the error with which the difference fails
		write     string // of that with which writing fails; empty for none
		after     []string
	}{
		{"as it was", map[string]json.RawMessage{"openapi.json": hats}, map[string]json.RawMessage{"hats": hats},
			"", "", []string{"openapi.json"}},
		{"the first API", nil, map[string]json.RawMessage{"hats": hats}, "1 document not committed", "", []string{"openapi.json"}},
		{"one more API", map[string]json.RawMessage{"openapi.json": hats}, map[string]json.RawMessage{"hats": hats, "caps": caps},
			"1 document not committed", "", []string{"openapi.caps.json", "openapi.json"}},
		{"two APIs", nil, map[string]json.RawMessage{"hats": hats, "caps": caps},
			"2 documents not committed", "", []string{"openapi.caps.json", "openapi.hats.json"}},
		{"one of two APIs is gone", map[string]json.RawMessage{"openapi.caps.json": caps, "openapi.hats.json": hats},
			map[string]json.RawMessage{"hats": hats}, "clients break: 1 change", "clients break: 1 change", []string{"openapi.hats.json"}},
		{"the only API is gone", map[string]json.RawMessage{"openapi.json": hats}, nil,
			"clients break: 1 change", "clients break: 1 change", nil},
		{"others are there instead", map[string]json.RawMessage{"openapi.json": hats},
			map[string]json.RawMessage{"caps": caps, "shoes": api("Shoes")},
			"clients break: 1 change", "clients break: 1 change", []string{"openapi.caps.json", "openapi.shoes.json"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			dir := filepath.Join(root, "hats")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			for name, text := range test.committed {
				var b bytes.Buffer
				if err := json.Indent(&b, text, "", "  "); err != nil {
					t.Fatal(err)
				}
				b.WriteByte('\n')
				if err := os.WriteFile(filepath.Join(dir, name), b.Bytes(), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			fails := func(do string, err error, want string) {
				t.Helper()
				if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
					t.Errorf("%s: %v, want %q", do, err, want)
				}
			}
			documents := func() []document {
				t.Helper()
				list, err := documentsIn(root, dir, test.apis)
				if err != nil {
					t.Fatal(err)
				}
				return list
			}
			files := func() (names []string) {
				t.Helper()
				entries, err := os.ReadDir(dir)
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range entries {
					names = append(names, e.Name())
				}
				return names
			}
			before := files()
			var out bytes.Buffer
			fails("diff", diffDocuments(t.Context(), &out, documents(), true), test.diff)
			fails("write", writeDocuments(t.Context(), &out, documents(), false), test.write)
			if test.write != "" && !slices.Equal(files(), before) {
				t.Errorf("there are %q, before it was %q", files(), before)
			}
			fails("write --breaking", writeDocuments(t.Context(), &out, documents(), true), "")
			if got := files(); !slices.Equal(got, test.after) {
				t.Errorf("there are %q, want %q", got, test.after)
			}
			if len(test.after) > 0 {
				fails("diff after that", diffDocuments(t.Context(), &out, documents(), true), "")
			}
			if t.Failed() {
				t.Log(out.String())
			}
		})
	}
}
