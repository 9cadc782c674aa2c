package nixbuilder

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/nixbuilder/binarycache"
)

// signersTime is how long a cache is asked for who has signed a path.
const signersTime = 5 * time.Second

// tellOfCaches logs what the operator can mend of binary caches, once.
func (b *Builder) tellOfCaches(ctx context.Context, said *remarks) {
	if said.told {
		return
	}
	for _, text := range append(said.archives, said.unheard...) {
		logrus.Warn("nix: of a binary cache: ", text)
		said.told = true
	}
	if len(said.untrusted) > 0 {
		found := said.untrusted[0]
		logrus.Warnf(
			"nix: %s has %s, but no trusted key has signed it: %s; trusted are the keys in nix.trustedpublickeys, or else in nix.conf",
			found.cache, found.path, b.signers(ctx, found),
		)
		said.told = true
	}
}

// signers says who has signed a path. Only caches of the configuration are asked: what is built can
// have the daemon say what it likes.
func (b *Builder) signers(ctx context.Context, found substitute) string {
	ctx, cancel := context.WithTimeout(ctx, signersTime)
	defer cancel()
	for _, cache := range b.options.Caches.Substituters {
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

// shown is how Nix and the daemon package show the URL of a cache.
func shown(cache string) string {
	u, err := url.Parse(cache)
	if err != nil {
		return ""
	}
	u.RawQuery = ""
	return strings.TrimSuffix(u.Redacted(), "/")
}
