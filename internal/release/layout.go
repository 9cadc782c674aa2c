package main

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// layout is an OCI image layout that is being made in a directory. Layers and images may be added to
// it at the same time.
type layout struct {
	dir string
}

// madeLayer is a layer in a layout.
type madeLayer struct {
	blob    imagespec.Descriptor
	diffID  digest.Digest
	created time.Time
}

// addLayer adds the layer that write writes. Files that write makes have the time created.
func (l *layout) addLayer(write func(*tree) error, created time.Time) (_ madeLayer, err error) {
	temp, err := os.CreateTemp(l.dir, "layer-")
	if err != nil {
		return madeLayer{}, err
	}
	defer func() { err = errors.Join(err, temp.Close()) }()
	compressed, plain := digest.Canonical.Digester(), digest.Canonical.Digester()
	zip, err := gzip.NewWriterLevel(io.MultiWriter(temp, compressed.Hash()), gzip.DefaultCompression)
	if err != nil {
		return madeLayer{}, err
	}
	tree := newTree(io.MultiWriter(zip, plain.Hash()), created)
	if err := write(tree); err != nil {
		return madeLayer{}, err
	}
	if err := errors.Join(tree.close(), zip.Close()); err != nil {
		return madeLayer{}, err
	}
	size, err := temp.Seek(0, io.SeekCurrent)
	if err != nil {
		return madeLayer{}, err
	}
	blob := imagespec.Descriptor{MediaType: imagespec.MediaTypeImageLayerGzip, Digest: compressed.Digest(), Size: size}
	return madeLayer{blob, plain.Digest(), created}, l.move(temp.Name(), blob.Digest)
}

// move makes a file of the layout's directory a blob.
func (l *layout) move(file string, name digest.Digest) error {
	blob := filepath.Join(l.dir, imagespec.ImageBlobsDir, name.Algorithm().String(), name.Encoded())
	return errors.Join(os.MkdirAll(filepath.Dir(blob), 0o755), os.Rename(file, blob))
}

// addJSON adds a blob.
func (l *layout) addJSON(mediaType string, value any) (imagespec.Descriptor, error) {
	content, err := json.Marshal(value)
	if err != nil {
		return imagespec.Descriptor{}, err
	}
	temp, err := os.CreateTemp(l.dir, "json-")
	if err != nil {
		return imagespec.Descriptor{}, err
	}
	_, err = temp.Write(content)
	if err := errors.Join(err, temp.Close()); err != nil {
		return imagespec.Descriptor{}, err
	}
	blob := imagespec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	return blob, l.move(temp.Name(), blob.Digest)
}

// addImage adds an image of the layers, the lowest first.
func (l *layout) addImage(config config, layers ...madeLayer) (imagespec.Descriptor, error) {
	manifest := imagespec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imagespec.MediaTypeImageManifest,
	}
	config.RootFS.Type = "layers"
	for number, layer := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, layer.diffID)
		step := imagespec.History{Created: &layer.created, CreatedBy: createdBy[number]}
		config.History = append(config.History, step)
		manifest.Layers = append(manifest.Layers, layer.blob)
	}
	var err error
	if manifest.Config, err = l.addJSON(imagespec.MediaTypeImageConfig, config); err != nil {
		return imagespec.Descriptor{}, err
	}
	image, err := l.addJSON(imagespec.MediaTypeImageManifest, manifest)
	image.Platform = &config.Platform
	return image, err
}

// writeArchive writes the layout with an index of the images into a tar.
func (l *layout) writeArchive(file string, images []imagespec.Descriptor, annotations map[string]string) (err error) {
	index, err := l.addJSON(imagespec.MediaTypeImageIndex, imagespec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imagespec.MediaTypeImageIndex,
		Manifests: images, Annotations: annotations,
	})
	if err != nil {
		return err
	}
	// What tools call the image that they load: podman by OCI's annotation, and Docker by the other.
	name := annotations[imagespec.AnnotationTitle] + ":" + annotations[imagespec.AnnotationVersion]
	index.Annotations = map[string]string{
		imagespec.AnnotationRefName: name, "io.containerd.image.name": "docker.io/library/" + name,
	}
	for name, value := range map[string]any{
		imagespec.ImageLayoutFile: imagespec.ImageLayout{Version: imagespec.ImageLayoutVersion},
		imagespec.ImageIndexFile: imagespec.Index{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imagespec.MediaTypeImageIndex,
			Manifests: []imagespec.Descriptor{index},
		},
	} {
		content, err := json.Marshal(value)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(l.dir, name), content, 0o644); err != nil {
			return err
		}
	}
	out, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	archive := tar.NewWriter(out)
	for _, name := range []string{imagespec.ImageLayoutFile, imagespec.ImageIndexFile, imagespec.ImageBlobsDir} {
		if err := l.archive(archive, name); err != nil {
			return err
		}
	}
	return archive.Close()
}

// archive writes the layout's files at name and below, in the order of their names, without a time.
func (l *layout) archive(archive *tar.Writer, name string) error {
	return filepath.WalkDir(filepath.Join(l.dir, name), func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		inside, err := filepath.Rel(l.dir, file)
		if err != nil {
			return err
		}
		header := &tar.Header{
			Typeflag: tar.TypeReg, Name: filepath.ToSlash(inside), Mode: 0o644, Size: info.Size(),
			ModTime: time.Unix(0, 0),
		}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		source, err := os.Open(file)
		if err != nil {
			return err
		}
		_, err = io.Copy(archive, source)
		return errors.Join(err, source.Close())
	})
}
