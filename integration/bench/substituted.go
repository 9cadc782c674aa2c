package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// bindNix runs a command for which an empty directory is /nix.
const bindNix = `mount --bind "$1" /nix; shift; exec "$@"`

// substituted measures pulls for which everything comes from a binary cache, against Nix's own
// copying and a plain tool after it.
func (b *bench) substituted(ctx context.Context) error {
	if os.Geteuid() != 0 {
		fmt.Fprint(
			b.out,
			"Not measured: an empty Nix store is made with a mount namespace, for which this must run as root.\n\n",
		)
		return nil
	}
	t := newTable(
		"image", "binary cache", "by way of", "pull", "of it building", "CPU of the registry and Nix",
		"against", "takes", "CPU", "**time, ratio**", "CPU, ratio",
	)
	for _, c := range []struct {
		img         image
		compression string
	}{{b.images[0], "zstd"}, {b.images[0], "xz"}, {b.images[min(1, len(b.images)-1)], "zstd"}} {
		cache, err := b.makeCache(ctx, c.img, c.compression)
		if err != nil {
			return err
		}
		ways := []struct {
			about     string
			storeless bool
			pulls     []cost
			built     []time.Duration
		}{{about: "the store"}, {about: "nothing (`build.storeless`)", storeless: true}}
		var others []cost
		for run := range b.runs {
			b.progress("substituted: %s, %s, run %d of %d", c.img, c.compression, run+1, b.runs)
			for i := range ways {
				pull, building, err := b.substitutedPull(ctx, c.img, cache, ways[i].storeless)
				if err != nil {
					return err
				}
				ways[i].pulls, ways[i].built = append(ways[i].pulls, pull), append(ways[i].built, building)
			}
			other, err := b.copied(ctx, c.img, cache)
			if err != nil {
				return err
			}
			others = append(others, other)
		}
		for _, way := range ways {
			t.row(
				c.img,
				c.compression,
				way.about,
				medianOf(way.pulls, cost.time),
				median(way.built),
				medianOf(way.pulls, cost.cpuTime),
				"nix copy; tar, pigz -1 -p2",
				medianOf(
					others, cost.time,
				),
				medianOf(others, cost.cpuTime),
				ratios(way.pulls, others, wallRatio),
				ratios(way.pulls, others, cpuRatio),
			)
		}
	}
	fmt.Fprintln(b.out, t)
	return nil
}

// A binaryCache is a directory of archives, signed.
type binaryCache struct{ dir, publicKey string }

// makeCache puts an image's store paths into a binary cache, which is kept.
func (b *bench) makeCache(ctx context.Context, img image, compression string) (binaryCache, error) {
	b.progress("substituted: making a binary cache of %s, %s (the first time, it takes a while)", img, compression)
	cache := binaryCache{dir: filepath.Join(b.dir, "cache-"+compression)}
	secret, public := filepath.Join(b.dir, "secret-key"), filepath.Join(b.dir, "public-key")
	if _, err := os.Stat(public); errors.Is(err, os.ErrNotExist) {
		err := command(ctx, "nix-store", "--generate-binary-cache-key", "bench-1", secret, public).Run()
		if err != nil {
			return cache, fmt.Errorf("nix-store --generate-binary-cache-key: %w", err)
		}
	}
	key, err := os.ReadFile(public)
	if err != nil {
		return cache, err
	}
	cache.publicKey = strings.TrimSpace(string(key))
	to := fmt.Sprintf(
		"file://%s?compression=%s&parallel-compression=true&secret-key=%s", cache.dir, compression, secret,
	)
	_, err = timed(
		ctx,
		"nix",
		append(
			[]string{"--quiet", "--extra-experimental-features", "nix-command", "copy", "--to", to},
			img.paths...)...)
	return cache, err
}

// serve serves the cache on a port that nothing has remembered anything of.
func (c binaryCache) serve(ctx context.Context) (url string, stop func(), err error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{Handler: http.FileServer(http.Dir(c.dir))}
	go func() { _ = server.Serve(listener) }() // until it is closed
	return "http://" + listener.Addr().String(), func() { _ = server.Close() }, nil
}

// substitutedPull pulls from a registry that has just been started, in a mount namespace whose Nix
// store is empty.
func (b *bench) substitutedPull(
	ctx context.Context, img image, cache binaryCache, storeless bool,
) (pull cost, building time.Duration, err error) {
	url, stop, err := cache.serve(ctx)
	if err != nil {
		return cost{}, 0, err
	}
	defer stop()
	store, conf, err := b.emptyStore()
	if err != nil {
		return cost{}, 0, err
	}
	defer os.RemoveAll(store)
	if err := b.empty(); err != nil {
		return cost{}, 0, err
	}
	s, err := b.start(ctx, settings{
		nix:  map[string]any{"substituters": []string{url}, "trustedpublickeys": []string{cache.publicKey}},
		wrap: []string{"unshare", "--mount", "--propagation=private", "sh", "-euc", bindNix, "sh", store},
		conf: conf, storeless: storeless,
	})
	if err != nil {
		return cost{}, 0, err
	}
	defer s.stop()
	if pull, err = s.timedPull(ctx, img.name); err != nil {
		return cost{}, 0, err
	}
	building, err = s.took()
	return pull, building, err
}

// copied has Nix copy the store paths into an empty store, and a plain tool pack them.
func (b *bench) copied(ctx context.Context, img image, cache binaryCache) (cost, error) {
	url, stop, err := cache.serve(ctx)
	if err != nil {
		return cost{}, err
	}
	defer stop()
	store, conf, err := b.emptyStore()
	if err != nil {
		return cost{}, err
	}
	defer os.RemoveAll(store)
	copying, err := timed(
		ctx,
		"env",
		append(
			[]string{"NIX_CONF_DIR=" + conf, "nix", "--quiet", "--extra-experimental-features", "nix-command", "copy",
				"--option", "trusted-public-keys", cache.publicKey, "--from", url, "--to", "local?root=" + store},
			img.paths...)...)
	if err != nil {
		return cost{}, err
	}
	packing, err := b.piped(ctx, img, "pigz", "-1", "-p2")
	return cost{wall: copying.wall + packing.wall, cpu: copying.cpu + packing.cpu, bytes: packing.bytes}, err
}

// emptyStore makes an empty directory for a Nix store of its own, and one with a configuration in
// which it is nobody else's: Nix kills all processes of its build users, in whichever store they
// build.
func (b *bench) emptyStore() (store, conf string, err error) {
	store, conf = filepath.Join(b.dir, "nix"), filepath.Join(b.dir, "nix-conf")
	if err := os.RemoveAll(store); err != nil {
		return "", "", err
	}
	for _, dir := range []string{store, conf} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", "", err
		}
	}
	return store, conf, os.WriteFile(
		filepath.Join(conf, "nix.conf"), []byte("build-users-group =\nsandbox = false\n"), 0o644,
	)
}
