{{- /* Values that contradict each other, all reported at once. Rendered by configmap.yaml. */ -}}
{{- define "mlms.validate" -}}
{{- $wrong := list -}}
{{- $name := include "mlms.fullname" . -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{- $wrong = append $wrong (printf "the objects' names would begin with %s, and a Service's name begins with a letter and has letters, digits and dashes only: give another release name or fullnameOverride." $name) -}}
{{- end -}}
{{- range $name, $part := dict "broker" .Values.broker "lobbyNode" .Values.lobbyNode -}}
{{- with $part.autoscaling -}}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) -}}
{{- $wrong = append $wrong (printf "%s.autoscaling.minReplicas is %v, more than maxReplicas, %v." $name .minReplicas .maxReplicas) -}}
{{- end -}}
{{- if and .enabled (gt (int .connectionsPerPod) (int $part.connectionsMax)) -}}
{{- $wrong = append $wrong (printf "%s.autoscaling.connectionsPerPod is %v, but a pod refuses at connectionsMax, %v: it would never grow." $name .connectionsPerPod $part.connectionsMax) -}}
{{- end -}}
{{- $request := dig "requests" "cpu" "" $part.resources | toString -}}
{{- if and .enabled (eq $request "") -}}
{{- $wrong = append $wrong (printf "%s.autoscaling looks at the CPU in per cent of %s.resources.requests.cpu, which is not set." $name $name) -}}
{{- end -}}
{{- end -}}
{{- if and $part.podDisruptionBudget.enabled (not $part.autoscaling.enabled) (le (int $part.replicas) (int $part.podDisruptionBudget.maxUnavailable)) (gt (int $part.replicas) 1) -}}
{{- $wrong = append $wrong (printf "%s.podDisruptionBudget.maxUnavailable is %v of %v replicas: all may be away at once." $name $part.podDisruptionBudget.maxUnavailable $part.replicas) -}}
{{- end -}}
{{- end -}}
{{- $grace := include "mlms.grace" . | int -}}
{{- $needed := add .Values.drain.preStopSeconds .Values.drain.seconds 15 | int -}}
{{- if lt $grace $needed -}}
{{- $wrong = append $wrong (printf "drain.terminationGracePeriodSeconds is %d, but the drain takes %d (drain.preStopSeconds + drain.seconds + 15 for the last writes): pods would be killed in the middle." $grace $needed) -}}
{{- end -}}
{{- if ge $grace 600 -}}
{{- $wrong = append $wrong (printf "the pods' end would take up to %d s; it has to stay under 600, which autoscalers of nodes wait at most. Lower drain.seconds." $grace) -}}
{{- end -}}
{{- range $name, $server := dict "redis" .Values.redis "database" .Values.database "amqp" .Values.amqp -}}
{{- $ways := 0 -}}
{{- range list $server.url $server.existingSecret $server.inChart.enabled -}}{{- if . -}}{{- $ways = add1 $ways -}}{{- end -}}{{- end -}}
{{- if gt (int $ways) 1 -}}
{{- $wrong = append $wrong (printf "%s is named more than once: give one of %s.url, %s.existingSecret and %s.inChart.enabled." $name $name $name $name) -}}
{{- end -}}
{{- if and (eq (int $ways) 0) (ne $name "amqp") -}}
{{- $wrong = append $wrong (printf "%s is not named: give %s.existingSecret or %s.url, or %s.inChart.enabled=true for trying out." $name $name $name $name) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.achievements.enabled (not (include "mlms.has" .Values.amqp)) -}}
{{- $wrong = append $wrong "achievements.enabled needs domain events, but no amqp is named: give amqp.existingSecret or amqp.url, or achievements.enabled=false." -}}
{{- end -}}
{{- with .Values.jwt -}}
{{- $secrets := 0 -}}
{{- range list .hs256Secret .existingSecret .generate -}}{{- if . -}}{{- $secrets = add1 $secrets -}}{{- end -}}{{- end -}}
{{- if gt (int $secrets) 1 -}}
{{- $wrong = append $wrong "the HS256 secret is named more than once: give one of jwt.existingSecret, jwt.hs256Secret and jwt.generate." -}}
{{- end -}}
{{- if and .publicKey .publicKeyConfigMap -}}
{{- $wrong = append $wrong "the public key is named twice: give jwt.publicKey or jwt.publicKeyConfigMap." -}}
{{- end -}}
{{- $jwks := dig "jwt" "jwks_url" "" $.Values.config -}}
{{- if not (or $secrets .publicKey .publicKeyConfigMap $jwks) -}}
{{- $wrong = append $wrong "players' tokens cannot be verified: give jwt.existingSecret, jwt.publicKey, jwt.publicKeyConfigMap or config.jwt.jwks_url, or jwt.generate=true for trying out." -}}
{{- end -}}
{{- if and .hs256Secret (lt (len .hs256Secret) 32) -}}
{{- $wrong = append $wrong "jwt.hs256Secret has fewer than 32 bytes and can be guessed." -}}
{{- end -}}
{{- if and $.Values.config.guests (eq (int $secrets) 0) -}}
{{- $wrong = append $wrong "config.guests signs guests' tokens with the HS256 secret, which is not given." -}}
{{- end -}}
{{- end -}}
{{- if and .Values.jobs.closeIdleLobbies.enabled (not (or .Values.jwt.hs256Secret .Values.jwt.existingSecret .Values.jwt.generate)) -}}
{{- $wrong = append $wrong "jobs.closeIdleLobbies acts as an admin and signs its token with the HS256 secret, which is not given." -}}
{{- end -}}
{{- if and .Values.clusterKey.value .Values.clusterKey.existingSecret -}}
{{- $wrong = append $wrong "the cluster's key is named twice: give clusterKey.value or clusterKey.existingSecret." -}}
{{- end -}}
{{- if and (eq .Values.lobbyNode.address "ip") (eq .Values.ipFamily "IPv6") (contains "$(POD_IP)" (toString .Values.lobbyNode.publicUrl)) -}}
{{- $wrong = append $wrong "lobbyNode.publicUrl cannot hold a bare IPv6 address." -}}
{{- end -}}
{{- if and .Values.gateway.enabled (not .Values.gateway.parentRefs) -}}
{{- $wrong = append $wrong "gateway.enabled needs gateway.parentRefs: the Gateway that the route belongs to." -}}
{{- end -}}
{{- range $name, $place := dict "consul" (list "consul" "url") "trace" (list "trace" "otlp_url") -}}
{{- if and (get $.Values $name).existingSecret (not (dig (index $place 0) (index $place 1) "" $.Values.config)) -}}
{{- $wrong = append $wrong (printf "%s.existingSecret is for what config.%s names, which is not given." $name (join "." $place)) -}}
{{- end -}}
{{- end -}}
{{- range $key, $pattern := dict "trace.otlp_url" "^https?://[^/]+" "consul.url" "^https?://[^/]+" "log.gelf" "^(udp|tcp)://.+:[0-9]+$" "statsd.address" "^[^/]+:[0-9]+$" -}}
{{- $parts := splitList "." $key -}}
{{- $given := dig (index $parts 0) (index $parts 1) "" $.Values.config | toString -}}
{{- if and $given (not (regexMatch $pattern $given)) -}}
{{- $wrong = append $wrong (printf "config.%s is %s, which is no such address." $key $given) -}}
{{- end -}}
{{- end -}}
{{- if $wrong -}}
{{- fail (printf "\n\nThese values contradict each other:\n  - %s\n" (join "\n  - " $wrong)) -}}
{{- end -}}
{{- end }}
