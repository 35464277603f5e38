package config_test

import (
	"errors"
	"net/netip"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/framework/internal/config"
	"github.com/turnstile-go/turnstile/framework/secret"
)

type colour string

func (c *colour) UnmarshalText(text []byte) error {
	if string(text) != "red" {
		return errors.New("want red")
	}
	*c = colour(text)
	return nil
}

type pool struct {
	Size uint16 `env:"SIZE" envDefault:"10"`
}

type everything struct {
	Text     string          `env:"TEXT" doc:"some text"`
	Whole    int             `env:"WHOLE" envDefault:"1"`
	Small    int8            `env:"SMALL"`
	Unsigned uint            `env:"UNSIGNED"`
	Number   float64         `env:"NUMBER"`
	Switch   bool            `env:"SWITCH"`
	Duration time.Duration   `env:"DURATION" envDefault:"3s"`
	Address  url.URL         `env:"ADDRESS"`
	List     []string        `env:"LIST" envDefault:"a,b"`
	Waits    []time.Duration `env:"WAITS" envSeparator:";"`
	Networks []netip.Prefix  `env:"NETWORKS" envDefault:"10.0.0.0/8"`
	Labels   map[string]int  `env:"LABELS"`
	Colour   colour          `env:"COLOUR"`
	Optional *int            `env:"OPTIONAL"`
	Key      secret.String   `env:"KEY"`
	Number2  int             `env:"PIN" secret:"true"`
	Read     pool            `envPrefix:"READ_"`
	Write    pool            `envPrefix:"WRITE_"`
	Ignored  func()          `env:"-"`
	Other    chan int
}

func TestLoad(t *testing.T) {
	t.Parallel()
	var c everything
	if err := config.Load(&c, map[string]string{
		"TEXT": "t", "WHOLE": "", "NUMBER": "2.5", "SWITCH": "true", "ADDRESS": "http://host/x", "WAITS": "1s;2s",
		"LABELS": "a:1,b:2", "COLOUR": "red", "OPTIONAL": "7", "KEY": "k", "WRITE_SIZE": "20", "OTHER": "x",
	}); err != nil {
		t.Fatal(err)
	}
	if c.Text != "t" || c.Whole != 1 || c.Number != 2.5 || !c.Switch || c.Duration != 3*time.Second || c.Address.Host != "host" ||
		!reflect.DeepEqual(c.List, []string{"a", "b"}) || !reflect.DeepEqual(c.Waits, []time.Duration{time.Second, 2 * time.Second}) ||
		!reflect.DeepEqual(c.Networks, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}) || c.Labels["b"] != 2 ||
		c.Colour != "red" || *c.Optional != 7 || c.Key.Reveal() != "k" || c.Read.Size != 10 || c.Write.Size != 20 {
		t.Errorf("loaded %+v", c)
	}
}

func TestEveryProblemIsNamed(t *testing.T) {
	t.Parallel()
	err := config.Load(new(everything), map[string]string{
		"WHOLE": "one", "SMALL": "200", "UNSIGNED": "-1", "NUMBER": "many", "SWITCH": "perhaps", "DURATION": "3",
		"ADDRESS": "http://user:hunter2@[::1", "WAITS": "1s;2", "NETWORKS": "10.0.0.0/99", "LABELS": "a", "COLOUR": "blue",
		"OPTIONAL": "x", "PIN": "hunter3", "READ_SIZE": "99999", "WRITE_SIZE": "-1",
	})
	var problems *config.Error
	if !errors.As(err, &problems) {
		t.Fatalf("Load = %v, want an *Error", err)
	}
	want := `configuration is not usable:
  WHOLE is "one", want a whole number
  SMALL is "200", want a whole number from -128 to 127
  UNSIGNED is "-1", want a whole number, 0 or more
  NUMBER is "many", want a number
  SWITCH is "perhaps", want true or false
  DURATION is "3", want a duration such as 500ms, 30s or 5m
  ADDRESS is "http://***@[::1", want a URL
  WAITS is "1s;2", want a list of durations, separated by ;
  NETWORKS is "10.0.0.0/99" (netip.ParsePrefix("10.0.0.0/99"): prefix length out of range)
  LABELS is "a" ("a" should be in "key:value" format)
  COLOUR is "blue" (want red)
  OPTIONAL is "x", want a whole number
  PIN is ***, want a whole number
  READ_SIZE is "99999", want a whole number from 0 to 65535
  WRITE_SIZE is "-1", want a whole number from 0 to 65535`
	if err.Error() != want {
		t.Errorf("Load = %v\nwant: %s", err, want)
	}
}

