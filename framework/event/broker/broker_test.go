package broker

import (
	"strings"
	"testing"
)

func TestNew(t *testing.T) {
	for use, want := range map[string]string{
		"":               "stan",
		"stan":           "stan",
		"jetstream":      "jetstream",
		"stan+jetstream": "stan jetstream",
		"jetstream+stan": "jetstream stan",

		"kafka":       `BROKER is "kafka": want stan, jetstream or stan+jetstream`,
		"stan,kafka":  `BROKER is "stan,kafka": want stan, jetstream or stan+jetstream`,
		"stan+":       `BROKER is "stan+": want stan, jetstream or stan+jetstream`,
		"STAN":        `BROKER is "STAN": want stan, jetstream or stan+jetstream`,
		"stan+stan":   `BROKER is "stan+stan": stan is in it twice`,
		"stan + stan": `BROKER is "stan + stan": want stan, jetstream or stan+jetstream`,
	} {
		brokers, err := New(Config{Use: use}, nil)
		var names []string
		for _, b := range brokers {
			names = append(names, b.Name())
		}
		got := strings.Join(names, " ")
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("BROKER=%s: %s, want %s", use, got, want)
		}
	}
}
