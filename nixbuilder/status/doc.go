// Package status has the errors that are for the client who asked for an image.
//
// An Error names the thing and the way out, and its Kind says what the client can do. It carries
// neither paths of the host nor secrets. Any other error means that Nix or the storage is not
// available, and its text is for the operator.
package status
