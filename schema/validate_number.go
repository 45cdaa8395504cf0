package schema

import (
	"encoding/json"
	"strconv"
	"strings"
)

// Numbers are compared exactly, so their size costs: 1e900000 has nine characters and takes the library 20 ms, and from
// about 1e1000000 on it panics where the schema has a bound. What exceeds these limits never reaches it.
const (
	maxNumberText      = 1000 // characters
	maxPayloadExponent = 1000 // either way; float64 ends at 308
)

func tooLarge(n json.Number) bool {
	if len(n) > maxNumberText {
		return true
	}
	at := strings.IndexAny(string(n), "eE")
	if at < 0 {
		return false
	}
	exponent, err := strconv.Atoi(string(n[at+1:]))
	return err != nil || exponent > maxPayloadExponent || exponent < -maxPayloadExponent
}

// largeNumbers calls found with the place of every number beyond the limits. The place is only valid during the call.
func largeNumbers(v any, at []string, found func(at []string)) {
	switch x := v.(type) {
	case json.Number:
		if tooLarge(x) {
			found(at)
		}
	case map[string]any:
		for name, sub := range x {
			largeNumbers(sub, append(at, name), found)
		}
	case []any:
		for i, sub := range x {
			largeNumbers(sub, append(at, strconv.Itoa(i)), found)
		}
	}
}
