{{- /* What all pods of MLMS have alike. Used by the workloads; makes no object. */ -}}

{{- /* Metadata of a pod. Argument: (dict "root" $ "component" … "values" .Values.broker); without values no more annotations. */ -}}
{{- define "mlms.podMetadata" -}}
{{- $values := default (dict) .values -}}
labels: {{- merge (include "mlms.labels" . | fromYaml) (default (dict) $values.podLabels) | toYaml | nindent 2 }}
annotations:
  {{- /* Another setting is another pod, but for those that processes take up as they run. Generated secrets stay out, they never change. */}}
  {{- $config := deepCopy .root.Values.config }}
  {{- $perAddress := dig "limits" "connections_per_address_max" "" $config }}
  {{- $fixed := omit $config "limits" "maintenance" "log" "lobby" "trace" }}
  {{- $log := omit (default (dict) $config.log) "filter" }}
  {{- $lobby := omit (default (dict) $config.lobby) "word_filter" }}
  {{- $trace := omit (default (dict) $config.trace) "sample_ratio" }}
  checksum/config: {{ list $fixed $log $lobby $trace $perAddress .root.Values.achievements.rules | toJson | sha256sum }}
  checksum/secret: {{ list .root.Values.jwt.hs256Secret .root.Values.jwt.publicKey .root.Values.clusterKey.value .root.Values.redis.url .root.Values.database.url .root.Values.amqp.url | toJson | sha256sum }}
  {{- with merge (deepCopy (default (dict) $values.podAnnotations)) .root.Values.commonAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- /* The pod's own part of a spec. Argument as above. */ -}}
{{- define "mlms.podSpec" -}}
{{- $values := default (dict) .values -}}
serviceAccountName: {{ include "mlms.serviceAccountName" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext: {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .spread }}
topologySpreadConstraints:
  {{- if $values.topologySpreadConstraints }}
  {{- toYaml $values.topologySpreadConstraints | nindent 2 }}
  {{- else }}
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "mlms.selector" $ | nindent 8 }}
  {{- end }}
  {{- end }}
{{- end }}
{{- end }}

{{- /* Image, security and settings of a container. Argument: (dict "root" $). */ -}}
{{- define "mlms.container" -}}
image: {{ include "mlms.image" .root | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext: {{- toYaml .root.Values.containerSecurityContext | nindent 2 }}
volumeMounts:
  - {name: config, mountPath: /etc/mlms, readOnly: true}
  {{- if or .root.Values.jwt.publicKey .root.Values.jwt.publicKeyConfigMap }}
  - {name: jwt, mountPath: /etc/mlms-jwt, readOnly: true}
  {{- end }}
  {{- include "mlms.authoritiesMount" . | nindent 2 }}
{{- end }}

{{- /* Certificates of authorities, for whoever speaks to a server. */ -}}
{{- define "mlms.authoritiesMount" -}}
{{- if .root.Values.authorities.existingConfigMap -}}
- {name: authorities, mountPath: /etc/mlms-authorities, readOnly: true}
{{- end -}}
{{- end }}

{{- define "mlms.authoritiesVolume" -}}
{{- with .root.Values.authorities.existingConfigMap -}}
- name: authorities
  configMap: {name: {{ . }}}
{{- end -}}
{{- end }}

{{- define "mlms.authoritiesVariable" -}}
{{- with .root.Values.authorities -}}
{{- if and .existingConfigMap .file -}}
- {name: SSL_CERT_FILE, value: {{ printf "/etc/mlms-authorities/%s" .file | quote }}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "mlms.volumes" -}}
- name: config
  configMap: {name: {{ include "mlms.fullname" .root }}}
{{- if or .root.Values.jwt.publicKey .root.Values.jwt.publicKeyConfigMap }}
- name: jwt
  configMap: {name: {{ default (printf "%s-jwt" (include "mlms.fullname" .root)) .root.Values.jwt.publicKeyConfigMap }}}
{{- end }}
{{ include "mlms.authoritiesVolume" . }}
{{- end }}

{{- /* Variables of a role that serves. */ -}}
{{- define "mlms.serverVariables" -}}
- {name: MLMS_CONFIG, value: /etc/mlms/mlms.toml}
- {name: MLMS_ADMIN_LISTEN, value: {{ printf "%s:9080" (include "mlms.anyAddress" .root) | quote }}}
- {name: MLMS_DRAIN_SECONDS, value: {{ .root.Values.drain.seconds | quote }}}
{{ include "mlms.authoritiesVariable" . }}
{{- range $variable, $from := dict "MLMS_CONSUL_TOKEN" .root.Values.consul "MLMS_TRACE_HEADERS" .root.Values.trace }}
{{- if $from.existingSecret }}
{{ include "mlms.secretVariable" (dict "root" $.root "variable" $variable "existing" $from.existingSecret "existingKey" $from.existingSecretKey) }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Probes and the end of a container that serves. Only the admin listener is asked, and never about other services. */ -}}
{{- define "mlms.probes" -}}
startupProbe:
  httpGet: {path: /live, port: admin}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /live, port: admin}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /ready, port: admin}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
lifecycle:
  preStop:
    sleep: {seconds: {{ .root.Values.drain.preStopSeconds }}}
{{- end }}
