package daemon

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strconv"
)

// This is the worker protocol's greeting. A daemon that knows a newer version uses the version that
// it is told.
const (
	clientMagic = 0x6e697863
	daemonMagic = 0x6478696f

	// protocolVersion is 1.34, the first with BuildPathsWithResults. It came with Nix 2.8.
	protocolVersion = 1<<8 | 34
)

func (c *Conn) greet() error {
	c.w.uint(clientMagic)
	if err := c.w.flush(); err != nil {
		return err
	}
	if magic := c.r.uint(); c.r.err == nil && magic != daemonMagic {
		return fmt.Errorf("not a Nix daemon: it begins with %#x", magic)
	}
	version := c.r.uint()
	if c.r.err != nil {
		return c.r.err
	}
	if version>>8 != protocolVersion>>8 {
		return fmt.Errorf("the daemon speaks protocol %d.%d, not 1.x", version>>8, version&0xff)
	}
	if version < protocolVersion {
		return fmt.Errorf("the daemon speaks protocol 1.%d: Nix is too old, 2.8 or later is needed", version&0xff)
	}
	c.w.uint(protocolVersion)
	c.w.uint(0) // obsolete: CPU affinity
	c.w.uint(0) // obsolete: reserve space
	if err := c.w.flush(); err != nil {
		return err
	}
	c.nixVersion = plain(c.r.text(keepPathBytes))
	return c.r.messages(nil)
}

// Levels of Nix's messages.
const (
	levelError   = 0
	levelWarning = 1
	levelInfo    = 3
)

func (c *Conn) setOptions(settings map[string]string, onLog func(LogLine)) error {
	return c.setOptionsAt(levelWarning, settings, onLog)
}

// setOptionsAt says from which level on the daemon's messages are wanted, too.
func (c *Conn) setOptionsAt(level uint64, settings map[string]string, onLog func(LogLine)) error {
	fixed, err := fixedOptions(level, settings)
	if err != nil {
		return err
	}
	c.w.uint(opSetOptions)
	for _, n := range fixed {
		c.w.uint(n)
	}
	c.w.uint(uint64(len(settings)))
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		c.w.string(name)
		c.w.string(settings[name])
	}
	return c.request(onLog)
}

// fixedOptions are the settings that have a place of their own in SetOptions. The value there
// replaces that of nix.conf.
func fixedOptions(level uint64, settings map[string]string) ([]uint64, error) {
	var err error
	number := func(name string, preset uint64) uint64 {
		s, ok := settings[name]
		if !ok {
			return preset
		}
		if s == "auto" && name == "max-jobs" {
			return uint64(runtime.NumCPU())
		}
		n, e := strconv.ParseUint(s, 10, 31)
		if e != nil {
			err = fmt.Errorf("setting %s: %q is not a number", name, s)
		}
		return n
	}
	truth := func(name string, preset uint64) uint64 {
		switch s, ok := settings[name]; {
		case !ok:
			return preset
		case s == "true":
			return 1
		case s != "false":
			err = fmt.Errorf("setting %s: %q is neither true nor false", name, s)
		}
		return 0
	}
	options := []uint64{
		truth("keep-failed", 0),
		truth("keep-going", 0),
		truth("fallback", 0),
		level,
		number("max-jobs", 1),
		number("max-silent-time", 0),
		1,          // obsolete: build hook
		levelError, // at which builders' output is shown
		0,          // obsolete: log type
		0,          // obsolete: print build trace
		number("cores", 0),
		truth("substitute", 1),
	}
	return options, err
}
