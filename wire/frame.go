package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// FrameHeaderBytes is the length of a frame's header, length field included.
const FrameHeaderBytes = 7

// frameRest is the part of the header that the length field counts.
const frameRest = FrameHeaderBytes - 4

// The ways a frame is refused. Each breaks the connection it came over: what follows cannot be
// told apart from garbage.
var (
	ErrFrameLength  = errors.New("frame shorter than its header")
	ErrFrameTooLong = errors.New("frame longer than its class allows")
	ErrFrameVersion = errors.New("frame of an unknown version")
	ErrFrameClass   = errors.New("frame of an unknown class")
)

// largestFrame is the largest payload of any class.
var largestFrame = func() int {
	most := 0
	for c := Class(1); c < classEnd; c++ {
		most = max(most, c.MaxFrameBytes())
	}
	return most
}()

// AppendFrame appends a frame to dst. The class must be known and the payload within its limit;
// a receiver drops the connection otherwise.
func AppendFrame(dst []byte, class Class, kind uint8, payload []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(frameRest+len(payload)))
	dst = append(dst, Version, byte(class), kind)
	return append(dst, payload...)
}

// Sizes of a FrameReader's memory.
const (
	// frameChunkBytes is the block that small payloads are carved from, so that a small frame costs
	// no allocation of its own. A handler that keeps one small payload keeps its block.
	frameChunkBytes = 16 << 10
	// carvedPayloadBytes is the largest payload carved from a block.
	carvedPayloadBytes = 2 << 10
	// trustedPayloadBytes is allocated on the word of a length field alone; beyond it memory grows
	// with what has arrived, by payloadGrowth.
	trustedPayloadBytes = 64 << 10
	payloadGrowth       = 8
)

// FrameReader reads frames from a stream. It belongs to one goroutine.
type FrameReader struct {
	r     *bufio.Reader
	chunk []byte // unused rest of the current block
}

// NewFrameReader returns a reader of r with a read buffer of bufferBytes.
func NewFrameReader(r io.Reader, bufferBytes int) *FrameReader {
	return &FrameReader{r: bufio.NewReaderSize(r, bufferBytes)}
}

// ReadFrame returns the next frame. The payload belongs to the caller; its capacity is its length.
// Errors: io.EOF between frames, io.ErrUnexpectedEOF inside one, what the stream returns, and
// wrapped ErrFrameLength, ErrFrameTooLong, ErrFrameVersion, ErrFrameClass.
func (f *FrameReader) ReadFrame() (class Class, kind uint8, payload []byte, err error) {
	head, err := f.peek(4)
	if err != nil {
		return 0, 0, nil, err
	}
	length := binary.BigEndian.Uint32(head)
	if length < frameRest {
		return 0, 0, nil, fmt.Errorf("%w: length %d", ErrFrameLength, length)
	}
	if int64(length) > int64(frameRest+largestFrame) {
		return 0, 0, nil, fmt.Errorf("%w: length %d", ErrFrameTooLong, length)
	}
	if head, err = f.peek(FrameHeaderBytes); err != nil {
		return 0, 0, nil, err
	}
	class, kind = Class(head[5]), head[6]
	switch n := int(length) - frameRest; {
	case head[4] != Version:
		return 0, 0, nil, fmt.Errorf("%w: %d", ErrFrameVersion, head[4])
	case !class.Valid():
		return 0, 0, nil, fmt.Errorf("%w: %d", ErrFrameClass, uint8(class))
	case n > class.MaxFrameBytes():
		return 0, 0, nil, fmt.Errorf("%w: %s of %d bytes, at most %d", ErrFrameTooLong, class, n, class.MaxFrameBytes())
	default:
		_, _ = f.r.Discard(FrameHeaderBytes) // was peeked: cannot fail
		payload, err = f.payload(n)
		return class, kind, payload, err
	}
}

// peek returns the next n bytes. The end of the stream inside them is unexpected unless nothing
// of a frame has arrived.
func (f *FrameReader) peek(n int) ([]byte, error) {
	b, err := f.r.Peek(n)
	if err == io.EOF && len(b) > 0 {
		return nil, io.ErrUnexpectedEOF
	}
	return b, err
}

func (f *FrameReader) payload(n int) ([]byte, error) {
	var p []byte
	switch {
	case n <= carvedPayloadBytes:
		if len(f.chunk) < n {
			f.chunk = make([]byte, frameChunkBytes)
		}
		p, f.chunk = f.chunk[:n:n], f.chunk[n:]
	default:
		p = make([]byte, min(n, trustedPayloadBytes))
	}
	for have := 0; ; {
		if _, err := io.ReadFull(f.r, p[have:]); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if have = len(p); have == n {
			return p, nil
		}
		grown := make([]byte, min(n, have*payloadGrowth))
		copy(grown, p)
		p = grown
	}
}
