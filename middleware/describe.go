package middleware

import (
	"strings"

	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/internal/metrics"
)

// Describe says in the log and in metrics which version of the program this is, and what it makes
// images from. The program calls it once the registry is made.
func (s *Service) Describe(version string) {
	kind, set := "path", "path:"+s.options.Packages.Path
	switch {
	case s.options.Packages.Channel != "":
		kind, set = "channel", "channel:"+s.options.Packages.Channel
	case s.options.Packages.Git.URL != "":
		kind, set = "git", s.options.packages().Git.Name()
	}
	nix := s.builder.NixVersion()
	metrics.Info(version, nix, kind, s.options.Build.Storeless)
	metrics.Limit.Set(float64(s.options.Build.Concurrency))
	metrics.QueueLimit.Set(float64(s.options.Build.Queue))
	metrics.Refresh.Set(s.options.Refresh.Seconds())
	metrics.Builders(s.options.Nix.Builders)
	logrus.WithFields(logrus.Fields{
		"version": version, "nix": nix, "packages": set, "platforms": strings.Join(s.options.Platforms, ","),
		"storage": s.config.Storage.Type(), "storeless": s.options.Build.Storeless,
	}).Info("nix: serving images of packages")
}
