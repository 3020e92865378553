package wire

import (
	"crypto/sha256"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/pb/wirepb"
)

// bundleDomain separates bundle signatures from every other use of a client's key.
const bundleDomain = "atlas-smr bundle v1\x00"

// ErrBundle is wrapped by every refusal of a bundle's encoding.
var ErrBundle = errors.New("bad bundle")

// EncodeBundle signs b for the cluster and returns it complete, with ID, Key and Raw set. Kind,
// Client, Session, First, Acked, Nonce and Ops are taken from b; Ops are copied.
func EncodeBundle(cluster smr.ClusterID, signer auth.Signer, b smr.Bundle) (*smr.Bundle, error) {
	key := signer.Public()
	body := wirepb.BundleBody{
		Kind: uint32(b.Kind), Client: uint64(b.Client), Key: key[:], Session: uint64(b.Session),
		First: uint64(b.First), Acked: uint64(b.Acked), Nonce: b.Nonce, Ops: b.Ops,
	}
	signed := wirepb.SignedBundle{}
	var err error
	if signed.Body, err = body.MarshalVT(); err != nil {
		return nil, err
	}
	signed.Signature = signer.Sign(bundleText(cluster, signed.Body))
	raw, err := signed.MarshalVT()
	if err != nil {
		return nil, err
	}
	return DecodeBundle(raw)
}

func bundleText(cluster smr.ClusterID, body []byte) []byte {
	t := make([]byte, 0, len(bundleDomain)+len(cluster)+len(body))
	t = append(t, bundleDomain...)
	t = append(t, cluster[:]...)
	return append(t, body...)
}

// DecodeBundle reads a bundle and checks its shape and size, not its signature. The result aliases
// raw, which must not change afterwards. Errors wrap ErrBundle.
func DecodeBundle(raw []byte) (*smr.Bundle, error) {
	if len(raw) > smr.MaxBundleBytes {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrBundle, len(raw), smr.MaxBundleBytes)
	}
	body, _, err := splitBundle(raw)
	if err != nil {
		return nil, err
	}
	counts, err := bodySchema.Check(body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBundle, err)
	}
	var p wirepb.BundleBody
	if n := counts[0]; n > 0 {
		p.Ops = make([][]byte, 0, n)
	}
	if err := p.UnmarshalVTUnsafe(body); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBundle, err)
	}
	b := &smr.Bundle{
		ID: sha256.Sum256(raw), Kind: smr.BundleKind(p.Kind), Client: smr.ClientID(p.Client),
		Session: smr.SessionID(p.Session), First: smr.OpNumber(p.First), Acked: smr.OpNumber(p.Acked),
		Nonce: p.Nonce, Ops: p.Ops, Raw: raw,
	}
	if len(p.Key) != len(b.Key) {
		return nil, fmt.Errorf("%w: key of %d bytes", ErrBundle, len(p.Key))
	}
	copy(b.Key[:], p.Key)
	return b, checkShape(b)
}

func checkShape(b *smr.Bundle) error {
	if b.Client == 0 {
		return fmt.Errorf("%w: client 0", ErrBundle)
	}
	switch b.Kind {
	case smr.BundleOpen:
		if b.Session != 0 || b.First != 0 || b.Acked != 0 || len(b.Ops) != 0 || b.Nonce == 0 {
			return fmt.Errorf("%w: an open carries a nonce and nothing else", ErrBundle)
		}
	case smr.BundleOps:
		if b.Session == 0 || b.First == 0 || len(b.Ops) == 0 || b.Nonce != 0 || b.Acked > b.First {
			return fmt.Errorf("%w: ops need a session, a first number, and acked at most first", ErrBundle)
		}
		if b.First > 1<<62 {
			return fmt.Errorf("%w: op number %d", ErrBundle, b.First)
		}
		for i, op := range b.Ops {
			if len(op) > smr.MaxOpBytes {
				return fmt.Errorf("%w: op %d has %d bytes, at most %d", ErrBundle, i, len(op), smr.MaxOpBytes)
			}
		}
	default:
		return fmt.Errorf("%w: unknown kind %d", ErrBundle, b.Kind)
	}
	return nil
}

// splitBundle returns body and signature of an encoded SignedBundle: exactly these two fields, in
// this order.
func splitBundle(raw []byte) (body, sig []byte, err error) {
	rest := raw
	for field, dst := range []*[]byte{&body, &sig} {
		num, typ, n := protowire.ConsumeTag(rest)
		if n < 0 || int(num) != field+1 || typ != protowire.BytesType {
			return nil, nil, fmt.Errorf("%w: not a signed bundle", ErrBundle)
		}
		v, m := protowire.ConsumeBytes(rest[n:])
		if m < 0 {
			return nil, nil, fmt.Errorf("%w: truncated", ErrBundle)
		}
		*dst, rest = v, rest[n+m:]
	}
	if len(rest) != 0 || len(sig) != auth.SignatureBytes {
		return nil, nil, fmt.Errorf("%w: %d bytes after the signature of %d bytes", ErrBundle, len(rest), len(sig))
	}
	return body, sig, nil
}

// BundleItem returns the signature check that b needs, for a batch.
func BundleItem(cluster smr.ClusterID, b *smr.Bundle) auth.Item {
	body, sig, err := splitBundle(b.Raw)
	if err != nil {
		return auth.Item{}
	}
	return auth.Item{Key: b.Key, Msg: bundleText(cluster, body), Sig: sig}
}

// VerifyBundles checks the signatures of bundles in one batch and returns, for each, whether it is
// valid; nil means all are.
func VerifyBundles(scheme auth.Scheme, cluster smr.ClusterID, bundles []*smr.Bundle) []bool {
	items := make([]auth.Item, len(bundles))
	for i, b := range bundles {
		items[i] = BundleItem(cluster, b)
	}
	return scheme.VerifyBatch(items)
}

// EncodeBundles returns the payload that carries bundles.
func EncodeBundles(bundles []*smr.Bundle) []byte {
	m := wirepb.Bundles{Bundles: make([][]byte, len(bundles))}
	for i, b := range bundles {
		m.Bundles[i] = b.Raw
	}
	out, err := m.MarshalVT()
	if err != nil {
		panic(err) // a message of byte slices always encodes
	}
	return out
}

// DecodeBundles reads a payload of bundles: at most MaxBatchBundles of them, shapes checked,
// signatures not. The result aliases payload.
func DecodeBundles(payload []byte) ([]*smr.Bundle, error) {
	counts, err := bundlesSchema.Check(payload)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBundle, err)
	}
	m := wirepb.Bundles{Bundles: make([][]byte, 0, counts[0])}
	if err := m.UnmarshalVTUnsafe(payload); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBundle, err)
	}
	return decodeAll(m.Bundles)
}

func decodeAll(raws [][]byte) ([]*smr.Bundle, error) {
	out := make([]*smr.Bundle, len(raws))
	for i, raw := range raws {
		b, err := DecodeBundle(raw)
		if err != nil {
			return nil, fmt.Errorf("bundle %d: %w", i, err)
		}
		out[i] = b
	}
	return out, nil
}
