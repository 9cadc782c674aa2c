package eval

import (
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

// maxRefusal is the longest text about a package that nixpkgs refuses, in characters.
const maxRefusal = 300

// A remedy is a setting by which nixpkgs takes a package that it refuses. Advice matches the text
// of nixpkgs; other sets, which have no such settings, do not give it.
type remedy struct {
	advice *regexp.Regexp
	yaml   string // for the registry's configuration; %s is the package's name with its version
	nix    string // for an expression that calls nixpkgs
}

var remedies = map[Kind]remedy{
	Unfree: {regexp.MustCompile(`allowUnfree`), "{allowUnfree: true}", "allowUnfree = true"},
	Broken: {regexp.MustCompile(`allowBroken|problems\.handlers`), "{allowBroken: true}", "allowBroken = true"},
	Insecure: {
		regexp.MustCompile(`permittedInsecurePackages`),
		"{permittedInsecurePackages: [%q]}",
		"permittedInsecurePackages = [ %q ]",
	},
}

var (
	refusedPackage  = regexp.MustCompile(`[Pp]ackage ['‘](.+?)['’]`)
	refusedPosition = regexp.MustCompile(` in \S+:\d+`)
)

// shortRefusal shortens what nixpkgs says about a package that it refuses to what clients can use:
// the reason, known issues, and who can change that, in 300 characters at most. TakesConfig is
// whether the registry's operator can, by the option packages.config.
//
// What nixpkgs advises instead is for users of its command line and of NixOS.
func shortRefusal(kind Kind, message string, takesConfig bool) string {
	lines := strings.Split(message, "\n")
	reason := lines[0]
	if strings.HasSuffix(reason, ":") {
		reason = strings.Join(append([]string{reason}, paragraph(lines[1:])...), " ")
	}
	for i, line := range lines {
		if line == "Known issues:" {
			reason += "; known issues: " + strings.Join(paragraph(lines[i+1:]), "; ")
		}
	}

	way := ""
	r, known := remedies[kind]
	name := refusedPackage.FindStringSubmatch(message)
	if known && name != nil && r.advice.MatchString(message) {
		setting := func(format string) string {
			if strings.Contains(format, "%") {
				return fmt.Sprintf(format, name[1])
			}
			return format
		}
		if takesConfig {
			way = fmt.Sprintf(" (the operator of this registry can allow it: packages.config: %s)", setting(r.yaml))
		} else {
			way = fmt.Sprintf(" (the package set can allow it, where it calls nixpkgs: config.%s)", setting(r.nix))
		}
	}
	if utf8.RuneCountInString(way) > maxRefusal/2 {
		way = "" // for the sake of the reason
	}
	room := maxRefusal - utf8.RuneCountInString(way)
	if utf8.RuneCountInString(reason) > room {
		reason = refusedPosition.ReplaceAllString(reason, "")
	}
	if runes := []rune(reason); len(runes) > room {
		reason = string(runes[:room-1]) + "…"
	}
	return reason + way
}

// paragraph returns the lines up to an empty one, without indentation and bullets.
func paragraph(lines []string) []string {
	var taken []string
	for _, line := range lines {
		line = strings.TrimSpace(line)
		if line == "" {
			break
		}
		taken = append(taken, strings.TrimPrefix(line, "- "))
	}
	return taken
}

var (
	// renamed finds an attribute that a text tells people to use in place of another.
	renamed = regexp.MustCompile(
		"((?:renamed to|replaced by|superseded by|moved to|merged into|upgrading to|available at|available as|" +
			"favor of|[Uu]se|using|[Uu]se instead) )(['`‘\"])([A-Za-z0-9_.+-]+)(['`’\"])",
	)
	// underscored finds words that begin with `_` only because names in Nix can't begin with
	// digits.
	underscored = regexp.MustCompile(`(^|[^A-Za-z0-9_./-])_([0-9])`)
)

// asked rewrites the attributes in a text of the package set as clients can ask for them.
func asked(message string) string {
	message = renamed.ReplaceAllStringFunc(message, func(match string) string {
		parts := renamed.FindStringSubmatch(match)
		if name, ok := askable(strings.Split(parts[3], ".")); ok {
			return parts[1] + parts[2] + name + parts[4]
		}
		return match
	})
	return underscored.ReplaceAllString(message, "$1$2")
}
