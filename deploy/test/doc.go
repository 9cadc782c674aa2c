// Package deploytest has no code but its tests, of what is below deploy: the alert rules, by
// promtool, and the dashboard.
//
// It is a module of its own, so that what it needs is no dependency of the registry.
package deploytest
