package rootfs

import (
	"strings"
	"testing"
)

// Accounts of several packages are all there.
func TestAccountsAreMerged(t *testing.T) {
	both := func(name, contentA, contentB string) []file {
		return []file{{name: a + "/etc/" + name, content: contentA}, {name: b + "/etc/" + name, content: contentB}}
	}
	for _, test := range []struct {
		name  string
		files []file
		etc   string
		want  string // after the registry's own
	}{
		{"users of two packages", both("passwd", "app:x:1000:1000:a:/a:/bin/sh\n", "web:x:1001:1001:::\n"), "passwd",
			ownUsers + ownNobody + `web:x:1001:1001:::\napp:x:1000:1000:a:/a:/bin/sh\n`},
		{"the better priority has the name", both("passwd", "app:x:1:1:::\n", "app:x:2:2:::\n"), "passwd",
			ownUsers + ownNobody + `app:x:2:2:::\n`},
		{"the first line has the name", both("passwd", "app:x:1:1:::\napp:x:2:2:::\n", ""), "passwd",
			ownUsers + ownNobody + `app:x:1:1:::\n`},
		{"numbers may be the same", both("passwd", "app:x:1:1:::\n", "web:x:1:1:::\n"), "passwd",
			ownUsers + ownNobody + `web:x:1:1:::\napp:x:1:1:::\n`},
		{"a package's root and nobody, in their places",
			both("passwd", "toor:x:0:0:::\nnobody:x:1:1:a::\nroot:x:0:0:a::\n", "root:x:0:0:b::\n"), "passwd",
			`root:x:0:0:b::\nnobody:x:1:1:a::\ntoor:x:0:0:::\n`},
		{"without a line break at the end", both("passwd", "app:x:1:1:::", ""), "passwd", ownUsers + ownNobody + `app:x:1:1:::\n`},
		{"malformed users",
			both("passwd", strings.Join([]string{
				"", "#app:x:1:1:::", "short:x:1:1::", "long:x:1:1::::", ":x:1:1:::", "word:x:one:1:::",
				"sign:x:-1:1:::", "plus:x:+1:1:::", "large:x:2147483648:1:::", "group:x:1::::", "a b:x:1:1:::",
				"+:x:1:1:::", "+@nis:x:1:1:::", "-bad:x:1:1:::", "1000:x:0:0:::",
				"nul:x:1:1:\x00::", "cr:x:1:1:::\r", "hex:x:0x1:1:::",
				"fine:x:2147483647:1:a b:/:/bin/a b",
			}, "\n"), ""), "passwd", ownUsers + ownNobody + `fine:x:2147483647:1:a b:/:/bin/a b\n`},
		{"groups", both("group", "app:x:1000:web,nobody\nshort:x:1\nword:x:a:\n", "web:x:1001:\n"), "group",
			`root:x:0:\nnobody:x:65534:\nweb:x:1001:\napp:x:1000:web,nobody\n`},
		{"passwords", both("shadow", "app:!:1::::::\nshort:!:1\n", "web:*:::::::\napp:*:::::::\n"), "shadow",
			`web:*:::::::\napp:*:::::::\n`},
		{"nothing but malformed lines", both("shadow", "x\n", "y\n"), "shadow", ""},
		{"numbers of users below them, by line",
			both("subuid", "app:100000:65536\n1000:1:1\nbad:-1:1\nlarge:4294967296:1\nbad:1:\n", "app:200000:65536\napp:100000:65536\n"),
			"subuid", `app:200000:65536\napp:100000:65536\n1000:1:1\n`},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, got, _ := strings.Cut(etcOf(t, test.files...)[test.etc], " ")
			if got = strings.Trim(got, `"`); got != test.want {
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			}
		})
	}
}

func TestUser(t *testing.T) {
	tree := merged(t, makeStore(t,
		file{name: a + "/etc/passwd", content: "app:x:1000:1001:::\nweb:x:2000:2000:::\nother:x:1000:3:::\nalso:x:1000:1001:::\n" +
			"many:x:5:6:::\nsame:x:5:7:::\n"},
		file{name: a + "/etc/group", content: "data:x:3000:web\nown:x:2000:web,app\nmany:x:8:many,same\n"},
	), one("a", 5, a))
	const noUser, noGroup = "which the image's /etc/passwd does not have", "whose group the image's /etc/group does not have"
	for _, test := range []struct{ spec, want, fault string }{
		{spec: "root", want: "0:0"},
		{spec: "nobody", want: "65534:65534"},
		{spec: "0", want: "0:0"},
		{spec: "12345", want: "12345"},
		{spec: "12345:0", want: "12345:0"},
		{spec: "12345:data", want: "12345:3000"},
		{spec: "1000:1", want: "1000:1"},
		{spec: "app:data", want: "1000:3000"},
		{spec: "app:4", want: "1000:4"},
		{spec: "app", want: "1000"}, // it is in own, too
		{spec: "also", want: "1000:1001"},
		{spec: "1000", want: "1000"},
		{spec: "other", want: "1000:3"}, // by its number it would be app
		{spec: "web", want: "2000"},
		{spec: "many", want: "5"},
		{spec: "same", want: "5:7"},
		{spec: "ghost", fault: noUser},
		{spec: "ghost:data", fault: "whose user the image's /etc/passwd does not have"},
		{spec: "app:ghosts", fault: noGroup},
		{spec: "app:", fault: noGroup},
		{spec: ":data", fault: "whose user the image's /etc/passwd does not have"},
		{spec: "app:data:3", fault: noGroup},
		{spec: "-1", fault: noUser},
		{spec: "+1", fault: noUser},
		{spec: "2147483648", fault: noUser},
		{spec: "1:4294967296", fault: noGroup},
		{spec: "app\nroot", fault: noUser},
	} {
		got, err := tree.User(test.spec)
		if got != test.want || (err == nil) != (test.fault == "") || err != nil && err.Error() != test.fault {
			t.Errorf("%q is %q, %v, want %q %s", test.spec, got, err, test.want, test.fault)
		}
	}
}

// FuzzAccounts merges what packages could bring. All lines are as the manual has them, root is the
// first account, no other line is lost, and to merge the outcome again changes nothing.
func FuzzAccounts(f *testing.F) {
	f.Add("app:x:1:1:::\n", "root:x:0:0:::\napp:x:2:2:::")
	f.Add("root:x:5:0:::\n\nroot", "nobody:x:0:0:a:b:c\n+::::::")
	f.Fuzz(func(t *testing.T, first, second string) {
		for _, file := range etcFiles() {
			if file.lines == nil {
				continue
			}
			merged := file.lines.merge(file.own, []string{first, second})
			if again := file.lines.merge(file.own, []string{merged}); again != merged {
				t.Fatalf("%s: merged again\n%q\nmerged\n%q", file.name, again, merged)
			}
			if file.own != "" && !strings.HasPrefix(merged, "root:") {
				t.Errorf("%s begins with another account: %q", file.name, merged)
			}
			lines := strings.SplitAfter(merged, "\n")
			for _, line := range lines[:len(lines)-1] {
				if !file.lines.valid(strings.TrimSuffix(line, "\n")) {
					t.Errorf("%s has the line %q", file.name, line)
				}
			}
			for line := range strings.SplitSeq(second, "\n") {
				if file.lines.valid(line) && !strings.Contains("\n"+merged, "\n"+strings.SplitN(line, ":", 2)[0]+":") {
					t.Errorf("%s has lost %q", file.name, line)
				}
			}
		}
	})
}
