{{/* The rights of deploy/, which says what each is for; a test compares them. */}}
{{- define "credential-operator.work" }}
- apiGroups: [credential-operator.io]
  resources: [credentials]
  verbs: [get, list, watch, patch]
- apiGroups: [credential-operator.io]
  resources: [apitokens]
  verbs: [get, list, watch, delete]
- apiGroups: [credential-operator.io]
  resources: [credentials/status, apitokens/status]
  verbs: [update]
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [rolebindings]
  verbs: [get, list, watch, create, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- include "credential-operator.bind" . }}
{{- if .Values.controller.serviceAccountTokens }}
- apiGroups: [""]
  resources: [serviceaccounts/token]
  verbs: [create]
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [kube-root-ca.crt]
  verbs: [get]
{{- end }}
{{- end }}
{{- define "credential-operator.bind" }}
{{- /* Without names it would be a right to bind all roles. */}}
{{- with .Values.controller.bindableClusterRoles }}
- apiGroups: [rbac.authorization.k8s.io]
  resources: [clusterroles]
  verbs: [bind]
  resourceNames: {{ toJson . }}
{{- end }}
{{- end }}
{{- define "credential-operator.cluster" }}
- apiGroups: [credential-operator.io]
  resources: [credentialpolicies]
  verbs: [list, watch]
- apiGroups: [apiextensions.k8s.io]
  resources: [customresourcedefinitions]
  verbs: [get]
  resourceNames: [credentialpolicies.credential-operator.io]
- apiGroups: [""]
  resources: [namespaces]
  verbs: [list, watch]
- apiGroups: [admissionregistration.k8s.io]
  resources: [validatingadmissionpolicies, validatingadmissionpolicybindings]
  verbs: [get, list, watch]
{{- end }}
{{- define "credential-operator.whole" }}
- apiGroups: [credential-operator.io]
  resources: [credentialpolicies/status]
  verbs: [update]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [clusterrolebindings]
  verbs: [get, list, watch, create, delete]
{{- end }}
{{- define "credential-operator.home" }}
- apiGroups: [credential-operator.io]
  resources: [credentials]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [credential-operator]
  verbs: [get, list, watch, patch]
{{- if .Values.watchNamespaces }}
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [credential-operator-keyring]
  verbs: [get, list, watch, patch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
{{- end }}
{{- define "credential-operator.judge" }}
- apiGroups: [credential-operator.io]
  resources: [credentials, apitokens]
  verbs: [get, list, watch]
{{- end }}
{{- define "credential-operator.ask" }}
- apiGroups: [authentication.k8s.io]
  resources: [tokenreviews]
  verbs: [create]
- apiGroups: [authorization.k8s.io]
  resources: [subjectaccessreviews]
  verbs: [create]
{{- end }}
{{- define "credential-operator.keyring" }}
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [credential-operator-keyring]
  verbs: [get, list, watch]
{{- end }}
{{- /* A role and its binding: (list $ component kind namespace name account rules). */}}
{{- define "credential-operator.role" }}
{{- $ := index . 0 }}
{{- $component := index . 1 }}
{{- $kind := index . 2 }}
{{- $namespace := index . 3 }}
{{- $name := index . 4 }}
{{- $account := index . 5 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}
metadata:
  name: {{ $name }}
  {{- with $namespace }}
  namespace: {{ . }}
  {{- end }}
  labels: {{- include "credential-operator.labels" (list $ $component) | nindent 4 }}
rules:
{{- index . 6 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}Binding
metadata:
  name: {{ $name }}
  {{- with $namespace }}
  namespace: {{ . }}
  {{- end }}
  labels: {{- include "credential-operator.labels" (list $ $component) | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ $kind }}
  name: {{ $name }}
subjects:
- kind: ServiceAccount
  name: {{ $account }}
  namespace: {{ $.Release.Namespace }}
{{- end }}
