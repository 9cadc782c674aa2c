package main

import (
	"crypto/md5"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// dpkgDatabase is what dpkg would know, so that it, apt and scanners find the packages installed.
type dpkgDatabase struct {
	architecture string
	packages     []installedPackage
	triggers     map[string][]string // the lines of the files in triggers, by their name
}

type installedPackage struct {
	*deb
	listed []string
}

func (db *dpkgDatabase) add(d *deb, listed []string) {
	d.data = nil // it has been read
	db.packages = append(db.packages, installedPackage{d, listed})
}

// write writes /var/lib/dpkg.
func (db *dpkgDatabase) write(t *tree) {
	const dir = "var/lib/dpkg/"
	slices.SortFunc(db.packages, func(a, b installedPackage) int { return strings.Compare(a.name, b.name) })
	db.triggers = map[string][]string{"File": nil, "Unincorp": nil}
	t.directory(dir+"info", 0o755, 0, 0)
	t.file(dir+"info/format", 0o644, 0, "1\n")
	var status strings.Builder
	for _, p := range db.packages {
		name := p.name
		if p.field("Multi-Arch") == "same" {
			name += ":" + db.architecture
		}
		t.file(dir+"info/"+name+".list", 0o644, 0, strings.Join(p.listed, "\n")+"\n")
		for _, file := range slices.Sorted(maps.Keys(p.control)) {
			if file == "control" {
				continue
			}
			mode := int64(0o644)
			if strings.HasPrefix(string(p.control[file]), "#!") {
				mode = 0o755
			}
			t.file(dir+"info/"+name+"."+file, mode, 0, string(p.control[file]))
		}
		db.addTriggers(p.deb)
		status.WriteString(p.status(t))
	}
	t.file(dir+"status", 0o644, 0, status.String())
	t.file(dir+"available", 0o644, 0, "")
	t.file(dir+"diversions", 0o644, 0, "")
	t.file(dir+"arch-native", 0o644, 0, db.architecture+"\n")
	t.directory(dir+"triggers", 0o755, 0, 0)
	for _, name := range slices.Sorted(maps.Keys(db.triggers)) {
		t.file(dir+"triggers/"+name, 0o644, 0, strings.Join(append(db.triggers[name], ""), "\n"))
	}
}

// addTriggers adds what the package is interested in: a path, for the file File, or a name.
func (db *dpkgDatabase) addTriggers(d *deb) {
	for line := range strings.Lines(string(d.control["triggers"])) {
		words := strings.Fields(line)
		if len(words) != 2 || !strings.HasPrefix(words[0], "interest") {
			continue
		}
		waits := d.name
		if words[0] == "interest-noawait" {
			waits += "/noawait"
		}
		if strings.HasPrefix(words[1], "/") {
			db.triggers["File"] = append(db.triggers["File"], words[1]+" "+waits)
		} else {
			db.triggers[words[1]] = append(db.triggers[words[1]], waits)
		}
	}
}

// status is the package's paragraph of dpkg's status, with the MD5 of its conffiles.
func (d *deb) status(t *tree) string {
	const before = "Description:"
	control := strings.TrimRight(string(d.control["control"]), "\n") + "\n"
	control = strings.Replace(control, "\n", "\nStatus: install ok installed\n", 1)
	if files := d.conffiles(); len(files) > 0 {
		var list strings.Builder
		list.WriteString("Conffiles:\n")
		for _, file := range files {
			fmt.Fprintf(&list, " /%s %x\n", file, md5.Sum(t.kept[plain(file)]))
		}
		control = strings.Replace(control, "\n"+before, "\n"+list.String()+before, 1)
	}
	return control + "\n"
}
