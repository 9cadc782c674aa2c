package nixstore

import (
	"os"
	"strings"
	"testing"
)

func TestLogins(t *testing.T) {
	for _, test := range []struct {
		name, substituters, without, netrc string
		fault                              string
	}{
		{name: "none", substituters: "https://cache.example.org  daemon", without: "https://cache.example.org  daemon"},
		{
			name: "some", substituters: "https://u:p%40ss@a.example.org:8443/x?priority=10 ssh://nix@b.example.org http://v:q@c.example.org",
			without: "https://a.example.org:8443/x?priority=10 ssh://nix@b.example.org http://c.example.org",
			netrc:   "machine a.example.org\nlogin u\npassword p@ss\nmachine c.example.org\nlogin v\npassword q\n",
		},
		{name: "a space", substituters: "https://u:a%20b@x", without: "https://x", fault: "x can't be handed to Nix"},
		{
			name: "another line", substituters: "https://u:a%0Amachine@x", without: "https://x",
			fault: "x can't be handed to Nix",
		},
		{name: "no password", substituters: "https://u@x", without: "https://x", fault: "x can't be handed to Nix"},
		{
			name: "two for a host", substituters: "https://u:p@x:1 https://u:q@x:2",
			without: "https://x:1 https://x:2", fault: "x has two",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			if without, _ := logins(test.substituters); without != test.without {
				t.Errorf("got %s, want %s", without, test.without)
			}
			err := CheckLogins(strings.Fields(test.substituters))
			if test.fault != "" {
				if err == nil || !strings.Contains(err.Error(), test.fault) {
					t.Errorf("the fault is %v, want %s", err, test.fault)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			o := Options{CacheDir: t.TempDir(), Settings: map[string]string{"substituters": test.substituters}}
			if err := o.writeNetrc(); err != nil {
				t.Fatal(err)
			}
			settings := o.daemon(false).Settings
			if settings["substituters"] != test.without || (settings["netrc-file"] != "") != (test.netrc != "") {
				t.Errorf("Nix gets %v", settings)
			}
			if test.netrc == "" {
				return
			}
			text, err := os.ReadFile(settings["netrc-file"])
			if err != nil || !strings.HasPrefix(string(text), test.netrc) {
				t.Errorf("the file has %q, %v, want %q", text, err, test.netrc)
			}
			if info, err := os.Stat(settings["netrc-file"]); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("the file is %v, %v", info.Mode(), err)
			}
		})
	}
}
