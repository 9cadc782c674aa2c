package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/nixery-registry/nixery-registry/nixbuilder/proc"
)

// Modes that let other users of the machine in.
const (
	othersMay    = 0o007
	onlyOwner    = 0o077
	othersCantDo = 0o022
)

// defaultRoot is where upstream's filesystem driver keeps what it stores.
const defaultRoot = "/var/lib/registry"

// keepPrivate keeps other users of the machine from reading what is stored. Root's files stay
// readable, as evaluations of root's run as another user. Others do not get at them: the directory
// of the storage is closed to them here, and cachedir by the builder.
func keepPrivate(config *configuration.Configuration) {
	if os.Geteuid() == 0 {
		unix.Umask(othersCantDo)
	} else {
		unix.Umask(onlyOwner)
	}
	if config.Storage.Type() != "filesystem" {
		return
	}
	root, ok := config.Storage.Parameters()["rootdirectory"].(string)
	if !ok {
		root = defaultRoot
	}
	if fault := ownerFault(root); fault != "" {
		logrus.Error("storage.filesystem.rootdirectory: " + fault)
	} else if err := closeToOthers(root); err != nil {
		logrus.WithError(err).Info("storage.filesystem.rootdirectory: can't be closed to other users " +
			"of this machine, who may read what root or an earlier release has written")
	}
}

// ownerFault says what to do where this user may not write to what is stored, empty if it may.
// Images of the stock registry run as root, and have left directories that are root's.
func ownerFault(root string) string {
	const below = "docker/registry/v2"
	for _, dir := range []string{
		root, filepath.Join(root, below), filepath.Join(root, below, "blobs"),
		filepath.Join(root, below, "repositories"),
	} {
		if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil && !errors.Is(err, fs.ErrNotExist) {
			uid, gid := os.Geteuid(), os.Getegid()
			return fmt.Sprintf("user %d may not write to %s (%v): give it to that user with `chown -R %d:%d %s`, "+
				"or run as its owner, in a container with --user 0", uid, dir, err, uid, gid, root)
		}
	}
	return ""
}

// closeToOthers leaves a directory to its owner and its group. One that is not there is made, for
// its owner alone.
func closeToOthers(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.Join(os.MkdirAll(dir, 0o755), os.Chmod(dir, 0o700))
	case err != nil:
		return err
	case info.Mode().Perm()&othersMay == 0:
		return nil
	}
	return os.Chmod(dir, info.Mode()&^(fs.ModeType|othersMay))
}

// A redaction takes secrets out of what upstream logs: the headers of notification endpoints, and
// the users and passwords of URLs.
type redaction struct{}

func (redaction) Levels() []logrus.Level { return logrus.AllLevels }

func (redaction) Fire(entry *logrus.Entry) error {
	if strings.HasPrefix(entry.Message, "configuring endpoint ") {
		entry.Message, _, _ = strings.Cut(entry.Message, ", headers=")
	}
	entry.Message = proc.Redact(entry.Message)
	for key, value := range entry.Data {
		var text string
		switch value := value.(type) {
		case string:
			text = value
		case error:
			text = value.Error()
		}
		if redacted := proc.Redact(text); redacted != text {
			entry.Data[key] = redacted
		}
	}
	return nil
}
