package ticket

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Price is an amount of money in minor units: 1999 is 19.99.
type Price int64

// MaxPrice is the highest price: one million.
const (
	MaxPrice  Price = 1_000_000_00
	maxDigits       = len("100000000")
)

// What can be wrong with a price.
const (
	ErrPrice        Refusal = "Price must be greater than 0"
	ErrPricePlaces  Refusal = "Price must have at most two decimal places"
	ErrPriceTooHigh Refusal = "Price must be at most 1000000"
)

// ParsePrice reads a decimal number, which may have an exponent, without any
// rounding: 19.99, 19.990 and 1e3 are prices. It returns ErrPrice for what is
// not a number or not above zero, ErrPricePlaces, or ErrPriceTooHigh.
func ParsePrice(s string) (Price, error) {
	s, negative := strings.CutPrefix(s, "-")
	if !negative {
		s = strings.TrimPrefix(s, "+")
	}
	var exponent int64
	mantissa := s
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		var err error
		// Out of range, ParseInt gives the nearest value, which still outweighs
		// every digit that fits into memory.
		if exponent, err = strconv.ParseInt(s[i+1:], 10, 40); err != nil && !errors.Is(err, strconv.ErrRange) {
			return 0, ErrPrice
		}
		mantissa = s[:i]
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits := whole + fraction
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, ErrPrice
	}

	// The value is digits × 10^exponent; from here on in cents, without the
	// zeros at both ends.
	digits = strings.TrimLeft(digits, "0")
	significant := strings.TrimRight(digits, "0")
	exponent += int64(2 - len(fraction) + len(digits) - len(significant))
	switch {
	case significant == "" || negative:
		return 0, ErrPrice
	case int64(len(significant))+exponent > int64(maxDigits):
		return 0, ErrPriceTooHigh
	case exponent < 0:
		return 0, ErrPricePlaces
	}
	cents, err := strconv.ParseInt(significant+strings.Repeat("0", int(exponent)), 10, 64)
	if err != nil {
		return 0, ErrPrice
	}
	if Price(cents) > MaxPrice {
		return 0, ErrPriceTooHigh
	}
	return Price(cents), nil
}

// String writes the price as the shortest decimal number: 19.99, 19.5, 20.
func (p Price) String() string {
	s := fmt.Sprintf("%d.%02d", p/100, p%100)
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
}

// MarshalJSON writes the price as a decimal number.
func (p Price) MarshalJSON() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalJSON reads a decimal number, or a string with one in it, by the
// rules of ParsePrice.
func (p *Price) UnmarshalJSON(text []byte) error {
	s := string(text)
	if bytes.HasPrefix(text, []byte(`"`)) {
		if err := json.Unmarshal(text, &s); err != nil {
			return err
		}
	}
	price, err := ParsePrice(s)
	if err != nil {
		return err
	}
	*p = price
	return nil
}
