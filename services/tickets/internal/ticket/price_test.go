package ticket_test

import (
	"encoding/json"
	"errors"
	"math/big"
	"regexp"
	"strings"
	"testing"

	"github.com/turnstile-go/turnstile/services/tickets/internal/ticket"
)

func TestParsePrice(t *testing.T) {
	for text, want := range map[string]ticket.Price{
		"1": 100, "19.99": 1999, "19.990": 1999, "19.9": 1990, "0.01": 1, "1e3": 100_000, "1E+3": 100_000,
		"1999e-2": 1999, "199900e-4": 1999, "0.000001e6": 100, "1000000": ticket.MaxPrice, "1000000.00": ticket.MaxPrice,
		"1e6": ticket.MaxPrice, "+5": 500, "007": 700, ".5": 50, "5.": 500,
		"0." + strings.Repeat("0", 1000) + "1e1001": 100,
		"1" + strings.Repeat("0", 1000) + "e-1000":  100,
	} {
		if got, err := ticket.ParsePrice(text); got != want || err != nil {
			t.Errorf("ParsePrice(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
	for text, want := range map[string]error{
		"": ticket.ErrPrice, "0": ticket.ErrPrice, "0.00": ticket.ErrPrice, "-0": ticket.ErrPrice, "0e999999999999999999999": ticket.ErrPrice,
		"-1": ticket.ErrPrice, "-1e400": ticket.ErrPrice, "--1": ticket.ErrPrice, "+-1": ticket.ErrPrice,
		"NaN": ticket.ErrPrice, "Infinity": ticket.ErrPrice, "inf": ticket.ErrPrice, "abc": ticket.ErrPrice, "true": ticket.ErrPrice, "null": ticket.ErrPrice,
		"0x10": ticket.ErrPrice, "1_000": ticket.ErrPrice, "1,5": ticket.ErrPrice, " 1": ticket.ErrPrice, "1 ": ticket.ErrPrice, "1.2.3": ticket.ErrPrice,
		"e5": ticket.ErrPrice, "1e": ticket.ErrPrice, "1e+": ticket.ErrPrice, "1e5.5": ticket.ErrPrice, ".": ticket.ErrPrice, "١": ticket.ErrPrice,
		"19.999": ticket.ErrPricePlaces, "0.001": ticket.ErrPricePlaces, "1e-3": ticket.ErrPricePlaces, "1e-999999999999999999999": ticket.ErrPricePlaces,
		"1000000.01": ticket.ErrPriceTooHigh, "1000001": ticket.ErrPriceTooHigh, "1e7": ticket.ErrPriceTooHigh, "1e400": ticket.ErrPriceTooHigh,
		"1e999999999999999999999": ticket.ErrPriceTooHigh, "99999999999999999999999999": ticket.ErrPriceTooHigh,
	} {
		if got, err := ticket.ParsePrice(text); !errors.Is(err, want) {
			t.Errorf("ParsePrice(%q) = %d, %v; want %v", text, got, err, want)
		}
	}
}

func TestPriceOnTheWire(t *testing.T) {
	for price, want := range map[ticket.Price]string{1: "0.01", 10: "0.1", 100: "1", 1999: "19.99", 1950: "19.5", ticket.MaxPrice: "1000000"} {
		if got, err := json.Marshal(price); string(got) != want || err != nil {
			t.Errorf("%d cents are %s, %v; want %s", price, got, err, want)
		}
	}
	for _, text := range []string{`19.99`, `"19.99"`, `"1999e-2"`, `"19\u002e99"`} {
		var got ticket.Price
		if err := json.Unmarshal([]byte(text), &got); got != 1999 || err != nil {
			t.Errorf("%s is %d, %v; want 1999", text, got, err)
		}
	}
	for _, text := range []string{`{}`, `[1]`, `true`, `"x"`, `""`} {
		var got ticket.Price
		if err := json.Unmarshal([]byte(text), &got); !errors.Is(err, ticket.ErrPrice) {
			t.Errorf("%s is %d, %v; want %v", text, got, err, ticket.ErrPrice)
		}
	}
}

// number is what ParsePrice takes for a number, with an exponent that math/big
// can afford.
var number = regexp.MustCompile(`^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$`)

// FuzzPrice compares with exact rational arithmetic.
func FuzzPrice(f *testing.F) {
	for _, seed := range []string{"19.99", "19.990", "1e3", "1000000", "1000000.01", "-5", "0", ".5", "5.", "NaN", "0x1p-2", "1e-2", `"1"`, "000100e-2"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		price, err := ticket.ParsePrice(text)
		if err != nil && price != 0 {
			t.Fatalf("ParsePrice(%q) = %d with %v", text, price, err)
		}
		if number.MatchString(text) {
			exact, ok := new(big.Rat).SetString(text)
			if !ok {
				t.Fatalf("%q is no number to math/big", text)
			}
			cents := exact.Mul(exact, big.NewRat(100, 1))
			good := cents.Sign() > 0 && cents.IsInt() && cents.Cmp(big.NewRat(int64(ticket.MaxPrice), 1)) <= 0
			if good != (err == nil) || good && cents.Cmp(big.NewRat(int64(price), 1)) != 0 {
				t.Fatalf("ParsePrice(%q) = %d, %v; it is %s cents", text, price, err, cents.RatString())
			}
		}
		if err != nil {
			return
		}
		if price <= 0 || price > ticket.MaxPrice {
			t.Fatalf("ParsePrice(%q) = %d", text, price)
		}
		if again, err := ticket.ParsePrice(price.String()); again != price || err != nil {
			t.Fatalf("%q is %v, which is read as %v, %v", text, price, again, err)
		}
	})
}