func TestRequiredMustNotBeEmpty(t *testing.T) {
	t.Parallel()
	type required struct {
		A string `env:"A,required" doc:"first"`
		B string `env:"B,notEmpty" example:"b"`
		C string `env:"C,required" envDefault:"c"`
	}
	err := config.Load(new(required), map[string]string{"A": ""})
	want := `configuration is not usable:
  A is required and not set, want a string: first
  B is required and not set, want a string such as b`
	if err == nil || err.Error() != want {
		t.Errorf("Load = %v\nwant: %s", err, want)
	}
	var c required
	if err := config.Examples(&c); err != nil || c != (required{B: "b", C: "c"}) {
		t.Errorf("Examples gives %+v, %v", c, err)
	}
	variables, err := config.Variables(&c)
	if err != nil || len(variables) != 3 || !variables[0].Required || !variables[1].Required || variables[2].Required {
		t.Errorf("Variables = %+v, %v", variables, err)
	}
}

func TestVariables(t *testing.T) {
	t.Parallel()
	variables, err := config.Variables(new(everything))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, v := range variables {
		line := v.Name + " " + v.Type + " [" + v.Default + "]"
		if v.Secret {
			line += " secret"
		}
		got = append(got, line)
	}
	want := []string{
		"TEXT string []", "WHOLE integer [1]", "SMALL integer []", "UNSIGNED integer []", "NUMBER number []", "SWITCH boolean []",
		"DURATION duration [3s]", "ADDRESS url []", "LIST list of string [a,b]", "WAITS list of duration []",
		"NETWORKS list of string [10.0.0.0/8]", "LABELS map []", "COLOUR string []", "OPTIONAL integer []", "KEY string [] secret",
		"PIN integer [] secret", "READ_SIZE integer [10]", "WRITE_SIZE integer [10]",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Variables:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestStructsAtFault(t *testing.T) {
	t.Parallel()
	type twice struct {
		A struct {
			Addr string `env:"ADDR" envDefault:":80"`
		}
		B struct {
			Addr string `env:"ADDR" envDefault:":81"`
		}
	}
	type same struct {
		A struct {
			Pod string `env:"POD"`
		}
		B struct {
			Pod string `env:"POD"`
		}
	}
	type wrongDefault struct {
		Size int `env:"SIZE" envDefault:"big"`
	}
	if err := config.Load(new(twice), nil); err == nil || !strings.Contains(err.Error(), `declares ADDR twice: as string with default ":80", and as string with default ":81"`) {
		t.Errorf("Load of a variable declared in two ways = %v", err)
	}
	var s same
	if err := config.Load(&s, map[string]string{"POD": "p"}); err != nil || s.A.Pod != "p" || s.B.Pod != "p" {
		t.Errorf("Load of a variable declared twice alike = %v, %+v", err, s)
	}
	if err := config.Load(new(wrongDefault), nil); err == nil || !strings.Contains(err.Error(), `SIZE has the default "big", want a whole number`) {
		t.Errorf("Load of a wrong default = %v", err)
	}
	if err := config.Examples(new(wrongDefault)); err == nil {
		t.Error("Examples takes a wrong default")
	}
	if err := config.Load(new(int), nil); err == nil || !strings.Contains(err.Error(), "must be a struct") {
		t.Errorf("Load of no struct = %v", err)
	}
}
