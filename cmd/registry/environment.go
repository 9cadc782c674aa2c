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

// backend is the variable that says that a registry is configured as Nixery was.
const backend = "NIXERY_STORAGE_BACKEND"

// buildLocal is the variable that says whether what the cache of NixOS does not have is built. It
// is not Nixery's, which builds.
const buildLocal = "NIXERY_BUILD_LOCAL"

// The cache of NixOS, and the key that it signs with.
const (
	nixosCache = "https://cache.nixos.org"
	nixosKey   = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="
)

var bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]$`)

// fromEnvironment makes a configuration out of Nixery's variables, so that a deployment of it moves
// by swapping the binary. All that is missing or contradictory is in the error, a line each that
// begins with the variable. Notes are for the log.
func fromEnvironment(lookup func(string) (string, bool)) (config []byte, notes []string, err error) {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	get := func(name string) string { value, _ := lookup(name); return value }

	storage := map[string]any{"delete": map[string]any{"enabled": true}}
	switch get(backend) {
	case "filesystem":
		path := get("STORAGE_PATH")
		switch {
		case path == "":
			fault("STORAGE_PATH: missing: with %s=filesystem, it is the directory for images", backend)
		case !filepath.IsAbs(path):
			fault("STORAGE_PATH: %q is not an absolute path", path)
		}
		storage["filesystem"] = map[string]any{"rootdirectory": path}
	case "gcs":
		bucket := get("GCS_BUCKET")
		if !bucketName.MatchString(bucket) {
			fault(
				"GCS_BUCKET: %q is not the name of a bucket: with %s=gcs, it is where images are kept",
				bucket, backend,
			)
		}
		gcs := map[string]any{"bucket": bucket}
		if key := get("GOOGLE_APPLICATION_CREDENTIALS"); key != "" {
			gcs["keyfile"] = key // with which the driver also signs the URLs of blobs
		} else {
			storage["redirect"] = map[string]any{"disable": true} // other credentials may not be able to sign, and the driver fails then
		}
		storage["gcs"] = gcs
	default:
		fault("%s: %q is neither gcs nor filesystem", backend, get(backend))
	}

	port, err := strconv.ParseUint(get("PORT"), 10, 16)
	if err != nil || port == 0 {
		fault("PORT: %q is not a port to listen on", get("PORT"))
	}

	packages := make(map[string]any)
	var sources []string
	for _, source := range []struct{ variable, key string }{
		{"NIXERY_CHANNEL", "channel"}, {"NIXERY_PKGS_REPO", "git"}, {"NIXERY_PKGS_PATH", "path"},
	} {
		value := get(source.variable)
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
		fault("NIXERY_CHANNEL, NIXERY_PKGS_REPO, NIXERY_PKGS_PATH: missing: set one of them")
	case len(sources) > 1:
		fault("%s: exclude each other: set one of them", strings.Join(sources, ", "))
	}

	timeout := "60"
	if value := get("NIX_TIMEOUT"); value != "" {
		timeout = value
	}
	if seconds, err := strconv.ParseUint(timeout, 10, 31); err != nil || seconds == 0 {
		fault("NIX_TIMEOUT: %q is not a number of seconds", timeout)
	}
	build, nix := map[string]any{"timeout": timeout + "s"}, map[string]any{}
	switch get(buildLocal) {
	case "", "true":
	case "false":
		build["storeless"], build["local"] = true, false
		nix["substituters"], nix["trustedpublickeys"] = []string{nixosCache}, []string{nixosKey}
		notes = append(
			notes,
			buildLocal+"=false: packages come from "+nixosCache+" alone, and what that does not have is refused",
		)
	default:
		fault("%s: %q is neither true nor false", buildLocal, get(buildLocal))
	}
	if get("NIX_POPULARITY_URL") != "" {
		notes = append(notes, "NIX_POPULARITY_URL is not needed any more: layers are made without it")
	}
	if len(faults) > 0 {
		return nil, nil, errors.Join(faults...)
	}
	options := map[string]any{
		"packages": packages,
		"build":    build,
		"nix":      nix,
		"web":      map[string]any{"dir": get("WEB_DIR")},
	}
	config, err = json.Marshal(map[string]any{ // JSON is YAML
		"version": "0.1",
		"storage": storage,
		"http":    map[string]any{"addr": ":" + get("PORT"), "draintimeout": "30s"},
		"middleware": map[string]any{
			"repository": []any{map[string]any{"name": "nix", "options": options}},
		},
	})
	return config, notes, err
}
