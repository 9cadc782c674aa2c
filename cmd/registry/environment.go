package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// backend is the variable that says where images are kept. Nixery must have it; here, filesystem is
// meant without it.
const backend = "NIXERY_STORAGE_BACKEND"

// buildLocal is the variable that says whether packages are built that the cache of NixOS does not
// have. Nixery has no such variable, and builds them.
const buildLocal = "NIXERY_BUILD_LOCAL"

// The cache of NixOS, and the key that it signs with.
const (
	nixosCache = "https://cache.nixos.org"
	nixosKey   = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="
)

var bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]$`)

// isNixerys tells whether there are variables of Nixery's that say where packages or images are.
func isNixerys(lookup func(string) (string, bool)) bool {
	for _, name := range []string{backend, "NIXERY_CHANNEL", "NIXERY_PKGS_REPO", "NIXERY_PKGS_PATH"} {
		if _, ok := lookup(name); ok {
			return true
		}
	}
	return false
}

// fromEnvironment makes a configuration out of Nixery's variables, so that a deployment of it moves
// by swapping the binary. The error has a line for all that is missing or contradictory, which
// begins with the variable. Notes are for the log.
func fromEnvironment(lookup func(string) (string, bool)) (config []byte, notes []string, err error) {
	e := environment{lookup: lookup}
	storage := e.storage()
	address := e.address()
	options := e.options()
	if len(e.faults) > 0 {
		return nil, nil, errors.Join(e.faults...)
	}
	config, err = json.Marshal(map[string]any{ // JSON is YAML
		"version": "0.1",
		"storage": storage,
		"http":    map[string]any{"addr": address, "draintimeout": "30s"},
		"middleware": map[string]any{
			"repository": []any{map[string]any{"name": "nix", "options": options}},
		},
	})
	return config, e.notes, err
}

// An environment is Nixery's variables, with what was found out about them so far.
type environment struct {
	lookup func(string) (string, bool)
	faults []error
	notes  []string
}

func (e *environment) fault(format string, args ...any) {
	e.faults = append(e.faults, fmt.Errorf(format, args...))
}

// get returns an empty text for a variable that is not set.
func (e *environment) get(name string) string {
	value, _ := e.lookup(name)
	return value
}

// storage is the registry's section of that name.
func (e *environment) storage() map[string]any {
	storage := map[string]any{"delete": map[string]any{"enabled": true}}
	switch e.get(backend) {
	case "", "filesystem":
		path := e.get("STORAGE_PATH")
		switch {
		case path == "":
			e.fault("STORAGE_PATH: missing: it is the directory for images, unless %s=gcs", backend)
		case !filepath.IsAbs(path):
			e.fault("STORAGE_PATH: %q is not an absolute path", path)
		}
		storage["filesystem"] = map[string]any{"rootdirectory": path}
	case "gcs":
		bucket := e.get("GCS_BUCKET")
		if !bucketName.MatchString(bucket) {
			const fault = "GCS_BUCKET: %q is not the name of a bucket: with %s=gcs, it is where images are kept"
			e.fault(fault, bucket, backend)
		}
		gcs := map[string]any{"bucket": bucket}
		if key := e.get("GOOGLE_APPLICATION_CREDENTIALS"); key != "" {
			gcs["keyfile"] = key // with which the driver also signs the URLs of blobs
		} else {
			// Other credentials may not be able to sign, and the driver fails then.
			storage["redirect"] = map[string]any{"disable": true}
		}
		storage["gcs"] = gcs
	default:
		e.fault("%s: %q is neither gcs nor filesystem", backend, e.get(backend))
	}
	return storage
}

// address is what the registry listens on.
func (e *environment) address() string {
	port := e.get("PORT")
	if number, err := strconv.ParseUint(port, 10, 16); err != nil || number == 0 {
		e.fault("PORT: %q is not a port to listen on", port)
	}
	return ":" + port
}

// options are those of the nix stanza.
func (e *environment) options() map[string]any {
	options := map[string]any{
		"packages": e.packages(),
		"web":      map[string]any{"dir": e.get("WEB_DIR")},
	}
	options["build"], options["nix"] = e.building()
	if e.get("NIX_POPULARITY_URL") != "" {
		e.notes = append(e.notes, "NIX_POPULARITY_URL is not needed any more: layers are made without it")
	}
	return options
}

func (e *environment) packages() map[string]any {
	packages := make(map[string]any)
	var sources []string
	for _, source := range []struct{ variable, key string }{
		{"NIXERY_CHANNEL", "channel"}, {"NIXERY_PKGS_REPO", "git"}, {"NIXERY_PKGS_PATH", "path"},
	} {
		value := e.get(source.variable)
		if value == "" {
			continue
		}
		sources = append(sources, source.variable)
		packages[source.key] = value
		if source.key == "git" {
			packages["git"] = map[string]any{"url": value}
		}
	}
	switch {
	case len(sources) == 0:
		e.fault("NIXERY_CHANNEL, NIXERY_PKGS_REPO, NIXERY_PKGS_PATH: missing: set one of them")
	case len(sources) > 1:
		e.fault("%s: exclude each other: set one of them", strings.Join(sources, ", "))
	}
	return packages
}

// building is how packages are built, and with which binary caches.
func (e *environment) building() (build, nix map[string]any) {
	timeout := "60"
	if value := e.get("NIX_TIMEOUT"); value != "" {
		timeout = value
	}
	if seconds, err := strconv.ParseUint(timeout, 10, 31); err != nil || seconds == 0 {
		e.fault("NIX_TIMEOUT: %q is not a number of seconds", timeout)
	}
	build, nix = map[string]any{"timeout": timeout + "s"}, map[string]any{}
	switch local := e.get(buildLocal); local {
	case "", "true":
	case "false":
		build["storeless"], build["local"] = true, false
		nix["substituters"], nix["trustedpublickeys"] = []string{nixosCache}, []string{nixosKey}
		e.notes = append(e.notes, buildLocal+"=false: packages come from "+nixosCache+
			" alone, and what that does not have is refused")
	default:
		e.fault("%s: %q is neither true nor false", buildLocal, local)
	}
	return build, nix
}
