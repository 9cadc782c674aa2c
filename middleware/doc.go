// Package middleware lets a Distribution registry answer for images that nobody pushed. Package
// nixbuilder builds a manifest that is not there, under a name made of package names. Package
// imagestore commits it into the registry's own storage, and the registry serves it like any other.
//
// It is a repository middleware named nix. A program that is a registry gets it by importing this
// package:
//
//	import _ "github.com/nixery-registry/nixery-registry/middleware"
//
// and its users by a stanza in config.yml:
//
//	middleware:
//	  repository:
//	    - name: nix
//	      options:
//	        packages: {path: /srv/packages}
//
// Such a program makes its Service on the first request, with a connection of its own to the
// storage; prebuilding begins then. A program that calls Setup before it starts the registry gets
// faults in the stanza reported at once, and shares the registry's connection.
//
// It is also an access controller named anonymouspull, which lets everybody pull and leaves the
// rest to another one. A program that wants it to work with Docker registers the handler Tokens.
//
// # A pull
//
// Only GET and HEAD of a manifest are looked at, and lists of tags (tags.go); all else passes
// through. What was pushed always wins.
//
//   - repository.go reads the HTTP request: the tag and the client; forms.go, which forms of an image
//     it takes.
//   - pull.go looks the tag up and, unless its image is of the package set as it is now, asks the
//     builder for the revision and has a job build the image.
//   - A client waits for that as long as its hold, and is then redirected to the same URL.
//   - forms.go chooses the form of the image that is served, and errors.go words what went wrong.
//
// A Service that Setup made can also be opened without a registry, for commands that do what pulls
// do: command.go and prebuild.go.
package middleware
