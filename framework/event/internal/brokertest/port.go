package brokertest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// FreePort returns a port for a server that starts later, or again and again. It
// is below those that systems choose for connections and for servers that ask for
// any: nobody takes it while the server is down.
func FreePort(t testing.TB) int {
	t.Helper()
	const first, last = 15000, 32000
	for range 100 {
		port := first + rand.IntN(last-first)
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			l.Close()
			return port
		}
	}
	t.Fatalf("no port is free between %d and %d", first, last)
	return 0
}
