{{- /* What makes no sense ends the rendering, with the key, the reason and the way out. */}}
{{- define "registry.senseless" -}}
{{- include "registry.senseless.image" . -}}
{{- include "registry.senseless.packages" . -}}
{{- include "registry.senseless.storage" . -}}
{{- include "registry.senseless.replicas" . -}}
{{- include "registry.senseless.proxies" . -}}
{{- include "registry.senseless.metrics" . -}}
{{- include "registry.senseless.identity" . -}}
{{- include "registry.senseless.cleanup" . -}}
{{- end -}}

{{- define "registry.senseless.image" -}}
{{- if not .Values.image.repository -}}
{{- fail "image.repository: missing: name the place that nodes pull the registry's own image from, without a tag" -}}
{{- end -}}
{{- if and .Values.image.tag .Values.image.digest -}}
{{- fail "image.tag: has no effect beside image.digest: keep one of the two" -}}
{{- end -}}
{{- end -}}

{{- define "registry.senseless.packages" -}}
{{- $packages := default (dict) .Values.options.packages -}}
{{- if not (or $packages.channel $packages.git $packages.path) -}}
{{- fail "options.packages: names no package set: give {channel: nixos-26.05}, or {git: {url: …}}" -}}
{{- end -}}
{{- range (default (dict) .Values.config.middleware).repository -}}
{{- if eq .name "nix" -}}
{{- fail "config.middleware.repository: the chart makes the stanza nix: write its options below options" -}}
{{- end -}}
{{- end -}}
{{- $build := default (dict) .Values.options.build -}}
{{- $nix := default (dict) .Values.options.nix -}}
{{- if not .Values.store.enabled -}}
{{- if $build.local -}}
{{- fail "options.build.local: builds need a Nix store: leave it out, or set store.enabled: true" -}}
{{- end -}}
{{- if and (hasKey $build "storeless") (not $build.storeless) -}}
{{- fail "options.build.storeless: false needs a Nix store: leave it out, or set store.enabled: true" -}}
{{- end -}}
{{- end -}}
{{- if or $build.storeless (not .Values.store.enabled) -}}
{{- if not $nix.substituters -}}
{{- fail "options.nix.substituters: missing: without a Nix store, images are made of what these caches have" -}}
{{- end -}}
{{- if not $nix.trustedpublickeys -}}
{{- fail "options.nix.trustedpublickeys: missing: without a Nix store, nothing but these keys says what is trusted" -}}
{{- end -}}
{{- end -}}
{{- $cache := include "registry.option" (list . "10GB" "cachesize") -}}
{{- $cache = include "registry.bytes" (list "options.cachesize" $cache) | int64 -}}
{{- $scratch := include "registry.bytes" (list "scratch.size" (printf "%sB" (trimSuffix "B" .Values.scratch.size))) | int64 -}}
{{- if le $scratch $cache -}}
{{- fail (printf "scratch.size: %s does not hold options.cachesize, and builds beside it: raise it" .Values.scratch.size) -}}
{{- end -}}
{{- end -}}

{{- define "registry.senseless.storage" -}}
{{- $drivers := include "registry.drivers" . -}}
{{- if contains "," $drivers -}}
{{- fail (printf "config.storage: names several drivers (%s): keep one" $drivers) -}}
{{- end -}}
{{- if include "registry.onVolume" . -}}
{{- $root := get (default (dict) (default (dict) .Values.config.storage).filesystem) "rootdirectory" -}}
{{- if and $root (ne $root "/var/lib/registry") -}}
{{- fail (printf "config.storage.filesystem.rootdirectory: %s is not on the volume: write /var/lib/registry, or leave it out" $root) -}}
{{- end -}}
{{- else if .Values.images.existingClaim -}}
{{- fail (printf "images.existingClaim: has no effect, as config.storage says %s: leave it out" $drivers) -}}
{{- end -}}
{{- end -}}

{{- define "registry.senseless.replicas" -}}
{{- if gt (int .Values.replicas) 1 -}}
{{- if eq (include "registry.drivers" .) "inmemory" -}}
{{- fail "replicas: several need a storage that they share, and config.storage.inmemory is each one's own" -}}
{{- end -}}
{{- if and (include "registry.onVolume" .) (ne .Values.images.accessMode "ReadWriteMany") -}}
{{- fail (printf "replicas: several share the volume of images, and images.accessMode is %s: take ReadWriteMany, or S3 or GCS in config.storage" .Values.images.accessMode) -}}
{{- end -}}
{{- $inConfig := (default (dict) .Values.config.http).secret -}}
{{- if not (or (include "registry.httpSecret" .) $inConfig .Values.secretEnv.REGISTRY_HTTP_SECRET) -}}
{{- fail "httpSecret: several replicas need the same one, or pushes fail that reach two of them: set httpSecret.generate or httpSecret.existingSecret" -}}
{{- end -}}
{{- if ge (int .Values.podDisruptionBudget.maxUnavailable) (int .Values.replicas) -}}
{{- fail "podDisruptionBudget.maxUnavailable: allows all replicas to be away at a time: take less than replicas" -}}
{{- end -}}
{{- end -}}
{{- $drain := get (default (dict) .Values.config.http) "draintimeout" | default "30s" -}}
{{- $drain = include "registry.seconds" (list "config.http.draintimeout" $drain) | float64 -}}
{{- $stop := addf $drain .Values.preStopSeconds -}}
{{- if le (float64 .Values.terminationGracePeriodSeconds) $stop -}}
{{- fail (printf "terminationGracePeriodSeconds: must be above http.draintimeout and preStopSeconds together, which are %v" $stop) -}}
{{- end -}}
{{- end -}}

