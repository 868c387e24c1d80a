{{- define "quartet.name" -}}
{{- default .Release.Name .Values.nameOverride | trunc 45 | trimSuffix "-" -}}
{{- end -}}

{{- define "quartet.labels" -}}
{{ include "quartet.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* Both tracks; a Deployment and a Service add theirs. */}}
{{- define "quartet.selector" -}}
app.kubernetes.io/name: quartet
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "quartet.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "quartet.name" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{- define "quartet.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default (printf "%s-%s" $.Chart.AppVersion .variant) }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "quartet.secret" -}}
{{- .Values.secret.existing | default (ternary (include "quartet.name" .) "" (not (empty .Values.secret.data))) -}}
{{- end -}}

{{/* The values of a track: those of the canary are the others with its overrides. */}}
{{- define "quartet.canaryValues" -}}
{{- mustMergeOverwrite (deepCopy .Values) .Values.canary.overrides | toJson -}}
{{- end -}}

{{/* A setting of the service, or what it is where the values leave it out: (list . "drain_delay" 2). */}}
{{- define "quartet.setting" -}}
{{- $settings := (index . 0).Values.settings -}}
{{- if hasKey $settings (index . 1) -}}{{ get $settings (index . 1) }}{{- else -}}{{ index . 2 }}{{- end -}}
{{- end -}}

{{/* A quantity such as 8Gi in bytes. */}}
{{- define "quartet.bytes" -}}
{{- $units := dict "" 1 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- mulf (regexFind "^[0-9.]+" . | float64) (get $units (regexReplaceAll "^[0-9.]+" . "")) | int64 -}}
{{- end -}}

{{/* The environment of the service. A number as JSON has it: 33554432, not 3.3554432e+07. */}}
{{- define "quartet.environment" -}}
{{- $settings := dict "repository" .Values.models.path "port" .Values.port -}}
{{- if .Values.gpu.enabled }}{{ $_ := set $settings "device" "cuda" }}{{ end -}}
{{- if .Values.keys.secret }}{{ $_ := set $settings "keys" (printf "/etc/quartet/keys/%s" .Values.keys.entry) }}{{ end -}}
{{- with .Values.tls -}}
{{- if and .clientCa (not .secret) }}{{ fail "tls.clientCa is for HTTPS: set tls.secret" }}{{ end -}}
{{- if .secret }}{{ $_ := merge $settings (dict "tls_certificate" "/etc/quartet/tls/tls.crt" "tls_key" "/etc/quartet/tls/tls.key") }}{{ end -}}
{{- if .clientCa }}{{ $_ := merge $settings (dict "tls_client_ca" "/etc/quartet/client-ca/ca.crt" "health_port" .healthPort) }}{{ end -}}
{{- end -}}
{{- if .Values.capture.enabled }}{{ $_ := set $settings "capture" .Values.capture.path }}{{ end -}}
{{- if .Values.rolloutState.enabled }}{{ $_ := set $settings "rollout_state" .Values.rolloutState.path }}{{ end -}}
{{- with .Values.models }}
{{- if .url }}
{{- $settings = merge (dict "repository" .url "cache" .path "cache_bytes" (include "quartet.bytes" .cache.sizeLimit | mulf 0.9 | int64)) $settings }}
{{- end }}
{{- if .trustedKeys }}{{ $_ := set $settings "trusted_keys" "/etc/quartet/trusted-keys" }}{{ end -}}
{{- end }}
{{- if .Values.grpc.enabled }}{{ $_ := set $settings "grpc_port" .Values.grpc.port }}{{ end -}}
{{- range $name, $value := merge (deepCopy .Values.settings) $settings }}
QUARTET_SERVE_{{ upper $name }}: {{ ternary $value (toJson $value) (kindIs "string" $value) | quote }}
{{- end }}
{{- end -}}

{{/* Files that the service follows, by where they lie below /etc/quartet: with a subPath they would never change. */}}
{{- define "quartet.secrets" -}}
{{- $found := dict -}}
{{- with .Values.keys.secret }}{{ $_ := set $found "keys" . }}{{ end -}}
{{- with .Values.tls.secret }}{{ $_ := set $found "tls" . }}{{ end -}}
{{- with .Values.tls.clientCa }}{{ $_ := set $found "client-ca" . }}{{ end -}}
{{- toJson $found -}}
{{- end -}}

{{/* Where probes ask: the kubelet checks no certificate, and has none. */}}
{{- define "quartet.probed" -}}
{{- if .Values.tls.clientCa -}}port: health{{- else -}}port: http{{ if .Values.tls.secret }}, scheme: HTTPS{{ end }}{{- end -}}
{{- end -}}

{{- define "quartet.scheme" -}}
http{{ if .Values.tls.secret }}s{{ end }}
{{- end -}}

{{- define "quartet.podSecurity" -}}
runAsNonRoot: true
{{- with int .Values.user }}
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "quartet.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "quartet.resources" -}}
{{- $resources := deepCopy .Values.resources -}}
{{- if .Values.gpu.enabled -}}
{{- $limits := default (dict) $resources.limits -}}
{{- $_ := set $limits .Values.gpu.resource (int .Values.gpu.count) -}}
{{- $_ := set $resources "limits" $limits -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}
