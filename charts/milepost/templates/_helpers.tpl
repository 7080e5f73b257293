{{- define "milepost.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* 40 characters leave room for -postgres-0 and the hashes of pods. */}}
{{- define "milepost.fullname" -}}
{{- $name := include "milepost.name" . -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Name of a cluster-scoped object: releases of one name may stand in two namespaces. Takes (list root suffix). */}}
{{- define "milepost.clusterName" -}}
{{- $root := first . -}}
{{- printf "%s:%s-%s" $root.Release.Namespace (include "milepost.fullname" $root) (last .) -}}
{{- end -}}

{{- define "milepost.selector" -}}
{{- $root := first . -}}
app.kubernetes.io/name: {{ include "milepost.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
{{- with last . }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{/* Labels of an object. Takes (list root component); the component may be empty. */}}
{{- define "milepost.labels" -}}
{{- $root := first . -}}
{{ include "milepost.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/part-of: milepost
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* Reference of an image. Takes (list root name). */}}
{{- define "milepost.image" -}}
{{- $root := first . -}}
{{- $image := index $root.Values.image (last .) -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (default $root.Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "milepost.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Security context of a pod. Takes the uid, which is the gid and the group of its volumes too. */}}
{{- define "milepost.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Where a component's pods go. Takes (list root component). */}}
{{- define "milepost.scheduling" -}}
{{- $root := first . -}}
{{- $own := index $root.Values (last .) -}}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $own.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if gt (int (default 1 $own.replicas)) 1 }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "milepost.selector" . | nindent 8 }}
{{- end }}
{{- end -}}

{{/*
Metadata of a component's pods. Takes (list root component). The version is not part of it: a new chart alone must not
restart the database.
*/}}
{{- define "milepost.podMeta" -}}
{{- $root := first . -}}
{{- $own := index $root.Values (last .) -}}
labels: {{- merge (include "milepost.selector" . | fromYaml) $own.podLabels | toYaml | nindent 2 }}
annotations:
  milepost.dev/secrets: {{ include "milepost.generated.checksum" . }}
  {{- with $own.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "milepost.embedded" -}}
{{- if not (or .Values.postgres.external.url .Values.postgres.external.existingSecret) -}}true{{- end -}}
{{- end -}}

{{- define "milepost.databaseSecret" -}}
{{- if include "milepost.embedded" . -}}
{{- default (printf "%s-database" (include "milepost.fullname" .)) .Values.postgres.auth.existingSecret -}}
{{- else -}}
{{- default (printf "%s-database" (include "milepost.fullname" .)) .Values.postgres.external.existingSecret -}}
{{- end -}}
{{- end -}}

{{- define "milepost.keysSecret" -}}
{{- default (printf "%s-keys" (include "milepost.fullname" .)) .Values.api.tokens.existingSecret -}}
{{- end -}}

{{- define "milepost.tlsSecret" -}}
{{- default (printf "%s-tls" (include "milepost.fullname" .)) .Values.api.tls.existingSecret -}}
{{- end -}}

{{- define "milepost.postgresTlsSecret" -}}
{{- default (printf "%s-postgres-tls" (include "milepost.fullname" .)) .Values.postgres.tls.existingSecret -}}
{{- end -}}

{{- define "milepost.operatorUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "milepost.fullname" . }}-operator
{{- end -}}

{{/* A scalar as text: whole numbers reach templates as floats, and large ones would be written as 1e+06. */}}
{{- define "milepost.plain" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}{{ int64 . }}{{- else -}}{{ . }}{{- end -}}
{{- end -}}
