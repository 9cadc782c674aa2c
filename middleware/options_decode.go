package middleware

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/go-viper/mapstructure/v2"
	"github.com/sirupsen/logrus"

	"github.com/nixery-registry/nixery-registry/internal/nearmiss"
	"github.com/nixery-registry/nixery-registry/nixbuilder/layer/compress"
)

// ParseOptions reads a stanza's options strictly: every unknown key, wrong type and impossible
// value is in the error, each on a line that begins with its key.
func ParseOptions(stanza map[string]any) (Options, error) {
	options := defaults()
	decoder, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{
		Result:     &options,
		ZeroFields: true, // a list replaces the default
		MatchName:  func(key, field string) bool { return key == field },
		DecodeHook: mapstructure.ComposeDecodeHookFunc(decodeDuration, decodeBytes, decodeCompression, requireKind),
	})
	if err != nil {
		return Options{}, err
	}
	value, faults := namedKeys("", stanza)
	named, _ := value.(map[string]any)
	faults = append(faults, asNixSpells(named)...)
	faults = append(faults, typeFaults(decoder.Decode(named))...)
	if build, _ := named["build"].(map[string]any); build["total"] == nil {
		options.Build.Total = max(options.Build.Total, options.Build.Timeout)
	}
	if named["refresh"] == nil && options.Packages.Git.URL != "" {
		options.Refresh = gitRefresh
	}
	for _, key := range unusedKeys(named) {
		faults = append(faults, fmt.Errorf("%s: unknown key%s", dotted(key), meant(dotted(key))))
	}
	decoding := faults
	for _, fault := range options.faults() {
		key, _, _ := strings.Cut(fault.Error(), ":")
		comesOf := func(other error) bool { return strings.HasPrefix(other.Error(), key) }
		if !slices.ContainsFunc(decoding, comesOf) {
			faults = append(faults, fault)
		}
	}
	return options, errors.Join(faults...)
}

// namedKeys returns a value of YAML, which is at path, with maps by text, so that the decoder can name
// their keys. It leaves out keys that are no texts, and returns a fault for each. What is below
// packages.config is nobody's option: a map with such a key stays as it is there.
func namedKeys(path string, value any) (any, []error) {
	named := make(map[string]any)
	var faults []error
	add := func(key string, one any) {
		var below []error
		named[key], below = namedKeys(strings.TrimPrefix(path+"."+key, "."), one)
		faults = append(faults, below...)
	}
	switch value := value.(type) {
	case map[string]any:
		for key, one := range value {
			add(key, one)
		}
	case map[any]any:
		for key, one := range value {
			name, ok := key.(string)
			switch {
			case ok:
				add(name, one)
			case strings.HasPrefix(path, "packages.config"):
				return value, nil
			default:
				faults = append(faults, fmt.Errorf("%s: its key %v is not a text", path, key))
			}
		}
	default:
		return value, nil
	}
	sortFaults(faults)
	return named, faults
}

// asNixSpells takes keys of the section nix as nix.conf spells them, and says how they are spelt
// here. It returns a fault for each that is there in both spellings.
func asNixSpells(stanza map[string]any) (faults []error) {
	section, _ := stanza["nix"].(map[string]any)
	for _, key := range slices.Sorted(maps.Keys(section)) {
		own := strings.ReplaceAll(key, "-", "")
		if own == key || !slices.Contains(keysBeside("nix."+own), own) {
			continue
		}
		if _, both := section[own]; both {
			faults = append(faults, fmt.Errorf("nix.%s: is there as %s, too: leave one out", key, own))
		} else {
			logrus.Infof("nix: nix.%s is read as nix.%s, which is how the registry spells it", key, own)
			section[own] = section[key]
		}
		delete(section, key)
	}
	return faults
}

// meant is the part of a fault that says which key an unknown one may stand for.
func meant(key string) string {
	known := keysBeside(key)
	_, last, _ := cutLast(key)
	if word := nearmiss.Closest(last, known); word != "" {
		return ": did you mean " + word + "?"
	}
	return ""
}

// keysBeside returns the keys that options have where a key is.
func keysBeside(key string) []string {
	section, _, _ := cutLast(key)
	at := reflect.TypeFor[Options]()
	for section != "" {
		var part string
		part, section, _ = strings.Cut(section, ".")
		switch at.Kind() {
		case reflect.Map:
			at = at.Elem()
		case reflect.Struct:
			at = fieldsOf(at)[part]
		}
		if at == nil {
			return nil
		}
	}
	if at.Kind() != reflect.Struct {
		return nil
	}
	return slices.Sorted(maps.Keys(fieldsOf(at)))
}

