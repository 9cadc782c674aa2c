package nearmiss_test

import (
	"testing"

	"github.com/nixery-registry/nixery-registry/internal/nearmiss"
)

func TestMistakes(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"a", "", 1}, {"", "ab", 2}, {"htop", "htop", 0}, {"kitten", "sitting", 3}, {"flaw", "lawn", 2},
		{"gti", "git", 1}, {"htpo", "htop", 1}, {"thop", "htop", 1}, {"ab", "ba", 1}, {"ca", "abc", 3},
		{"abcd", "badc", 2},
	} {
		if got := nearmiss.Mistakes(test.a, test.b); got != test.want {
			t.Errorf("from %q to %q: %d, want %d", test.a, test.b, got, test.want)
		}
		if got := nearmiss.Mistakes(test.b, test.a); got != test.want {
			t.Errorf("from %q to %q: %d, want %d", test.b, test.a, got, test.want)
		}
	}
}

func TestClosest(t *testing.T) {
	words := []string{"version", "log", "storage", "http", "health", "redis"}
	for mistaken, want := range map[string]string{
		"htttp": "http", "stroage": "storage", "lgo": "log", "helth": "health",
		"banana": "", "x": "", "": "",
	} {
		if got := nearmiss.Closest(mistaken, words); got != want {
			t.Errorf("Closest(%q) = %q, want %q", mistaken, got, want)
		}
	}
}
