package confluent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/schema"
)

// problem is a refusal as clients read it: their behaviour hangs on the code. The HTTP status is the code's first three
// digits.
type problem struct {
	Code    int    `json:"error_code"`
	Message string `json:"message"`
}

func (p *problem) Error() string { return fmt.Sprintf("%s (%d)", p.Message, p.Code) }

func (p *problem) status() int {
	if p.Code >= 10_000 {
		return p.Code / 100
	}
	return p.Code
}

func refuse(code int, format string, args ...any) *problem {
	return &problem{Code: code, Message: fmt.Sprintf(format, args...)}
}

// The codes of the API.
const (
	codeForbidden       = 40301
	codeSubject         = 40401
	codeVersion         = 40402
	codeSchema          = 40403
	codeSubjectGone     = 40404
	codeSubjectNotGone  = 40405
	codeVersionGone     = 40406
	codeVersionNotGone  = 40407
	codeNoSubjectLevel  = 40408
	codeNoSubjectMode   = 40409
	codeIncompatible    = 409 // newer servers say 40901, which older clients do not know
	codeInvalidSchema   = 42201
	codeInvalidVersion  = 42202
	codeInvalidLevel    = 42203
	codeInvalidMode     = 42204
	codeNotPermitted    = 42205
	codeInvalidSubject  = 42208
	codeTooLarge        = 42209
	codeInvalidRules    = 42210
	codeStore           = 50001
	codeTimeout         = 50002
	unsupportedMedia    = http.StatusUnsupportedMediaType
	malformed           = http.StatusBadRequest
	methodNotAllowed    = http.StatusMethodNotAllowed
	noSuchResource      = http.StatusNotFound
	messageNotPermanent = "schemas are never deleted for good: stored events of theirs must stay readable; a soft delete deprecates them and hides them here"
)

func unknownSubject(subject string) *problem {
	return refuse(codeSubject, "Subject '%s' not found.", bounded(subject))
}

// problemOf says what a failure of the platform is to a client. What is no refusal of the registry's is the store's
// failure, whose text is for the log.
func problemOf(err error) *problem {
	var p *problem
	var invalid *event.InvalidError
	var incompatible *schema.IncompatibleError
	var version *schema.VersionError
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &invalid):
		return refuse(codeInvalidSchema, "%s", findings(invalid))
	case errors.As(err, &incompatible):
		return refuse(codeIncompatible, "%s", refusal(incompatible))
	case errors.Is(err, schema.ErrVersionExists):
		return refuse(codeIncompatible, "%s", err)
	case errors.As(err, &version):
		return refuse(codeInvalidVersion, "%s", err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return refuse(codeTimeout, "the store did not answer in time; try again")
	}
	return refuse(codeStore, "the store failed; the server's log says how")
}

// refusal is what the owner of a type is told whose schema breaks the rules.
func refusal(e *schema.IncompatibleError) string {
	if e.Required != schema.Major {
		return e.Error()
	}
	return fmt.Sprintf("%s\nA new major is registered only on purpose: send it with metadata.properties.version %q.", e, e.Suggested)
}

func findings(e *event.InvalidError) string {
	text := "the schema is refused:"
	for _, f := range e.Findings {
		if !f.Warning {
			text += "\n  " + f.String()
		}
	}
	return text
}

// bounded cuts a name that came from outside, so that an answer does not become a large text.
func bounded(name string) string {
	const most = 128
	if len(name) > most {
		return strings.ToValidUTF8(name[:most], "") + "…"
	}
	return name
}
