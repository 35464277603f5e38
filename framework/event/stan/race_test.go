//go:build race

package stan_test

// slowdown is how much longer things may take: the race detector slows the
// database down several times over.
const slowdown = 5
