package lease

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/distribution/distribution/v3/configuration"
)

// prefix is that of all keys and channels.
const prefix = "nixery-registry:"

// A seal is what the replicas of one registry have in common, and nobody else: they find the same
// names in Redis by it, and tell by it what another of them has written.
type seal struct {
	names []byte // a key of HMAC
	aead  cipher.AEAD
}

// newSeal makes the seal of a registry: of its secret, which replicas have in common by the
// registry's own rule, and of what its storage is called, as secrets are copied with configurations.
func newSeal(config *configuration.Configuration) (seal, error) {
	storage := config.Storage.Parameters()
	identity := []any{"v1", config.Storage.Type()}
	for _, parameter := range []string{"accountname", "bucket", "container", "rootdirectory"} {
		identity = append(identity, fmt.Sprint(storage[parameter]))
	}
	info, err := json.Marshal(identity)
	if err != nil {
		return seal{}, err
	}
	keys, err := hkdf.Key(sha256.New, []byte(config.HTTP.Secret), nil, string(info), 64)
	if err != nil {
		return seal{}, err
	}
	block, err := aes.NewCipher(keys[32:])
	if err != nil {
		return seal{}, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return seal{names: keys[:32], aead: aead}, err
}

// name is what something is called in Redis. It does not tell what it is.
func (s seal) name(kind, key string) string {
	hash := hmac.New(sha256.New, s.names)
	fmt.Fprintf(hash, "%s\x00%s", kind, key)
	return prefix + kind + ":" + hex.EncodeToString(hash.Sum(nil)[:16])
}

// A note is what is kept under a name: of a lease, when it was given, and of a failure all.
type note struct {
	At      time.Time `json:"at"`
	Kind    int       `json:"kind,omitempty"` // a status.Kind
	Message string    `json:"message,omitempty"`
}

// maxNote is how long a note may be, in bytes.
const maxNote = 64 << 10

var errNote = errors.New("it holds what no replica has written")

// write seals a note for a name.
func (s seal) write(name string, n note) (string, error) {
	text, err := json.Marshal(n)
	return string(s.aead.Seal(nil, nil, text, []byte(name))), err
}

// read opens what is kept under a name. The error is errNote if it was not sealed for that name.
func (s seal) read(name, sealed string) (n note, err error) {
	text, err := s.aead.Open(nil, nil, []byte(sealed), []byte(name))
	if err != nil {
		return note{}, errNote
	}
	err = json.Unmarshal(text, &n)
	return n, err
}
