package driver

import (
	"bytes"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// compressFrom is the size from which payloads are stored compressed, in bytes. Below it the gain is small, and most events
// of a healthcare system are well below it: they cost nothing.
const compressFrom = 4 << 10

// frame is how a compressed payload begins (RFC 8878, section 3.1.1): no JSON text does.
var frame = []byte{0x28, 0xb5, 0x2f, 0xfd}

// Packer compresses payloads for storage, one at a time: it belongs to an engine's writer. The zero value works.
type Packer struct {
	enc *zstd.Encoder
	buf []byte
}

// Pack returns what is stored of a payload: itself, where compressing it saves less than an eighth. The result is valid
// until the next call.
func (p *Packer) Pack(payload []byte) []byte {
	if len(payload) < compressFrom {
		return payload
	}
	if p.enc == nil {
		enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false))
		if err != nil {
			return payload
		}
		p.enc = enc
	}
	p.buf = p.enc.EncodeAll(payload, p.buf[:0])
	if len(p.buf) > len(payload)-len(payload)/8 {
		return payload
	}
	return p.buf
}

// maxUnpacked is far more than a store accepts of one payload: damage must not make a reader take all memory.
const maxUnpacked = 256 << 20

// unpacker is safe for concurrent use.
var unpacker, errUnpacker = zstd.NewReader(nil, zstd.WithDecoderMaxMemory(maxUnpacked))

// Unpack returns the payload of what Pack has made, in a slice of its own or in the one given. What follows from damage is told apart from other errors: the hash chain
// covers the payload, not its compressed form.
func Unpack(stored []byte) ([]byte, error) {
	if !bytes.HasPrefix(stored, frame) {
		return stored, nil
	}
	if errUnpacker != nil {
		return nil, errUnpacker
	}
	payload, err := unpacker.DecodeAll(stored, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: a compressed payload is damaged: %w", ErrCorrupt, err)
	}
	return payload, nil
}
