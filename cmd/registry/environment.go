package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// backend is the variable whose presence means that a registry is configured as Nixery was.
const backend = "NIXERY_STORAGE_BACKEND"

// buildLocal is the variable that says whether packages are built that the cache of NixOS does not
// have. It is not Nixery's, which always builds them.
const buildLocal = "NIXERY_BUILD_LOCAL"

// This is the cache of NixOS with the key that signs it.
const (
	nixosCache = "https://cache.nixos.org"
	nixosKey   = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="
)

var bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]$`)

// A nixeryEnvironment reads Nixery's variables. It collects faults and notes on the way.
type nixeryEnvironment struct {
	lookup func(name string) (value string, ok bool)
	faults []error
	notes  []string // for the log
}

// fromEnvironment makes a configuration out of Nixery's variables, so that a deployment of it moves
// by swapping the binary. The error lists all that is missing or contradictory, a line each that
// begins with the variable. Notes are for the log.
func fromEnvironment(lookup func(string) (string, bool)) (config []byte, notes []string, err error) {
	e := nixeryEnvironment{lookup: lookup}
	storage := e.storage()
	port := e.get("PORT")
	if number, err := strconv.ParseUint(port, 10, 16); err != nil || number == 0 {
		e.fault("PORT: %q is not a port to listen on", port)
	}
	packages := e.packages()
	build, nix := e.building()
	if e.get("NIX_POPULARITY_URL") != "" {
		e.note("NIX_POPULARITY_URL is not needed any more: layers are made without it")
	}
	if len(e.faults) > 0 {
		return nil, nil, errors.Join(e.faults...)
	}
	options := map[string]any{
		"packages": packages,
		"build":    build,
		"nix":      nix,
		"web":      map[string]any{"dir": e.get("WEB_DIR")},
	}
	config, err = json.Marshal(map[string]any{ // JSON is YAML
		"version": "0.1",
		"storage": storage,
		"http":    map[string]any{"addr": ":" + port, "draintimeout": "30s"},
		"middleware": map[string]any{
			"repository": []any{map[string]any{"name": "nix", "options": options}},
		},
	})
	return config, e.notes, err
}

func (e *nixeryEnvironment) get(name string) string {
	value, _ := e.lookup(name)
	return value
}

func (e *nixeryEnvironment) fault(format string, args ...any) {
	e.faults = append(e.faults, fmt.Errorf(format, args...))
}

func (e *nixeryEnvironment) note(text string) { e.notes = append(e.notes, text) }

// storage is where images are kept.
func (e *nixeryEnvironment) storage() map[string]any {
	storage := map[string]any{"delete": map[string]any{"enabled": true}}
	switch e.get(backend) {
	case "filesystem":
		path := e.get("STORAGE_PATH")
		switch {
		case path == "":
			e.fault("STORAGE_PATH: missing: with %s=filesystem, it is the directory for images", backend)
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
			gcs["keyfile"] = key // the driver also signs the URLs of blobs with it
		} else {
			// Other credentials may not be able to sign, and then the driver fails.
			storage["redirect"] = map[string]any{"disable": true}
		}
		storage["gcs"] = gcs
	default:
		e.fault("%s: %q is neither gcs nor filesystem", backend, e.get(backend))
	}
	return storage
}

// packages is where packages are from: exactly one of three variables says it.
func (e *nixeryEnvironment) packages() map[string]any {
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

// building is how packages are built, or that they only come from the cache of NixOS.
func (e *nixeryEnvironment) building() (build, nix map[string]any) {
	timeout := cmp.Or(e.get("NIX_TIMEOUT"), "60")
	if seconds, err := strconv.ParseUint(timeout, 10, 31); err != nil || seconds == 0 {
		e.fault("NIX_TIMEOUT: %q is not a number of seconds", timeout)
	}
	build, nix = map[string]any{"timeout": timeout + "s"}, make(map[string]any)
	switch local := e.get(buildLocal); local {
	case "", "true":
	case "false":
		build["storeless"], build["local"] = true, false
		nix["substituters"], nix["trustedpublickeys"] = []string{nixosCache}, []string{nixosKey}
		const alone = "=false: packages come from " + nixosCache + " alone, and what that does not have is refused"
		e.note(buildLocal + alone)
	default:
		e.fault("%s: %q is neither true nor false", buildLocal, local)
	}
	return build, nix
}
