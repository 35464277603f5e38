package main

import (
	"strings"
	"testing"
)

func TestVictims(t *testing.T) {
	services, one, two := []string{"auth", "orders"}, []string{"broker"}, []string{"stan", "jetstream"}
	for names, want := range map[string]string{
		"broker":        "broker",
		"none":          "",
		"all":           "broker auth orders",
		"orders,broker": "orders broker",
		"orders,orders": "orders orders", // twice, if somebody wants that
	} {
		got, err := victims(strings.Split(names, ","), services, one)
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%s = %v, %v, want %s", names, got, err, want)
		}
	}
	for names, want := range map[string]string{
		"broker":         "stan jetstream",
		"jetstream,stan": "jetstream stan",
		"all":            "stan jetstream auth orders",
	} {
		got, err := victims(strings.Split(names, ","), services, two)
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%s of two brokers = %v, %v, want %s", names, got, err, want)
		}
	}
	if _, err := victims([]string{"tickets"}, services, one); err == nil || !strings.Contains(err.Error(), "auth, orders, broker") {
		t.Errorf("a victim that there is not = %v", err)
	}
}

func TestUnknownFlag(t *testing.T) {
	for args, want := range map[string]string{
		"dev --lisen x":   "unknown flag: --lisen; 'turnstile dev --help' lists the flags",
		"events ls --all": "unknown flag: --all; 'turnstile events ls --help' lists the flags",
	} {
		_, err := execute(t.Context(), rootCommand(nil, nil), strings.NewReader(""), strings.Fields(args))
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", args, err, want)
		}
	}
}

func TestBuiltByGoRun(t *testing.T) {
	for program, want := range map[string]bool{
		"/tmp/go-build123/b001/exe/turnstile": true,
		"/home/x/go/bin/turnstile":            false,
	} {
		if got := builtByGoRun(program); got != want {
			t.Errorf("%s = %v, want %v", program, got, want)
		}
	}
}
