{{/*
What everything of a release begins with: at most 26 characters, so that the longest name of all, that of the
HorizontalPodAutoscaler which KEDA makes of a pool (keda-hpa-…-worker-POOL), has 63. A release whose name is longer
keeps its own names by a part of its hash.
*/}}
{{- define "diorama.fullname" -}}
{{- $name := .Release.Name -}}
{{- if not (contains "diorama" $name) }}{{ $name = printf "%s-diorama" $name }}{{ end -}}
{{- if gt (len $name) 26 -}}
{{- printf "%s-%s" ($name | trunc 17 | trimSuffix "-" | trimSuffix ".") ($name | sha256sum | trunc 8) -}}
{{- else -}}
{{- $name -}}
{{- end -}}
{{- end }}

{{- define "diorama.serviceAccount" -}}
{{- $own := ternary (include "diorama.fullname" .) "default" .Values.serviceAccount.create -}}
{{- default $own .Values.serviceAccount.name -}}
{{- end }}

{{- define "diorama.selector" -}}
app.kubernetes.io/name: diorama
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "diorama.labels" -}}
{{ include "diorama.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Takes `root` and `image`; what the image leaves empty is the release's. */}}
{{- define "diorama.image" -}}
{{- $own := .root.Values.image -}}
{{- $registry := default $own.registry .image.registry -}}
{{- with $registry }}{{ . }}/{{ end }}{{ .image.repository }}
{{- if .image.digest }}@{{ .image.digest }}
{{- else }}:{{ coalesce .image.tag $own.tag .root.Chart.AppVersion }}
{{- end }}
{{- end }}

{{/* Keys of the program's configuration as variables of its environment. Takes a map. */}}
{{- define "diorama.config" -}}
{{- range $key, $value := . }}
- name: DIORAMA_{{ upper $key }}
  {{- if kindIs "slice" $value }}
  value: {{ join "," $value | quote }}
  {{- else }}
  value: {{ toString $value | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{/* The ServiceAccount of the workers. */}}
{{- define "diorama.workerServiceAccount" -}}
{{- $own := ternary (printf "%s-worker" (include "diorama.fullname" .)) (include "diorama.serviceAccount" .) .Values.workerServiceAccount.create -}}
{{- default $own .Values.workerServiceAccount.name -}}
{{- end }}

{{/* The Secret with the key of the object store; none where a role takes its place. `worker` says whose. */}}
{{- define "diorama.s3Secret" -}}
{{- $s3 := .Values.services.s3 -}}
{{- ternary (default $s3.secret $s3.workerSecret) $s3.secret (eq (toString .worker) "true") -}}
{{- end }}

{{/*
The environment of every container: the services, and where it may write. Takes the release, or its `Values` and `worker`,
as do the volumes below.
*/}}
{{- define "diorama.env" -}}
{{- $s3 := .Values.services.s3 -}}
- name: HOME
  value: /scratch
- name: TMPDIR
  value: /scratch
- name: DIORAMA_AMQP_URL_FILE
  value: /run/secrets/diorama/amqp-url
- name: DIORAMA_REDIS_URL_FILE
  value: /run/secrets/diorama/redis-url
- name: DIORAMA_REDIS_CLUSTER
  value: {{ .Values.services.redisUrl.cluster | quote }}
- name: DIORAMA_S3_BUCKET
  value: {{ $s3.bucket | quote }}
{{- with $s3.prefix }}
- name: DIORAMA_S3_PREFIX
  value: {{ . | quote }}
{{- end }}
{{- with $s3.endpoint }}
- name: DIORAMA_S3_ENDPOINT
  value: {{ . | quote }}
{{- end }}
- name: DIORAMA_S3_REGION
  value: {{ $s3.region | quote }}
- name: DIORAMA_S3_PATH_STYLE
  value: {{ $s3.pathStyle | quote }}
{{- with $s3.readable }}
- name: DIORAMA_S3_READABLE
  value: {{ join "," . | quote }}
{{- end }}
{{- with include "diorama.s3Secret" . }}
- name: DIORAMA_S3_ACCESS_KEY
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: {{ $s3.accessKeyIdKey }}
- name: DIORAMA_S3_SECRET_KEY_FILE
  value: /run/secrets/diorama/s3-secret-key
{{- end }}
{{- with $s3.referenceSecret }}
- name: DIORAMA_REFERENCE_S3_ACCESS_KEY
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: {{ $s3.accessKeyIdKey }}
- name: DIORAMA_REFERENCE_S3_SECRET_KEY_FILE
  value: /run/secrets/diorama/reference-s3-secret-key
{{- end }}
{{- if .Values.services.ca.secret }}
- name: DIORAMA_CA_FILE
  value: /run/secrets/diorama/ca.crt
{{- end }}
{{- with .Values.log }}
- name: DIORAMA_LOG
  value: {{ . | quote }}
{{- end }}
{{- end }}

{{- define "diorama.mounts" -}}
- name: secrets
  mountPath: /run/secrets/diorama
  readOnly: true
- name: scratch
  mountPath: /scratch
{{- end }}

{{/* The volume of the services' credentials. */}}
{{- define "diorama.secrets" -}}
{{- $services := .Values.services -}}
- name: secrets
  projected:
    defaultMode: 0440
    sources:
      - secret:
          name: {{ $services.amqpUrl.secret }}
          items:
            - key: {{ $services.amqpUrl.key }}
              path: amqp-url
      - secret:
          name: {{ $services.redisUrl.secret }}
          items:
            - key: {{ $services.redisUrl.key }}
              path: redis-url
      {{- with include "diorama.s3Secret" . }}
      - secret:
          name: {{ . }}
          items:
            - key: {{ $services.s3.secretAccessKeyKey }}
              path: s3-secret-key
      {{- end }}
      {{- with $services.s3.referenceSecret }}
      - secret:
          name: {{ . }}
          items:
            - key: {{ $services.s3.secretAccessKeyKey }}
              path: reference-s3-secret-key
      {{- end }}
      {{- if $services.ca.secret }}
      - secret:
          name: {{ $services.ca.secret }}
          items:
            - key: {{ $services.ca.key }}
              path: ca.crt
      {{- end }}
{{- end }}

{{/* What every pod has, whatever it runs. */}}
{{- define "diorama.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext: {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Where a pod may run. Takes a coordinator's or a pool's values. */}}
{{- define "diorama.placement" -}}
{{- range $key := list "nodeSelector" "tolerations" "affinity" }}
{{- with get $ $key }}
{{ $key }}: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}
