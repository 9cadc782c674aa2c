// Package egress is the way from an evaluation to the network: an HTTP proxy that knows what may be
// reached.
//
// Nix checks the URL that a package set names, and no more: a server that may be asked can send it
// anywhere, a name can lead to this machine, and git follows a repository's submodules. So each
// connection is judged here, by the address that it is about to go to, and to no other:
//
//   - A public address may be reached over https. Over plain http, its host must be admitted by the list.
//   - A host of this machine or of a private network (loopback, link-local, where clouds hand out credentials, RFC 1918 and such) must be named by the list, with
//     scheme and port.
//
// The list is that of nix.alloweduris. https://git.corp.example/ names a host, https:// names none.
// What it says about paths is for Nix to check, and for git itself, which [Rules.GitEnvironment]
// tells.
package egress
