package bus

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"github.com/carebus/carebus/eventstore"
)

// Class is what kind of failure an error is; it decides what happens next.
type Class string

const (
	// Dependency: something outside is late, refusing or busy. The event is tried again in place, for as long as it
	// takes, behind the group's circuit breaker. Nothing is parked.
	Dependency Class = "dependency"
	// Permanent: trying again will not help: bad data, a broken rule, a panic. After a few tries the group's Policy applies.
	Permanent Class = "permanent"
	// Suspect: the process died while handling the event, more than once, or the outcome of an outside call is unknown
	// and nobody can be asked. The group's Policy applies at once.
	Suspect Class = "suspect"
)

type classified struct {
	class Class
	err   error
}

func (c *classified) Error() string { return c.err.Error() }
func (c *classified) Unwrap() error { return c.err }

// Transient marks err as a failed dependency.
func Transient(err error) error {
	if err == nil {
		return nil
	}
	return &classified{Dependency, err}
}

// Fatal marks err as permanent: no further try in place.
func Fatal(err error) error {
	if err == nil {
		return nil
	}
	return &classified{Permanent, err}
}

// Classify judges an error that a handler returned. Errors marked with Transient or Fatal keep their mark; time-outs,
// refused and reset connections, and a busy, full or unavailable store are dependencies; all else is permanent.
func Classify(err error) Class {
	var c *classified
	if errors.As(err, &c) {
		return c.class
	}
	var p *PanicError
	if errors.As(err, &p) {
		return Permanent
	}
	var ne net.Error
	var op *net.OpError
	var dns *net.DNSError
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled),
		errors.Is(err, os.ErrDeadlineExceeded),
		errors.Is(err, eventstore.ErrUnavailable), errors.Is(err, eventstore.ErrFull),
		errors.Is(err, driver.ErrBadConn), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE),
		errors.As(err, &op), errors.As(err, &dns),
		errors.As(err, &ne) && ne.Timeout():
		return Dependency
	}
	return Permanent
}

// PanicError is a handler's panic, turned into an error. Permanent.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// ConfigError says which setting of the bus or of a group is wrong.
type ConfigError struct {
	Field  string
	Reason string
}

func (e *ConfigError) Error() string { return "bus: " + e.Field + ": " + e.Reason }

// Errors that operations on groups report, tested with errors.Is.
var (
	// ErrNoGroup: no group of this name has ever run on this store.
	ErrNoGroup = errors.New("no such group")
	// ErrHasMembers: the group is being handled; let its members leave first.
	ErrHasMembers = errors.New("the group has members")
	// ErrNotParked: the group has no such parked key.
	ErrNotParked = errors.New("key is not parked")
	// ErrNoJob: no job with this id.
	ErrNoJob = errors.New("no such job")
	// ErrReason: the act wants a reason, for the audit.
	ErrReason = errors.New("a reason is required")
)

// errFenced: this member no longer holds the partition; somebody else may. What it did was undone.
var errFenced = errors.New("bus: partition lease lost")

// logText is what is logged of an error: errorText, but of a panic only what kind of value it was, unless the runtime made it.
// The value may be anything that the handler had in hand; the dead letter has it.
func logText(err error) string {
	var p *PanicError
	if errors.As(err, &p) {
		if _, ok := p.Value.(runtime.Error); !ok {
			return fmt.Sprintf("panic with a %T; see the dead letter", p.Value)
		}
	}
	return errorText(err)
}

func itoa(n int) string { return strconv.Itoa(n) }

// errorText is what is kept of an error: bounded, one line. Handlers must not put protected values into their errors.
func errorText(err error) string {
	s := err.Error()
	b := make([]byte, 0, min(len(s), 500))
	for i := 0; i < len(s) && len(b) < 500; i++ {
		if s[i] == '\n' || s[i] == '\r' {
			b = append(b, ' ')
		} else {
			b = append(b, s[i])
		}
	}
	return string(b)
}
