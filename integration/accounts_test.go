package integration

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestAccounts runs images whose packages bring accounts, as the users that engines let one choose.
func TestAccounts(t *testing.T) {
	t.Parallel()
	r := StartRegistry(t, "nix.packages.path="+freshSet(t, "accounts"), `nix.include=["fakenss"]`)
	const root, app = `uid=0\(root\) gid=0\(root\)( groups=0\(root\))?`, `uid=1000\(app\) gid=1001\(app\) groups=1001\(app\)`
	tests := []struct {
		name    string
		options []string
		image   string
		command []string // empty: the image's own
		want    string   // a regular expression that all of stdout matches
	}{
		{name: "nobody is chosen", image: "busybox", command: []string{"id"}, want: root},
		{"root by name", []string{"--user", "root"}, "busybox", []string{"id"}, root},
		{"root by number", []string{"--user", "0"}, "busybox", []string{"id"}, root},
		{"by name", []string{"--user", "app"}, "busybox", []string{"id"}, app},
		{"by number", []string{"--user", "1000"}, "busybox", []string{"id"}, app},
		{"with another group", []string{"--user", "app:data"}, "busybox", []string{"id"},
			`uid=1000\(app\) gid=2000\(data\) groups=2000\(data\)`},
		{"with a further group, as fsGroup does it", []string{"--user", "app", "--group-add", "2000"}, "busybox",
			[]string{"id"}, `uid=1000\(app\) gid=1001\(app\) groups=1001\(app\),2000\(data\)`},
		{"a user of another package, and its group", []string{"--user", "member"}, "busybox/member", []string{"id"},
			`uid=3000\(member\) gid=3000(\(3000\))? groups=2000\(data\),3000(\(3000\))?`},
		{"home", []string{"--user", "nobody"}, "busybox", []string{"sh", "-c", "cd && echo $HOME"}, "/var/empty"},
		{"any number, as OpenShift does it",
			[]string{"--user", "12345:0", "--read-only", "--tmpfs", "/tmp", "--env", "HOME=/tmp"}, "busybox",
			[]string{"sh", "-ec", "cd; touch x; echo $HOME; id -u"}, "/tmp\n12345"},
		{"passwords are not for all", []string{"--user", "app"}, "busybox/member",
			[]string{"sh", "-c", "cat /etc/shadow || echo no"}, "no"},
		{"passwords are for root", nil, "busybox/member", []string{"cat", "/etc/shadow"}, "member:!:1::::::"},
		{"root", nil, "asroot", nil, root},
		{"an account of the registry's own", nil, "asnobody", nil, `uid=65534\(nobody\) .*`},
		{"an account of the package", nil, "asapp", nil, app},
		{"a member of a further group", nil, "asmember", nil, `uid=3000\(member\) gid=3000(\(3000\))? groups=2000\(data\),3000(\(3000\))?`},
		{"a number", nil, "asnumber", nil, `uid=12345(\(12345\))? gid=0\(root\).*`},
	}
	for _, engine := range Engines {
		t.Run(engine.Name, func(t *testing.T) {
			t.Parallel()
			for _, test := range tests {
				t.Run(test.name, func(t *testing.T) {
					ref := r.Ref(test.image)
					engine.Pull(t, ref)
					args := slices.Concat([]string{"--network", "none"}, test.options, []string{ref}, test.command)
					if got := engine.Run(t, args...); !regexp.MustCompile(`^(?:` + test.want + `)$`).MatchString(got) {
						t.Errorf("it wrote %q, want %q", got, test.want)
					}
				})
			}
		})
	}
}

// TestUserIsANumber reads what configs say of users, as Kubernetes does for runAsNonRoot.
func TestUserIsANumber(t *testing.T) {
	t.Parallel()
	packages := freshSet(t, "accounts")
	r := StartRegistry(t, "nix.packages.path="+packages, "nix.include=[]")
	for image, want := range map[string]string{
		"asroot": "0:0", "asnobody": "65534:65534", "asapp": "1000:1001", "asmember": "3000", "asnumber": "12345",
		"busybox": "", "asapp/busybox": "",
	} {
		pulled := r.Pull(t, image)
		config := r.Verify(t, pulled, Closure(t, packages, strings.Split(image, "/")...))
		if got := config.Config.User; got != want {
			t.Errorf("%s runs as %q, want %q", image, got, want)
		}
	}
	for image, want := range map[string]string{
		"asghost":  `passthru.image.user of asghost is \"ghost\", which the image's /etc/passwd does not have`,
		"asghosts": `passthru.image.user of asghosts is \"nobody:ghosts\", whose group the image's /etc/group does not have`,
		"large":    `\"large-1.0/etc/passwd\" can't be part of an image: it is larger than 1048576 bytes`,
	} {
		status, _, body, err := r.Get(t.Context(), "/v2/"+image+"/manifests/latest", v1.MediaTypeImageManifest)
		text := strings.ReplaceAll(string(body), `\\`, `\`)
		if err != nil || status != http.StatusForbidden || !strings.Contains(text, want) {
			t.Errorf("%s: the answer is %d %s, %v, want %s", image, status, body, err, want)
		}
	}
}

// TestAccountsWithoutAStore makes the same root layers out of what is known of archives, and
// downloads nothing for them.
func TestAccountsWithoutAStore(t *testing.T) {
	t.Parallel()
	packages := freshSet(t, "accounts")
	images := []string{"fakenss/busybox", "fakenss/member/busybox", "asapp"}
	ordinary := StartRegistry(t, "nix.packages.path="+packages, "nix.include=[]")
	cache := newBinaryCache(t)
	r := NewRegistry(t, append(cache.storeless(), "nix.packages.path="+packages, "nix.include=[]")...)
	withoutStore(t, r)
	r.Start()
	for i, name := range append(images, "fakenss/member") {
		want := ordinary.Pull(t, name)
		cache.add(t, "", "none", ordinary.paths(t, want)...)
		cache.requests("")
		if got := r.Pull(t, name); got.Digest != want.Digest {
			t.Errorf("%s is %s, out of a store it is %s", name, got.Digest, want.Digest)
		}
		if archives := cache.requests(`^/nar/`); i == len(images) && len(archives) > 0 {
			t.Errorf("%s, whose packages are all known, was made of %q", name, archives)
		}
	}
}
