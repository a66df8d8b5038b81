{{/* Values that do not go together. */}}
{{- define "credential-operator.check" -}}
{{- if has .Release.Namespace .Values.watchNamespaces -}}
{{- fail (printf "watchNamespaces names %s, where the keyring lives: whoever may read Secrets there could sign tokens; install the chart in a namespace of its own, or take this one out" .Release.Namespace) -}}
{{- end -}}
{{- if .Values.verifier.enabled -}}
{{- $tls := .Values.verifier.tls -}}
{{- if and (eq $tls.mode "generated") .Values.watchNamespaces -}}
{{- fail "verifier.tls.mode generated does not go with watchNamespaces: the operator would make the certificate in its own namespace, where it does not look then; choose certManager or secret" -}}
{{- end -}}
{{- if and (eq $tls.mode "certManager") (not $tls.certManager.issuerRef.name) -}}
{{- fail "verifier.tls.mode certManager needs verifier.tls.certManager.issuerRef.name: who is to sign" -}}
{{- end -}}
{{- if and (eq $tls.mode "secret") (not $tls.secret.name) -}}
{{- fail "verifier.tls.mode secret needs verifier.tls.secret.name: the Secret with tls.crt and tls.key" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What the pods of a component are selected by: (list $ component). */}}
{{- define "credential-operator.selector" -}}
{{- $ := index . 0 -}}
app.kubernetes.io/name: credential-operator
app.kubernetes.io/instance: {{ toYaml $.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* The labels of what belongs to a component: (list $ component). */}}
{{- define "credential-operator.labels" -}}
{{- $ := index . 0 -}}
{{ include "credential-operator.selector" . }}
app.kubernetes.io/version: {{ $.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: credential-operator
app.kubernetes.io/managed-by: {{ $.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $.Chart.Name $.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* What is of the whole cluster has one name there; operators of some namespaces each have their own. */}}
{{- define "credential-operator.suffix" -}}
{{- if .Values.watchNamespaces }}:{{ .Release.Namespace }}{{ end -}}
{{- end -}}

{{- define "credential-operator.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "credential-operator.tlsSecret" -}}
{{- $tls := .Values.verifier.tls -}}
{{- if eq $tls.mode "secret" }}{{ $tls.secret.name }}{{ else }}credential-operator-verifier-tls{{ end -}}
{{- end -}}

{{- define "credential-operator.dnsNames" -}}
{{- $service := "credential-operator-verifier" -}}
{{- $local := printf "%s.%s" $service .Release.Namespace -}}
{{- $names := list $service $local (printf "%s.svc" $local) (printf "%s.svc.%s" $local .Values.clusterDomain) -}}
{{- concat $names .Values.verifier.tls.dnsNames | uniq | toYaml -}}
{{- end -}}

{{/* What all pods have: (list $ (the values of the component)). */}}
{{- define "credential-operator.pod" -}}
{{- $ := index . 0 -}}
{{- $values := index . 1 -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile: {type: RuntimeDefault}
{{- with $.Values.imagePullSecrets }}
imagePullSecrets: {{ toJson . }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ toYaml . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- with $values.tolerations }}
tolerations: {{ toJson . }}
{{- end }}
{{- with $values.affinity }}
affinity: {{ toJson . }}
{{- end }}
{{- end -}}

{{/* Over zones and nodes, as far as that goes: (list $ component (the values of the component)). */}}
{{- define "credential-operator.spread" -}}
{{- $ := index . 0 -}}
{{- $component := index . 1 -}}
{{- $values := index . 2 -}}
topologySpreadConstraints:
{{- with $values.topologySpreadConstraints }}
{{ toYaml . }}
{{- else }}
{{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
- topologyKey: {{ $key }}
  maxSkew: 1
  whenUnsatisfiable: ScheduleAnyway
  matchLabelKeys: [pod-template-hash]
  labelSelector:
    matchLabels: {{- include "credential-operator.selector" (list $ $component) | nindent 6 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* What all containers have. A field is applied as a whole, so its version is written out: the API server's would be a difference. */}}
{{- define "credential-operator.container" -}}
image: {{ include "credential-operator.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
env:
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {apiVersion: v1, fieldPath: metadata.namespace}}
- name: POD_IP
  valueFrom: {fieldRef: {apiVersion: v1, fieldPath: status.podIP}}
{{- end -}}

{{/* What all commands are given. */}}
{{- define "credential-operator.args" -}}
- --log-format={{ .Values.log.format }}
- {{ printf "--log=%s" .Values.log.level | quote }}
{{- with .Values.watchNamespaces }}
- --watch-namespaces={{ join "," . }}
{{- end }}
{{- end -}}

{{/* Health by the port of that name. */}}
{{- define "credential-operator.probes" -}}
livenessProbe:
  httpGet: {path: /livez, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 3
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  periodSeconds: 2
  timeoutSeconds: 2
{{- end -}}

{{/* From where a port may be reached. */}}
{{- define "credential-operator.from" }}
{{- with . }}
    from: {{- toYaml . | nindent 4 }}
{{- end }}
{{- end }}

{{/* The API server alone, which is found by its address. */}}
{{- define "credential-operator.egress" }}
  egress:
  - ports:
    {{- range . }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
{{- end }}
