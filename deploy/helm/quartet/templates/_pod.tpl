{{/* What both tracks run: (dict "root" . "values" the track's values "track" "stable" or "canary"). */}}
{{- define "quartet.pod" -}}
{{- $root := dict "Values" .values "Release" .root.Release "Chart" .root.Chart "Template" .root.Template "Files" .root.Files -}}
{{- $values := .values -}}
{{- $models := $values.models -}}
{{- $sources := list -}}
{{- if $models.claim.name }}{{ $sources = append $sources "claim" }}{{ end -}}
{{- if $models.image.reference }}{{ $sources = append $sources "image" }}{{ end -}}
{{- if $models.pull.url }}{{ $sources = append $sources "pull" }}{{ end -}}
{{- if $models.url }}{{ $sources = append $sources "url" }}{{ end -}}
{{- if gt (len $sources) 1 }}{{ fail (printf "models come from one place, not from %s: leave the others empty" (join " and " $sources)) }}{{ end -}}
{{- $source := first $sources | default "" -}}
{{- $filled := or $values.engines.build (eq $source "pull") -}}
{{- $cached := or $filled (eq $source "url") -}}
{{- if and $models.pull.url (not $models.pull.sha256) }}{{ fail "models.pull.url names an archive: say which by models.pull.sha256" }}{{ end -}}
{{- if and $values.engines.build (eq $source "url") -}}
{{- fail "engines.build needs the models in a folder before the service starts: use models.pull or models.claim in place of models.url" -}}
{{- end -}}
{{- if and $values.engines.build $models.trustedKeys }}{{ fail "engines built in the pod carry no signature: leave engines.build or models.trustedKeys out" }}{{ end -}}
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
  {{- if $filled }}
  initContainers:
    - name: models
      image: {{ include "quartet.image" $root }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      command: [python, -m, modelrepo]
      {{- if eq $source "pull" }}
      args: [pull, {{ printf "%s#sha256=%s" $models.pull.url $models.pull.sha256 | quote }}, --repository, {{ $models.path }}, --delete]
      {{- else }}
      args: [copy, /source, {{ $models.path }}, --delete]
      {{- end }}
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
        {{- with $values.otel.endpoint }}
        - { name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ . | quote }} }
        - { name: OTEL_SERVICE_NAME, value: {{ $name }} }
        - { name: OTEL_TRACES_SAMPLER, value: parentbased_traceidratio }
        - { name: OTEL_TRACES_SAMPLER_ARG, value: {{ $values.otel.sampleRatio | quote }} }
        - name: POD_NAME
          valueFrom: { fieldRef: { fieldPath: metadata.name } }
        - name: OTEL_RESOURCE_ATTRIBUTES
          value: k8s.namespace.name={{ $.root.Release.Namespace }},k8s.pod.name=$(POD_NAME),quartet.track={{ $.track }}
        {{- end }}
        {{- with $values.env }}{{ toYaml . | nindent 8 }}{{ end }}
      ports:
        - { name: http, containerPort: {{ $values.port }}, protocol: TCP }
        {{- if $values.tls.clientCa }}
        - { name: health, containerPort: {{ $values.tls.healthPort }}, protocol: TCP }
        {{- end }}
        {{- if $values.grpc.enabled }}
        - { name: grpc, containerPort: {{ $values.grpc.port }}, protocol: TCP }
        {{- end }}
      # Ready for the first time within startSeconds; only then the others begin.
      startupProbe:
        httpGet: { path: /v2/health/ready, {{ include "quartet.probed" $root }} }
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: {{ divf $values.startSeconds 2 | ceil }}
      # Three misses fit into drain_delay, for those who route by readiness.
      readinessProbe:
        httpGet: { path: /v2/health/ready, {{ include "quartet.probed" $root }} }
        periodSeconds: {{ max 1 (divf $delay 3 | floor | int) }}
        timeoutSeconds: 2
        failureThreshold: 3
      # A session that hangs is replaced after watchdog_seconds; the process is not killed before.
      livenessProbe:
        httpGet: { path: /v2/health/live, {{ include "quartet.probed" $root }} }
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
          readOnly: {{ ne $source "url" }}
          {{- if and (not $cached) (eq $source "claim") $models.claim.subPath }}
          subPath: {{ $models.claim.subPath }}
          {{- end }}
        {{- end }}
        {{- range $name, $_ := include "quartet.secrets" $root | fromJson }}
        - { name: {{ $name }}, mountPath: /etc/quartet/{{ $name }}, readOnly: true }
        {{- end }}
        {{- if $values.capture.enabled }}
        - { name: capture, mountPath: {{ $values.capture.path }} }
        {{- end }}
        {{- if $values.rolloutState.enabled }}
        - { name: rollouts, mountPath: {{ $values.rolloutState.path }} }
        {{- end }}
        {{- if $models.trustedKeys }}
        - { name: trusted-keys, mountPath: /etc/quartet/trusted-keys, readOnly: true }
        {{- end }}
        {{- with $values.volumeMounts }}{{ toYaml . | nindent 8 }}{{ end }}
  volumes:
    - name: tmp
      emptyDir: {}
    {{- if $cached }}
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
    {{- range $name, $secret := include "quartet.secrets" $root | fromJson }}
    - name: {{ $name }}
      secret: { secretName: {{ $secret }}, defaultMode: 0440 }
    {{- end }}
    {{- if $values.capture.enabled }}
    - name: capture
      {{- if $values.capture.claim }}
      persistentVolumeClaim: { claimName: {{ $values.capture.claim }} }
      {{- else }}
      # What the service keeps to, and room for the file systems' own.
      emptyDir: { sizeLimit: {{ add (include "quartet.setting" (list $root "capture_bytes" 1073741824) | float64 | int64) 67108864 | quote }} }
      {{- end }}
    {{- end }}
    {{- if $values.rolloutState.enabled }}
    - name: rollouts
      {{- if $values.rolloutState.claim }}
      persistentVolumeClaim: { claimName: {{ $values.rolloutState.claim }} }
      {{- else }}
      emptyDir: { sizeLimit: 64Mi }
      {{- end }}
    {{- end }}
    {{- if $models.trustedKeys }}
    - name: trusted-keys
      configMap: { name: {{ $name }}{{ $suffix }}-trusted-keys }
    {{- end }}
    {{- with $values.volumes }}{{ toYaml . | nindent 4 }}{{ end }}
{{- end -}}
