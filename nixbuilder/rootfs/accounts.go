package rootfs

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// accountLines is what the lines of a file of accounts are like. Their fields are separated by
// colons, and fields has a letter for each:
//
//	n  a name
//	o  a name, or the number of a user or group
//	i  the number of a user or group
//	c  any number of 32 bits
//	t  any text
//
// Other lines are dropped. The C libraries, Docker and containerd read them in different ways, and
// some take what is no number for that of root.
type accountLines struct {
	fields string
	// unique says that there is one line for each first field.
	unique bool
}

// merge returns the lines of own and of what packages brought, the best priority first. Of several
// lines for the same name, the first one that was brought is taken; it stands in the place of
// own's. So root stays the first user with the number 0, whatever else packages bring.
func (a *accountLines) merge(own string, brought []string) string {
	lines := make(map[string]string)
	var order []string
	replaceable := make(map[string]bool)
	for i, content := range slices.Concat([]string{own}, brought) {
		for line := range strings.SplitSeq(content, "\n") {
			if !a.valid(line) {
				continue
			}
			key := a.key(line)
			switch _, known := lines[key]; {
			case !known:
				order = append(order, key)
				replaceable[key] = i == 0
			case !replaceable[key]:
				continue
			default:
				replaceable[key] = i == 0
			}
			lines[key] = line
		}
	}
	var merged strings.Builder
	for _, key := range order {
		merged.WriteString(lines[key])
		merged.WriteByte('\n')
	}
	return merged.String()
}

func (a *accountLines) key(line string) string {
	if !a.unique {
		return line
	}
	name, _, _ := strings.Cut(line, ":")
	return name
}

func (a *accountLines) valid(line string) bool {
	fields := strings.Split(line, ":")
	if len(fields) != len(a.fields) || strings.ContainsFunc(line, unicode.IsControl) {
		return false
	}
	for i, field := range fields {
		if !validField(a.fields[i], field) {
			return false
		}
	}
	return true
}

func validField(kind byte, text string) bool {
	switch kind {
	case 'n':
		return isAccountName(text)
	case 'o':
		return isAccountName(text) || isNumber(text, idBits)
	case 'i':
		return isNumber(text, idBits)
	case 'c':
		return isNumber(text, 32)
	}
	return true
}

// isAccountName refuses what could be read as a number, a comment, or an instruction of NIS.
func isAccountName(text string) bool {
	return text != "" && !strings.ContainsAny(text[:1], "+-#") && !strings.ContainsFunc(text, unicode.IsSpace) &&
		strings.Trim(text, "0123456789") != ""
}

// idBits is how large the number of a user or group may be: runc and Docker take no larger ones.
const idBits = 31

func isNumber(text string, bits int) bool {
	_, err := strconv.ParseUint(text, 10, bits)
	return err == nil
}

// User returns what an image's config says for a user, as OCI's image format has it: user,
// uid, user:group, uid:gid, uid:group or user:gid. Names become numbers, as Kubernetes'
// runAsNonRoot wants them. Numbers need no account.
//
// A user without a group gets that of its account, too. One that is a member of further groups does
// not: engines look for these only where no group is given. The error says what about the spec is
// not in the image's files, beginning with a pronoun.
func (t *Tree) User(spec string) (string, error) {
	name, group, grouped := strings.Cut(spec, ":")
	users, groups := t.accounts("passwd"), t.accounts("group")
	user, uid := find(users, name)
	if uid == "" {
		if !grouped {
			return "", errors.New("which the image's /etc/passwd does not have")
		}
		return "", errors.New("whose user the image's /etc/passwd does not have")
	}
	if grouped {
		_, gid := find(groups, group)
		if gid == "" {
			return "", errors.New("whose group the image's /etc/group does not have")
		}
		return uid + ":" + gid, nil
	}
	if user == nil {
		return uid, nil
	}
	gid := user[3]
	isMember := func(g []string) bool { return g[2] != gid && slices.Contains(strings.Split(g[3], ","), user[0]) }
	if first, _ := find(users, uid); first[0] == user[0] && slices.ContainsFunc(groups, isMember) {
		return uid, nil
	}
	return uid + ":" + gid, nil
}

// accounts returns the fields of the lines of a file of /etc.
func (t *Tree) accounts(file string) (lines [][]string) {
	content := t.root.children["etc"].children[file].content
	for line := range strings.Lines(content) {
		lines = append(lines, strings.Split(strings.TrimSuffix(line, "\n"), ":"))
	}
	return lines
}

// find returns the first account of a name or number, and its number. The account is nil if there
// is none; a number is returned as it is then.
func find(accounts [][]string, wanted string) (account []string, number string) {
	field := 0
	if isNumber(wanted, idBits) {
		field, number = 2, wanted
	}
	for _, account := range accounts {
		if account[field] == wanted {
			return account, account[2]
		}
	}
	return nil, number
}
