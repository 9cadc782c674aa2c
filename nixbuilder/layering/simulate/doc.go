// Simulate compares ways of cutting images into layers on a graph of real packages: how many bytes
// of layers a registry stores and a client pulls, in proportion to what it would be with every path
// stored and sent once. It reads a Debian package index and prints the table of docs/layering.md:
//
//	apt-cache dumpavail | go run ./nixbuilder/layering/simulate
//
// A package stands for a store path, its installed size for the path's, its dependencies for the
// references. The same index, roots and seed print the same table.
package main
