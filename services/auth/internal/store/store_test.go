package store_test

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/database/databasetest"
	"github.com/turnstile-go/turnstile/framework/web/session"
	"github.com/turnstile-go/turnstile/services/auth/internal/store"
	"github.com/turnstile-go/turnstile/services/auth/internal/user"
)

func TestAnAddressIsTakenOnce(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		insert := func(u user.User) error {
			return db.InTx(t.Context(), func(tx *database.Tx) error { return store.Insert(t.Context(), tx, u, time.Now()) })
		}
		if _, err := store.ByEmail(t.Context(), db, "ada@example.com"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("nobody: %v", err)
		}
		ada := user.User{ID: "1", Email: "Ada@Example.com", Password: "hash"}
		if err := insert(ada); err != nil {
			t.Fatal(err)
		}
		for _, email := range []string{"Ada@Example.com", "ada@example.com", "ADA@EXAMPLE.COM"} {
			if err := insert(user.User{ID: "2", Email: email}); !errors.Is(err, store.ErrTaken) {
				t.Errorf("%s: %v", email, err)
			}
			if got, err := store.ByEmail(t.Context(), db, email); err != nil || got != ada {
				t.Errorf("%s: %+v %v", email, got, err)
			}
		}
		if err := insert(user.User{ID: "1", Email: "eve@example.com"}); err == nil || errors.Is(err, store.ErrTaken) {
			t.Errorf("an id used twice: %v", err)
		}
	}, store.Migrations())
}

func TestCosts(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		costs := func() []string {
			t.Helper()
			all, err := store.Costs(t.Context(), db)
			if err != nil {
				t.Fatal(err)
			}
			slices.Sort(all)
			return all
		}
		if all := costs(); len(all) > 0 {
			t.Errorf("without users: %q", all)
		}
		const dear, cheap, short = "$argon2id$v=19$m=1048576,t=10,p=64$", "$argon2id$v=19$m=64,t=1,p=1$", "$argon2id$v=19$m=64,t=1,p=2$"
		var users []user.User
		for i := range 3 {
			for _, hash := range []string{
				fmt.Sprintf("%sZZZ+/%d$ab%dcd+/", dear, i, i), fmt.Sprintf("%s%dAaz+/$%d", cheap, i, i), fmt.Sprintf("%sA$A", short), "damaged", "",
			} {
				users = append(users, user.User{ID: fmt.Sprint(len(users)), Email: fmt.Sprint(len(users)), Password: hash})
			}
		}
		inTx := func(do func(tx *database.Tx, u user.User) error) {
			t.Helper()
			if err := db.InTx(t.Context(), func(tx *database.Tx) error {
				for _, u := range users {
					if err := do(tx, u); err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		inTx(func(tx *database.Tx, u user.User) error { return store.Insert(t.Context(), tx, u, time.Now()) })
		if all := costs(); !slices.Equal(all, []string{dear, cheap, short}) {
			t.Errorf("got %q", all)
		}
		inTx(func(tx *database.Tx, u user.User) error {
			return store.ReplacePassword(t.Context(), tx, u, cheap+"new$new")
		})
		if all := costs(); !slices.Equal(all, []string{cheap}) {
			t.Errorf("once all have one cost: %q", all)
		}
	}, store.Migrations())
}

func TestOfManyFirstKeysOneIsKept(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		const n = 8
		got := make([][]store.SigningKey, n)
		var all sync.WaitGroup
		for i := range n {
			all.Go(func() {
				_, private, err := ed25519.GenerateKey(nil)
				if err != nil {
					t.Error(err)
					return
				}
				err = db.InTx(t.Context(), func(tx *database.Tx) (err error) {
					if err := store.FirstKey(t.Context(), tx, store.SigningKey{Key: session.Key{ID: fmt.Sprint(i), Private: private}, SignsFrom: time.Now()}); err != nil {
						return err
					}
					got[i], err = store.Keys(t.Context(), tx)
					return err
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		for i, keys := range got {
			if len(keys) != 1 || keys[0].ID != got[0][0].ID || !keys[0].Private.Equal(got[0][0].Private) {
				t.Errorf("%d has %d keys, or another", i, len(keys))
			}
		}
	}, store.Migrations())
}
