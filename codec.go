package smr

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
)

// BytesCodec passes byte slices through. Decode copies.
type BytesCodec struct{}

// Append implements [Codec].
func (BytesCodec) Append(dst []byte, v []byte) ([]byte, error) { return append(dst, v...), nil }

// Decode implements [Codec].
func (BytesCodec) Decode(b []byte) ([]byte, error) { return bytes.Clone(b), nil }

// JSONCodec encodes values of T as JSON. encoding/json sorts map keys, so equal values encode
// equally. Unknown fields and trailing data are refused.
type JSONCodec[T any] struct{}

// Append implements [Codec].
func (JSONCodec[T]) Append(dst []byte, v T) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return dst, err
	}
	return append(dst, b...), nil
}

// Decode implements [Codec].
func (JSONCodec[T]) Decode(b []byte) (T, error) {
	var v T
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		return v, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return v, errors.New("data after the JSON value")
	}
	return v, nil
}

// ProtoMessage is the part of a generated vtprotobuf message that [ProtoCodec] uses.
type ProtoMessage[T any] interface {
	*T
	MarshalToSizedBufferVT([]byte) (int, error)
	SizeVT() int
	UnmarshalVT([]byte) error
}

// ProtoCodec encodes protobuf messages through their generated vtprotobuf methods. T is the
// message struct, P its pointer: ProtoCodec[pb.Put, *pb.Put]. Fields of map type make encodings
// differ between replicas; do not use them in replies.
type ProtoCodec[T any, P ProtoMessage[T]] struct{}

// Append implements [Codec].
func (ProtoCodec[T, P]) Append(dst []byte, v P) ([]byte, error) {
	n := v.SizeVT()
	dst = append(dst, make([]byte, n)...)
	_, err := v.MarshalToSizedBufferVT(dst[len(dst)-n:])
	return dst, err
}

// Decode implements [Codec].
func (ProtoCodec[T, P]) Decode(b []byte) (P, error) {
	v := P(new(T))
	err := v.UnmarshalVT(b)
	return v, err
}
