package rootfs

import (
	"regexp"
	"strings"
)

// A language is one whose interpreter looks for modules. The modules of all packages are merged
// into one directory, as in nixpkgs' python3.withPackages, and a variable names that.
type language struct {
	// programs are the names of interpreters. The first that is in /bin counts.
	programs []string
	// version finds an interpreter's version in the name of its file, or else of its store path.
	version func(name string) string
	// places are the directories where packages have modules for an interpreter.
	places func(i interpreter) []string
	// variables tell an interpreter of those places that the image has. They are absolute here.
	variables func(i interpreter, places []string) map[string]string
	// nixMark is a file below the first place of nixpkgs' own interpreter. It is empty if that is
	// like all others.
	nixMark string
	// versions is where modules for a version are, with a star for its name. It is empty if they
	// are for all versions.
	versions string
}

var (
	twoNumbers = regexp.MustCompile(`[0-9]+\.[0-9]+`)
	pythonName = regexp.MustCompile(`^(python|pypy)[0-9]+\.[0-9]+t?$`) // of a program, and of a directory in lib
)

// languages are those whose modules are found. Where nixpkgs and Debian have modules in different
// places, both count.
func languages() []language {
	return []language{
		{
			programs: []string{"python3", "python", "python2", "pypy3", "pypy"},
			version:  pythonName.FindString,
			places: func(i interpreter) []string {
				return []string{"lib/" + i.version + "/site-packages", "lib/python3/dist-packages"}
			},
			variables: func(i interpreter, places []string) map[string]string {
				// PYTHONPATH comes before the standard library and reaches into virtual
				// environments. nixpkgs' python takes a variable that does neither.
				if i.fromNix {
					return searchPath("NIX_PYTHONPATH")(i, places)
				}
				return searchPath("PYTHONPATH")(i, places)
			},
			nixMark:  "sitecustomize.py",
			versions: "lib/*/site-packages",
		},
		{
			programs: []string{"perl"},
			version:  twoNumbers.FindString,
			// Perl itself looks for its version and platform below the first.
			places: func(i interpreter) []string {
				return append([]string{"lib/perl5/site_perl", "share/perl5"}, platformPlaces("perl5/"+i.version)...)
			},
			variables: searchPath("PERL5LIB"),
			versions:  "lib/perl5/site_perl/*",
		},
		{
			programs: []string{"ruby"},
			version:  twoNumbers.FindString,
			places:   func(i interpreter) []string { return []string{"lib/ruby/gems/" + i.version + ".0"} },
			variables: func(i interpreter, places []string) map[string]string {
				return searchPath("GEM_PATH")(i, append(places, "")) // the empty one is ruby's own
			},
			versions: "lib/ruby/gems/*",
		},
		{
			programs:  []string{"node"},
			version:   twoNumbers.FindString,
			places:    func(interpreter) []string { return []string{"lib/node_modules"} },
			variables: searchPath("NODE_PATH"),
		},
		{
			programs: []string{"lua", "luajit"},
			version:  luaVersion,
			places: func(i interpreter) []string {
				return append(platformPlaces("lua/"+i.version), "share/lua/"+i.version, "lib/lua/"+i.version)
			},
			variables: luaPaths,
			versions:  "share/lua/*",
		},
		{
			programs:  []string{"R"},
			version:   twoNumbers.FindString,
			places:    func(interpreter) []string { return []string{"library", "lib/R/site-library"} },
			variables: searchPath("R_LIBS_SITE"),
		},
	}
}

// platformPlaces are where Debian has what is compiled for a platform.
func platformPlaces(name string) []string {
	return []string{"lib/x86_64-linux-gnu/" + name, "lib/aarch64-linux-gnu/" + name}
}

// searchPath gives places to a variable, with colons between them.
func searchPath(variable string) func(interpreter, []string) map[string]string {
	return func(_ interpreter, places []string) map[string]string {
		return map[string]string{variable: strings.Join(places, ":")}
	}
}

// luaVersion knows that the language of LuaJIT is that of Lua 5.1.
func luaVersion(name string) string {
	if strings.HasPrefix(name, "luajit") {
		return "5.1"
	}
	return twoNumbers.FindString(name)
}

// luaPaths are patterns. Two semicolons stand for lua's own.
func luaPaths(_ interpreter, places []string) map[string]string {
	patterns := make(map[string]string)
	for _, place := range places {
		if strings.HasPrefix(place, "/lib/") {
			patterns["LUA_CPATH"] += place + "/?.so;"
		} else {
			patterns["LUA_PATH"] += place + "/?.lua;" + place + "/?/init.lua;"
		}
	}
	for variable := range patterns {
		patterns[variable] += ";"
	}
	return patterns
}
