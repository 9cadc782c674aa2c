package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"

	"github.com/nixery-registry/nixery-registry/middleware"
)

// Every variable of Nixery, with what it refused.
func TestFromEnvironment(t *testing.T) {
	set := t.TempDir()
	if err := os.WriteFile(filepath.Join(set, "default.nix"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"NIXERY_STORAGE_BACKEND": "filesystem", "STORAGE_PATH": "/srv/images",
		"PORT": "8080", "WEB_DIR": set, "NIXERY_PKGS_PATH": set,
	}
	with := func(base map[string]string, changes ...string) map[string]string {
		all := make(map[string]string)
		for name, value := range base {
			all[name] = value
		}
		for i := 0; i < len(changes); i += 2 {
			if all[changes[i]] = changes[i+1]; changes[i+1] == "" {
				delete(all, changes[i])
			}
		}
		return all
	}
	gcs := with(files, "NIXERY_STORAGE_BACKEND", "gcs", "GCS_BUCKET", "images-of-ours", "STORAGE_PATH", "")
	for _, test := range []struct {
		name   string
		env    map[string]string
		check  func(*testing.T, *configuration.Configuration, middleware.Options)
		faults []string // how the lines begin
		notes  int
	}{
		{
			name: "filesystem and path",
			env:  files,
			check: func(t *testing.T, c *configuration.Configuration, o middleware.Options) {
				if c.Storage.Type() != "filesystem" || c.Storage.Parameters()["rootdirectory"] != "/srv/images" ||
					c.HTTP.Addr != ":8080" || o.Packages.Path != set ||
					o.Web.Dir != set || o.Build.Timeout != time.Minute {
					t.Errorf("storage %v, address %s, options %+v", c.Storage, c.HTTP.Addr, o)
				}
			},
		},
		{
			name: "bucket",
			env:  gcs,
			check: func(t *testing.T, c *configuration.Configuration, _ middleware.Options) {
				if c.Storage.Type() != "gcs" || c.Storage.Parameters()["bucket"] != "images-of-ours" ||
					c.Storage.Parameters()["keyfile"] != nil || c.Storage["redirect"]["disable"] != true {
					t.Errorf("storage %v", c.Storage)
				}
			},
		},
		{
			name: "bucket with a key",
			env:  with(gcs, "GOOGLE_APPLICATION_CREDENTIALS", "/etc/key.json"),
			check: func(t *testing.T, c *configuration.Configuration, _ middleware.Options) {
				if c.Storage.Parameters()["keyfile"] != "/etc/key.json" || c.Storage["redirect"] != nil {
					t.Errorf("storage %v", c.Storage)
				}
			},
		},
		{
			name: "channel",
			env:  with(files, "NIXERY_PKGS_PATH", "", "NIXERY_CHANNEL", "nixos-26.05"),
			check: func(t *testing.T, _ *configuration.Configuration, o middleware.Options) {
				if o.Packages.Channel != "nixos-26.05" {
					t.Errorf("packages %+v", o.Packages)
				}
			},
		},
		{
			name:  "commit as a channel",
			env:   with(files, "NIXERY_PKGS_PATH", "", "NIXERY_CHANNEL", strings.Repeat("a", 40)),
			check: func(*testing.T, *configuration.Configuration, middleware.Options) {},
		},
		{
			name: "repository",
			env:  with(files, "NIXERY_PKGS_PATH", "", "NIXERY_PKGS_REPO", "git@example.org:pkgs.git"),
			check: func(t *testing.T, _ *configuration.Configuration, o middleware.Options) {
				if o.Packages.Git.URL != "git@example.org:pkgs.git" || o.Packages.Git.Ref != "" {
					t.Errorf("packages %+v", o.Packages)
				}
			},
		},
		{
			name: "timeout",
			env:  with(files, "NIX_TIMEOUT", "300"),
			check: func(t *testing.T, _ *configuration.Configuration, o middleware.Options) {
				if o.Build.Timeout != 5*time.Minute {
					t.Errorf("timeout %v", o.Build.Timeout)
				}
			},
		},
		{
			name: "no site",
			env:  with(files, "WEB_DIR", ""),
			check: func(t *testing.T, _ *configuration.Configuration, o middleware.Options) {
				if o.Web.Dir != "" {
					t.Errorf("site %q", o.Web.Dir)
				}
			},
		},
		{
			name:  "nothing is built",
			env:   with(files, "NIXERY_BUILD_LOCAL", "false"),
			notes: 1,
			check: func(t *testing.T, _ *configuration.Configuration, o middleware.Options) {
				if o.Build.Local || !o.Build.Storeless ||
					len(o.Nix.Substituters) != 1 || len(o.Nix.TrustedPublicKeys) != 1 {
					t.Errorf("build %+v, nix %+v", o.Build, o.Nix)
				}
			},
		},
		{
			name: "all is built",
			env:  with(files, "NIXERY_BUILD_LOCAL", "true"),
			check: func(t *testing.T, _ *configuration.Configuration, o middleware.Options) {
				if !o.Build.Local || o.Build.Storeless || o.Nix.Substituters != nil {
					t.Errorf("build %+v, nix %+v", o.Build, o.Nix)
				}
			},
		},
		{
			name: "popularity is not needed",
			env:  with(files, "NIX_POPULARITY_URL", "https://example.org/x.json"), notes: 1,
			check: func(*testing.T, *configuration.Configuration, middleware.Options) {},
		},

		{
			name: "nothing but the backend", env: map[string]string{"NIXERY_STORAGE_BACKEND": "filesystem"},
			faults: []string{
				"STORAGE_PATH: missing", "PORT: \"\"",
				"NIXERY_CHANNEL, NIXERY_PKGS_REPO, NIXERY_PKGS_PATH: missing",
			},
		},
		{
			name: "another backend", env: with(files, "NIXERY_STORAGE_BACKEND", "s3"),
			faults: []string{"NIXERY_STORAGE_BACKEND: \"s3\""},
		},
		{name: "no bucket", env: with(gcs, "GCS_BUCKET", ""), faults: []string{"GCS_BUCKET: \"\""}},
		{name: "bucket with a path", env: with(gcs, "GCS_BUCKET", "a/b"), faults: []string{"GCS_BUCKET: \"a/b\""}},
		{name: "no path", env: with(files, "STORAGE_PATH", ""), faults: []string{"STORAGE_PATH: missing"}},
		{
			name: "relative path", env: with(files, "STORAGE_PATH", "images"),
			faults: []string{"STORAGE_PATH: \"images\""},
		},
		{name: "no port", env: with(files, "PORT", ""), faults: []string{"PORT: \"\""}},
		{name: "port that is none", env: with(files, "PORT", "http"), faults: []string{"PORT: \"http\""}},
		{name: "port out of range", env: with(files, "PORT", "65536"), faults: []string{"PORT: \"65536\""}},
		{
			name: "two sources", env: with(files, "NIXERY_CHANNEL", "nixos-26.05"),
			faults: []string{"NIXERY_CHANNEL, NIXERY_PKGS_PATH: exclude"},
		},
		{
			name:   "three sources",
			env:    with(files, "NIXERY_CHANNEL", "nixos-26.05", "NIXERY_PKGS_REPO", "/srv/x"),
			faults: []string{"NIXERY_CHANNEL, NIXERY_PKGS_REPO, NIXERY_PKGS_PATH: exclude"},
		},
		{
			name: "no source", env: with(files, "NIXERY_PKGS_PATH", ""),
			faults: []string{"NIXERY_CHANNEL, NIXERY_PKGS_REPO, NIXERY_PKGS_PATH: missing"},
		},
		{name: "timeout with a unit", env: with(files, "NIX_TIMEOUT", "60s"), faults: []string{"NIX_TIMEOUT: \"60s\""}},
		{
			name: "built or not", env: with(files, "NIXERY_BUILD_LOCAL", "maybe"),
			faults: []string{"NIXERY_BUILD_LOCAL: \"maybe\""},
		},
		{name: "no time", env: with(files, "NIX_TIMEOUT", "0"), faults: []string{"NIX_TIMEOUT: \"0\""}},
	} {
		t.Run(test.name, func(t *testing.T) {
			text, notes, err := fromEnvironment(
				func(name string) (string, bool) { value, ok := test.env[name]; return value, ok },
			)
			if test.check == nil {
				var lines []string
				if err != nil {
					lines = strings.Split(err.Error(), "\n")
				}
				if len(lines) != len(test.faults) {
					t.Fatalf("error %v, want %q", err, test.faults)
				}
				for i, line := range lines {
					if !strings.HasPrefix(line, test.faults[i]) {
						t.Errorf("line %q, want %q", line, test.faults[i])
					}
				}
				return
			}
			if err != nil || len(notes) != test.notes {
				t.Fatalf("error %v, notes %q", err, notes)
			}
			config, err := configuration.Parse(strings.NewReader(string(text)))
			if err != nil {
				t.Fatal(err)
			}
			options, err := middleware.ParseOptions(config.Middleware["repository"][0].Options)
			if err != nil {
				t.Fatal(err)
			}
			test.check(t, config, options)
		})
	}
}

// Variables that say where packages or images are configure the registry. The others do not.
func TestIsNixerys(t *testing.T) {
	for variable, want := range map[string]bool{
		"NIXERY_CHANNEL": true, "NIXERY_PKGS_REPO": true, "NIXERY_PKGS_PATH": true, "NIXERY_STORAGE_BACKEND": true,
		"NIXERY_BUILD_LOCAL": false, "PORT": false, "STORAGE_PATH": false, "REGISTRY_HTTP_ADDR": false,
	} {
		if got := isNixerys(func(name string) (string, bool) { return "x", name == variable }); got != want {
			t.Errorf("%s: %t", variable, got)
		}
	}
}
