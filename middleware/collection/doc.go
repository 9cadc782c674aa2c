// Package collection deletes what only built images had and no tag leads to any more, while
// registries serve the same storage. Upstream's own garbage collection wants them stopped.
//
//	gate := collection.NewGate(storage)           // in each registry, around its storage driver
//	…
//	report, err := collection.New(gate, namespace, built).Collect(ctx)
//
// Storage drivers have no conditional writes. An upload finds a blob, skips the copy, and then links
// the blob, so nobody may delete the blob in between. The argument for why nobody does is in
// docs/decisions/collection.md. In short:
//
//   - A run first condemns its candidates: a record has them. From then on, whoever touches one of
//     them, with whatever registry, spares it: another record.
//   - The run then looks through all repositories, and leaves out what anything else refers to. What
//     was referred to before is seen there, and what is referred to later is spared.
//   - Then it sweeps: registries refuse pushes and builds, and what was begun before fails. The run
//     reads which candidates were spared, looks again, and deletes the others.
//
// # Terms
//
//   - Run: one collection, by one process. It has a record that says which phase it is in, and a list
//     of candidates.
//   - Candidate: a manifest that was built and that neither a tag nor anything else leads to, and the
//     blobs that it refers to.
//   - Sight: what a process believes of the runs, read from the storage. A write needs one that is
//     no older than sightAge.
//   - Gate: the storage driver of a registry, which holds its writes to what the View says.
package collection
