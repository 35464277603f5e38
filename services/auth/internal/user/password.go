package user

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/alexedwards/argon2id"
)

// Cost is how expensive it is to hash a password, for us and for who guesses
// one. Hashes remember their cost, so it can be changed at any time: a hash of
// another cost is made anew when its user signs in.
type Cost struct {
	Memory      uint32 `env:"PASSWORD_MEMORY" envDefault:"19456" doc:"KiB of memory that hashing a password takes; at most 1048576"`
	Iterations  uint32 `env:"PASSWORD_ITERATIONS" envDefault:"2" doc:"how often that memory is gone through; at most 100"`
	Parallelism uint8  `env:"PASSWORD_PARALLELISM" envDefault:"1" doc:"threads that hash one password; at most 64"`
	AtOnce      int    `env:"PASSWORD_AT_ONCE" envDefault:"0" doc:"passwords hashed at once; 0 for as many as there are processors but one, which is left to other requests, or fewer, if memory is limited and no more fit"`
	Waiting     int    `env:"PASSWORD_WAITING" envDefault:"256" doc:"requests that wait for their turn to hash; more are answered with 503"`
}

// What a cost may be at most: beyond that somebody has mistaken the unit.
const (
	maxMemory      = 1 << 20 // 1 GiB
	maxIterations  = 100
	maxParallelism = 64
	maxAtOnce      = 1024
	laneMemory     = 8 // that a thread needs at least
)

// How long what hashes consist of is, in bytes. It hardly matters to their cost.
const (
	saltLength = 16
	keyLength  = 32
)

// check returns all that is wrong with c, by variable.
func (c Cost) check() error {
	var wrong []error
	need := func(ok bool, name string, value any, want string, args ...any) {
		if !ok {
			wrong = append(wrong, fmt.Errorf("%s is %v: want "+want, append([]any{name, value}, args...)...))
		}
	}
	least := laneMemory * max(1, uint32(c.Parallelism))
	need(c.Memory >= least && c.Memory <= maxMemory, "PASSWORD_MEMORY", c.Memory,
		"from %d KiB, %d for each thread, to %d KiB", least, laneMemory, maxMemory)
	need(c.Iterations >= 1 && c.Iterations <= maxIterations, "PASSWORD_ITERATIONS", c.Iterations, "from 1 to %d", maxIterations)
	need(c.Parallelism >= 1 && c.Parallelism <= maxParallelism, "PASSWORD_PARALLELISM", c.Parallelism, "from 1 to %d", maxParallelism)
	need(c.AtOnce >= 0 && c.AtOnce <= maxAtOnce, "PASSWORD_AT_ONCE", c.AtOnce, "from 1 to %d, or 0 for the processors but one", maxAtOnce)
	need(c.Waiting >= 0, "PASSWORD_WAITING", c.Waiting, "how many requests may wait, 0 for none")
	return errors.Join(wrong...)
}

var (
	// ErrBusy says that more passwords are to be hashed than may wait.
	ErrBusy = errors.New("too many passwords are being hashed")
	// ErrDamaged says that what is stored is no hash. Nobody can have the
	// password.
	ErrDamaged = errors.New("the stored hash of a password is damaged")
)

// Hasher hashes passwords with argon2id: some at once, which bounds the memory,
// some more wait for their turn, first come, first served.
type Hasher struct {
	params  *argon2id.Params
	slots   chan struct{}
	room    int64 // for those who wait
	waiting atomic.Int64

	mu  sync.Mutex
	met []argon2id.Params // costs that there are: ours first, and others of stored hashes
}

// NewHasher returns a Hasher that makes hashes of the given cost. It fails if
// that makes no sense.
func NewHasher(c Cost) (*Hasher, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	if c.AtOnce == 0 {
		c.AtOnce = atOnce(runtime.GOMAXPROCS(0), debug.SetMemoryLimit(-1), c.Memory) // -1 asks for the limit
	}
	h := &Hasher{
		params: &argon2id.Params{
			Memory: c.Memory, Iterations: c.Iterations, Parallelism: c.Parallelism, SaltLength: saltLength, KeyLength: keyLength,
		},
		slots: make(chan struct{}, c.AtOnce), room: int64(c.Waiting),
	}
	h.met = []argon2id.Params{*h.params}
	return h, nil
}

