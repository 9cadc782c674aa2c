// Package retention removes the tags of built images that nobody needs any more, and the records of
// what has gone. What Nix built can be built again, so it may go; what was pushed never does.
//
//	r := &retention.Retention{Store: store, Namespace: namespace, Pulls: pulls, Limits: limits, …}
//	result, err := r.Run(ctx)
//
// Run goes through all repositories (survey.go), decides (decide.go), removes (run.go), and sweeps
// records. It removes tags alone. Manifests and blobs that no tag leads to are garbage collection's.
//
// # Terms
//
//   - Tag of a revision: one whose name is the revision that its image was built of. All others move:
//     latest, channels, branches.
//   - Pull: when an image was pulled last, by a tag or by its digest. It is recorded once a day for
//     each, in the background (pulls.go). An image of which there is no record counts as pulled when
//     it was built, or when the watch began, whichever is later.
//   - Watch: the time since which pulls are recorded without a gap (watch.go).
//   - Needed image: one that something pushed refers to: an index, a signature, another referrer.
package retention
