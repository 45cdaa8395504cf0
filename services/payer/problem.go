package payer

import (
	"fmt"
	"strings"
)

// Problem is one thing that is wrong in a rule file: where, what, and what to do.
type Problem struct {
	Rule       string // id of the rule; empty for what is outside the rules
	Expression string // id of the expression in the rule, or the member of the file
	Line       int    // position in the expression (in the file, where Rule and Expression are empty); from 1, 0 is none
	Column     int
	Code       string // stable name of what is wrong, such as "unknown-set"
	Message    string
	Remedy     string
}

func (p Problem) String() string {
	var b strings.Builder
	if p.Rule != "" {
		b.WriteString("rule " + p.Rule)
	} else {
		b.WriteString("rule file")
	}
	if p.Expression != "" {
		b.WriteString(", " + p.Expression)
	}
	if p.Line > 0 {
		fmt.Fprintf(&b, " (%d:%d)", p.Line, p.Column)
	}
	fmt.Fprintf(&b, ": %s [%s]", p.Message, p.Code)
	if p.Remedy != "" {
		b.WriteString("; " + p.Remedy)
	}
	return b.String()
}

// LoadError holds everything that is wrong in a rule file. Test for it with errors.As.
type LoadError struct {
	Problems []Problem
}

func (e *LoadError) Error() string {
	texts := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		texts[i] = p.String()
	}
	return "payer: " + strings.Join(texts, "\n")
}
