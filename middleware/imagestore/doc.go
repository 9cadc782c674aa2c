// Package imagestore stores images in a registry: in the storage and the repositories that pushes
// use, and in an order in which nobody sees half an image.
//
//	writer := store.Writer(repo)
//	defer writer.Close()
//	image, err := builder.Build(ctx, request, pinned, byClient, writer)
//	…
//	err = store.Commit(ctx, writer, image, tags)
//
// A Writer takes the layers of one image while they are packed. Commit stores what refers to them:
// configs, manifests, records, and at last the tags. Whoever sees a tag sees the whole image.
// Garbage collection takes what a killed process left before that.
//
// # Terms
//
//   - Record: what is remembered of an image that was built for a tag. An image without one was
//     pushed. LookUp tells the two apart.
//   - Form: what clients get of an image that they can't take as it is stored. It is made whenever it
//     is asked for, and a record tells what its digest was made of.
//   - Link: the file by which upstream's storage knows that a blob belongs to a repository. There
//     is one for each layer, up to 94 for an image, and each waits for a disk or an object store.
//   - Pending links: a write-ahead log of links. Layers that the registry had already are linked
//     after their image is served. The log says which, before anybody can see the image. A layer
//     that somebody asks for earlier is linked at once, by any replica that shares the storage.
//     Recover writes the links that a killed process left pending.
//   - Idle gate: pending links pause while images are made, for 500 ms at most.
//   - In-flight commit: one that has stored some manifests and not yet all that they refer to.
package imagestore
