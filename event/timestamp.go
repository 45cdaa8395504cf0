package event

import "time"

// parseTime reads an RFC 3339 time as epoch milliseconds. exact tells that nothing finer than a millisecond was cut off.
// time.Parse is not used: it takes a comma for the fraction's point and knows no leap seconds.
func parseTime(v string) (ms int64, exact, ok bool) {
	if len(v) < len("2006-01-02T15:04:05Z") || v[4] != '-' || v[7] != '-' || v[10]|0x20 != 't' || v[13] != ':' || v[16] != ':' {
		return 0, false, false
	}
	valid := true
	number := func(from, to, low, high int) int {
		n := 0
		for i := from; i < to; i++ {
			if v[i] < '0' || v[i] > '9' {
				valid = false
				return low
			}
			n = n*10 + int(v[i]-'0')
		}
		valid = valid && n >= low && n <= high
		return n
	}
	year, month, day := number(0, 4, 0, 9999), number(5, 7, 1, 12), number(8, 10, 1, 31)
	hour, minute, second := number(11, 13, 0, 23), number(14, 16, 0, 59), number(17, 19, 0, 60)
	exact = true
	i, milli := 19, 0
	if v[i] == '.' {
		i++
		start := i
		for scale := 100; i < len(v) && v[i] >= '0' && v[i] <= '9'; i++ {
			digit := int(v[i] - '0')
			milli += digit * scale
			exact = exact && (scale > 0 || digit == 0)
			scale /= 10
		}
		valid = valid && i > start
	}
	offset := 0 // minutes east
	switch {
	case i+1 == len(v) && v[i]|0x20 == 'z':
	case i+6 == len(v) && (v[i] == '+' || v[i] == '-') && v[i+3] == ':':
		offset = number(i+1, i+3, 0, 23)*60 + number(i+4, i+6, 0, 59)
		if v[i] == '-' {
			offset = -offset
		}
	default:
		return 0, false, false
	}
	t := time.Date(year, time.Month(month), day, hour, minute-offset, min(second, 59), 0, time.UTC)
	// A day that the month does not have comes out as another date.
	if check := time.Date(year, time.Month(month), day, 0, 0, 0, 0, time.UTC); check.Day() != day {
		valid = false
	}
	if second == 60 { // a leap second: the last one of a day in UTC; counted as the first of the next
		valid = valid && t.Hour() == 23 && t.Minute() == 59
		t = t.Add(time.Second)
	}
	return t.UnixMilli() + int64(milli), exact, valid
}

// parseMillis reads a JSON number as epoch milliseconds; integer tells that it has neither fraction nor exponent.
func parseMillis(v []byte) (ms int64, integer, ok bool) {
	digits := v
	negative := v[0] == '-'
	if negative {
		digits = v[1:]
	}
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false, false
		}
		if ms > (1<<63-1-9)/10 {
			return 0, true, false
		}
		ms = ms*10 + int64(c-'0')
	}
	if negative {
		ms = -ms
	}
	return ms, true, true
}
