package integration

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/nixery-registry/nixery-registry/internal/needs"
)

// nobody is a user without any rights.
const nobody = 65534

// Who is not root can unpack an image, whatever the unpacker does about modes, and remove it
// afterwards.
func TestUnpackWithoutRights(t *testing.T) {
	t.Parallel()
	Needs(t, "tar")
	needs.Root(t, "to be another user")
	r := StartRegistry(t)
	image := r.Pull(t, "shell/git")
	archives := make([][]byte, len(image.Layers))
	for i, layer := range image.Layers {
		plain, err := decompress(bytes.NewReader(r.Blob(t, image, layer)), layer.MediaType)
		if err != nil {
			t.Fatal(err)
		}
		if archives[i], err = io.ReadAll(plain); err != nil {
			t.Fatal(err)
		}
	}
	for _, unpacker := range []struct {
		name   string
		unpack func(dir string, archive []byte) error
	}{
		{"member by member", unpackMembers}, // as Apptainer and Python's tarfile do
		{"GNU tar", unpackByTar},
	} {
		t.Run(unpacker.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.Chown(dir, nobody, nobody)); err != nil {
				t.Fatal(err)
			}
			if err := asNobody(func() error {
				root := filepath.Join(dir, "root")
				if err := os.Mkdir(root, 0o755); err != nil {
					return err
				}
				for i, archive := range archives {
					if err := unpacker.unpack(root, archive); err != nil {
						return fmt.Errorf("layer %d: %w", i, err)
					}
				}
				if found, _ := filepath.Glob(root + "/nix/store/*-git-*/bin/git"); len(found) != 1 {
					return fmt.Errorf("programs of git: %q", found)
				}
				return os.RemoveAll(root)
			}); err != nil {
				t.Error(err)
			}
		})
	}
}

// asNobody calls do on a thread that has the rights of nobody over files.
func asNobody(do func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		done <- errors.Join(syscall.Setfsgid(nobody), syscall.Setfsuid(nobody), do())
	}()
	return <-done
}

// unpackMembers gives each file its mode as it meets it.
func unpackMembers(dir string, archive []byte) error {
	for members := tar.NewReader(bytes.NewReader(archive)); ; {
		member, err := members.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name, mode := filepath.Join(dir, member.Name), member.FileInfo().Mode()
		switch member.Typeflag {
		case tar.TypeDir:
			if err = os.Mkdir(name, mode); errors.Is(err, os.ErrExist) { // of a lower layer
				err = os.Chmod(name, mode)
			}
		case tar.TypeSymlink:
			err = os.Symlink(member.Linkname, name)
		case tar.TypeLink:
			err = os.Link(filepath.Join(dir, member.Linkname), name)
		default:
			err = unpackFile(name, mode, members)
		}
		if err != nil {
			return err
		}
	}
}

func unpackFile(name string, mode os.FileMode, content io.Reader) error {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	return errors.Join(err, file.Close())
}

func unpackByTar(dir string, archive []byte) error {
	command := exec.Command("tar", "--extract", "--directory", dir)
	command.Stdin = bytes.NewReader(archive)
	command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %.1000s", err, out)
	}
	return nil
}
