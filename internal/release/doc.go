// Command release writes the image of a release, for several platforms, as one archive in the form
// of the OCI image layout. `make release` runs it; docs/decisions/release.md says why there is one.
//
// An image has two layers. The Debian layer holds the packages of the lock file, unpacked, and what
// their maintainer scripts would have made: it depends on the lock file alone, so that releases
// share it. The registry's layer holds the program. Nothing is run, so that an image for any
// platform is made on any machine.
//
// The same lock file, programs and flags give the same bytes.
package main
