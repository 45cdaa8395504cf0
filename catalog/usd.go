package catalog

import (
	"errors"
	"math"
	"strconv"
	"strings"
)

// USD is an amount of US dollars in whole cents, so that sums are exact: USD(1050) is $10.50. In JSON it is a number
// with two places (10.50); it reads any number that is a whole count of cents, however it is written.
type USD int64

// ErrUSD is the cause when a JSON value is no amount of US dollars: no number, a fraction of a cent, or beyond about
// 92 quadrillion dollars.
var ErrUSD = errors.New("catalog: not an amount of US dollars; write a number with at most two places, such as 10.50")

// String returns the amount with two places and no dollar sign, such as "-10.50".
func (a USD) String() string {
	sign, cents := "", uint64(a)
	if a < 0 {
		sign, cents = "-", -cents
	}
	s := strconv.FormatUint(cents, 10)
	if len(s) < 3 {
		s = strings.Repeat("0", 3-len(s)) + s
	}
	return sign + s[:len(s)-2] + "." + s[len(s)-2:]
}

// MarshalJSON writes a JSON number with two places.
func (a USD) MarshalJSON() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalJSON reads a JSON number without going through floating point. Its error is ErrUSD.
func (a *USD) UnmarshalJSON(data []byte) error {
	text := string(data)
	if text == "null" { // as encoding/json asks of every Unmarshaler
		return nil
	}
	text, negative := strings.CutPrefix(text, "-")
	mantissa, exponent, scientific := strings.Cut(strings.ToLower(text), "e")
	shift := 2 // from dollars to cents
	if scientific {
		e, err := strconv.Atoi(exponent)
		if err != nil || e < -100 || e > 100 {
			return ErrUSD
		}
		shift += e
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits := whole + fraction
	point := len(whole) + shift // where the point stands in digits once the unit is a cent
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return ErrUSD
	}
	digits = strings.Repeat("0", max(0, -point)) + digits
	point = max(0, point)
	digits += strings.Repeat("0", max(0, point-len(digits)))
	if strings.Trim(digits[point:], "0") != "" {
		return ErrUSD
	}
	cents := uint64(0)
	for _, d := range digits[:point] {
		n := uint64(d - '0')
		if cents > (math.MaxInt64-n)/10 {
			return ErrUSD
		}
		cents = cents*10 + n
	}
	*a = USD(cents)
	if negative {
		*a = -*a
	}
	return nil
}