// What the process takes at most, in bytes, as measured under a flood of
// sign-ins: so much, and for each that is hashed at once so many times the memory
// of a hash, because garbage is not collected at once.
const (
	withoutHashing = 60 << 20
	timesMemory    = 3
)

// atOnce returns how many passwords to hash at once by default, where each takes
// so many KiB: one processor is left to other requests, and the process is to
// stay within its limit, in bytes. A machine may have many processors, and still
// give little memory to a container.
func atOnce(processors int, limit int64, memory uint32) int {
	fit := (limit - withoutHashing) / (timesMemory * int64(memory) << 10)
	return max(1, int(min(int64(processors-1), fit)))
}

// Hash returns the hash of a password, to be kept. It waits for its turn until
// ctx is done, and fails with ErrBusy if too many wait already.
func (h *Hasher) Hash(ctx context.Context, password string) (hash string, err error) {
	err = h.inTurn(ctx, func() error {
		hash, err = argon2id.CreateHash(password, h.params)
		return err
	})
	return hash, err
}

// Matches reports whether hash is password's, and if it is, whether it has
// another cost than those made now. It waits as Hash does.
//
// A no takes as long whatever the reason: that hash is empty, for somebody who
// does not exist; that it is of another cost; that it is none, for which the
// error is ErrDamaged.
func (h *Hasher) Matches(ctx context.Context, password, hash string) (matches, outdated bool, err error) {
	err = h.inTurn(ctx, func() error {
		if hash == "" {
			return h.pretend(password, argon2id.Params{})
		}
		params, err := paramsOf(hash)
		if err != nil {
			return errors.Join(err, h.pretend(password, argon2id.Params{}))
		}
		h.meet(*params)
		if matches, err = argon2id.ComparePasswordAndHash(password, hash); err != nil {
			return err
		}
		outdated = matches && *params != *h.params
		if !matches {
			return h.pretend(password, *params)
		}
		return nil
	})
	return matches, outdated, err
}

// paramsOf returns the cost of a hash. Argon2 panics at what is not checked here.
func paramsOf(hash string) (*argon2id.Params, error) {
	params, salt, key, err := argon2id.DecodeHash(hash)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	err = Cost{Memory: params.Memory, Iterations: params.Iterations, Parallelism: params.Parallelism}.check()
	if err != nil || len(salt) == 0 || len(key) == 0 {
		return nil, ErrDamaged
	}
	params.SaltLength, params.KeyLength = saltLength, keyLength
	return params, nil
}

// Meet tells the hasher how stored hashes begin, up to the salt, so that it knows
// their costs before it has seen one: a no takes the work of all of them.
func (h *Hasher) Meet(beginnings ...string) {
	for _, b := range beginnings {
		if p, err := paramsOf(b + "c2FsdA$a2V5"); err == nil { // what else is stored is damaged
			h.meet(*p)
		}
	}
}

func (h *Hasher) meet(p argon2id.Params) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.Contains(h.met, p) {
		h.met = append(h.met, p)
	}
}

// pretend has a no take as long as every other: as a comparison with a hash of
// each cost that there is, of which one may have been made. There is no limit to
// how many: a cost that is left out would give away whose hash has it. They are
// as few as the changes of the configuration.
func (h *Hasher) pretend(password string, made argon2id.Params) error {
	h.mu.Lock()
	met := slices.Clone(h.met)
	h.mu.Unlock()
	for _, p := range met {
		if p == made {
			continue
		}
		if _, err := argon2id.CreateHash(password, &p); err != nil {
			return err
		}
	}
	return nil
}

func (h *Hasher) inTurn(ctx context.Context, f func() error) error {
	select {
	case h.slots <- struct{}{}:
	default:
		if err := h.wait(ctx); err != nil {
			return err
		}
	}
	defer func() { <-h.slots }()
	if err := f(); err != nil {
		return fmt.Errorf("hash a password: %w", err)
	}
	return nil
}

// wait takes a slot once one is free.
func (h *Hasher) wait(ctx context.Context) error {
	defer h.waiting.Add(-1)
	if h.waiting.Add(1) > h.room {
		return ErrBusy
	}
	select {
	case h.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait to hash a password: %w", ctx.Err())
	}
}
