// Command probe tries, from inside of a pod, who can be reached. Its arguments are addresses, host:port; it prints a
// line for each: the address, and "open" or why not. It needs no privileges, and nothing in its image but itself.
package main

import (
	"fmt"
	"net"
	"os"
	"sync"
	"time"
)

// limit is how long an address has to answer. Network policies drop packets: nobody says no.
const limit = 2 * time.Second

func main() {
	results := make([]string, len(os.Args)-1)
	var group sync.WaitGroup
	for i, address := range os.Args[1:] {
		group.Go(func() {
			results[i] = "open"
			connection, err := net.DialTimeout("tcp", address, limit)
			if err != nil {
				results[i] = err.Error()
				return
			}
			_ = connection.Close() // it was open
		})
	}
	group.Wait()
	for i, result := range results {
		fmt.Println(os.Args[1+i], result)
	}
}
