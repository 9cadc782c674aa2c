package records

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
)

// Key makes the key of a record out of what it depends on: different parts, different keys.
func Key(parts ...string) string {
	text := make([]byte, 0, 512) // which most are shorter than: every pull makes one
	for _, part := range parts {
		text = strconv.AppendInt(text, int64(len(part)), 10)
		text = append(append(text, ':'), part...)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}
