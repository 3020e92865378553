package history

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/pb/adminpb"
	"github.com/atlas-smr/smr/internal/pb/adminpb/adminpbconnect"
	"github.com/atlas-smr/smr/kv"
)

// maxDumpBytes bounds what is taken from a replica.
const maxDumpBytes = 4 << 30

// Dump fetches one replica's own state. A dump that breaks off is an error.
func Dump(ctx context.Context, c adminpbconnect.AdminClient) (*kv.Store, *adminpb.DumpEnd, error) {
	stream, err := c.Dump(ctx, connect.NewRequest(&adminpb.DumpRequest{}))
	if err != nil {
		return nil, nil, err
	}
	defer stream.Close()
	var (
		data []byte
		end  *adminpb.DumpEnd
	)
	for stream.Receive() {
		if end = stream.Msg().GetEnd(); end != nil {
			continue
		}
		if data = append(data, stream.Msg().GetData()...); len(data) > maxDumpBytes {
			return nil, nil, fmt.Errorf("the state has more than %d bytes", maxDumpBytes)
		}
	}
	switch {
	case stream.Err() != nil:
		return nil, nil, stream.Err()
	case end == nil:
		return nil, nil, errors.New("the dump broke off")
	case end.Bytes != uint64(len(data)) || end.TableBytes > end.Bytes:
		return nil, nil, fmt.Errorf("the dump has %d bytes, its end says %d", len(data), end.Bytes)
	}
	st, err := kv.ReadDump(data[end.TableBytes:])
	return st, end, err
}

// Lookup returns the value of a key in a store and the sequence number at which it was written.
func Lookup(st *kv.Store, key string) (value []byte, version smr.SeqNo, found bool) {
	rep := st.Query(smr.NewQueryContext(0, 0), kv.Get(key))
	return rep.Value, rep.Version, rep.Found
}
