package session

import (
	"crypto/ed25519"
	"crypto/sha256"
	"sync"
)

// maxProven is how many tokens are remembered, twice at most: some 500 bytes each.
const maxProven = 8192

// proven is a token whose signature is right. Whether it counts is another question, asked at every request: by when, and
// whether it or its key is revoked.
type proven struct {
	keyID  string
	key    ed25519.PublicKey // that the signature was verified with
	claims claims
}

// provenTokens remembers tokens that are proven, because verifying a signature takes longer than most of what requests ask
// for. Only valid tokens get in, so that nobody can fill it with others.
type provenTokens struct {
	mu         sync.Mutex
	young, old map[[sha256.Size]byte]*proven // by the hash of the token
}

func (m *provenTokens) find(token [sha256.Size]byte) *proven {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.young[token]
	if p == nil && m.old[token] != nil {
		p = m.old[token]
		m.addLocked(token, p)
	}
	return p
}

func (m *provenTokens) add(token [sha256.Size]byte, p *proven) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.addLocked(token, p)
}

func (m *provenTokens) addLocked(token [sha256.Size]byte, p *proven) {
	if m.young == nil || len(m.young) >= maxProven {
		m.old, m.young = m.young, map[[sha256.Size]byte]*proven{}
	}
	m.young[token] = p
}
