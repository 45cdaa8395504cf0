package auth

import (
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/carebus/carebus/bus"
)

// Verb is what somebody wants to do with events of a type.
type Verb string

// The verbs of a policy.
const (
	Publish   Verb = "publish"   // state facts
	Subscribe Verb = "subscribe" // live streams, consumer groups, webhooks
	Read      Verb = "read"      // search, histories, flows, status
	Operate   Verb = "operate"   // pause, seek, replay, redrive, discard, correct
	Register  Verb = "register"  // schemas
)

// Verbs are all of them.
func Verbs() []Verb { return []Verb{Publish, Subscribe, Read, Operate, Register} }

// Principal is a person or program, and what they may do. It is safe for concurrent use. The zero Principal may do nothing.
type Principal struct {
	Name string

	grants  map[Verb][]string
	limiter *rate.Limiter // nil for none
	anyone  bool
}

// Anyone is the principal of a gateway without a policy: everything is permitted.
func Anyone() *Principal { return &Principal{Name: "anyone", anyone: true} }

// May says whether the principal may do something with events of a type.
func (p *Principal) May(v Verb, eventType string) bool {
	if p.anyone {
		return true
	}
	for _, pattern := range p.grants[v] {
		if bus.Matches(pattern, eventType) {
			return true
		}
	}
	return false
}

// MayAll says whether the principal may do something with every event type that a pattern fits. Grants are looked at one by
// one: when only several together cover the pattern, the answer is no.
func (p *Principal) MayAll(v Verb, pattern string) bool {
	if p.anyone {
		return true
	}
	for _, grant := range p.grants[v] {
		if covers(grant, pattern) {
			return true
		}
	}
	return false
}

// MaySome says whether the principal may do something with any type at all.
func (p *Principal) MaySome(v Verb) bool { return p.anyone || len(p.grants[v]) > 0 }

// Granted are the patterns under which the principal may do something.
func (p *Principal) Granted(v Verb) []string {
	if p.anyone {
		return []string{"**", "platform.**"}
	}
	return slices.Clone(p.grants[v])
}

// Allow takes n from the principal's rate and says whether it may. More than the burst is never there at once: who asks for
// more with a full burst may, and then waits until the rest has come too.
func (p *Principal) Allow(n int) bool {
	if p.limiter == nil {
		return true
	}
	now := time.Now()
	burst := p.limiter.Burst()
	if !p.limiter.AllowN(now, min(n, burst)) {
		return false
	}
	for n -= burst; n > 0; n -= burst {
		p.limiter.ReserveN(now, min(n, burst)) // a debt
	}
	return true
}

// Wait is how long it takes until Allow(1) is true, if nothing else is taken meanwhile.
func (p *Principal) Wait() time.Duration {
	if p.limiter == nil {
		return 0
	}
	missing := 1 - p.limiter.Tokens()
	return time.Duration(max(missing, 0) / float64(p.limiter.Limit()) * float64(time.Second))
}

// covers says whether every type that the inner pattern fits is one that the outer fits. A true answer is certain.
func covers(outer, inner string) bool {
	if platform(outer) != platform(inner) {
		return false // "**" does not fit the platform's own events, and theirs fit nothing else
	}
	o, i := parts(outer), parts(inner)
	for k, want := range o {
		if want == "**" {
			return k < len(i) // it stands for one part or more
		}
		if k >= len(i) {
			return false
		}
		switch i[k] {
		case "**":
			return false // it fits more parts than the outer has here
		case "*":
			if want != "*" {
				return false
			}
		default:
			if want != "*" && want != i[k] {
				return false
			}
		}
	}
	return len(o) == len(i)
}

// parts of a pattern; "*" alone is another word for "**".
func parts(pattern string) []string {
	if pattern == "*" {
		pattern = "**"
	}
	return strings.Split(pattern, ".")
}

func platform(pattern string) bool {
	return pattern == "platform" || strings.HasPrefix(pattern, "platform.")
}
