package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// settings are what the flags say.
type settings struct {
	lock, packages, programs, stock string
	version, revision               string
	created                         time.Time
}

func main() {
	var s settings
	var epoch int64
	var out string
	flag.StringVar(&s.lock, "lock", "deploy/debian.lock", "the lock `file`")
	flag.StringVar(&s.packages, "packages", "", "a `directory` with the packages of the lock file, each named by its SHA-256")
	flag.StringVar(&s.programs, "programs", "", "a `directory` with registry-linux-amd64 and registry-linux-arm64")
	flag.StringVar(&s.stock, "stock", "deploy/stock.yml", "the configuration `file` that is served when there is none")
	flag.StringVar(&s.version, "version", "", "the `version` of the release")
	flag.StringVar(&s.revision, "revision", "", "the `commit` of the release")
	flag.Int64Var(&epoch, "created", 0, "the time of the release, in `seconds` since 1970")
	flag.StringVar(&out, "out", "", "the `file` to write")
	flag.Parse()
	s.created = time.Unix(epoch, 0).UTC()
	if err := s.run(out); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// run writes the archive. If it fails, there is no file out.
func (s settings) run(out string) (err error) {
	if s.packages == "" || s.programs == "" || s.version == "" || out == "" || flag.NArg() > 0 {
		return errors.New("wants -packages, -programs, -version and -out, and nothing else (-help)")
	}
	locked, err := readLock(s.lock)
	if err != nil {
		return err
	}
	temp, err := os.MkdirTemp(filepath.Dir(out), ".release-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	layout := &layout{dir: temp}
	architectures := []string{"amd64", "arm64"}
	images := make([]imagespec.Descriptor, len(architectures))
	var all errgroup.Group
	for number, architecture := range architectures {
		all.Go(func() (err error) {
			if images[number], err = s.image(layout, locked, architecture); err != nil {
				return fmt.Errorf("making the image for linux/%s: %w", architecture, err)
			}
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		return err
	}
	archive := filepath.Join(temp, "archive")
	if err := layout.writeArchive(archive, images, s.annotations()); err != nil {
		return fmt.Errorf("writing the archive: %w", err)
	}
	return os.Rename(archive, out)
}

// image makes the image for one architecture in the layout.
func (s settings) image(layout *layout, locked lock, architecture string) (imagespec.Descriptor, error) {
	packages := locked.packages[architecture]
	debian, err := layout.addLayer(func(t *tree) error {
		return writeDebian(t, s.packages, packages, architecture)
	}, locked.made)
	if err != nil {
		return imagespec.Descriptor{}, err
	}
	program, err := layout.addLayer(func(t *tree) error {
		return s.writeProgram(t, filepath.Join(s.programs, "registry-linux-"+architecture))
	}, s.created)
	if err != nil {
		return imagespec.Descriptor{}, err
	}
	var versions []string
	for _, p := range packages {
		versions = append(versions, p.name+"="+p.version)
	}
	labels := s.annotations()
	labels["io.github.nixery-registry.debian-packages"] = strings.Join(versions, " ")
	return layout.addImage(imageConfig(architecture, s.created, labels), debian, program)
}

// annotations are what the index and each image say about the release.
func (s settings) annotations() map[string]string {
	return map[string]string{
		imagespec.AnnotationTitle:    "nixery-registry",
		imagespec.AnnotationVersion:  s.version,
		imagespec.AnnotationRevision: s.revision,
		imagespec.AnnotationLicenses: "Apache-2.0",
		imagespec.AnnotationSource:   "https://github.com/nixery-registry/nixery-registry",
	}
}

// writeProgram writes what the Dockerfile copies: the program, under all names that stock images
// have, and what it serves when it is told nothing.
func (s settings) writeProgram(t *tree, program string) error {
	if err := t.addCopy("usr/local/bin/registry", program, 0o755); err != nil {
		return err
	}
	t.link("usr/bin/registry", "/usr/local/bin/registry")
	t.link("entrypoint.sh", "/usr/local/bin/registry")
	t.directory("usr/share/nixery-registry", 0o755, 0, 0)
	return errors.Join(t.addCopy("usr/share/nixery-registry/config.yml", s.stock, 0o644), t.err)
}
