package store

import (
	"strings"
	"testing"
)

func TestParsePath(t *testing.T) {
	const hash = "aj2q88glyrgps19f9gidl6xyb2arnfvh"
	for _, test := range []struct {
		name, in string
		want     string // the name part; empty: refused
	}{
		{"package", "/nix/store/" + hash + "-htop-3.2.2", "htop-3.2.2"},
		{"odd characters", "/nix/store/" + hash + "-gtk+3?a=b_c.drv", "gtk+3?a=b_c.drv"},
		{"longest name", "/nix/store/" + hash + "-" + strings.Repeat("a", 211), strings.Repeat("a", 211)},
		{"name too long", "/nix/store/" + hash + "-" + strings.Repeat("a", 212), ""},
		{"no name", "/nix/store/" + hash + "-", ""},
		{"hidden", "/nix/store/" + hash + "-.htop", ""},
		{"below a path", "/nix/store/" + hash + "-htop/bin/htop", ""},
		{"climbing", "/nix/store/" + hash + "-htop/../../../etc", ""},
		{"other store", "/opt/store/" + hash + "-htop-3.2.2", ""},
		{"short hash", "/nix/store/abc-htop-3.2.2", ""},
		{"hash with e, which base 32 lacks", "/nix/store/ej2q88glyrgps19f9gidl6xyb2arnfvh-htop", ""},
		{"no dash", "/nix/store/" + hash + "_htop", ""},
		{"doubled slash", "/nix/store//" + hash + "-htop", ""},
		{"space", "/nix/store/" + hash + "-h top", ""},
		{"empty", "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := ParsePath(test.in)
			if test.want == "" {
				if err == nil {
					t.Fatalf("ParsePath(%q) = %q, want an error", test.in, p)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if p.Name() != test.want || p.Base() != hash+"-"+test.want {
				t.Errorf("Name() = %q, Base() = %q, want %q", p.Name(), p.Base(), test.want)
			}
		})
	}
}
