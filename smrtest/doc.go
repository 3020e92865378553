// Package smrtest is a test kit for what is built on Atlas SMR: a cluster inside the test process, and
// checks that an application is deterministic and can be saved and restored.
package smrtest
