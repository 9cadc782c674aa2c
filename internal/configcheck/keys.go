package configcheck

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"go.yaml.in/yaml/v3"

	"github.com/nixery-registry/nixery-registry/internal/nearmiss"
)

// open are the keys of the sections that upstream declares as maps of anything, by the path of the
// section: those that its code looks up. What is below the others is whatever it is.
var open = map[string][]string{
	"storage": {
		"azure", "filesystem", "gcs", "inmemory", "s3", "s3aws", "cache", "delete", "maintenance", "redirect", "tag",
	},
	"storage.azure": {
		"accountkey", "accountname", "connectionstring", "container", "credentials", "max_retries", "realm",
		"retry_delay", "rootdirectory", "serviceurl", "skipverify",
	},
	"storage.azure.credentials": {"clientid", "secret", "tenantid", "type"},
	"storage.filesystem":        {"maxthreads", "rootdirectory"},
	"storage.gcs": {
		"bucket", "chunksize", "credentials", "keyfile", "maxconcurrency", "rootdirectory", "useragent",
	},
	"storage.inmemory":                  {},
	"storage.s3":                        s3Keys,
	"storage.s3aws":                     s3Keys,
	"storage.cache":                     {"blobdescriptor", "blobdescriptorsize", "layerinfo"},
	"storage.delete":                    {"enabled"},
	"storage.maintenance":               {"readonly", "uploadpurging"},
	"storage.maintenance.readonly":      {"enabled"},
	"storage.maintenance.uploadpurging": {"age", "dryrun", "enabled", "interval"},
	"storage.redirect":                  {"disable"},
	"storage.tag":                       {"concurrencylimit"},
	"auth":                              {"anonymouspull", "htpasswd", "silly", "token"},
	"auth.anonymouspull":                {"build", "htpasswd", "silly", "token"},
	"auth.htpasswd":                     htpasswdKeys,
	"auth.anonymouspull.htpasswd":       htpasswdKeys,
	"auth.silly":                        {"realm", "service"},
	"auth.anonymouspull.silly":          {"realm", "service"},
	"auth.token":                        tokenKeys,
	"auth.anonymouspull.token":          tokenKeys,
	"middleware":                        {"registry", "repository", "storage"},
}

var (
	htpasswdKeys = []string{"path", "realm"}
	tokenKeys    = []string{
		"autoredirect", "autoredirectpath", "issuer", "jwks", "realm", "rootcertbundle", "service", "signingalgorithms",
	}
	s3Keys = []string{
		"accelerate", "accesskey", "bucket", "chunksize", "encrypt", "forcepathstyle", "keyid", "loglevel",
		"multipartcopychunksize", "multipartcopymaxconcurrency", "multipartcopythresholdsize", "objectacl",
		"redirectendpoint", "region", "regionendpoint", "rootdirectory", "secretkey", "secure", "sessiontoken",
		"skipverify", "storageclass", "usedualstack", "usefipsendpoint", "useragent", "v4auth",
	}
)

// Keys returns a fault for each key of a configuration's text that means nothing to the registry,
// or that is there twice, and for each time without a unit, in the order of their lines. A text that
// is not YAML has none: the registry says what is wrong with that.
func Keys(text []byte) []error {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil || len(document.Content) == 0 {
		return nil
	}
	w := walk{left: maxNodes}
	w.value("", document.Content[0], reflect.TypeFor[configuration.Configuration]())
	slices.SortStableFunc(w.found, func(a, b fault) int { return cmp.Compare(a.line, b.line) })
	var faults []error
	for _, one := range w.found {
		faults = append(faults, one.err)
	}
	return faults
}

type fault struct {
	line int
	err  error
}

// maxNodes is how much of a document is looked at: aliases of YAML may make it endless.
const maxNodes = 100_000

// A walk goes through a document beside the type that it is for.
type walk struct {
	found []fault
	left  int // of maxNodes
}

func (w *walk) add(at *yaml.Node, format string, args ...any) {
	err := fmt.Errorf("line %d: "+format, append([]any{at.Line}, args...)...)
	w.found = append(w.found, fault{at.Line, err})
}

// value looks at what is at a path. A nil type is anything.
func (w *walk) value(path string, node *yaml.Node, as reflect.Type) {
	if w.left--; w.left < 0 {
		return
	}
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	for as != nil && as.Kind() == reflect.Pointer {
		as = as.Elem()
	}
	switch node.Kind {
	case yaml.MappingNode:
		w.mapping(path, node, as)
	case yaml.SequenceNode:
		var element reflect.Type
		if as != nil && as.Kind() == reflect.Slice {
			element = as.Elem()
		}
		for i, one := range node.Content {
			w.value(path+"["+strconv.Itoa(i)+"]", one, element)
		}
	case yaml.ScalarNode:
		if as == reflect.TypeFor[time.Duration]() && node.Tag == "!!int" && node.Value != "0" {
			w.add(node, "%s: %s has no unit: write %ss, 15m or 1h", path, node.Value, node.Value)
		}
	}
}

func (w *walk) mapping(path string, node *yaml.Node, as reflect.Type) {
	known, types := keysOf(path, as)
	seen := make(map[string]bool)
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		below := strings.TrimPrefix(path+"."+key.Value, ".")
		if key.Kind != yaml.ScalarNode || key.Tag == "!!merge" {
			continue
		}
		switch {
		case seen[key.Value]:
			w.add(key, "%s: is there twice, and the last one counts", below)
		case known != nil && !slices.Contains(known, key.Value):
			w.add(key, "%s: unknown key%s", below, suggestion(key.Value, known))
		default:
			w.value(below, value, types(key.Value))
		}
		seen[key.Value] = true
	}
}

// keysOf returns the keys that there may be at a path, nil if there may be any, and the type of the
// value of each.
func keysOf(path string, as reflect.Type) (known []string, types func(key string) reflect.Type) {
	anything := func(string) reflect.Type { return nil }
	switch keys, ok := open[path]; {
	case ok && as != nil && as.Kind() == reflect.Map:
		return keys, func(string) reflect.Type { return as.Elem() }
	case ok:
		return keys, anything
	case as == nil:
		return nil, anything
	case as.Kind() == reflect.Map:
		return nil, func(string) reflect.Type { return as.Elem() }
	case as.Kind() != reflect.Struct:
		return nil, anything
	}
	fields := fieldsOf(as)
	return slices.Sorted(maps.Keys(fields)), func(key string) reflect.Type { return fields[key] }
}

// fieldsOf returns the types of a struct's fields, by their names in YAML.
func fieldsOf(as reflect.Type) map[string]reflect.Type {
	fields := make(map[string]reflect.Type)
	for field := range as.Fields() {
		name, options, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		if options == "inline" {
			maps.Copy(fields, fieldsOf(field.Type))
			continue
		}
		fields[cmp.Or(name, strings.ToLower(field.Name))] = field.Type
	}
	return fields
}

func suggestion(key string, known []string) string {
	if meant := nearmiss.Closest(key, known); meant != "" {
		return ": did you mean " + meant + "?"
	}
	return ""
}
