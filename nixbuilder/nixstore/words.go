package nixstore

import "regexp"

// These are the words of Nix where no field of its answers tells the same, with the versions that
// have them. Statuses tell everything else.
var (
	// 2.8 to 2.26 begin the line with "builder for '…'"; 2.34 has "Cannot build '…'." and "Reason:
	// builder failed …" on the next line.
	wordsBuilder = regexp.MustCompile(
		`(?:builder(?: for '[^']*')?) failed (with exit code (\d+)|due to signal (\d+) \([^)]*\))`,
	)
	// All, after that.
	wordsDiskFull = regexp.MustCompile(`(?m)^\s*note: build failure may have been caused by lack of free disk space`)
	// All, in the log of Nix's own fetcher, whose other faults go on with the status of HTTP.
	wordsUnreached = regexp.MustCompile(`unable to download '[^']*'`)
	wordsGone      = regexp.MustCompile(`HTTP error 4(?:0[134]|10)\b`)
	// 2.8 to 2.26 fail the whole operation with it.
	wordsMachine = regexp.MustCompile(`^a '([a-z0-9_-]+)' with features \{([^}]*)\} is required to build `)
	// 2.34 has it in the result of an input that is rejected.
	wordsPlatform = regexp.MustCompile(`(?m)^Required system: '([a-z0-9_-]+)'`)
	wordsFeatures = regexp.MustCompile(`(?m)^Required features: \{([^}]*)\}`)
	// All; before 2.34 both fail the whole operation, and the second still does.
	wordsCycle = regexp.MustCompile(
		`cycle detected in build of '[^']*' in the references of output '([^']*)' from output '([^']*)'`,
	)
	wordsFileType = regexp.MustCompile(`^file ['"][^'"]*['"] has an unsupported type`)
	// All fail the whole operation with them; 2.34 also what asks what there is to do.
	wordsNoSandbox = regexp.MustCompile(`^derivation '[^']*' has '__noChroot' set`)
	wordsImpure    = regexp.MustCompile(`^derivation '[^']*' requested impure path '([^']*)'`)
	wordsGraph     = regexp.MustCompile(`'exportReferencesGraph'|^path '[^']*' is not in the Nix store$`)
	wordsLongName  = regexp.MustCompile(`: File name too long$`)
	// All, in the results of outputs that are rejected. Of output that refers to store paths and
	// has a known hash, 2.34 may say that the hash is another.
	wordsHash = regexp.MustCompile(
		`hash mismatch in fixed-output derivation '[^']*':\s+specified:\s+(\S+)\s+got:\s+(\S+)`,
	)
	wordsNoOutput   = regexp.MustCompile(`failed to produce output path for output '([^']*)'`)
	wordsReferences = regexp.MustCompile(
		`output '[^']*' is not allowed to refer to the following paths:((?:\s+/nix/store/\S+)+)`,
	)
	wordsFlat = regexp.MustCompile(
		`should be a non-executable regular file since recursive hashing is not enabled`,
	)
	wordsRefers = regexp.MustCompile(
		`^(?:fixed-output derivations must not reference store paths|illegal path references in fixed-output derivation)`,
	)
	// All, in the log. A build on a remote builder is said to have failed there, and a helper of
	// Nix's to have failed here.
	wordsRemote = regexp.MustCompile(`^error: (?:build of|building of|builder for|Cannot build) '/nix/store/`)
	// All, in results and in the log, of what binary caches have and don't give.
	wordsSubstitutes = regexp.MustCompile(`^(?:error: )?some substitutes for the outputs of derivation '/nix/store/`)
	// All, in the log, of a path in a binary cache; 2.8 ends it with "is not signed by …".
	wordsUntrusted = regexp.MustCompile(
		`^warning: (?:ignoring|the) substitute for '(/nix/store/[^']*)' from '([^']*)',? (?:as it's|is) not signed by any of the keys`,
	)
	// All, in the log, of an archive that a binary cache has lost, or that is not what it says.
	// 2.34 warns of the first.
	wordsLostArchive = regexp.MustCompile(`^(?:error|warning): file '[^']*' does not exist in binary cache`)
	wordsBadArchive  = regexp.MustCompile(
		`^error: (?:Failed to (?:open|read) archive|NAR for '|bad archive|non-zero padding|(?:hash|size) mismatch importing path )`,
	)
	// All, in the log, of a cache that does not answer; before 2.34, it is a warning of an error
	// while it is tried again.
	wordsNoAnswer = regexp.MustCompile(`^(?:warning: )?(?:error: )?unable to download '[^']*(?:\.narinfo|/nar/[^']*)'`)
	// All, in the log, of a cache that the daemon leaves out from then on.
	wordsLeftOut = regexp.MustCompile(
		`^warning: (?:unable to download '([^']*)/nix-cache-info'|'([^']*)' does not appear to be a binary cache)`,
	)
	// All, in the log, of remote builders that can't be reached, or went away; with ssh-ng, from
	// 2.26 or earlier on, the daemon there did.
	wordsUnusable = regexp.MustCompile(`^cannot build on '([^']*)'`)
	wordsLost     = regexp.MustCompile(
		`^error: (?:unexpected end-of-file|writing to file: Broken pipe|Nix daemon disconnected unexpectedly)`,
	)
	wordsTimedOut = regexp.MustCompile(`timed out after \d+ seconds`)
	// 2.8 writes an error of the process that becomes a builder into its log in a form for
	// programs.
	wordsSerialized = regexp.MustCompile(`^ErrorError.??([a-z]+ )`)

	derivationPath = regexp.MustCompile(`/nix/store/[a-z0-9]{32}-[^/'" ]+?\.drv\b`)
	storePath      = regexp.MustCompile(`/nix/store/[a-z0-9]{32}-[^/'" ]+`)
	storePrefix    = regexp.MustCompile(`/nix/store/[a-z0-9]{32}-`)

	// Where builds are done on the host, and with what they see as their root directory. Newer
	// versions keep both in places of their own.
	buildDir  = regexp.MustCompile(`(?:/[^\s'":;/]+)*/nix-(?:build-[^\s'":;/]+\.drv-\d+|\d+-\d+)(?:/build)?\b`)
	buildRoot = regexp.MustCompile(`/nix/store/[a-z0-9]{32}-[^\s'"/]+\.drv\.chroot(?:/root)?`)
	hostPath  = regexp.MustCompile(`(^|[\s'"(=])/[^\s'"]+`)
)
