package user

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
