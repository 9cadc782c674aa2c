// Package recordstest has a State for tests.
package recordstest

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nixery-registry/nixery-registry/nixbuilder/records"
)

// A Memory is a State for tests of what is kept, and of what happens when it is lost. It is safe
// for concurrent use, but for its fields.
type Memory struct {
	// Records are what is kept, by key.
	Records map[string][]byte
	// Gets counts the calls of Get.
	Gets int
	// Err is how every call fails, unless it is nil.
	Err error
	// Times are when records were written, as far as a test says.
	Times map[string]time.Time

	mu sync.Mutex
}

// NewMemory makes a State that is empty.
func NewMemory() *Memory { return &Memory{Records: make(map[string][]byte)} }

// Get implements records.State.
func (m *Memory) Get(_ context.Context, key string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.Gets++
	if m.Err != nil {
		return nil, m.Err
	}
	record, ok := m.Records[key]
	if !ok {
		return nil, records.ErrNotFound
	}
	return record, nil
}

// Put implements records.State.
func (m *Memory) Put(_ context.Context, key string, record []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.Err != nil {
		return m.Err
	}
	m.Records[key] = record
	return nil
}

// Delete implements records.State.
func (m *Memory) Delete(_ context.Context, key string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.Err != nil {
		return m.Err
	}
	delete(m.Records, key)
	return nil
}

// Written implements records.Dated: everything was written at the beginning of time, unless Times has
// the key.
func (m *Memory) Written(_ context.Context, key string) (time.Time, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.Records[key]; !ok && m.Err == nil {
		return time.Time{}, records.ErrNotFound
	}
	return m.Times[key], m.Err
}

// List implements records.State.
func (m *Memory) List(_ context.Context, prefix string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for key := range maps.Keys(m.Records) {
		if below, ok := strings.CutPrefix(key, prefix+"/"); ok {
			name, _, _ := strings.Cut(below, "/")
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), m.Err
}
