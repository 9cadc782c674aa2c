// Package compress compresses the archives of layers, as streams, and finds out what a manifest
// says of a layer: its digest, its size, and the digest of the archive before compression (the
// diff ID).
//
// An archive is cut into pieces that are compressed side by side, on all cores:
//
//   - parts, all of the same size, for gzip and zstd;
//   - chunks, which end where the caller says (Stream.Cut), for gzip and zstd too. Archives that
//     resemble others are cut like this: the chunks that they share are compressed once and kept
//     in memory;
//   - files, each by itself, for estargz and zstd:chunked. A table at the end of the layer says
//     where each of them is, so that clients can load the files that they need alone.
//
// Decompressors take the pieces for one gzip or zstd stream.
package compress
