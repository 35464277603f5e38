//go:build !race

package stan_test

// slowdown is how much longer things may take: no longer than they should.
const slowdown = 1
