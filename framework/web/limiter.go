package web

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"math"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Rate is how many times a second something may be done. Zero is no limit.
type Rate float64

// UnmarshalText accepts a number that is not negative, such as 20 or 0.5.
func (r *Rate) UnmarshalText(text []byte) error {
	f, err := strconv.ParseFloat(string(text), 64)
	if err != nil || !(f >= 0 && f <= math.MaxInt32) {
		return fmt.Errorf("want how many a second, such as 20 or 0.5, or 0 for no limit")
	}
	*r = Rate(f)
	return nil
}

const (
	maxKnown      = 20_000      // keys that have a bucket of their own
	sharedBuckets = 256         // for those that come when there are so many
	forgetEvery   = time.Second // at most, those whose bucket is full
)

// Limiter limits how often something is done for each of many, which K tells apart: addresses, accounts. Its memory is
// bounded: a key whose bucket is full is forgotten, which makes no difference to it. When too many are known, as in a
// flood, new ones share buckets; those that are known keep theirs. Every process counts for itself.
type Limiter[K comparable] struct {
	seed maphash.Seed

	mu       sync.Mutex
	rate     Rate
	burst    uint // 0 for the default
	known    map[K]*rate.Limiter
	shared   [sharedBuckets]*rate.Limiter
	forgotAt time.Time
}

// NewLimiter returns a Limiter that admits a key burst times at once, and then at the given rate. A burst of zero is twice
// the rate, and at least one.
func NewLimiter[K comparable](limit Rate, burst uint) *Limiter[K] {
	return &Limiter[K]{seed: maphash.MakeSeed(), rate: limit, burst: burst, known: map[K]*rate.Limiter{}}
}

// Admit takes one more into account that is done for key, and returns zero. If there are too many it returns instead after
// what time there may be one; see [TooMany].
func (l *Limiter[K]) Admit(key K) (wait time.Duration) {
	now := time.Now()
	bucket := l.bucket(key, now)
	if bucket == nil || bucket.AllowN(now, 1) {
		return 0
	}
	missing := 1 - bucket.TokensAt(now)
	return max(time.Nanosecond, time.Duration(missing/float64(bucket.Limit())*float64(time.Second)))
}

// bucket returns the key's bucket, nil if there is no limit.
func (l *Limiter[K]) bucket(key K, now time.Time) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rate == 0 {
		return nil
	}
	if b := l.known[key]; b != nil {
		return b
	}
	if len(l.known) >= maxKnown && now.Sub(l.forgotAt) >= forgetEvery {
		l.forgotAt = now
		for k, b := range l.known {
			if b.TokensAt(now) >= float64(b.Burst()) {
				delete(l.known, k)
			}
		}
	}
	b := l.newBucket()
	if len(l.known) < maxKnown {
		l.known[key] = b
		return b
	}
	i := maphash.Comparable(l.seed, key) % sharedBuckets
	l.shared[i] = cmp.Or(l.shared[i], b)
	return l.shared[i]
}

// newBucket returns a full one. The lock is held.
func (l *Limiter[K]) newBucket() *rate.Limiter {
	burst := l.burst
	if burst == 0 {
		burst = uint(max(1, math.Ceil(2*float64(l.rate))))
	}
	return rate.NewLimiter(rate.Limit(l.rate), int(min(burst, math.MaxInt32)))
}

// adjust changes the limits. All begin anew.
func (l *Limiter[K]) adjust(change func(l *Limiter[K])) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(l)
	clear(l.known)
	l.shared = [sharedBuckets]*rate.Limiter{}
}
