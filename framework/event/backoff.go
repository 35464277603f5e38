package event

import (
	"context"
	"math/rand/v2"
	"time"
)

// backoff spaces out tries: each waits about twice as long as the one before.
// Jitter keeps many processes from trying in step.
type backoff struct {
	first, most time.Duration
	tries       int
}

// next returns how long to wait before the next try.
func (b *backoff) next() time.Duration {
	d := b.most
	if shift := min(b.tries, 30); b.first<<shift>>shift == b.first && b.first<<shift < b.most {
		d = b.first << shift
	}
	b.tries++
	return d/2 + rand.N(d/2+1)
}

func (b *backoff) reset() { b.tries = 0 }

// wait pauses before the next try. It returns false at once when ctx is done
// or stop is closed; a nil stop never is.
func (b *backoff) wait(ctx context.Context, stop <-chan struct{}) bool {
	select {
	case <-time.After(b.next()):
		return true
	case <-ctx.Done():
		return false
	case <-stop:
		return false
	}
}
