// Package user is what a user is: the rules for addresses and passwords.
package user

import (
	"errors"
	"net/mail"
	"strings"
	"unicode"
	"unicode/utf8"
)

// User is somebody who has signed up.
type User struct {
	ID       string
	Email    string // as it was typed
	Password string // its hash, made by a Hasher
}

// What is wrong with an address or a password, in the words for the user.
var (
	ErrEmail      = errors.New("Email must be valid")                           //nolint:staticcheck // shown to users
	ErrPassword   = errors.New("Password must be between 8 and 128 characters") //nolint:staticcheck // shown to users
	ErrNoPassword = errors.New("You must supply a password")                    //nolint:staticcheck // shown to users
)

const (
	minPassword = 8
	maxPassword = 128
	maxEmail    = 254 // RFC 5321: a path has at most 256 bytes, with its brackets
	maxLocal    = 64
	maxLabel    = 63
)

// Fold returns what is equal for addresses that differ in letter case only:
// they are one address.
func Fold(email string) string { return strings.ToLower(email) }

// CheckEmail returns ErrEmail unless email is one plain address, with a domain
// of more than one label.
func CheckEmail(email string) error {
	a, err := mail.ParseAddress(email)
	if err != nil || a.Name != "" || a.Address != email || len(email) > maxEmail {
		return ErrEmail
	}
	at := strings.LastIndexByte(email, '@')
	local, domain := email[:at], email[at+1:]
	if len(local) > maxLocal || !strings.Contains(domain, ".") {
		return ErrEmail
	}
	for label := range strings.SplitSeq(domain, ".") {
		if label == "" || len(label) > maxLabel || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.ContainsFunc(label, func(r rune) bool { return r != '-' && !unicode.IsLetter(r) && !unicode.IsDigit(r) }) {
			return ErrEmail
		}
	}
	return nil
}

// CheckPassword returns ErrPassword unless password can be somebody's new
// password. Every character counts, also spaces.
func CheckPassword(password string) error {
	if n := utf8.RuneCountInString(password); n < minPassword || n > maxPassword {
		return ErrPassword
	}
	return nil
}
