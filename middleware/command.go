package middleware

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"

	"github.com/distribution/distribution/v3/registry/handlers"
	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/nixbuilder"
	"github.com/nixery-registry/nixery-registry/nixbuilder/source"
)

// Open opens the storage of the configuration for a Service that Setup made, without a registry.
// Registries may serve the same storage meanwhile. What the Service begins ends with Close; ctx is
// for opening alone.
func (s *Service) Open(ctx context.Context) (err error) {
	switch {
	case s.readOnly:
		return errors.New("storage.maintenance.readonly.enabled: in read-only mode, nothing is written")
	case s.config.Storage.Type() == "inmemory":
		return errors.New("storage.inmemory: is the memory of one process, in which nothing would last")
	}
	s.serves = false
	if s.config.HTTP.Secret == "" {
		s.config.HTTP.Secret = rand.Text() // for uploads of clients, of which there are none
	}
	// The registry's application knows how to open the storage, with its middleware and caches. It
	// calls attach. What it logs meanwhile is about serving.
	level := logrus.GetLevel()
	logrus.SetLevel(logrus.WarnLevel)
	defer logrus.SetLevel(level)
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("%v", fault)
		}
	}()
	handlers.NewApp(context.WithoutCancel(ctx), s.config)
	return nil
}

// Drain waits until what was built is copied to nix.share, or can't be. The error says what is not.
func (s *Service) Drain(ctx context.Context) error { return s.builder.Drain(ctx) }

// Layout computes how the packages of the set, as it is now, go into layers: see
// nixbuilder.Builder.Layout. It also returns the revision.
func (s *Service) Layout(
	ctx context.Context, options nixbuilder.LayoutOptions,
) (revision string, layout nixbuilder.Layout, err error) {
	pinned, err := s.builder.Pin(ctx, source.Latest)
	if err != nil {
		return "", layout, err
	}
	layout, err = s.builder.Layout(ctx, pinned, options)
	return pinned.Revision, layout, err
}

// Concurrency is how many images are worth having built at a time.
func (s *Service) Concurrency() int { return s.options.Build.Concurrency }

// How tells how packages are built on this machine, and what speaks against that, a line each.
func (s *Service) How(ctx context.Context) (lines []string, err error) {
	err = s.withOwnCache(func(options nixbuilder.Options) error {
		lines, err = nixbuilder.How(ctx, options)
		return err
	})
	return lines, err
}

// TryOut evaluates the package set as it is now, without serving or keeping anything, and tries
// whether what is built can be shared. A fault is one of the package set or of nix.share. Err means
// that there is no telling here and now, for want of Nix or a remote.
func (s *Service) TryOut(ctx context.Context) (fault, err error) {
	err = s.withOwnCache(func(options nixbuilder.Options) error {
		fault, err = nixbuilder.Check(ctx, options)
		fault = errors.Join(fault, nixbuilder.CheckShare(ctx, options))
		return err
	})
	return fault, err
}

// withOwnCache does work with options whose cache directory is its own, and removes that.
func (s *Service) withOwnCache(work func(nixbuilder.Options) error) (err error) {
	options := s.options.builder()
	if options.CacheDir, err = os.MkdirTemp("", "registry-check-"); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(options.CacheDir) }()
	return work(options)
}
