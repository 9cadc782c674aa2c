{{- /* The registry's configuration, as it is in the Secret: what the chart adds, below what config and
       options say. */}}
{{- define "registry.configuration" -}}
{{- $config := dict
      "version" 0.1
      "log" (dict "level" "info")
      "storage" (dict "delete" (dict "enabled" true))
      "http" (dict "addr" ":5000" "draintimeout" "30s") -}}
{{- if not (include "registry.drivers" .) -}}
{{- $_ := set $config.storage "filesystem" (dict "rootdirectory" "/var/lib/registry") -}}
{{- end -}}
{{- if .Values.metrics.enabled -}}
{{- $_ := set $config.http "debug" (dict "addr" ":5001" "prometheus" (dict "enabled" true)) -}}
{{- end -}}
{{- $config = mergeOverwrite $config (deepCopy .Values.config) -}}
{{- if eq (include "registry.drivers" .) "filesystem" -}}
{{- $filesystem := default (dict) $config.storage.filesystem -}}
{{- $_ := set $config.storage "filesystem" (merge (deepCopy $filesystem) (dict "rootdirectory" "/var/lib/registry")) -}}
{{- end -}}
{{- $middleware := default (dict) $config.middleware -}}
{{- $stanza := dict "name" "nix" "options" (include "registry.options" . | fromYaml) -}}
{{- $_ := set $middleware "repository" (append (default (list) $middleware.repository) $stanza) -}}
{{- $_ := set $config "middleware" $middleware -}}
{{- toYaml $config -}}
{{- end -}}

{{- /* The options of the stanza nix. Without a Nix store, nothing can be built. */}}
{{- define "registry.options" -}}
{{- $options := deepCopy .Values.options -}}
{{- if not .Values.store.enabled -}}
{{- $options = merge $options (dict "build" (dict "local" false "storeless" true)) -}}
{{- $_ := set $options.build "local" false -}}
{{- end -}}
{{- toYaml $options -}}
{{- end -}}

{{- /* The storage drivers that config names, joined by commas. */}}
{{- define "registry.drivers" -}}
{{- $storage := default (dict) .Values.config.storage -}}
{{- join "," (omit $storage "cache" "delete" "maintenance" "redirect" "tag" | keys | sortAlpha) -}}
{{- end -}}

{{- /* "true" where images are on a volume. */}}
{{- define "registry.onVolume" -}}
{{- if has (include "registry.drivers" .) (list "" "filesystem") }}true{{ end -}}
{{- end -}}

{{- /* An option by its path of keys, called with a list of root, default and keys. */}}
{{- define "registry.option" -}}
{{- $at := (index . 0).Values.options -}}
{{- range (slice . 2) -}}
{{- if kindIs "map" $at }}{{ $at = index $at . }}{{ end -}}
{{- end -}}
{{- if kindIs "invalid" $at }}{{ index . 1 }}{{ else if kindIs "float64" $at }}{{ int64 $at }}{{ else }}{{ $at }}{{ end -}}
{{- end -}}

{{- /* Bytes of a size as the registry reads it (2GiB, 10GB, 512m, a number), called with a list of key
       and size. */}}
{{- define "registry.bytes" -}}
{{- $key := index . 0 -}}
{{- $size := index . 1 | toString | trim | lower -}}
{{- $number := regexFind "^[0-9]+(\\.[0-9]+)?" $size -}}
{{- $unit := trimPrefix $number $size | trim -}}
{{- $units := dict "" 1 "b" 1
      "k" 1000 "kb" 1000 "kib" 1024 "ki" 1024
      "m" 1000000 "mb" 1000000 "mib" 1048576 "mi" 1048576
      "g" 1000000000 "gb" 1000000000 "gib" 1073741824 "gi" 1073741824
      "t" 1000000000000 "tb" 1000000000000 "tib" 1099511627776 "ti" 1099511627776 -}}
{{- if or (not $number) (not (hasKey $units $unit)) -}}
{{- fail (printf "%s: %q is not a size such as 2GiB" $key (index . 1 | toString)) -}}
{{- end -}}
{{- mulf (float64 $number) (index $units $unit) | ceil | int64 -}}
{{- end -}}

{{- /* Seconds of a time as the registry reads it (25s, 1m30s), called with a list of key and time. */}}
{{- define "registry.seconds" -}}
{{- $time := index . 1 | toString -}}
{{- if not (regexMatch "^([0-9]+(\\.[0-9]+)?(ms|s|m|h))+$" $time) -}}
{{- fail (printf "%s: %q is not a time such as 25s" (index . 0) $time) -}}
{{- end -}}
{{- $seconds := 0.0 -}}
{{- range regexFindAll "[0-9]+(\\.[0-9]+)?(ms|s|m|h)" $time -1 -}}
{{- $number := regexFind "^[0-9.]+" . -}}
{{- $unit := index (dict "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0) (trimPrefix $number .) -}}
{{- $seconds = addf $seconds (mulf (float64 $number) $unit) -}}
{{- end -}}
{{- $seconds -}}
{{- end -}}

{{- /* The port of an address such as :5000, called with a list of key and address. */}}
{{- define "registry.port" -}}
{{- $port := regexFind "[0-9]+$" (index . 1) -}}
{{- if not $port -}}
{{- fail (printf "%s: %q has no port" (index . 0) (index . 1)) -}}
{{- end -}}
{{- $port -}}
{{- end -}}

{{- define "registry.httpPort" -}}
{{- $http := (include "registry.configuration" . | fromYaml).http -}}
{{- include "registry.port" (list "config.http.addr" $http.addr) -}}
{{- end -}}

{{- define "registry.metricsPort" -}}
{{- $http := (include "registry.configuration" . | fromYaml).http -}}
{{- include "registry.port" (list "config.http.debug.addr" $http.debug.addr) -}}
{{- end -}}

{{- /* HTTPS where the registry ends TLS itself. */}}
{{- define "registry.scheme" -}}
{{- if (default (dict) .Values.config.http).tls }}HTTPS{{ else }}HTTP{{ end -}}
{{- end -}}
