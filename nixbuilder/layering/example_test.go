package layering_test

import (
	"fmt"

	"github.com/nixery-registry/nixery-registry/nixbuilder/layering"
	"github.com/nixery-registry/nixery-registry/nixbuilder/store"
)

const (
	glibc   = store.Path("/nix/store/aj2q88glyrgps19f9gidl6xyb2arnfva-glibc-2.39")
	htop    = store.Path("/nix/store/bj2q88glyrgps19f9gidl6xyb2arnfva-htop-3.3.0")
	libnl   = store.Path("/nix/store/cj2q88glyrgps19f9gidl6xyb2arnfva-libnl-3.9.0")
	nano    = store.Path("/nix/store/dj2q88glyrgps19f9gidl6xyb2arnfva-nano-7.2")
	ncurses = store.Path("/nix/store/fj2q88glyrgps19f9gidl6xyb2arnfva-ncurses-6.4")
)

// closure is that of an image of htop and nano.
func closure() []store.PathInfo {
	return []store.PathInfo{
		{Path: glibc, NarSize: 30_000_000},
		{Path: htop, NarSize: 300_000, References: []store.Path{glibc, libnl, ncurses}},
		{Path: libnl, NarSize: 900_000, References: []store.Path{glibc}},
		{Path: nano, NarSize: 600_000, References: []store.Path{glibc, ncurses}},
		{Path: ncurses, NarSize: 1_500_000, References: []store.Path{glibc}},
	}
}

// The heads of the first image.
func ExampleAssign() {
	kept := make(map[layering.Key]layering.Head)
	known := func(key layering.Key) (layering.Head, bool) { entry, ok := kept[key]; return entry, ok }
	added, err := layering.Assign(closure(), known)
	if err != nil {
		fmt.Println(err)
	}
	for _, entry := range added {
		kept[entry.Key] = entry
		fmt.Printf("%s: head %s, patron %q\n", entry.Key, entry.Head, entry.Patron)
	}
	// Output:
	// htop: head htop, patron "htop"
	// nano: head nano, patron "nano"
	// libnl: head htop, patron ""
	// ncurses: head ncurses, patron "htop"
	// glibc: head ncurses, patron ""
}

// With layers enough, each group has its own. With three, those of the patron htop share one.
func ExampleGroup() {
	kept := map[layering.Key]layering.Head{
		"htop":    {Key: "htop", Head: "htop", Patron: "htop"},
		"nano":    {Key: "nano", Head: "nano", Patron: "nano"},
		"libnl":   {Key: "libnl", Head: "htop"},
		"ncurses": {Key: "ncurses", Head: "ncurses", Patron: "htop"},
		"glibc":   {Key: "glibc", Head: "ncurses"},
	}
	known := func(key layering.Key) (layering.Head, bool) { entry, ok := kept[key]; return entry, ok }
	for _, budget := range []int{94, 3} {
		layers, err := layering.Group(closure(), known, layering.Options{Budget: budget})
		if err != nil {
			fmt.Println(err)
		}
		fmt.Println("budget:", budget)
		for _, paths := range layers {
			for _, path := range paths {
				fmt.Print(" ", path.Name())
			}
			fmt.Println()
		}
	}
	// Output:
	// budget: 94
	//  glibc-2.39
	//  ncurses-6.4
	//  htop-3.3.0 libnl-3.9.0
	//  nano-7.2
	// budget: 3
	//  glibc-2.39
	//  htop-3.3.0 libnl-3.9.0 ncurses-6.4
	//  nano-7.2
}

func ExampleKeyOf() {
	fmt.Println(layering.KeyOf(htop))
	fmt.Println(layering.KeyOf("/nix/store/aj2q88glyrgps19f9gidl6xyb2arnfva-gcc-13.2.0-lib"))
	fmt.Println(layering.KeyOf("/nix/store/aj2q88glyrgps19f9gidl6xyb2arnfva-perl5.38.2-JSON-4.10"))
	// Output:
	// htop
	// gcc-lib
	// perl5.38-JSON
}
