package faults

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// stub is a harm that notes what it does.
func stub(notes *[]string, mu *sync.Mutex, lasts time.Duration, names ...string) harm {
	h := harm{kind: Kill, weight: 1, draw: func(*rand.Rand) drawn {
		return drawn{"harm %s", lasts, func(t target) (begin, end func() error) {
			note := func(what string) func() error {
				return func() error {
					mu.Lock()
					defer mu.Unlock()
					*notes = append(*notes, what+" "+t.name)
					if t.name == "broken" && what == "begin" {
						return errors.New("it is broken")
					}
					return nil
				}
			}
			return note("begin"), note("end")
		}}
	}}
	for _, name := range names {
		h.targets = append(h.targets, target{name: name})
	}
	return h
}

func TestPlan(t *testing.T) {
	t.Parallel()
	whats := func(seed uint64) (all []string) {
		until := map[string]time.Duration{}
		for _, f := range plan([]harm{stub(nil, nil, time.Second, "a", "b", "c", "d", "e", "f")}, seed, time.Minute) {
			all = append(all, f.At.String()+" "+f.What)
			if f.At < until[f.Target] {
				t.Errorf("%s at %v: the one before lasts until %v", f.What, f.At, until[f.Target])
			}
			if until[f.Target] = f.At + f.For; until[f.Target] > time.Minute {
				t.Errorf("%s at %v lasts until %v, after the end", f.What, f.At, until[f.Target])
			}
		}
		return all
	}
	if !slices.Equal(whats(1), whats(1)) {
		t.Error("a seed does not decide on the same faults each time")
	}
	if slices.Equal(whats(1), whats(2)) {
		t.Error("two seeds decide on the same faults")
	}
	if n := len(whats(1)); n < 150 {
		t.Errorf("%d faults in a minute are too few", n)
	}
}

func TestRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var notes []string
		faults := plan([]harm{stub(&notes, &mu, time.Second, "a", "broken", "b")}, 1, 5*time.Second)
		done := 0
		err := Run(t.Context(), faults, func(Fault) { mu.Lock(); defer mu.Unlock(); done++ })
		if err == nil || !strings.Contains(err.Error(), "harm broken for 1s: it is broken") {
			t.Errorf("the error is %v, want what failed", err)
		}
		if done != len(faults) || len(notes) != 2*len(faults) {
			t.Errorf("%d faults were done and %v, want %d, with begin and end each", done, notes, len(faults))
		}
	})
}

// TestRunEndsEarly expects that what has begun is undone, and nothing else begins.
func TestRunEndsEarly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var notes []string
		faults := plan([]harm{stub(&notes, &mu, time.Hour, "a", "b")}, 1, 3*time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := Run(ctx, faults, func(Fault) {}); err != nil {
			t.Error(err)
		}
		slices.Sort(notes)
		if want := []string{"begin a", "begin b", "end a", "end b"}; !slices.Equal(notes, want) {
			t.Errorf("it did %v, want %v", notes, want)
		}
	})
}
