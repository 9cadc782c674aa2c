package nixstore

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strings"

	"github.com/sirupsen/logrus"
)

// A login is the user and the password of a host, from the URL of a binary cache. Nix gets them in
// a file, because everybody can read the arguments of its programs.
type login struct{ host, user, password string }

// logins takes the logins of http and https out of the URLs in Nix's setting substituters, and
// returns the setting without them.
func logins(substituters string) (without string, found []login) {
	fields := strings.Fields(substituters)
	for i, field := range fields {
		u, err := url.Parse(field)
		if err != nil || u.User == nil || u.Scheme != "http" && u.Scheme != "https" {
			continue
		}
		password, _ := u.User.Password()
		found = append(found, login{u.Hostname(), u.User.Username(), password})
		u.User = nil
		fields[i] = u.String()
	}
	if found == nil {
		return substituters, nil
	}
	return strings.Join(fields, " "), found
}

// netrcWord matches users and passwords that every curl can read in a netrc file.
var netrcWord = regexp.MustCompile(`^[^\s"\\#\pC][^\s"\\\pC]*$`)

// CheckLogins tells all that is wrong with the users and passwords of binary caches, joined.
func CheckLogins(substituters []string) error {
	_, found := logins(strings.Join(substituters, " "))
	var faults []error
	fault := func(format, host string) { faults = append(faults, fmt.Errorf(format, host)) }
	known := make(map[string]login)
	for _, l := range found {
		if !netrcWord.MatchString(l.user) || !netrcWord.MatchString(l.password) {
			fault("the user and the password of %s can't be handed to Nix: they go into a netrc file, which takes both, "+
				"without spaces, quotation marks, backslashes, or # at the beginning", l.host)
		}
		if other, ok := known[l.host]; ok && other != l {
			fault("%s has two users or passwords: they go into a netrc file, which tells hosts apart by name alone", l.host)
		}
		known[l.host] = l
	}
	return errors.Join(faults...)
}

// The netrc file that Nix reads otherwise, and the file where the operator can name another one.
const (
	systemNetrc   = "/etc/nix/netrc"
	systemNixConf = "/etc/nix/nix.conf"
)

var nixConfNetrc = regexp.MustCompile(`(?m)^[ \t]*netrc-file[ \t]*=[ \t]*(\S+)`)

// writeNetrc writes the netrc file for Nix, if Nix needs one. It adds the operator's own, because
// Nix reads one alone.
func (o Options) writeNetrc() error {
	_, found := logins(o.Settings["substituters"] + " " + o.ShareURL)
	if len(found) == 0 {
		return nil
	}
	var text bytes.Buffer
	for _, l := range found {
		fmt.Fprintf(&text, "machine %s\nlogin %s\npassword %s\n", l.host, l.user, l.password)
	}
	others := systemNetrc
	if conf, err := os.ReadFile(systemNixConf); err == nil {
		if named := nixConfNetrc.FindSubmatch(conf); named != nil {
			others = string(named[1])
		}
	}
	own, err := os.ReadFile(others)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		logrus.WithError(err).
			Warnf(
				"nix: nix.substituters has passwords, so Nix reads those instead of %s: what that is for can't be fetched",
				others,
			)
	}
	text.Write(own)
	file, err := os.CreateTemp(o.CacheDir, "netrc-") // with mode 0600
	if err == nil {
		_, err = file.Write(text.Bytes())
		err = errors.Join(err, file.Close(), os.Rename(file.Name(), o.netrcFile()))
	}
	if err != nil {
		return fmt.Errorf("writing passwords for Nix: %w", err)
	}
	return nil
}
