package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// lock is what a lock file says.
type lock struct {
	made     time.Time // the files that no package brings have this time
	packages map[string][]lockedPackage
}

// lockedPackage is one version of a Debian package.
type lockedPackage struct {
	name, version, sha256 string
}

// madeLine begins the line of a lock file that has the time when it was made.
const madeLine = "# made: "

// readLock reads the lock file of scripts/lock-debian.sh: lines of architecture, package, version,
// archive, path, bytes and SHA-256, with a tabulator between them. The packages of an architecture
// keep their order.
func readLock(file string) (lock, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return lock{}, err
	}
	read := lock{packages: make(map[string][]lockedPackage)}
	for number, line := range strings.Split(strings.TrimSuffix(string(content), "\n"), "\n") {
		if made, found := strings.CutPrefix(line, madeLine); found {
			if read.made, err = time.Parse(time.RFC3339, made); err != nil {
				return lock{}, fmt.Errorf("%s:%d: %w", file, number+1, err)
			}
			continue
		}
		if strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Split(line, "\t")
		if len(fields) != 7 || len(fields[6]) != 64 {
			return lock{}, fmt.Errorf("%s:%d: want seven fields, the last one a SHA-256", file, number+1)
		}
		if _, err := strconv.ParseUint(fields[5], 10, 64); err != nil {
			return lock{}, fmt.Errorf("%s:%d: the size: %w", file, number+1, err)
		}
		read.packages[fields[0]] = append(
			read.packages[fields[0]], lockedPackage{name: fields[1], version: fields[2], sha256: fields[6]})
	}
	if read.made.IsZero() {
		return lock{}, fmt.Errorf("%s: has no line %q", file, madeLine+"TIME")
	}
	return read, nil
}
