{{/*
Everything random of a release. What a Secret in the cluster has already is kept; the rest is made once a rendering and
remembered in .Values, so that all templates see the same. What values bring themselves is not made: it would be
something else at each upgrade, and restart pods.
*/}}

{{- define "milepost.generated" -}}
{{- if not (hasKey .Values "generated") -}}
{{- $_ := set .Values "generated" (include "milepost.generate" . | fromYaml) -}}
{{- end -}}
{{- .Values.generated | toYaml -}}
{{- end -}}

{{/* Data of a Secret of this release as base64 text, or nothing. Takes (list root suffix). */}}
{{- define "milepost.present" -}}
{{- $root := first . -}}
{{- $found := lookup "v1" "Secret" $root.Release.Namespace (printf "%s-%s" (include "milepost.fullname" $root) (last .)) -}}
{{- dict "data" (default dict (dig "data" dict $found)) | toYaml -}}
{{- end -}}

{{- define "milepost.generate" -}}
{{- $full := include "milepost.fullname" . -}}
{{- $days := 3650 -}}
{{- $keys := (include "milepost.present" (list . "keys") | fromYaml).data -}}
{{- $database := (include "milepost.present" (list . "database") | fromYaml).data -}}
{{- $password := default (randAlphaNum 40) (default "" $database.password | b64dec) -}}
{{- $token := randAlphaNum 40 -}}
{{- if not .Values.api.tokens.existingSecret }}
sessionKey: {{ default (randAlphaNum 64 | b64enc) (default "" (index $keys "session-key")) | quote }}
apiTokens: {{ default (printf "admin:*:%s\n" $token | b64enc) (default "" (index $keys "api-tokens")) | quote }}
{{- end }}
{{- if include "milepost.makesPassword" . }}
password: {{ $password | quote }}
{{- end }}
{{- if include "milepost.makesCA" . }}
{{- $old := (include "milepost.present" (list . "ca") | fromYaml).data -}}
{{- $ca := dict -}}
{{- if index $old "tls.key" -}}
{{- $ca = buildCustomCert (index $old "tls.crt") (index $old "tls.key") -}}
{{- else -}}
{{- $ca = genCA (printf "%s CA" $full) $days -}}
{{- end }}
ca:
  crt: {{ $ca.Cert | b64enc }}
  key: {{ $ca.Key | b64enc }}
{{- $leaves := dict }}
{{- if not .Values.api.tls.existingSecret }}{{ $_ := set $leaves "tls" "api" }}{{ end }}
{{- if include "milepost.makesPostgresTLS" . }}{{ $_ := set $leaves "postgres-tls" "postgres" }}{{ end }}
{{- range $suffix, $service := $leaves }}
{{- $host := printf "%s-%s" $full $service }}
{{- $leaf := (include "milepost.present" (list $ $suffix) | fromYaml).data }}
{{ $suffix }}:
  {{- if eq (default "" (index $leaf "ca.crt")) (b64enc $ca.Cert) }}
  crt: {{ index $leaf "tls.crt" }}
  key: {{ index $leaf "tls.key" }}
  {{- else }}
  {{- $service := printf "%s.%s" $host $.Release.Namespace }}
  {{- $names := list $host $service (printf "%s.svc" $service) (printf "%s.svc.cluster.local" $service) "localhost" }}
  {{- $made := genSignedCert (printf "%s.svc" $service | trunc 64) (list "127.0.0.1") $names $days $ca }}
  crt: {{ $made.Cert | b64enc }}
  key: {{ $made.Key | b64enc }}
  {{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "milepost.makesPassword" -}}
{{- if and (include "milepost.embedded" .) (not .Values.postgres.auth.existingSecret) -}}true{{- end -}}
{{- end -}}

{{- define "milepost.makesPostgresTLS" -}}
{{- if and (include "milepost.embedded" .) (not .Values.postgres.tls.existingSecret) -}}true{{- end -}}
{{- end -}}

{{- define "milepost.makesCA" -}}
{{- if or (not .Values.api.tls.existingSecret) (include "milepost.makesPostgresTLS" .) -}}true{{- end -}}
{{- end -}}

{{/* Changes with any generated value that a component reads, and so restarts its pods. Takes (list root component). */}}
{{- define "milepost.generated.checksum" -}}
{{- $made := include "milepost.generated" (first .) | fromYaml -}}
{{- $reads := dict "api" (list "password" "sessionKey" "apiTokens" "tls" "ca") "operator" (list "password" "ca") "postgres" (list "password" "postgres-tls") -}}
{{- $external := (first .).Values.postgres.external -}}
{{- $values := list $external.url $external.ca -}}
{{- range index $reads (last .) -}}
{{- $values = append $values (get $made . | toYaml) -}}
{{- end -}}
{{- join "\n" $values | sha256sum | trunc 16 -}}
{{- end -}}
