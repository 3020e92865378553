package network_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/atlas-smr/smr/network/networktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTCP(t *testing.T)    { networktest.Run(t, networktest.TCP) }
func TestMemory(t *testing.T) { networktest.Run(t, networktest.Memory) }
