// Package nearmiss tells which known word somebody may have meant.
package nearmiss

import "strings"

// Mistakes is how many bytes must be inserted, removed, replaced, or exchanged with their neighbour
// to turn a into b. No byte is part of two mistakes (the distance of optimal string alignment).
func Mistakes(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, row = last, row, before
		row[0] = i
		for j := 1; j <= len(b); j++ {
			replace := last[j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			row[j] = min(replace, row[j-1]+1, last[j]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}

// Closest returns the word that a mistaken one most likely stands for, the first of equals, whatever
// their case. It is empty if none is near: a mistake for every four letters, and one more, is too
// much.
func Closest(mistaken string, words []string) string {
	var closest string
	least := 2 + len(mistaken)/4
	for _, word := range words {
		if n := Mistakes(strings.ToLower(mistaken), strings.ToLower(word)); n < least {
			closest, least = word, n
		}
	}
	return closest
}
