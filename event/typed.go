package event

import (
	"errors"
	"math"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	jsonv1 "github.com/go-json-experiment/json/v1"
)

// At returns e with t as the time when the fact happened, cut to milliseconds. Use it for facts of the past; unlike
// setting Timestamp it also holds for the epoch itself, which Complete would take for a timestamp not set.
func (e Event) At(t time.Time) Event {
	e.Timestamp = t.UnixMilli()
	e.stated = e.Timestamp == 0
	return e
}

// DecodeError says that a payload does not fit the Go type of its definition. Its text names the place and never a
// value; the wrapped error is for errors.Is and errors.As only, since its text may quote one.
type DecodeError struct {
	EventID string
	Type    string // the event's type
	Version string // the event's version
	Pointer string // JSON pointer into the envelope; "/payload" when the place is not known
	Want    string // the Go type that the value there does not fit; empty when not known
	err     error
}

func (e *DecodeError) Error() string {
	text := "event " + e.EventID + ": payload of " + e.Type + " " + e.Version + " cannot be read at " + e.Pointer
	if e.Want != "" {
		text += " as " + e.Want
	}
	return text + "; read it with the definition of its type and version"
}

// Unwrap returns the cause.
func (e *DecodeError) Unwrap() error { return e.err }

// integersAsNumbers reads 30.0 and 3e1 as the integer 30. JSON Schema takes them for integers (2020-12 validation, 6.1.1),
// and languages with one type of number write them.
var integersAsNumbers = json.WithUnmarshalers(json.JoinUnmarshalers(
	json.UnmarshalFromFunc(unmarshalInteger[int64]), json.UnmarshalFromFunc(unmarshalInteger[int]), json.UnmarshalFromFunc(unmarshalInteger[int32]),
))

func unmarshalInteger[I int | int32 | int64](in *jsontext.Decoder, out *I) error {
	if in.PeekKind() != '0' {
		return errors.ErrUnsupported // not a number: the usual way
	}
	v, err := in.ReadValue()
	if err != nil {
		return err
	}
	n, err := strconv.ParseInt(string(v), 10, 64)
	if err != nil {
		f, ferr := strconv.ParseFloat(string(v), 64)
		if n = int64(f); ferr != nil || float64(n) != f || math.Abs(f) >= 1<<53 {
			return err
		}
	}
	if int64(I(n)) != n {
		return strconv.ErrRange
	}
	*out = I(n)
	return nil
}

// ErrOtherType is the cause of a DecodeError for an event of another type than the definition's.
var ErrOtherType = errors.New("the event is of another type than the definition")

// decodeOptions are what New's encoding/json writes by, so that every payload type can be read back, but with exact
// member names: a name in another case is another member.
var decodeOptions = json.JoinOptions(
	jsonv1.DefaultOptionsV1(),
	jsonv1.ReportErrorsWithLegacySemantics(false),
	json.MatchCaseInsensitiveNames(false),
)

// Decode returns e with its payload read as T. The event must be of the definition's type; its version is the caller's
// business (see the schema registry's upcasters). Errors are *DecodeError.
func (d Definition[T]) Decode(e Event) (Of[T], error) {
	if e.Type != d.eventType {
		return Of[T]{}, decodeError(e, "", d.eventType, ErrOtherType)
	}
	return decode[T](e)
}

func decode[T any](e Event) (Of[T], error) {
	of := Of[T]{Metadata: e.Metadata, stated: e.stated}
	err := json.Unmarshal(e.Payload, &of.Payload, decodeOptions)
	if err != nil {
		// Only now, since few producers write integers so and looking for it costs everybody.
		of.Payload = *new(T)
		err = json.Unmarshal(e.Payload, &of.Payload, decodeOptions, integersAsNumbers)
	}
	if err == nil {
		return of, nil
	}
	pointer, want := "", ""
	var semantic *json.SemanticError
	if errors.As(err, &semantic) {
		pointer = string(semantic.JSONPointer)
		if semantic.GoType != nil {
			want = semantic.GoType.String()
		}
	}
	return Of[T]{}, decodeError(e, pointer, want, err)
}

func decodeError(e Event, pointer, want string, err error) *DecodeError {
	return &DecodeError{
		EventID: e.ID, Type: e.Type, Version: e.Version,
		Pointer: nativePlaces.payload.pointer + pointer, Want: want, err: err,
	}
}

// Event returns the envelope with the payload encoded again. Members that T does not know are lost on the way: to pass
// an event on, keep the Event it was decoded from.
func (o Of[T]) Event() (Event, error) {
	e := Definition[T]{o.Type, o.Version}.New(o.Source, o.Payload)
	e.Metadata, e.stated = o.Metadata, o.stated
	if e.err != nil {
		_, err := e.MarshalJSON()
		return Event{}, err
	}
	return e, nil
}

// MarshalJSON returns the envelope in its native form.
func (o Of[T]) MarshalJSON() ([]byte, error) {
	e, err := o.Event()
	if err != nil {
		return nil, err
	}
	return e.MarshalJSON()
}

// UnmarshalJSON reads an envelope in its native form, under the rules of Parse, of whatever type.
func (o *Of[T]) UnmarshalJSON(data []byte) error {
	e, _, err := Parse(data, nil)
	if err != nil {
		return err
	}
	*o, err = decode[T](e)
	return err
}
