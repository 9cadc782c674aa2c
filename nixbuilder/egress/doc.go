// Package egress connects evaluations to the network, by an HTTP proxy that knows what they may
// reach.
//
// Nix checks no more than the URL that a package set names. A server that it may ask can redirect
// it anywhere, a name can lead to this machine, and git follows a repository's submodules. So the
// proxy judges each connection by the address that it is about to connect to, and connects to no
// other:
//
//   - A public address may be reached over https. Over plain http, the list must admit its host.
//   - A host of this machine or of a private network (loopback, link-local, where clouds hand out
//     credentials, RFC 1918 and such) must be named by the list, with scheme and port.
//
// The list is that of nix.alloweduris. https://git.corp.example/ names a host, https:// names none.
// What the list says about paths is checked by Nix, and by git itself, which [Rules.GitEnvironment]
// configures.
package egress
