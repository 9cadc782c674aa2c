package middleware

import (
	_ "embed"
	"errors"
	"html/template"
	"io/fs"
	"net/http"
	"os"
	"path"
	"strings"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/sirupsen/logrus"
)

// siteAge is how long clients may keep the files of a site.
const siteAge = "public, max-age=300"

//go:embed site.html
var sitePage string

// Site answers requests outside the registry's API, with the files of web.dir or with a page that
// says what this is. A program has it by registry.RegisterHandler(middleware.Site), before it
// starts the registry. A registry without the nix stanza is left as it is.
func Site(config *configuration.Configuration, api http.Handler) http.Handler {
	service := serviceOf(config)
	if service == nil {
		return api
	}
	site := service.page(config)
	if dir := service.options.Web.Dir; dir != "" {
		site = files(dir)
	}
	prefix := path.Join("/", config.HTTP.Prefix, "v2")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == prefix || strings.HasPrefix(r.URL.Path, prefix+"/") {
			api.ServeHTTP(w, r)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		w.Header().Add("Vary", "Accept")
		if wantsManifest(r.Header) {
			// A cache that has lost its way must not keep a page as somebody's manifest.
			w.Header().Set("Cache-Control", "no-store")
			http.Error(w, "manifests of images are below "+prefix+"/", http.StatusNotAcceptable)
			return
		}
		site.ServeHTTP(w, r)
	})
}

// serviceOf returns the Service that Setup left in a configuration. It is nil without the stanza,
// and without Setup: the program has chosen the least.
func serviceOf(config *configuration.Configuration) *Service {
	stanza, err := find(config)
	if stanza == nil || err != nil {
		return nil
	}
	service, _ := stanza.Options[serviceKey].(*Service)
	return service
}

// files serves the files below a directory: no listings, no names that begin with a dot, no links
// that lead outside. A directory that is not there, now or later, has no files.
func files(dir string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := serveFile(w, r, dir)
		if err == nil {
			return
		}
		if !errors.Is(err, fs.ErrNotExist) {
			logrus.WithError(err).Warn("nix: a file of the site can't be served")
		}
		http.NotFound(w, r)
	})
}

func serveFile(w http.ResponseWriter, r *http.Request, dir string) error {
	name := strings.TrimPrefix(path.Clean("/"+r.URL.Path), "/")
	for part := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(part, ".") {
			return fs.ErrNotExist
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if info, err := root.Stat(path.Join(".", name)); err != nil {
		return err
	} else if info.IsDir() {
		if !strings.HasSuffix(r.URL.Path, "/") {
			http.Redirect(w, r, path.Base(r.URL.Path)+"/", http.StatusMovedPermanently)
			return nil
		}
		name = path.Join(name, "index.html")
	}
	file, err := root.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fs.ErrNotExist
	}
	w.Header().Set("Cache-Control", siteAge)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	http.ServeContent(w, r, name, info.ModTime(), file)
	return nil
}

// page is the site of a registry that has none of its own. It lists recent builds where everybody
// may pull everything.
func (s *Service) page(config *configuration.Configuration) http.Handler {
	page := template.Must(template.New("site").Parse(sitePage))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			http.NotFound(w, r)
			return
		}
		host := r.Host
		if config.HTTP.Host != "" {
			_, host, _ = strings.Cut(config.HTTP.Host, "://")
		}
		data := struct {
			Host, Prefix string
			Shell, CI    []string
			Public       bool
			Recent       []recentBuild
		}{Host: host, Shell: s.options.Shell, CI: s.options.CI, Public: config.Auth.Type() == ""}
		if s.options.Names.Prefix != "" {
			data.Prefix = s.options.Names.Prefix + "/"
		}
		if data.Public {
			data.Recent = s.recent.list()
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		w.Header().Set("Cache-Control", "no-cache")
		if err := page.Execute(w, data); err != nil {
			logrus.WithError(err).Debug("nix: the page was not written whole")
		}
	})
}
