package nixstore

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/nixbuilder/binarycache"
)

// signersTime is how long a cache may take to tell who has signed a path.
const signersTime = 5 * time.Second

// logCaches logs once what the operator can mend of binary caches.
func (s *Store) logCaches(ctx context.Context, log *buildLog) {
	if log.told {
		return
	}
	for _, text := range append(log.archives, log.unheard...) {
		logrus.Warn("nix: of a binary cache: ", text)
		log.told = true
	}
	if len(log.untrusted) > 0 {
		found := log.untrusted[0]
		logrus.Warnf(
			"nix: %s has %s, but no trusted key has signed it: %s; trusted are the keys in nix.trustedpublickeys, or else in nix.conf",
			found.cache, found.path, s.signers(ctx, found),
		)
		log.told = true
	}
}

// signers tells who has signed a path. Only caches of the configuration are asked, because a build
// can make the daemon say that any URL has the path.
func (s *Store) signers(ctx context.Context, found substitute) string {
	ctx, cancel := context.WithTimeout(ctx, signersTime)
	defer cancel()
	for _, cache := range s.options.Substituters {
		if without, _ := logins(cache); shown(without) != strings.TrimSuffix(found.cache, "/") {
			continue
		}
		names, err := binarycache.Signers(ctx, cache, found.path)
		switch {
		case err != nil:
			return err.Error()
		case len(names) == 0:
			return "it is not signed"
		}
		return "it is signed by " + strings.Join(names, ", ")
	}
	return fmt.Sprintf("`nix path-info --sigs --store %s %s` tells who has", found.cache, found.path)
}

// shown is the URL of a cache as Nix and package daemon show it.
func shown(cache string) string {
	u, err := url.Parse(cache)
	if err != nil {
		return ""
	}
	u.RawQuery = ""
	return strings.TrimSuffix(u.Redacted(), "/")
}
