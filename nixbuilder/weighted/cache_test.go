package weighted

import (
	"slices"
	"testing"
)

func TestCache(t *testing.T) {
	type put struct {
		key   string
		bytes int
	}
	for _, test := range []struct {
		name  string
		puts  []put
		want  []string
		bytes int
	}{
		{"nothing", nil, nil, 0},
		{"what there is room for", []put{{"a", 100}, {"b", 0}}, []string{"a", "b"}, 500},
		{"what was used first goes", []put{{"a", 200}, {"b", 200}, {"c", 200}}, []string{"b", "c"}, 800},
		{"as much of it as it takes", []put{{"a", 0}, {"b", 0}, {"c", 0}, {"d", 600}}, []string{"c", "d"}, 1000},
		{"all of it", []put{{"a", 0}, {"b", 0}, {"c", 800}}, []string{"c"}, 1000},
		{"what is too large is not kept", []put{{"a", 0}, {"b", 801}}, []string{"a"}, 200},
		{"nor what it is put in place of", []put{{"a", 0}, {"b", 0}, {"a", 801}}, []string{"b"}, 200},
		{"in place of a larger one", []put{{"a", 600}, {"b", 0}, {"a", 0}}, []string{"a", "b"}, 400},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := New[string, int](1000)
			for _, p := range test.puts {
				c.Add(p.key, p.bytes, p.bytes)
			}
			var got []string
			for _, key := range []string{"a", "b", "c", "d"} {
				value, ok := c.Get(key)
				if ok != c.Contains(key) || ok && !slices.Contains(test.puts, put{key, value}) {
					t.Errorf("Get(%s) = %d, %t; Contains = %t", key, value, ok, c.Contains(key))
				}
				if ok {
					got = append(got, key)
				}
			}
			if !slices.Equal(got, test.want) || c.Bytes() != test.bytes {
				t.Errorf("it keeps %v in %d bytes, want %v in %d", got, c.Bytes(), test.want, test.bytes)
			}
		})
	}
}

func TestGettingIsUsing(t *testing.T) {
	c := New[string, int](400)
	c.Add("a", 1, 0)
	c.Add("b", 2, 0)
	c.Get("a")
	c.Add("c", 3, 0)
	if !c.Contains("a") || c.Contains("b") {
		t.Error("what was used last is gone")
	}
	c.Remove("a")
	if c.Contains("a") || c.Bytes() != 200 {
		t.Errorf("after Remove, it is there: %t, and %d bytes are", c.Contains("a"), c.Bytes())
	}
}
