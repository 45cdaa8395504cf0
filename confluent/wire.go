package confluent

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrWire is what SplitWire returns, wrapped, for bytes that are not framed.
var ErrWire = errors.New("not in the wire format of a schema registry")

const wireHead = 5

// AppendWire appends a payload to dst as Kafka serializers frame it: a zero byte, the schema's global id as four bytes,
// the most significant first, and the payload.
func AppendWire(dst []byte, id int, payload []byte) []byte {
	dst = append(dst, 0)
	dst = binary.BigEndian.AppendUint32(dst, uint32(id))
	return append(dst, payload...)
}

// SplitWire undoes AppendWire. The payload is a part of data, not a copy.
func SplitWire(data []byte) (id int, payload []byte, err error) {
	if len(data) < wireHead {
		return 0, nil, fmt.Errorf("%w: %d bytes, and the frame alone has %d", ErrWire, len(data), wireHead)
	}
	if data[0] != 0 {
		return 0, nil, fmt.Errorf("%w: it begins with byte %d instead of 0; was it written without a schema registry's serializer?", ErrWire, data[0])
	}
	return int(binary.BigEndian.Uint32(data[1:wireHead])), data[wireHead:], nil
}
