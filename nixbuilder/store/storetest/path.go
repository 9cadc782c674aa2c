// Package storetest makes store paths for tests.
package storetest

import (
	"fmt"
	"strings"

	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

// Path is a store path of that name, whose hash is made of the name.
func Path(name string) store.Path {
	hash := strings.Repeat("0", 32-len(fmt.Sprintf("%x", name))%32) + fmt.Sprintf("%x", name)
	hash = strings.NewReplacer("e", "g").Replace(hash)
	p, err := store.ParsePath(store.Dir + "/" + hash[len(hash)-32:] + "-" + name)
	if err != nil {
		panic(err)
	}
	return p
}
