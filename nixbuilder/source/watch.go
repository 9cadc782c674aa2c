package source

import (
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// watched is what can happen in a directory that a walk would find.
const watched = unix.IN_ATTRIB | unix.IN_CREATE | unix.IN_DELETE | unix.IN_DELETE_SELF | unix.IN_MODIFY | unix.IN_CLOSE_WRITE |
	unix.IN_MOVE_SELF | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_ONLYDIR | unix.IN_DONT_FOLLOW

// zfsMagic is what statfs(2) tells of ZFS, which is not part of Linux.
const zfsMagic = 0x2fc12fc1

// A watch is told by the kernel what happens in directories (inotify(7)), before whoever does it goes on: an edit is not followed by a moment in which it
// is not known. Libraries for inotify read it in a goroutine, later. It is not told what is written through a mapping of a file that is no longer open
// for writing, or through another hard link, nor that something is mounted over what is in a directory.
type watch struct {
	fd     int
	failed atomic.Bool // some directory is not watched
	moved  bool        // something has happened
}

// newWatch fails where the user has as many as the host permits (fs.inotify.max_user_instances).
func newWatch() (*watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("watching directories: %w", err)
	}
	return &watch{fd: fd}, nil
}

// add watches a directory from now on. Its name leads over no symbolic link. If it can't be watched, or the host permits no more
// (fs.inotify.max_user_watches), nothing is quiet any more. It is safe for concurrent use.
func (w *watch) add(dir string) {
	if w.failed.Load() {
		return
	}
	if _, err := unix.InotifyAddWatch(w.fd, dir, watched); err != nil || !isLocal(dir) {
		w.failed.Store(true)
	}
}

// isLocal tells whether a directory is on a file system that only this kernel writes to.
func isLocal(dir string) bool {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return false
	}
	switch uint32(stat.Type) {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC, unix.TMPFS_MAGIC, unix.OVERLAYFS_SUPER_MAGIC, zfsMagic:
		return true
	}
	return false
}

// quiet tells whether nothing has happened in any of the directories since it was added. It is not safe for concurrent use.
func (w *watch) quiet() bool {
	if !w.moved && !w.failed.Load() {
		var event [unix.SizeofInotifyEvent + unix.NAME_MAX + 1]byte
		_, err := unix.Read(w.fd, event[:])
		w.moved = !errors.Is(err, unix.EAGAIN)
	}
	return !w.moved && !w.failed.Load()
}

// close ends the watch, some milliseconds later: the kernel makes whoever closes one wait.
func (w *watch) close() {
	go func() { _ = unix.Close(w.fd) }() // nothing was written
}
