package proc

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Protect keeps other processes of this user from reading this one's memory and environment, and
// from tracing it. Programs that it starts are not protected. Root can read all the same.
func Protect() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("keeping other processes of this user out: %w", err)
	}
	return nil
}
