{{- /* Parts of pods that registries and jobs share. */}}
{{- define "registry.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- /* A user beside the registry's, who owns the Nix store. */}}
{{- define "registry.builderSecurity" -}}
runAsUser: 1001
runAsGroup: 1001
{{ include "registry.containerSecurity" . }}
{{- end -}}

{{- define "registry.httpSecret" -}}
{{- with .Values.httpSecret -}}
{{- if .existingSecret -}}
{{ .existingSecret }}
{{- else if .generate -}}
{{ include "registry.fullname" $ }}-http
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* The variables of the registry's container. */}}
{{- define "registry.env" -}}
{{- $env := list -}}
{{- with include "registry.httpSecret" . -}}
{{- $ref := dict "secretKeyRef" (dict "name" . "key" $.Values.httpSecret.key) -}}
{{- $env = append $env (dict "name" "REGISTRY_HTTP_SECRET" "valueFrom" $ref) -}}
{{- end -}}
{{- range $name, $from := .Values.secretEnv -}}
{{- $ref := dict "secretKeyRef" (dict "name" $from.secret "key" $from.key) -}}
{{- $env = append $env (dict "name" $name "valueFrom" $ref) -}}
{{- end -}}
{{- with .Values.tracing -}}
{{- if .endpoint -}}
{{- $env = append $env (dict "name" "OTEL_TRACES_EXPORTER" "value" "otlp") -}}
{{- $env = append $env (dict "name" "OTEL_EXPORTER_OTLP_ENDPOINT" "value" .endpoint) -}}
{{- $env = append $env (dict "name" "OTEL_EXPORTER_OTLP_PROTOCOL" "value" .protocol) -}}
{{- end -}}
{{- end -}}
{{- with concat $env .Values.extraEnv -}}
env:
  {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end -}}

{{- /* Mounts of the registry's container but the Nix store. */}}
{{- define "registry.mounts" -}}
- {name: config, mountPath: /etc/distribution, readOnly: true}
{{- if include "registry.onVolume" . }}
- name: images
  mountPath: /var/lib/registry
  {{- with .Values.images.subPath }}
  subPath: {{ . }}
  {{- end }}
{{- end }}
- {name: scratch, mountPath: /var/cache/nixery-registry, subPath: cache}
- {name: scratch, mountPath: /tmp, subPath: tmp}
{{- range .Values.secretMounts }}
- {name: {{ include "registry.secretVolume" . }}, mountPath: {{ .path }}, readOnly: true}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "registry.secretVolume" -}}
secret-{{ sha256sum .secret | trunc 10 }}
{{- end -}}

{{- /* Volumes of registries and jobs. */}}
{{- define "registry.volumes" -}}
- name: config
  secret: {secretName: {{ include "registry.fullname" . }}-config, defaultMode: 0440}
- name: scratch
  emptyDir: {sizeLimit: {{ .Values.scratch.size }}}
{{- if include "registry.onVolume" . }}
- name: images
  persistentVolumeClaim:
    claimName: {{ default (printf "%s-images" (include "registry.fullname" .)) .Values.images.existingClaim }}
{{- end }}
{{- $secrets := dict }}
{{- range concat .Values.secretMounts .Values.builder.secretMounts }}
{{- if not (hasKey $secrets .secret) }}
{{- $_ := set $secrets .secret true }}
- name: {{ include "registry.secretVolume" . }}
  secret: {secretName: {{ .secret }}, defaultMode: 0440}
{{- end }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* Memory for the evaluations that may run at a time, and for the registry. */}}
{{- define "registry.resources" -}}
{{- if .Values.resources -}}
{{ toYaml .Values.resources }}
{{- else -}}
{{- $concurrency := include "registry.option" (list . 2 "build" "concurrency") | int64 -}}
{{- $evaluation := include "registry.option" (list . "2GiB" "nix" "evaluationmemory") -}}
{{- $evaluation = include "registry.bytes" (list "options.nix.evaluationmemory" $evaluation) | int64 -}}
{{- $own := include "registry.bytes" (list "memoryOverhead" .Values.memoryOverhead) | int64 -}}
{{- $limit := add (mul 2 $concurrency $evaluation) $own -}}
requests: {cpu: {{ .Values.cpuRequest | quote }}, memory: 1Gi}
# {{ mul 2 $concurrency }} evaluations of nix.evaluationmemory, and the registry
limits: {memory: {{ div (add $limit 1048575) 1048576 }}Mi}
{{- end -}}
{{- end -}}

{{- /* How pods are placed, and what they are. */}}
{{- define "registry.placement" -}}
serviceAccountName: {{ include "registry.serviceAccount" . }}
automountServiceAccountToken: false
shareProcessNamespace: false # what is built must not see the registry
enableServiceLinks: false # REGISTRY_… variables are taken for configuration
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .Values.hostAliases }}
hostAliases:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.dnsConfig }}
dnsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* Labels and annotations by which webhooks of clouds know pods, and leave the builder alone. */}}
{{- define "registry.podLabels" -}}
{{- if eq .Values.serviceAccount.workloadIdentity "azure" }}
azure.workload.identity/use: "true"
{{- end }}
{{- with .Values.podLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "registry.podAnnotations" -}}
{{- $identity := .Values.serviceAccount.workloadIdentity -}}
{{- if eq $identity "eks" }}
eks.amazonaws.com/skip-containers: nix-store,nix-daemon
{{- else if eq $identity "azure" }}
azure.workload.identity/skip-containers: nix-store;nix-daemon
{{- end }}
{{- with .Values.podAnnotations }}
{{ toYaml . }}
{{- end }}
{{- end -}}
