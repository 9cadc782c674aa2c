// Package deploytest has no code but its tests, of what is below deploy: the Helm chart, which is
// rendered with Helm's own library and compared with the schemas of Kubernetes,
// deploy/kubernetes.yaml, which is the chart rendered, the alert rules, by promtool, and the
// dashboard.
//
// It is a module of its own, so that what it needs is no dependency of the registry.
package deploytest
