package main

import (
	"errors"
	"flag"
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"-db sqlite -replicas 2": "a SQLite file belongs to one process",
		"-db oracle":             `-db "oracle": want sqlite or postgres`,
		"-broker kafka":          `-broker "kafka": want stan, jetstream or stan+jetstream`,
		"-broker stan+stan":      "want stan, jetstream or stan+jetstream",
		"-duration 0s":           "-duration must be more than 0",
		"-duration":              "flag needs an argument",
		"-people 0":              "-people must be 1 or more",
		"now":                    `there is no argument "now"`,
	} {
		var out strings.Builder
		if _, err := parse(strings.Fields(args), &out); err == nil || !strings.Contains(out.String(), want) {
			t.Errorf("chaos %s: %v, and it says:\n%swant %q", args, err, out.String(), want)
		}
	}
	for args, replicas := range map[string]int{"": 1, "-db postgres": 2, "-db postgres -replicas 3": 3, "-replicas 1": 1} {
		var out strings.Builder
		if o, err := parse(strings.Fields(args), &out); err != nil || o.replicas != replicas {
			t.Errorf("chaos %s: %d replicas, %v; want %d", args, o.replicas, err, replicas)
		}
	}
	o, err := parse([]string{"-broker", "stan+jetstream"}, nil)
	if err != nil || !slices.Equal(o.brokers, []string{"stan", "jetstream"}) {
		t.Errorf("both brokers: %v, %v", o.brokers, err)
	}
	var out strings.Builder
	if _, err := parse([]string{"-h"}, &out); !errors.Is(err, flag.ErrHelp) || !strings.Contains(out.String(), "chaos: ok faults=N") {
		t.Errorf("-h: %v, and it says:\n%s", err, out.String())
	}
}
