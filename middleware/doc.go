// Package middleware lets a Distribution registry answer for images that nobody pushed: a manifest
// that is not there, under a name made of package names, is built by package nixbuilder and
// committed into the registry's own storage, and then served by the registry like any other.
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
// Such a program builds its Service on the first request, when prebuilding begins too, and gives it
// a connection of its own to the storage. One that calls Setup before it starts the registry gets
// faults in the stanza reported at once, and shares the registry's connection.
//
// It is also an access controller named anonymouspull, which lets everybody pull and leaves the
// rest to another one. A program that wants it to work with Docker registers the handler Tokens.
//
// Only GET and HEAD of a manifest by tag are looked at; all else passes through. What was pushed
// always wins. A Service that Setup made can also be opened without a registry, for commands that
// do what pulls do.
package middleware
