# Turns what apt chose into the entries of packages.json.
#
#   LC_ALL=C awk -f resolve.awk packages.list STANZAS | LC_ALL=C sort
#
# STANZAS is the output of apt-cache show. Each line printed is one entry, "name": {…}, of a package that the wanted ones
# need at run time. The entries have no cycle: packages that need each other are one entry, named after its first member.

function fail(text) { print "resolve.awk: " text > "/dev/stderr"; failed = 1; exit 1 }

# glob reports whether name matches a pattern whose only wildcard is *.
function glob(pattern, name) {
	gsub(/[.+]/, "[&]", pattern)
	gsub(/\*/, ".*", pattern)
	return name ~ ("^" pattern "$")
}

function json(text) {
	gsub(/\\/, "\\\\", text)
	gsub(/"/, "\\\"", text)
	gsub(/[\001-\037]/, " ", text)
	return "\"" text "\""
}

# plain keeps what a store path's name may hold; the epoch goes.
function plain(text) {
	sub(/^[0-9]+:/, "", text)
	gsub(/[^A-Za-z0-9+._-]/, "-", text)
	return text
}

# sorted sorts the keys of set into list and gives their number. Sets are small.
function sorted(set, list,    key, n, i) {
	n = 0
	for (key in set) {
		for (i = n++; i > 0 && list[i] > key; i--) list[i + 1] = list[i]
		list[i + 1] = key
	}
	return n
}

# choose gives the chosen package that satisfies one alternative list of a Depends field, or nothing.
function choose(alternatives,    list, n, i) {
	n = split(alternatives, list, "|")
	for (i = 1; i <= n; i++) {
		gsub(/\([^)]*\)|\[[^]]*\]|:[a-z0-9]+|[ \t]/, "", list[i])
		if (list[i] in omit) return ""
		if (list[i] in version) return list[i]
		if (list[i] in provider) return provider[list[i]]
	}
	return ""
}

# need notes that package name needs other, in terms of the groups they are in.
function need(name, other) {
	if (other == "" || other in omit || ((name, other) in cut)) return
	if (group[name] != group[other]) edges[group[name]] = edges[group[name]] " " group[other]
}

# visit is Tarjan's algorithm: it gives component[] to every group that can be reached from v.
function visit(v,    list, n, i, w) {
	low[v] = found[v] = ++clock
	stack[++depth] = v
	open[v] = 1
	n = split(edges[v], list, " ")
	for (i = 1; i <= n; i++) {
		w = list[i]
		if (!(w in found)) visit(w)
		if ((w in open) && low[w] < low[v]) low[v] = low[w]
	}
	if (low[v] != found[v]) return
	do {
		w = stack[depth--]
		delete open[w]
		component[w] = v
		if (!(v in title) || w < title[v]) title[v] = w
	} while (w != v)
}

FILENAME != current { current = FILENAME; part++ }

part == 1 {
	sub(/#.*/, "")
	if (NF == 0) next
	if ($1 == "want" || $1 == "tool") for (i = 2; i <= NF; i++) want[$i]
	else if ($1 == "omit") for (i = 2; i <= NF; i++) omit[$i]
	else if ($1 == "cut") for (i = 3; i <= NF; i++) cut[$2, $i]
	else if ($1 == "add") for (i = 3; i <= NF; i++) added[$2] = added[$2] "," $i
	else if ($1 == "join") for (i = 3; i <= NF; i++) { joins++; joinname[joins] = $2; joinglob[joins] = $i }
	else fail("unknown word in line " FNR ": " $1)
	next
}

# A package may be printed once per archive that has it: the first counts.
$1 == "Package:" { name = ($2 in version) ? "" : $2; next }
name == "" { next }
$1 == "Version:" { version[name] = $2; next }
$1 == "SHA256:" { sha256[name] = $2; next }
$1 == "Filename:" { file[name] = $2; sub(/.*\//, "", file[name]); next }
$1 == "Homepage:" { homepage[name] = $2; next }
/^Description(-en)?: / { sub(/^[^ ]* /, ""); description[name] = $0; next }
/^(Pre-)?Depends: / { sub(/^[^ ]* /, ""); depends[name] = depends[name] "," $0; next }
/^Provides: / {
	sub(/^[^ ]* /, "")
	n = split($0, list, ",")
	for (i = 1; i <= n; i++) {
		gsub(/\([^)]*\)|[ \t]/, "", list[i])
		if (!(list[i] in provider) || name < provider[list[i]]) provider[list[i]] = name
	}
}

END {
	if (failed) exit 1
	count = sorted(version, names)

	for (i = 1; i <= count; i++) {
		group[names[i]] = names[i]
		for (j = joins; j >= 1; j--) if (glob(joinglob[j], names[i])) group[names[i]] = joinname[j]
	}
	for (i = 1; i <= count; i++) {
		n = split(depends[names[i]] added[names[i]], list, ",")
		for (j = 1; j <= n; j++) need(names[i], choose(list[j]))
	}

	n = sorted(want, wanted)
	for (i = 1; i <= n; i++) {
		if (!(wanted[i] in version)) fail("apt did not choose " wanted[i])
		if (!(group[wanted[i]] in found)) visit(group[wanted[i]])
	}

	for (i = 1; i <= count; i++) {
		if (!(group[names[i]] in found)) continue
		entry = title[component[group[names[i]]]]
		members[entry] = members[entry] " " names[i]
		n = split(edges[group[names[i]]], list, " ")
		for (j = 1; j <= n; j++) {
			other = title[component[list[j]]]
			if (other != entry && !((entry, other) in linked)) {
				linked[entry, other]
				links[entry] = links[entry] " " other
			}
		}
	}

	for (entry in members) {
		n = split(members[entry], list, " ")
		lead = (entry in version) ? entry : list[1]
		debs = dependencies = ""
		for (i = 1; i <= n; i++)
			debs = debs (i > 1 ? "," : "") "{\"file\":" json(plain(file[list[i]])) ",\"sha256\":" json(sha256[list[i]]) "}"
		delete set
		n = split(links[entry], list, " ")
		for (i = 1; i <= n; i++) set[list[i]]
		delete list
		n = sorted(set, list)
		for (i = 1; i <= n; i++) dependencies = dependencies (i > 1 ? "," : "") json(list[i])
		printf "%s: {\"version\":%s,\"description\":%s,\"homepage\":%s,\"debs\":[%s],\"dependencies\":[%s]}\n", \
			json(entry), json(plain(version[lead])), json(description[lead]), json(homepage[lead]), debs, dependencies
	}
}
