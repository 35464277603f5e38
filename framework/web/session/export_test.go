package session

// Durations that tests wait for.
const (
	Retry      = retry
	RetryFirst = retryFirst
	LearnEvery = learnEvery
	SweepEvery = sweepEvery
	Forgetful  = forgetful
)

// Remembers returns how many revocations the process knows.
func (v *Verifier) Remembers() int {
	v.revoked.mu.RLock()
	defer v.revoked.mu.RUnlock()
	return len(v.revoked.until)
}
