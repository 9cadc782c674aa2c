// Package blobserver serves the blobs of a registry without copying them through its memory.
//
// Upstream's registry reads a blob through a buffer of 4 MiB for each request, and looks the blob up
// three times: to find it, to serve it and to tell who is notified. An image has up to 95 layers,
// and half of them are smaller than 20 kB. Here a blob is looked up once in a request. A file of the
// filesystem driver goes to the socket by sendfile; what other drivers read goes through small
// buffers that are used again. Answers are upstream's, byte for byte.
//
// A blob passes by the writers between the network and the registry, which count what is written
// for logs. Handler makes that possible, and has them count all the same.
package blobserver
