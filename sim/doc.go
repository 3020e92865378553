// Package sim runs whole clusters in one goroutine under virtual time: the production engine,
// ordering, execution, session table, request filter and client logic, on a simulated network,
// disk and clock, all driven by one seed. Equal seeds give equal traces.
//
// The package knows no concrete ordering: Options.Factory names one, and Byzantine behaviours are
// handed in as strategies that rewrite what an otherwise honest replica sends (package
// sim/adversary has them).
//
// While a run lasts, oracles watch every step: what the replicas deliver, execute, sign, report and
// forget. After the faults end, the cluster must finish every open request and converge within a
// bound of virtual time; then the recorded history must be linearizable and everything acknowledged
// must be in the final state. The first violation ends the run; Result.Failure says what it was,
// and the seed alone replays it.
//
// Order of things that happen at one instant: events are kept in a heap by (time, counter), so that
// of two events at the same time the one scheduled first comes first. No map is ranged over where
// the order could be seen.
package sim
