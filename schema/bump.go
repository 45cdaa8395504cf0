package schema

import "fmt"

// Bump is the step of the semantic version that a change needs at least. Bumps are ordered: None < Patch < Minor < Major.
type Bump int

// The steps of a semantic version.
const (
	None  Bump = iota // the documents say the same
	Patch             // annotations only
	Minor             // old producers and old consumers go on unchanged
	Major             // some producer or consumer would break, or that could not be excluded
)

var bumpNames = [...]string{"none", "patch", "minor", "major"}

// String returns none, patch, minor or major.
func (b Bump) String() string {
	if b < None || b > Major {
		return fmt.Sprintf("Bump(%d)", int(b))
	}
	return bumpNames[b]
}

// MarshalText writes the name of the step.
func (b Bump) MarshalText() ([]byte, error) {
	if b < None || b > Major {
		return nil, fmt.Errorf("schema: %d is no bump", int(b))
	}
	return []byte(bumpNames[b]), nil
}

// UnmarshalText reads the name of a step.
func (b *Bump) UnmarshalText(text []byte) error {
	for i, name := range bumpNames {
		if string(text) == name {
			*b = Bump(i)
			return nil
		}
	}
	return fmt.Errorf("schema: a bump is none, patch, minor or major")
}
