package user

import (
	"context"
	"fmt"
	"runtime"
	"sync"

	"github.com/alexedwards/argon2id"
)

// Cost is how expensive it is to hash a password, for us and for who guesses
// one. A zero field has its default. Hashes remember their cost, so it can be
// changed at any time; it then holds for new passwords.
type Cost struct {
	Memory      uint32 `env:"PASSWORD_MEMORY" envDefault:"19456" doc:"KiB of memory that hashing a password takes"`
	Iterations  uint32 `env:"PASSWORD_ITERATIONS" envDefault:"2" doc:"how often that memory is gone through"`
	Parallelism uint8  `env:"PASSWORD_PARALLELISM" envDefault:"1" doc:"threads that hash one password"`
	AtOnce      int    `env:"PASSWORD_AT_ONCE" doc:"passwords hashed at once, others wait; as many as there are processors if not set"`
}

func (c Cost) withDefaults() Cost {
	if c.Memory == 0 {
		c.Memory = 19456
	}
	if c.Iterations == 0 {
		c.Iterations = 2
	}
	if c.Parallelism == 0 {
		c.Parallelism = 1
	}
	if c.AtOnce <= 0 {
		c.AtOnce = runtime.GOMAXPROCS(0)
	}
	return c
}

// Hasher hashes passwords with argon2id, a bounded number at once.
type Hasher struct {
	params *argon2id.Params
	slots  chan struct{}
	decoy  func() (string, error)
}

// NewHasher returns a Hasher that makes hashes of the given cost.
func NewHasher(c Cost) *Hasher {
	c = c.withDefaults()
	h := &Hasher{
		params: &argon2id.Params{
			Memory: c.Memory, Iterations: c.Iterations, Parallelism: c.Parallelism, SaltLength: 16, KeyLength: 32,
		},
		slots: make(chan struct{}, c.AtOnce),
	}
	h.decoy = sync.OnceValues(func() (string, error) { return argon2id.CreateHash("nobody's password", h.params) })
	return h
}

// Hash returns the hash of a password, to be kept. It waits for its turn until
// ctx is done.
func (h *Hasher) Hash(ctx context.Context, password string) (hash string, err error) {
	err = h.inTurn(ctx, func() error {
		hash, err = argon2id.CreateHash(password, h.params)
		return err
	})
	return hash, err
}

// Matches reports whether hash is password's. For somebody who does not exist
// hash is empty: the answer is no, and takes as long.
func (h *Hasher) Matches(ctx context.Context, password, hash string) (matches bool, err error) {
	err = h.inTurn(ctx, func() error {
		decoy, err := h.decoy()
		if err != nil {
			return err
		}
		known := hash != ""
		if !known {
			hash = decoy
		}
		same, err := argon2id.ComparePasswordAndHash(password, hash)
		matches = same && known
		return err
	})
	return matches, err
}

func (h *Hasher) inTurn(ctx context.Context, f func() error) error {
	select {
	case h.slots <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("wait to hash a password: %w", ctx.Err())
	}
	defer func() { <-h.slots }()
	if err := f(); err != nil {
		return fmt.Errorf("hash a password: %w", err)
	}
	return nil
}
