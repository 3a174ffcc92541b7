{{- /* Names, labels, and where secrets lie. Used by every template; makes no object. */ -}}

{{- define "mlms.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- /* Short enough for a CronJob's name (…-close-idle-lobbies), which may have 52 characters; others may have more. */ -}}
{{- define "mlms.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 33 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "mlms.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 33 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 33 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* Argument: (dict "root" $ "component" "broker"); the component may be empty. */ -}}
{{- define "mlms.selector" -}}
app.kubernetes.io/name: {{ include "mlms.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end }}

{{- define "mlms.labels" -}}
{{- $own := include "mlms.selector" . | fromYaml -}}
{{- $own = merge $own (dict
  "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
  "app.kubernetes.io/version" (.root.Chart.AppVersion | toString | trunc 63)
  "app.kubernetes.io/managed-by" .root.Release.Service
  "app.kubernetes.io/part-of" "mlms") -}}
{{- merge $own .root.Values.commonLabels | toYaml -}}
{{- end }}

{{- /* Annotations of an object. Argument: (dict "root" $ "own" (dict …)). Empty when there are none. */ -}}
{{- define "mlms.annotations" -}}
{{- with merge (deepCopy (default (dict) .own)) .root.Values.commonAnnotations -}}
annotations: {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end }}

{{- /* metadata of an object. Argument: (dict "root" $ "component" "broker" "suffix" "-broker" "own" annotations "labels" more). */ -}}
{{- define "mlms.metadata" -}}
name: {{ include "mlms.fullname" .root }}{{ .suffix }}
namespace: {{ .root.Release.Namespace }}
labels: {{- merge (include "mlms.labels" . | fromYaml) (default (dict) .labels) | toYaml | nindent 2 }}
{{- with include "mlms.annotations" . }}
{{ . }}
{{- end }}
{{- end }}

{{- define "mlms.image" -}}
{{- $image := .Values.image -}}
{{- $name := $image.repository -}}
{{- if $image.registry -}}{{- $name = printf "%s/%s" $image.registry $image.repository -}}{{- end -}}
{{- if $image.digest -}}{{ printf "%s@%s" $name $image.digest }}{{- else -}}{{ printf "%s:%s" $name (default .Chart.AppVersion $image.tag | toString) }}{{- end -}}
{{- end }}

{{- define "mlms.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "mlms.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{- /* The kubelet's patience: the sleep, the sessions' time, 15 s that the process takes for its last writes, and 10 s to spare. */ -}}
{{- define "mlms.grace" -}}
{{- $needed := add .Values.drain.preStopSeconds .Values.drain.seconds 25 -}}
{{- if kindIs "invalid" .Values.drain.terminationGracePeriodSeconds -}}{{ $needed }}{{- else -}}{{ int .Values.drain.terminationGracePeriodSeconds }}{{- end -}}
{{- end }}

{{- define "mlms.anyAddress" -}}
{{- if eq .Values.ipFamily "IPv6" -}}[::]{{- else -}}0.0.0.0{{- end -}}
{{- end }}

{{- /* The chart's own Secret. */ -}}
{{- define "mlms.secretName" -}}{{ include "mlms.fullname" . }}{{- end }}

{{- /* One kept value of the chart's own Secret: the one in the cluster, else a new one. Argument: (dict "root" $ "key" … "new" …). */ -}}
{{- define "mlms.kept" -}}
{{- $known := lookup "v1" "Secret" .root.Release.Namespace (include "mlms.secretName" .root) -}}
{{- $data := default (dict) (get (default (dict) $known) "data") -}}
{{- if hasKey $data .key -}}{{ get $data .key | b64dec }}{{- else -}}{{ .new }}{{- end -}}
{{- end }}

{{- /* Whether a server is there at all. Argument: .Values.redis and the like. */ -}}
{{- define "mlms.has" -}}
{{- if or .url .existingSecret .inChart.enabled -}}true{{- end -}}
{{- end }}

{{- /* A variable from a Secret: the named one, else the chart's own. Argument: (dict "root" $ "variable" … "existing" … "existingKey" … "key" …). */ -}}
{{- define "mlms.secretVariable" -}}
- name: {{ .variable }}
  valueFrom:
    secretKeyRef:
      {{- if .existing }}
      name: {{ .existing }}
      key: {{ .existingKey }}
      {{- else }}
      name: {{ default (include "mlms.secretName" .root) .own }}
      key: {{ .key }}
      {{- end }}
{{- end }}

{{- define "mlms.databaseVariable" -}}
{{- with .root.Values.database -}}
{{ include "mlms.secretVariable" (dict "root" $.root "variable" "MLMS_DATABASE_URL" "existing" .existingSecret "existingKey" .existingSecretKey "key" "database-url" "own" $.own) }}
{{- end -}}
{{- end }}

{{- /* Variables by which a role finds its servers and keys. Argument: (dict "root" $ "redis" true "database" true "amqp" true "keys" true). */ -}}
{{- define "mlms.secretVariables" -}}
{{- $values := .root.Values -}}
{{- if .redis }}
{{ include "mlms.secretVariable" (dict "root" .root "variable" "MLMS_REDIS_URL" "existing" $values.redis.existingSecret "existingKey" $values.redis.existingSecretKey "key" "redis-url") }}
{{- end }}
{{- if .database }}
{{ include "mlms.databaseVariable" (dict "root" .root) }}
{{- end }}
{{- if and .amqp (include "mlms.has" $values.amqp) }}
{{ include "mlms.secretVariable" (dict "root" .root "variable" "MLMS_AMQP_URL" "existing" $values.amqp.existingSecret "existingKey" $values.amqp.existingSecretKey "key" "amqp-url") }}
{{- end }}
{{- if .keys }}
{{ include "mlms.secretVariable" (dict "root" .root "variable" "MLMS_CLUSTER_KEY" "existing" $values.clusterKey.existingSecret "existingKey" $values.clusterKey.existingSecretKey "key" "cluster-key") }}
{{- if or $values.jwt.existingSecret $values.jwt.hs256Secret $values.jwt.generate }}
{{ include "mlms.secretVariable" (dict "root" .root "variable" "MLMS_JWT_HS256_SECRET" "existing" $values.jwt.existingSecret "existingKey" $values.jwt.existingSecretKey "key" "jwt-hs256-secret") }}
{{- end }}
{{- if or $values.jwt.publicKey $values.jwt.publicKeyConfigMap }}
- {name: MLMS_JWT_PUBLIC_KEY_FILE, value: /etc/mlms-jwt/jwt.pem}
{{- end }}
{{- end }}
{{- end }}

{{- /* A value as TOML. Helm knows numbers only as floats; whole ones are written whole. */ -}}
{{- define "mlms.toml" -}}
{{- if kindIs "string" . -}}{{ toJson . }}
{{- else if kindIs "bool" . -}}{{ . }}
{{- else if kindIs "slice" . -}}[{{ range $index, $item := . }}{{ if $index }}, {{ end }}{{ include "mlms.toml" $item }}{{ end }}]
{{- else if eq (float64 .) (floor .) -}}{{ int64 . }}
{{- else -}}{{ . }}{{- end -}}
{{- end }}

{{- /* The ports of an output that `config` names, as in a NetworkPolicy. Argument: its address, a URL or host:port; "scheme" is taken where there is none. */ -}}
{{- define "mlms.outputPort" -}}
{{- $scheme := regexFind "^[a-z]+" (ternary .address .scheme (contains "://" .address)) -}}
{{- $host := regexReplaceAll "^[a-z]+://" .address "" | splitList "/" | first -}}
{{- $port := regexFind "[0-9]+$" (regexFind ":[0-9]+$" $host) -}}
{{- if not $port -}}{{- $port = ternary "443" "80" (eq $scheme "https") -}}{{- end -}}
{port: {{ $port }}, protocol: {{ ternary "UDP" "TCP" (eq $scheme "udp") }}}
{{- end }}