{{- define "registry.senseless.proxies" -}}
{{- $hold := include "registry.option" (list . "25s" "build" "hold") -}}
{{- $hold = include "registry.seconds" (list "options.build.hold" $hold) | float64 -}}
{{- if .Values.ingress.enabled -}}
{{- if not .Values.ingress.host -}}
{{- fail "ingress.host: missing: name the host under which clients pull" -}}
{{- end -}}
{{- if le (float64 .Values.ingress.timeoutSeconds) $hold -}}
{{- fail (printf "ingress.timeoutSeconds: must be above options.build.hold, for which clients wait for an answer: take more than %v" $hold) -}}
{{- end -}}
{{- end -}}
{{- if .Values.gateway.enabled -}}
{{- if not .Values.gateway.parentRefs -}}
{{- fail "gateway.parentRefs: missing: name a Gateway" -}}
{{- end -}}
{{- with .Values.gateway.requestTimeout -}}
{{- $timeout := include "registry.seconds" (list "gateway.requestTimeout" .) | float64 -}}
{{- if and (gt $timeout 0.0) (le $timeout $hold) -}}
{{- fail (printf "gateway.requestTimeout: must be 0s (none), or above options.build.hold: take more than %vs" $hold) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "registry.senseless.metrics" -}}
{{- with .Values.metrics -}}
{{- if and .serviceMonitor.enabled .podMonitor.enabled -}}
{{- fail "metrics.podMonitor: counts everything twice beside metrics.serviceMonitor: keep one of the two" -}}
{{- end -}}
{{- if and (not .enabled) (or .serviceMonitor.enabled .podMonitor.enabled .rules.enabled .dashboard.enabled) -}}
{{- fail "metrics.enabled: false leaves nothing to watch: set it, or switch serviceMonitor, podMonitor, rules and dashboard off" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "registry.senseless.identity" -}}
{{- with .Values.serviceAccount -}}
{{- if and (eq .workloadIdentity "gke") $.Values.store.enabled (not .buildsMayUseIdentity) -}}
{{- fail "serviceAccount.workloadIdentity: gke gives the identity to the whole pod, so whatever is built could write to the bucket: set store.enabled: false, use a key (secretMounts), or accept it with buildsMayUseIdentity: true" -}}
{{- end -}}
{{- if and .workloadIdentity (not .create) (not .name) -}}
{{- fail "serviceAccount.name: missing: workloadIdentity is of a service account, and create is false" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "registry.senseless.cleanup" -}}
{{- $cleanup := .Values.cleanup -}}
{{- $storage := default (dict) .Values.config.storage -}}
{{- $readonly := get (default (dict) (get (default (dict) $storage.maintenance) "readonly")) "enabled" -}}
{{- if and $cleanup.prune.schedule (not .Values.options.retention) (not (regexMatch "--(unused|keep|maxsize)" (join " " $cleanup.prune.args))) -}}
{{- fail "cleanup.prune.args: name no limit: set options.retention, or add --keep=3 or --maxsize=200GB" -}}
{{- end -}}
{{- if and $cleanup.garbageCollect.schedule (not $readonly) -}}
{{- fail "cleanup.garbageCollect.schedule: loses what is pushed meanwhile: set config.storage.maintenance.readonly.enabled: true, or use cleanup.collect, which runs while registries serve" -}}
{{- end -}}
{{- if and $readonly (or $cleanup.prune.schedule $cleanup.collect.schedule) -}}
{{- fail "cleanup: a registry that is read-only is not to be pruned or collected: leave out cleanup.prune and cleanup.collect" -}}
{{- end -}}
{{- if or $cleanup.prune.schedule $cleanup.collect.schedule $cleanup.garbageCollect.schedule -}}
{{- if eq (include "registry.drivers" .) "inmemory" -}}
{{- fail "cleanup: a job can't see config.storage.inmemory: leave the schedules out" -}}
{{- end -}}
{{- if and (include "registry.onVolume" .) (eq .Values.images.accessMode "ReadWriteOncePod") -}}
{{- fail "cleanup: a job can't mount the images beside the registry with images.accessMode ReadWriteOncePod: take ReadWriteOnce" -}}
{{- end -}}
{{- end -}}
{{- end -}}
