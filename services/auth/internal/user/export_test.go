package user

// AtOnce is how many passwords are hashed at once by default.
func AtOnce(processors int, limit int64, memory uint32) int { return atOnce(processors, limit, memory) }

// Occupy takes n of the hasher's slots until it is told to release them.
func (h *Hasher) Occupy(n int) (release func()) {
	for range n {
		h.slots <- struct{}{}
	}
	return func() {
		for range n {
			<-h.slots
		}
	}
}
