{{/*
What KEDA asks. The coordinator says 0 at rest, for each pool that DIORAMA_POOLS names, and leaves a series out only while
it does not know: then KEDA's answer is an error, which starts and stops nothing.
*/}}
{{- define "diorama.triggers" -}}
{{- if eq .root.Values.keda.trigger "metrics" -}}
- type: metrics-api
  metadata:
    url: http://{{ include "diorama.fullname" .root }}-coordinator.{{ .root.Release.Namespace }}.svc:{{ .root.Values.coordinator.service.metricsPort }}/metrics
    format: prometheus
    valueLocation: {{ printf "diorama_pool_wanted_workers{pool=%q}" .pool | squote }}
    targetValue: "1"
{{- else -}}
- type: rabbitmq
  metadata:
    protocol: http
    mode: QueueLength
    value: {{ .values.scaling.shardsPerWorker | quote }}
    queueName: diorama.{{ .pool }}
  authenticationRef:
    name: {{ include "diorama.workerName" . }}
{{- end -}}
{{- end }}
