package schema

import (
	"math/big"
	"strconv"
	"strings"
)

// exact is a JSON number, exactly: digits × 10^exp. Schemas are compared with it rather than with float64, which
// cannot tell large bounds apart, and rather than with big.Rat, which a short text such as 1e999999999 makes huge.
type exact struct {
	neg    bool
	digits string // without zeros at either end; "" is zero
	exp    int
}

// maxExponent bounds the exponents that are read; a schema with a larger one is beyond what can be compared.
const maxExponent = 1 << 24

func parseDecimal(text string) (exact, bool) {
	var d exact
	text, d.neg = strings.CutPrefix(text, "-")
	mantissa, exponent, has := strings.Cut(strings.ToLower(text), "e")
	if has {
		n, err := strconv.Atoi(exponent)
		if err != nil || n > maxExponent || n < -maxExponent {
			return exact{}, false
		}
		d.exp = n
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	d.exp -= len(fraction)
	all := strings.TrimLeft(whole+fraction, "0")
	d.digits = strings.TrimRight(all, "0")
	d.exp += len(all) - len(d.digits)
	for i := range len(d.digits) {
		if d.digits[i] < '0' || d.digits[i] > '9' {
			return exact{}, false
		}
	}
	if d.digits == "" {
		return exact{}, whole != ""
	}
	return d, true
}

// String is the one way to write the number: plain for integers of ordinary size, else with an exponent.
func (d exact) String() string {
	if d.digits == "" {
		return "0"
	}
	text := d.digits
	switch {
	case d.exp == 0:
	case d.exp > 0 && len(d.digits)+d.exp <= 21:
		text += strings.Repeat("0", d.exp)
	case d.exp < 0 && -d.exp < len(d.digits):
		text = text[:len(text)+d.exp] + "." + text[len(text)+d.exp:]
	case d.exp < 0 && -d.exp <= 21:
		text = "0." + strings.Repeat("0", -d.exp-len(d.digits)) + text
	default:
		text += "e" + strconv.Itoa(d.exp)
	}
	if d.neg {
		return "-" + text
	}
	return text
}

func (d exact) integer() bool { return d.exp >= 0 }

func (d exact) sign() int {
	switch {
	case d.digits == "":
		return 0
	case d.neg:
		return -1
	}
	return 1
}

// compare returns -1, 0 or 1.
func (d exact) compare(o exact) int {
	if a, b := d.sign(), o.sign(); a != b || a == 0 {
		return sign(a - b)
	}
	result := sign(len(d.digits) + d.exp - len(o.digits) - o.exp) // the places before the point
	if result == 0 {
		result = strings.Compare(d.digits, o.digits) // no zeros at the end, so a prefix is the smaller number
	}
	if d.neg {
		return -result
	}
	return result
}

func sign(n int) int {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}

// maxScale bounds the exponents that divisibility is decided for.
const maxScale = 400

// multiple tells whether d is a multiple of o, as far as that can be decided cheaply.
func (d exact) multiple(o exact) bool {
	if o.digits == "" {
		return false
	}
	if d.digits == "" {
		return true
	}
	low := min(d.exp, o.exp)
	if d.exp-low > maxScale || o.exp-low > maxScale {
		return false
	}
	a, b := d.scaled(low), o.scaled(low)
	return new(big.Int).Rem(a, b).Sign() == 0
}

func (d exact) scaled(exp int) *big.Int {
	n, _ := new(big.Int).SetString("0"+d.digits, 10)
	return n.Mul(n, new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(d.exp-exp)), nil))
}

// round returns the nearest integer above, or for a negative direction below, as far as that can be had cheaply.
func (d exact) round(direction int) (exact, bool) {
	if d.integer() {
		return d, true
	}
	if -d.exp > maxScale+len(d.digits) {
		return exact{}, false
	}
	n, _ := new(big.Int).SetString(d.digits, 10)
	if d.neg {
		n.Neg(n)
	}
	unit := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(-d.exp)), nil)
	n.Div(n, unit) // Euclidean: towards minus infinity for a positive divisor
	if direction > 0 {
		n.Add(n, big.NewInt(1))
	}
	return parseDecimal(n.String())
}

func (d exact) plus(n int64) (exact, bool) {
	if d.exp > maxScale || d.exp < -maxScale {
		return exact{}, false
	}
	low := min(d.exp, 0)
	sum := d.scaled(low)
	if d.neg {
		sum.Neg(sum)
	}
	one := exact{digits: "1"}.scaled(low)
	sum.Add(sum, one.Mul(one, big.NewInt(n)))
	return parseDecimal(sum.String() + "e" + strconv.Itoa(low))
}
