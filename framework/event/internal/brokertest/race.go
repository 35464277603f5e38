//go:build race

package brokertest

// Slowdown is how much longer things may take: the race detector slows the
// database down several times over.
const Slowdown = 5
