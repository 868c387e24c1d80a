{{/* What both tracks run: (dict "root" . "values" the track's values "track" "stable" or "canary"). */}}
{{- define "quartet.pod" -}}
{{- $root := dict "Values" .values "Release" .root.Release "Chart" .root.Chart "Template" .root.Template "Files" .root.Files -}}
{{- $values := .values -}}
{{- $models := $values.models -}}
{{- $sources := list -}}
{{- if $models.claim.name }}{{ $sources = append $sources "claim" }}{{ end -}}
{{- if $models.image.reference }}{{ $sources = append $sources "image" }}{{ end -}}
{{- if $models.pull.url }}{{ $sources = append $sources "pull" }}{{ end -}}
{{- if gt (len $sources) 1 }}{{ fail (printf "models come from one place, not from %s: leave the others empty" (join " and " $sources)) }}{{ end -}}
{{- $source := first $sources | default "" -}}
{{- $cached := or $values.engines.build (eq $source "pull") -}}
{{- if and $values.engines.build (ne $values.image.variant "gpu-tensorrt") (not $values.image.tag) (not $values.image.digest) -}}
{{- fail (printf "engines.build needs TensorRT, which the %s image has not: set image.variant to gpu-tensorrt" $values.image.variant) -}}
{{- end -}}
{{- if and $values.engines.build (not $values.gpu.enabled) }}{{ fail "engines.build builds for the node's GPU: set gpu.enabled" }}{{ end -}}
{{- if and $values.engines.build (not $source) }}{{ fail "engines.build copies the models to the cache: set models.claim, models.image or models.pull" }}{{ end -}}
{{- $name := include "quartet.name" $root -}}
{{- $suffix := ternary "" "-canary" (eq .track "stable") -}}
{{- $secret := include "quartet.secret" $root -}}
{{- $delay := include "quartet.setting" (list $root "drain_delay" 2) | float64 -}}
{{- $drain := include "quartet.setting" (list $root "drain_seconds" 25) | int -}}
{{- $watchdog := include "quartet.setting" (list $root "watchdog_seconds" 60) | float64 -}}
metadata:
  labels:
    {{- include "quartet.selector" $root | nindent 4 }}
    app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
    quartet/track: {{ .track }}
    {{- with $values.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  annotations:
    checksum/settings: {{ include "quartet.environment" $root | sha256sum }}
    {{- with $values.secret.data }}
    checksum/secret: {{ toJson . | sha256sum }}
    {{- end }}
    kubectl.kubernetes.io/default-container: quartet
    {{- with $values.podAnnotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  serviceAccountName: {{ include "quartet.serviceAccount" $root }}
  automountServiceAccountToken: false
  # Variables of the namespace's Services would be in the way of our own.
  enableServiceLinks: false
  # preStop, drain_delay and drain_seconds, and five seconds to close the sessions.
  terminationGracePeriodSeconds: {{ add $values.preStopSeconds (ceil $delay) $drain 5 }}
  securityContext:
    {{- include "quartet.podSecurity" $root | nindent 4 }}
  {{- with $values.image.pullSecrets }}
  imagePullSecrets: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- if and $values.gpu.enabled $values.gpu.runtimeClassName }}
  runtimeClassName: {{ $values.gpu.runtimeClassName }}
  {{- end }}
  {{- with $values.nodeSelector }}
  nodeSelector: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.affinity }}
  affinity: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- if or $values.gpu.enabled $values.tolerations }}
  tolerations:
    {{- if $values.gpu.enabled }}
    - { key: nvidia.com/gpu, operator: Exists, effect: NoSchedule }
    {{- end }}
    {{- with $values.tolerations }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- end }}
  {{- if $values.topologySpread.topologyKeys }}
  topologySpreadConstraints:
    {{- range $values.topologySpread.topologyKeys }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: {{ $values.topologySpread.whenUnsatisfiable }}
      labelSelector:
        matchLabels:
          {{- include "quartet.selector" $root | nindent 10 }}
          quartet/track: {{ $.track }}
      # Each rollout by itself: the pods that leave do not push the new ones together.
      matchLabelKeys: [pod-template-hash]
    {{- end }}
  {{- end }}
  {{- if $cached }}
  initContainers:
    - name: models
      image: {{ include "quartet.image" $root }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      command: [python, /scripts/fill.py]
      args: [{{ ternary $models.pull.url "/source" (eq $source "pull") | quote }}, {{ $models.path }}{{ with $models.pull.sha256 }}, {{ . | quote }}{{ end }}]
      {{- if $secret }}
      envFrom:
        - secretRef: { name: {{ $secret }} }
      {{- end }}
      securityContext:
        {{- include "quartet.containerSecurity" $root | nindent 8 }}
      resources:
        requests: { cpu: 100m, memory: 128Mi }
        limits: { memory: 512Mi }
      volumeMounts:
        - { name: scripts, mountPath: /scripts, readOnly: true }
        - { name: models, mountPath: {{ $models.path }} }
        - { name: tmp, mountPath: /tmp }
        {{- if ne $source "pull" }}
        - name: source
          mountPath: /source
          readOnly: true
          {{- if and (eq $source "claim") $models.claim.subPath }}
          subPath: {{ $models.claim.subPath }}
          {{- end }}
        {{- end }}
    {{- if $values.engines.build }}
    - name: engines
      image: {{ include "quartet.image" $root }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      # Nothing is done for a model that has engines for this GPU and TensorRT already.
      command:
        - sh
        - -euc
        - >-
          for model in {{ $models.path }}/*/; do
          python -m export build-engines --repository {{ $models.path }} --model "$(basename "$model")" "$@";
          done
        - engines
      {{- with $values.engines.args }}
      args: {{ toYaml . | nindent 8 }}
      {{- end }}
      env:
        - { name: HOME, value: /tmp }
      securityContext:
        {{- include "quartet.containerSecurity" $root | nindent 8 }}
      resources:
        {{- include "quartet.resources" $root | nindent 8 }}
      volumeMounts:
        - { name: models, mountPath: {{ $models.path }} }
        - { name: tmp, mountPath: /tmp }
    {{- end }}
  {{- end }}
  containers:
    - name: quartet
      image: {{ include "quartet.image" $root }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      command: [python, -m, service]
      envFrom:
        - configMapRef: { name: {{ $name }}{{ $suffix }} }
        {{- if $secret }}
        - secretRef: { name: {{ $secret }} }
        {{- end }}
      env:
        - { name: HOME, value: /tmp }
        {{- with $values.env }}{{ toYaml . | nindent 8 }}{{ end }}
      ports:
        - { name: http, containerPort: {{ $values.port }}, protocol: TCP }
        {{- if $values.grpc.enabled }}
        - { name: grpc, containerPort: {{ $values.grpc.port }}, protocol: TCP }
        {{- end }}
      # Ready for the first time within startSeconds; only then the others begin.
      startupProbe:
        httpGet: { path: /v2/health/ready, port: http }
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: {{ divf $values.startSeconds 2 | ceil }}
      # Three misses fit into drain_delay, for those who route by readiness.
      readinessProbe:
        httpGet: { path: /v2/health/ready, port: http }
        periodSeconds: {{ max 1 (divf $delay 3 | floor | int) }}
        timeoutSeconds: 2
        failureThreshold: 3
      # A session that hangs is replaced after watchdog_seconds; the process is not killed before.
      livenessProbe:
        httpGet: { path: /v2/health/live, port: http }
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: {{ max 3 (divf $watchdog 10 | ceil | int) }}
      {{- if $values.preStopSeconds }}
      lifecycle:
        preStop:
          sleep: { seconds: {{ $values.preStopSeconds }} }
      {{- end }}
      securityContext:
        {{- include "quartet.containerSecurity" $root | nindent 8 }}
      resources:
        {{- include "quartet.resources" $root | nindent 8 }}
      volumeMounts:
        - { name: tmp, mountPath: /tmp }
        {{- if or $cached $source }}
        - name: models
          mountPath: {{ $models.path }}
          readOnly: true
          {{- if and (not $cached) (eq $source "claim") $models.claim.subPath }}
          subPath: {{ $models.claim.subPath }}
          {{- end }}
        {{- end }}
        {{- with $values.volumeMounts }}{{ toYaml . | nindent 8 }}{{ end }}
  volumes:
    - name: tmp
      emptyDir: {}
    {{- if $cached }}
    - name: scripts
      configMap: { name: {{ $name }}-scripts }
    - name: models
      {{- if $models.cache.claim }}
      persistentVolumeClaim: { claimName: {{ $models.cache.claim }} }
      {{- else }}
      emptyDir: { sizeLimit: {{ $models.cache.sizeLimit }} }
      {{- end }}
    {{- end }}
    {{- if or (eq $source "claim") (eq $source "image") }}
    - name: {{ ternary "source" "models" $cached }}
      {{- if eq $source "claim" }}
      persistentVolumeClaim: { claimName: {{ $models.claim.name }}, readOnly: true }
      {{- else }}
      image: { reference: {{ $models.image.reference | quote }}, pullPolicy: {{ $models.image.pullPolicy }} }
      {{- end }}
    {{- end }}
    {{- with $values.volumes }}{{ toYaml . | nindent 4 }}{{ end }}
{{- end -}}
