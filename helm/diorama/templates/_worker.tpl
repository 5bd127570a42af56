{{/* A pool's values over the defaults. Takes `root` and `pool`; gives YAML. */}}
{{- define "diorama.pool" -}}
{{- $root := .root -}}
{{- $pool := mergeOverwrite (deepCopy $root.Values.workerDefaults) (deepCopy (index $root.Values.workers .pool)) -}}
{{- $mode := default (ternary "job" "fixed" $root.Values.keda.enabled) $pool.scaling.mode -}}
{{- if and (ne $mode "fixed") (not $root.Values.keda.enabled) -}}
{{- fail (printf "workers.%s.scaling.mode is %s, which needs KEDA: set keda.enabled, or the mode to fixed" .pool $mode) -}}
{{- end -}}
{{- if gt (int $pool.scaling.min) (int $pool.scaling.max) -}}
{{- fail (printf "workers.%s.scaling: min is more than max" .pool) -}}
{{- end -}}
{{- $sources := list -}}
{{- range list "existingClaim" "image" "s3" "path" -}}
{{- if get $pool.model . -}}{{- $sources = append $sources . -}}{{- end -}}
{{- end -}}
{{- $config := mergeOverwrite (deepCopy $root.Values.config) $pool.config -}}
{{- $wanted := ternary 0 1 (eq (toString $config.engine) "synthetic") -}}
{{- if ne (len $sources) $wanted -}}
{{- fail (printf "workers.%s.model: set exactly one of existingClaim, image, s3 and path, and none where config.engine is synthetic; %d are set" .pool (len $sources)) -}}
{{- end -}}
{{- $_ := set $pool.scaling "mode" $mode -}}
{{- $_ := set $pool "config" $config -}}
{{- toYaml $pool -}}
{{- end }}

{{- define "diorama.workerName" -}}
{{ include "diorama.fullname" .root }}-worker-{{ .pool }}
{{- end }}

{{- define "diorama.workerSelector" -}}
{{ include "diorama.selector" .root }}
app.kubernetes.io/component: worker
diorama/pool: {{ .pool }}
{{- end }}

{{/* The labels of a pool's own objects; KEDA gives those of a ScaledJob to its Jobs, where Kueue looks for its queue. */}}
{{- define "diorama.workerLabels" -}}
{{ include "diorama.labels" .root }}
app.kubernetes.io/component: worker
diorama/pool: {{ .pool }}
{{- with .values.queueName }}
kueue.x-k8s.io/queue-name: {{ . }}
{{- end }}
{{- end }}

{{/* The pod of a worker. Takes `root`, `pool` (its name) and `values` (what "diorama.pool" gives). */}}
{{- define "diorama.workerPod" -}}
{{- $root := .root -}}
{{- $values := .values -}}
{{- $model := $values.model -}}
{{- $ours := dict "Values" $root.Values "worker" true -}}
{{- $mounted := or $model.existingClaim $model.image $model.s3 -}}
metadata:
  labels:
    {{- include "diorama.labels" $root | nindent 4 }}
    app.kubernetes.io/component: worker
    diorama/pool: {{ .pool }}
    {{- with $values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $values.podAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  restartPolicy: {{ ternary "Never" "Always" (eq $values.scaling.mode "job") }}
  terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
  serviceAccountName: {{ include "diorama.workerServiceAccount" $root }}
  {{- include "diorama.pod" $root | nindent 2 }}
  {{- include "diorama.placement" $values | nindent 2 }}
  {{- with $values.topologySpreadConstraints }}
  topologySpreadConstraints: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- if $model.s3 }}
  initContainers:
    - name: model
      image: {{ include "diorama.image" (dict "root" $root "image" $values.image) }}
      imagePullPolicy: {{ default $root.Values.image.pullPolicy $values.image.pullPolicy }}
      # Fetches beside the folder, which then gets its name at once.
      args: [model, fetch, {{ $model.s3 | quote }}, --to, /model/files{{ with $model.s3Sha256 }}, --sha256, {{ . | quote }}{{ end }}]
      env: {{- include "diorama.env" $ours | nindent 8 }}
      securityContext: {{- toYaml $root.Values.securityContext | nindent 8 }}
      resources:
        requests:
          cpu: 250m
          memory: 256Mi
        limits:
          memory: 1Gi
      volumeMounts:
        {{- include "diorama.mounts" $root | nindent 8 }}
        - name: model
          mountPath: /model
  {{- end }}
  containers:
    - name: worker
      image: {{ include "diorama.image" (dict "root" $root "image" $values.image) }}
      imagePullPolicy: {{ default $root.Values.image.pullPolicy $values.image.pullPolicy }}
      args: [worker, --log-format, {{ $root.Values.logFormat }}]
      env:
        {{- include "diorama.env" $ours | nindent 8 }}
        - name: DIORAMA_WORKER
          valueFrom:
            fieldRef:
              fieldPath: metadata.name
        - name: DIORAMA_POOL
          value: {{ .pool | quote }}
        - name: DIORAMA_SCRATCH
          value: /scratch
        - name: DIORAMA_METRICS_LISTEN
          value: "0.0.0.0:9464"
        - name: OMP_WAIT_POLICY
          value: PASSIVE
        {{- if or $mounted $model.path }}
        - name: DIORAMA_MODEL
          value: {{ $model.path | default (ternary "/model/files" "/model" (not (empty $model.s3))) | quote }}
        {{- end }}
        {{- if eq $values.scaling.mode "job" }}
        - name: DIORAMA_MAX_IDLE
          value: {{ $values.scaling.maxIdle | quote }}
        {{- end }}
        {{- include "diorama.config" $values.config | nindent 8 }}
      ports:
        - name: metrics
          containerPort: 9464
      # /livez answers at once, however long the model takes to load; /readyz when the worker takes shards.
      startupProbe:
        httpGet:
          path: /livez
          port: metrics
        periodSeconds: 2
        failureThreshold: 60
      livenessProbe:
        httpGet:
          path: /livez
          port: metrics
        periodSeconds: 15
        timeoutSeconds: 5
        failureThreshold: 4
      readinessProbe:
        httpGet:
          path: /readyz
          port: metrics
        periodSeconds: 10
        timeoutSeconds: 5
      securityContext: {{- toYaml $root.Values.securityContext | nindent 8 }}
      {{- $resources := deepCopy $values.resources }}
      {{- if $values.gpus }}
      {{- $resources = mergeOverwrite $resources (dict "limits" (dict $values.gpuResource (toString $values.gpus))) }}
      {{- end }}
      resources: {{- toYaml $resources | nindent 8 }}
      volumeMounts:
        {{- include "diorama.mounts" $root | nindent 8 }}
        {{- if $mounted }}
        - name: model
          mountPath: /model
          readOnly: true
          {{- if and $model.subPath (not $model.s3) }}
          subPath: {{ $model.subPath }}
          {{- end }}
        {{- end }}
  volumes:
    {{- include "diorama.secrets" $ours | nindent 4 }}
    - name: scratch
      emptyDir: {{- toYaml $values.scratch | nindent 8 }}
    {{- with $model.existingClaim }}
    - name: model
      persistentVolumeClaim:
        claimName: {{ . }}
        readOnly: true
    {{- end }}
    {{- with $model.image }}
    - name: model
      image:
        reference: {{ . }}
        pullPolicy: IfNotPresent
    {{- end }}
    {{- if $model.s3 }}
    - name: model
      emptyDir:
        sizeLimit: {{ $model.s3SizeLimit }}
    {{- end }}
{{- end }}
