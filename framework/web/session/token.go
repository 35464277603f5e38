package session

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
)

// Lifetime is how long a session lasts.
const Lifetime = 12 * time.Hour

type claims struct {
	jwt.RegisteredClaims
	Email string `json:"email"`
}

// Key is a key pair that sessions are signed with. ID names it in tokens and in the published set.
type Key struct {
	ID      string
	Private ed25519.PrivateKey
}

// Public returns the half of k that verifies.
func (k Key) Public() ed25519.PublicKey { return k.Private.Public().(ed25519.PublicKey) }

// Sign returns a session of caller that starts now and lasts for Lifetime, and when it expires. Only the auth service signs.
func (c Config) Sign(k Key, caller Caller, now time.Time) (token string, expires time.Time, err error) {
	c = c.withDefaults()
	id, err := uuid.NewV7()
	if err != nil {
		return "", time.Time{}, fmt.Errorf("session: make an id: %w", err)
	}
	expires = now.Add(Lifetime).Truncate(time.Second)
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims{
		RegisteredClaims: jwt.RegisteredClaims{
			ID: id.String(), Subject: caller.ID, Issuer: c.Issuer, Audience: jwt.ClaimStrings{c.Audience},
			IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(expires),
		},
		Email: caller.Email,
	})
	t.Header["kid"] = k.ID
	token, err = t.SignedString(k.Private)
	if err != nil {
		return "", time.Time{}, fmt.Errorf("session: sign with key %s: %w", k.ID, err)
	}
	return token, expires, nil
}

// PublicSet returns the public halves of keys as a JSON Web Key Set.
func PublicSet(keys ...Key) (json.RawMessage, error) {
	set := jwkset.JWKSMarshal{Keys: []jwkset.JWKMarshal{}}
	for _, k := range keys {
		jwk, err := jwkset.NewJWKFromKey(k.Public(), jwkset.JWKOptions{
			Metadata: jwkset.JWKMetadataOptions{KID: k.ID, ALG: jwkset.AlgEdDSA, USE: jwkset.UseSig},
		})
		if err != nil {
			return nil, fmt.Errorf("session: publish key %s: %w", k.ID, err)
		}
		set.Keys = append(set.Keys, jwk.Marshal())
	}
	data, err := json.Marshal(set)
	if err != nil {
		return nil, fmt.Errorf("session: publish keys: %w", err)
	}
	return data, nil
}
