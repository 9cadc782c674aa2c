package metrics

import "testing"

func TestBuilderHost(t *testing.T) {
	for builder, want := range map[string]string{
		"ssh://nix@arm.example.org":          "arm.example.org",
		"ssh-ng://arm.example.org?ssh-key=x": "arm.example.org",
		"ssh://u:secret@arm":                 "arm",
		"nix@arm":                            "arm",
		"arm":                                "arm",
	} {
		if got := builderHost(builder); got != want {
			t.Errorf("%s: %q, want %q", builder, got, want)
		}
	}
}
