// Package replica runs one replica as a process does: it takes a genesis, a configuration and a key,
// opens the store, and joins network, ordering, execution and the checks of clients' requests until
// it is told to stop. It also makes and reads the files that a cluster is set up with.
package replica
