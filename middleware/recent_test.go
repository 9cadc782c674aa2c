package middleware

import (
	"testing"
	"time"
)

func TestRecentBuildsAreBounded(t *testing.T) {
	var recent recentBuilds
	for range 3 * recentKept {
		recent.add("git", time.Now(), "")
	}
	recent.add("last", time.Now(), "")
	if list := recent.list(); len(list) != recentKept || list[0].Image != "last" {
		t.Errorf("%d are kept, %q first", len(list), list[0].Image)
	}
}
