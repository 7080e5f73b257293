{{/* What the operator and the API have in common. Both templates take (list root component). */}}

{{- define "milepost.control.env" -}}
{{- $root := first . -}}
- name: MILEPOST_DATABASE_URL_FILE
  value: /etc/milepost/database/url
{{- if include "milepost.embedded" $root }}
- name: MILEPOST_DATABASE_CA_FILE
  value: /etc/milepost/database/ca.crt
{{- else if $root.Values.postgres.external.ca }}
- name: MILEPOST_DATABASE_CA_FILE
  value: /etc/milepost/database/external-ca.crt
{{- end }}
- name: MILEPOST_CLUSTER
  value: {{ $root.Values.cluster | quote }}
- name: MILEPOST_NAMESPACES
  value: {{ join "," $root.Values.namespaces | quote }}
- name: MILEPOST_METRICS_PORT
  value: "9090"
{{- range $name, $value := $root.Values.settings }}
- name: MILEPOST_{{ $name | snakecase | upper }}
  value: {{ include "milepost.plain" $value | quote }}
{{- end }}
- name: MILEPOST_TASK_REQUESTS
  value: {{ $root.Values.taskDefaults.requests | toJson | quote }}
- name: MILEPOST_TASK_LIMITS
  value: {{ $root.Values.taskDefaults.limits | toJson | quote }}
- name: MILEPOST_OPERATOR_NAMESPACE
  valueFrom:
    fieldRef: {fieldPath: metadata.namespace}
- name: MILEPOST_POD_NAME
  valueFrom:
    fieldRef: {fieldPath: metadata.name}
{{- end -}}

{{- define "milepost.control.migrate" -}}
{{- $root := first . -}}
- name: migrate
  image: {{ include "milepost.image" (list $root "controlPlane") }}
  imagePullPolicy: {{ $root.Values.imagePullPolicy }}
  args: [migrate]
  env: {{- include "milepost.control.env" . | nindent 4 }}
  securityContext: {{- include "milepost.containerSecurity" . | nindent 4 }}
  resources: {{- toYaml $root.Values.migrate.resources | nindent 4 }}
  volumeMounts:
    - {name: database, mountPath: /etc/milepost/database, readOnly: true}
    - {name: tmp, mountPath: /tmp}
{{- end -}}

{{- define "milepost.control.probes" -}}
# Started and alive = the loops turn; ready = it can serve. A database that is away makes nothing restart.
startupProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 1
  timeoutSeconds: 2
  failureThreshold: 60
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  periodSeconds: 3
  timeoutSeconds: 2
  failureThreshold: 2
livenessProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
{{- end -}}

{{- define "milepost.control.volumes" -}}
{{- $root := first . -}}
{{- $full := include "milepost.fullname" $root -}}
- name: database
  projected:
    defaultMode: 0440
    sources:
      - secret:
          name: {{ include "milepost.databaseSecret" $root }}
          items: [{key: url, path: url}]
      {{- if include "milepost.embedded" $root }}
      {{- if $root.Values.postgres.tls.existingSecret }}
      - secret:
          name: {{ $root.Values.postgres.tls.existingSecret }}
          items: [{key: ca.crt, path: ca.crt}]
      {{- else }}
      - configMap:
          name: {{ $full }}-ca
          items: [{key: ca.crt, path: ca.crt}]
      {{- end }}
      {{- else if $root.Values.postgres.external.ca }}
      - configMap:
          name: {{ $full }}-ca
          items: [{key: external-ca.crt, path: external-ca.crt}]
      {{- end }}
- name: tmp
  emptyDir: {sizeLimit: 64Mi}
{{- end -}}
