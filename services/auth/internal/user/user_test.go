package user_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/turnstile-go/turnstile/services/auth/internal/user"
)

func TestCheckEmail(t *testing.T) {
	for _, good := range []string{
		"a@b.co", "Ada.Lovelace+tickets@example.co.uk", "o'brien@example.com", "x@xn--bcher-kva.example", "jörg@bücher.example",
		strings.Repeat("a", 64) + "@example.com", "1@2.3x",
	} {
		if err := user.CheckEmail(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{
		"", " ", "a", "a@", "@b.co", "a@b", "a b@c.de", "a@b..co", "a@.co", "a@b.co.", "a@-b.co", "a@b-.co", "a@b_c.de",
		" a@b.co", "a@b.co ", "a@b.co\n", "Ada <a@b.co>", "<a@b.co>", `"a b"@c.de`, "a@b.co,c@d.ef", "a@[127.0.0.1]", "a@b@c.de",
		"a..b@c.de", ".a@b.co", strings.Repeat("a", 65) + "@example.com", "a@" + strings.Repeat("b", 64) + ".co",
		"a@" + strings.Repeat("b.", 130) + "co",
	} {
		if err := user.CheckEmail(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestCheckPassword(t *testing.T) {
	for password, want := range map[string]error{
		"": user.ErrPassword, "1234567": user.ErrPassword, "12345678": nil, "        ": nil, " 123456 ": nil,
		"пароль12": nil, "🔑🔑🔑🔑🔑🔑🔑": user.ErrPassword, "🔑🔑🔑🔑🔑🔑🔑🔑": nil,
		strings.Repeat("ü", 128): nil, strings.Repeat("ü", 129): user.ErrPassword,
	} {
		if got := user.CheckPassword(password); got != want {
			t.Errorf("%q: got %v, want %v", password, got, want)
		}
	}
}

var cheap = user.Cost{Memory: 64, Iterations: 1, Parallelism: 1, AtOnce: 2, Waiting: 1} //nolint:gochecknoglobals // a constant

func hasher(t testing.TB, c user.Cost) *user.Hasher {
	t.Helper()
	h, err := user.NewHasher(c)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func hashed(t testing.TB, c user.Cost) string {
	t.Helper()
	hash, err := hasher(t, c).Hash(t.Context(), "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	return hash
}

func TestHasher(t *testing.T) {
	h := hasher(t, cheap)
	hash := hashed(t, cheap)
	if !strings.HasPrefix(hash, "$argon2id$v=19$m=64,t=1,p=1$") {
		t.Errorf("the hash does not tell its cost: %s", hash)
	}
	if again := hashed(t, cheap); again == hash {
		t.Error("two hashes of a password are the same")
	}
	dearer := hasher(t, user.Cost{Memory: 128, Iterations: 2, Parallelism: 1})
	for name, test := range map[string]struct {
		hasher            *user.Hasher
		password, hash    string
		matches, outdated bool
	}{
		"right":                     {h, "correct horse", hash, true, false},
		"wrong":                     {h, "Correct horse", hash, false, false},
		"not trimmed":               {h, "correct horse ", hash, false, false},
		"empty":                     {h, "", hash, false, false},
		"nobody's":                  {h, "correct horse", "", false, false},
		"nobody's, and empty":       {h, "", "", false, false},
		"after the cost was raised": {dearer, "correct horse", hash, true, true},
		"wrong, and of old":         {dearer, "wrong horse", hash, false, false},
	} {
		if matches, outdated, err := test.hasher.Matches(t.Context(), test.password, test.hash); matches != test.matches || outdated != test.outdated || err != nil {
			t.Errorf("%s: got %v, %v, %v", name, matches, outdated, err)
		}
	}
	for _, damaged := range []string{
		"damaged", hash[:len(hash)-50], "$argon2id$v=19$m=64,t=1,p=1$$", "$argon2i$" + hash,
		strings.Replace(hash, "m=64", "m=4294967295", 1), strings.Replace(hash, "t=1", "t=0", 1), strings.Replace(hash, "p=1", "p=0", 1),
		hash[:strings.LastIndexByte(hash, '$')+1],
	} {
		if matches, _, err := h.Matches(t.Context(), "correct horse", damaged); matches || !errors.Is(err, user.ErrDamaged) {
			t.Errorf("%q: %v %v", damaged, matches, err)
		}
	}
}

func TestCostsThatMakeNoSense(t *testing.T) {
	fine := user.Cost{Memory: 64, Iterations: 1, Parallelism: 1, AtOnce: 0, Waiting: 0}
	hasher(t, fine)
	for name, change := range map[string]func(*user.Cost){
		"PASSWORD_MEMORY is 0:":                 func(c *user.Cost) { c.Memory = 0 },
		"PASSWORD_MEMORY is 7:":                 func(c *user.Cost) { c.Memory = 7 },
		"PASSWORD_MEMORY is 1048577:":           func(c *user.Cost) { c.Memory = 1<<20 + 1 },
		"PASSWORD_MEMORY is 64: want from 512 ": func(c *user.Cost) { c.Parallelism = 64 },
		"PASSWORD_ITERATIONS is 0:":             func(c *user.Cost) { c.Iterations = 0 },
		"PASSWORD_ITERATIONS is 101:":           func(c *user.Cost) { c.Iterations = 101 },
		"PASSWORD_PARALLELISM is 0:":            func(c *user.Cost) { c.Parallelism = 0 },
		"PASSWORD_PARALLELISM is 65:":           func(c *user.Cost) { c.Parallelism = 65 },
		"PASSWORD_AT_ONCE is -1:":               func(c *user.Cost) { c.AtOnce = -1 },
		"PASSWORD_AT_ONCE is 1025:":             func(c *user.Cost) { c.AtOnce = 1025 },
		"PASSWORD_WAITING is -1:":               func(c *user.Cost) { c.Waiting = -1 },
	} {
		c := fine
		change(&c)
		if _, err := user.NewHasher(c); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := user.NewHasher(user.Cost{Waiting: -1}); strings.Count(fmt.Sprint(err), "PASSWORD_") != 4 {
		t.Errorf("not all that is wrong is said: %v", err)
	}
}

// A no is the same work, whatever the reason, also when the cost was changed, also
// more often than that, and from the first no on. It is measured in memory taken, of which each cost here takes another amount, and
// no other program changes that.
func TestNoIsAsMuchWork(t *testing.T) {
	now := user.Cost{Memory: 1 << 10, Iterations: 2, Parallelism: 1}
	h := hasher(t, now)
	hashes := map[string]string{
		"wrong password":              hashed(t, now),
		"unknown address":             "",
		"damaged hash":                "$argon2id$v=19$damaged",
		"wrong password, cheaper":     hashed(t, user.Cost{Memory: 1 << 8, Iterations: 3, Parallelism: 1}),
		"wrong password, more memory": hashed(t, user.Cost{Memory: 1 << 11, Iterations: 1, Parallelism: 1}),
	}
	want := uint64(1<<10+1<<8+1<<11) << 10
	for i := range uint32(5) {
		c := user.Cost{Memory: 1<<9 + i<<7, Iterations: 1, Parallelism: 1}
		hashes[fmt.Sprintf("wrong password, of %d KiB", c.Memory)] = hashed(t, c)
		want += uint64(c.Memory) << 10
	}
	for _, hash := range hashes {
		if parts := strings.SplitAfter(hash, "$"); len(parts) == 6 {
			h.Meet(strings.Join(parts[:4], ""))
		}
	}
	no := func(hash string) (memory uint64) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if matches, _, _ := h.Matches(t.Context(), "wrong", hash); matches {
			t.Error("it matches")
		}
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	for name, hash := range hashes {
		if memory := no(hash); memory < want || memory > want+want/20 {
			t.Errorf("%s: took %d KiB, want %d KiB", name, memory>>10, want>>10)
		}
	}
}

func TestAtOnceByDefault(t *testing.T) {
	const none, memory = math.MaxInt64, 19 << 10
	for _, test := range []struct {
		processors int
		limit      int64
		memory     uint32
		want       int
	}{
		{1, none, memory, 1},
		{2, none, memory, 1},
		{32, none, memory, 31},
		{32, 230 << 20, memory, 2}, // as of a container's 256 MiB
		{32, 60<<20 + 3*5*19<<20, memory, 5},
		{32, 60<<20 + 3*5*19<<20 - 1, memory, 4},
		{32, 64 << 20, memory, 1},
		{32, 10 << 20, memory, 1},
		{32, 230 << 20, 1 << 20, 1},
		{2, 8 << 30, memory, 1},
		{32, 8 << 30, 8, 31},
	} {
		if got := user.AtOnce(test.processors, test.limit, test.memory); got != test.want {
			t.Errorf("%d processors, %d MiB, of which each takes %d KiB: %d, want %d",
				test.processors, test.limit>>20, test.memory, got, test.want)
		}
	}
}

func TestHasherHasItsTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hasher(t, cheap)
		release := h.Occupy(2)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		var waiting sync.WaitGroup
		waiting.Go(func() {
			if _, err := h.Hash(ctx, "correct horse"); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a third password: %v", err)
			}
			if time.Since(start) != time.Second {
				t.Errorf("gave up after %v", time.Since(start))
			}
		})
		synctest.Wait()
		if _, _, err := h.Matches(t.Context(), "correct horse", ""); !errors.Is(err, user.ErrBusy) || time.Since(start) > 0 {
			t.Errorf("with one waiting, the next: %v, after %v", err, time.Since(start))
		}
		waiting.Wait()
		// Who has given up leaves room.
		waiting.Go(func() {
			if _, err := h.Hash(t.Context(), "correct horse"); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		release()
		waiting.Wait()
		if _, err := h.Hash(t.Context(), "correct horse"); err != nil {
			t.Errorf("after the others were done: %v", err)
		}
	})
}
