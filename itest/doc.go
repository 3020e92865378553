// Package itest drives real replicas: processes of the smr binary, on real disks and sockets, while
// concurrent clients record a history. Every connection between two ends goes through a proxy of its
// own (config.toml's [addresses] points there), so that each direction between each two of them can be
// slowed, held back or broken; processes are killed and stopped; small disks fill up. Faults are drawn
// from a seed that is printed; what the machine's timing adds to them is not reproducible.
//
// It proves what the simulator cannot: that goroutines, sockets, TLS and files behave as the pure
// machines assume.
package itest
