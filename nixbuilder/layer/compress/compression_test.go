package compress

import "testing"

func TestParse(t *testing.T) {
	for _, test := range []struct {
		in        string
		want      Compression
		mediaType string // empty: refused
	}{
		{"gzip", Gzip, "application/vnd.oci.image.layer.v1.tar+gzip"},
		{"zstd", Zstd, "application/vnd.oci.image.layer.v1.tar+zstd"},
		{"none", None, "application/vnd.oci.image.layer.v1.tar"},
		{"estargz", EStargz, "application/vnd.oci.image.layer.v1.tar+gzip"},
		{"zstd:chunked", ZstdChunked, "application/vnd.oci.image.layer.v1.tar+zstd"},
		{"", 0, ""},
		{"GZIP", 0, ""},
		{"Compression(9)", 0, ""},
	} {
		t.Run(test.in, func(t *testing.T) {
			got, err := Parse(test.in)
			if test.mediaType == "" {
				if err == nil {
					t.Errorf("got %v, want an error", got)
				}
				return
			}
			if err != nil || got != test.want || got.MediaType() != test.mediaType || got.String() != test.in {
				t.Errorf("got %v (%v), media type %s", got, err, got.MediaType())
			}
		})
	}
}
