package metrics

// What became of a store path that was built and is to be copied to nix.share.
const (
	SharedCopied  = "copied"
	SharedFailed  = "failed"  // an attempt, which is followed by others
	SharedDropped = "dropped" // for want of room, for its age, or as it is gone from the Nix store
)

// Shared are store paths that were built, and attempts to copy them.
var Shared = counter("shared_total", "Store paths for nix.share, by outcome.", "outcome",
	SharedCopied, SharedFailed, SharedDropped)

// SharedWaiting is how many wait to be copied.
var SharedWaiting = gauge("share_pending", "Store paths that wait to be copied to nix.share.")
