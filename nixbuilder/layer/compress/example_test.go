package compress_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"

	"github.com/nixery-registry/nixery-registry/nixbuilder/layer/compress"
)

// The second archive begins with a section of the first one, which is not filled again.
func ExampleCompressor_WriteSections() {
	section := func(name string) compress.Section {
		return compress.Section{Key: name, Fill: func(s *compress.Stream) error {
			fmt.Println("filling", name)
			archive := tar.NewWriter(s)
			if err := archive.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}); err != nil {
				return err
			}
			return archive.Flush()
		}}
	}
	end := func(s *compress.Stream) error { return tar.NewWriter(s).Close() }
	c := compress.New(compress.Gzip, 1)
	for _, names := range [][]string{{"bin", "etc"}, {"bin", "etc", "lib"}, {"bin", "lib", "etc"}} {
		var sections []compress.Section
		for _, name := range names {
			sections = append(sections, section(name))
		}
		fmt.Println(names)
		if _, err := c.WriteSections(context.Background(), new(bytes.Buffer), sections, end); err != nil {
			fmt.Println(err)
		}
	}
	// Output:
	// [bin etc]
	// filling bin
	// filling etc
	// [bin etc lib]
	// filling lib
	// [bin lib etc]
	// filling lib
	// filling etc
}
