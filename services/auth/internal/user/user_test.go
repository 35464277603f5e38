package user_test

import (
	"context"
	"strings"
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

var cheap = user.Cost{Memory: 64, Iterations: 1, AtOnce: 2} //nolint:gochecknoglobals // a constant

func TestHasher(t *testing.T) {
	h := user.NewHasher(cheap)
	hash, err := h.Hash(t.Context(), "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(hash, "$argon2id$v=19$m=64,t=1,p=1$") {
		t.Errorf("the hash does not tell its cost: %s", hash)
	}
	if again, _ := h.Hash(t.Context(), "correct horse"); again == hash {
		t.Error("two hashes of a password are the same")
	}
	dearer := user.NewHasher(user.Cost{Memory: 128, Iterations: 2})
	for name, test := range map[string]struct {
		hasher         *user.Hasher
		password, hash string
		want           bool
	}{
		"right":                     {h, "correct horse", hash, true},
		"wrong":                     {h, "Correct horse", hash, false},
		"not trimmed":               {h, "correct horse ", hash, false},
		"empty":                     {h, "", hash, false},
		"nobody's":                  {h, "correct horse", "", false},
		"the decoy's own":           {h, "nobody's password", "", false},
		"after the cost was raised": {dearer, "correct horse", hash, true},
	} {
		if got, err := test.hasher.Matches(t.Context(), test.password, test.hash); got != test.want || err != nil {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
	if _, err := h.Matches(t.Context(), "x", "damaged"); err == nil {
		t.Error("a damaged hash is no error")
	}
}

func TestHasherHasItsTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := user.NewHasher(cheap)
		release := h.Occupy(2)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if _, err := h.Hash(ctx, "correct horse"); err == nil {
			t.Error("a third password was hashed at once")
		}
		if time.Since(start) != time.Second {
			t.Errorf("gave up after %v", time.Since(start))
		}
		release()
		if _, err := h.Hash(t.Context(), "correct horse"); err != nil {
			t.Errorf("after the others were done: %v", err)
		}
	})
}