// fieldsOf returns the types of a struct's fields, by their keys.
func fieldsOf(section reflect.Type) map[string]reflect.Type {
	fields := make(map[string]reflect.Type)
	for field := range section.Fields() {
		fields[field.Tag.Get("mapstructure")] = field.Type
	}
	return fields
}

func cutLast(key string) (section, last string, ok bool) {
	if i := strings.LastIndexByte(key, '.'); i >= 0 {
		return key[:i], key[i+1:], true
	}
	return "", key, false
}

// dotted returns a key as people write it: packages.nixpath.x, where the decoder has
// packages.nixpath[x].
func dotted(key string) string {
	return regexp.MustCompile(`^(packages\.nixpath)\[([^\]]*)\]`).ReplaceAllString(key, "$1.$2")
}

// unusedKeys are the keys that no option has, sorted. The decoder does not report them beside a
// value of a wrong type, so here it sees only empty values of the right types.
func unusedKeys(stanza map[string]any) []string {
	var found mapstructure.Metadata
	decoder, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{
		Result:    new(Options),
		Metadata:  &found,
		MatchName: func(key, field string) bool { return key == field },
		DecodeHook: func(_, to reflect.Type, value any) (any, error) {
			if (to.Kind() == reflect.Struct || to.Kind() == reflect.Map) &&
				reflect.TypeOf(value).Kind() == reflect.Map {
				return value, nil
			}
			return reflect.Zero(to).Interface(), nil
		},
	})
	if err == nil {
		err = decoder.Decode(stanza)
	}
	if err != nil {
		return nil
	}
	slices.Sort(found.Unused)
	return found.Unused
}

// typeFaults takes the decoder's error apart, into one for each key, sorted.
func typeFaults(err error) []error {
	var faults []error
	switch err := err.(type) { //nolint:errorlint // the tree of errors is walked here
	case nil:
		return nil
	case interface{ Unwrap() []error }:
		for _, one := range err.Unwrap() {
			faults = append(faults, typeFaults(one)...)
		}
	case *mapstructure.DecodeError:
		return []error{fmt.Errorf("%s: %w", dotted(err.Name()), err.Unwrap())}
	case interface{ Unwrap() error }:
		return typeFaults(err.Unwrap())
	default:
		return []error{err}
	}
	sortFaults(faults)
	return faults
}

func sortFaults(faults []error) {
	slices.SortFunc(faults, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
}

// requireKind refuses values of a wrong type. The decoder itself would turn some into others, 1.5
// into 1.
func requireKind(_, to reflect.Type, value any) (any, error) {
	var ok bool
	var want string
	switch kind := reflect.TypeOf(value).Kind(); to.Kind() {
	case reflect.String:
		ok, want = kind == reflect.String, "a text: put it in quotes"
	case reflect.Int, reflect.Int64:
		ok, want = kind == reflect.Int || kind == reflect.Int64, "a whole number"
	case reflect.Bool:
		ok, want = kind == reflect.Bool, "true or false"
	case reflect.Slice:
		ok, want = kind == reflect.Slice, "a list"
	case reflect.Struct, reflect.Map:
		ok, want = kind == reflect.Map, "a map of keys"
	default:
		ok = true
	}
	if !ok {
		return nil, fmt.Errorf("%#v is not %s", value, want)
	}
	return value, nil
}

func decodeDuration(_, to reflect.Type, value any) (any, error) {
	if to != reflect.TypeFor[time.Duration]() {
		return value, nil
	}
	text, ok := value.(string)
	if !ok {
		return nil, fmt.Errorf("%v has no unit: write 90s, 15m or 1h", value)
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return nil, fmt.Errorf("%q is not a time: write 90s, 15m or 1h", text)
	}
	return d, nil
}

func decodeBytes(_, to reflect.Type, value any) (any, error) {
	text, ok := value.(string)
	if to != reflect.TypeFor[Bytes]() || !ok {
		return value, nil
	}
	var size Bytes
	err := size.Set(text)
	return size, err
}

// Set reads a text such as 10GB or 512MiB. With String and Type, Bytes can be a flag of a command.
func (b *Bytes) Set(text string) error {
	parse := units.FromHumanSize
	if strings.HasSuffix(strings.ToLower(text), "ib") {
		parse = units.RAMInBytes
	}
	size, err := parse(text)
	if err != nil {
		return fmt.Errorf("%q is not a size: write 500MB, 10GB or 8GiB", text)
	}
	*b = Bytes(size)
	return nil
}

func (b Bytes) String() string { return units.HumanSize(float64(b)) }

// Type is how a flag of this type is written in help.
func (Bytes) Type() string { return "SIZE" }

func decodeCompression(_, to reflect.Type, value any) (any, error) {
	text, ok := value.(string)
	if to != reflect.TypeFor[compress.Compression]() || !ok {
		return value, nil
	}
	return compress.Parse(text)
}
