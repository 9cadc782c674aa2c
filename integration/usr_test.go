package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// onTop is a Dockerfile on top of an image with programs. It writes to their names in /bin and in
// /usr/bin, in the ways that there are.
const onTop = `FROM %s
RUN printf '#!/usr/bin/sh\necho script' > /bin/script && /usr/bin/busybox chmod 755 /bin/script
COPY tool /usr/bin/one
COPY tool /bin/two
COPY directory/ /usr/bin/
ADD four.tar /
RUN busybox mv /four /usr/bin/four
RUN busybox ln -sf four /bin/five
RUN busybox rm /bin/six && busybox cp /bin/four /bin/six
`

// TestProgramsInUsr runs programs where scripts look for them. Both names of a program are the same
// one when an image is made on top; if there are two, the one in /usr/bin is what shells find.
func TestProgramsInUsr(t *testing.T) {
	t.Parallel()
	r := StartRegistry(t, "nix.packages.path="+freshSet(t, "accounts"), "nix.include=[]")
	ref := r.Ref("busybox/names")
	dir := Dir(t)
	Write(t, filepath.Join(dir, "Dockerfile"), fmt.Sprintf(onTop, ref))
	for _, name := range []string{"tool", "directory/three", "four"} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		Write(t, file, "#!/bin/sh\necho tool\n")
		if err := os.Chmod(file, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// Some directories are entries of the archive, as in layers that other tools add.
	if err := os.MkdirAll(filepath.Join(dir, "usr", "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	Exec(t, "tar", "--create", "--directory", dir, "--file", filepath.Join(dir, "four.tar"), "four", "usr")
	for _, engine := range Engines {
		t.Run(engine.Name, func(t *testing.T) {
			t.Parallel()
			Needs(t, engine.tools()...)
			engine.Pull(t, ref)
			check := func(image string, want map[string]string) {
				t.Helper()
				for command, want := range want {
					args := append([]string{"run", "--rm", "--network", "none", image}, strings.Fields(command)...)
					if got, stderr, err := TryExec(t.Context(), engine.Name, args...); err != nil || got != want {
						t.Errorf("%s of %s prints %q, %v %s, want %q", command, image, got, err, stderr, want)
					}
				}
			}
			check(ref, map[string]string{
				"/usr/bin/env -i /usr/bin/echo found": "found", "/usr/bin/sh -c one": "one", "/usr/bin/two": "two",
				"/usr/sbin/hello": "hello",
			})
			built := "test/usr-" + engine.Name
			Exec(
				t, "env", "DOCKER_BUILDKIT=0", engine.Name, "build", "--network", "none", "--tag", built, dir,
			)
			check(built, map[string]string{
				"script": "script", "/usr/bin/env -i /usr/bin/echo found": "found",
				"one": "tool", "/usr/bin/one": "tool",
				"two": "tool", "/usr/bin/two": "tool",
				"three": "tool", "/bin/three": "three", // the directory's file took the place of a link
				"four": "tool",
				"five": "four", "/usr/bin/five": "four",
				"six": "four", "/usr/bin/six": "four",
			})
		})
	}
}
