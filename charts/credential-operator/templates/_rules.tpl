{{/* Rights, and what each is for: the comments are for whoever reads deploy/, which is rendered from here. */}}
{{- define "credential-operator.work" }}
- apiGroups: [credential-operator.io]
  resources: [credentials]
  verbs: [get, list, watch, patch]  # patch: its finalizer, while bindings outside the namespace exist
- apiGroups: [credential-operator.io]
  resources: [apitokens]
  verbs: [get, list, watch, delete]  # delete: the tokens of a credential that was deleted
- apiGroups: [credential-operator.io]
  resources: [apitokens/status]
  verbs: [update]
- apiGroups: [credential-operator.io]
  resources: [credentials/status]
  verbs: [update, patch]  # patch: reports a refusal by a policy while others edit the object
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]  # delete: those that garbage collection leaves (--cascade=orphan)
- apiGroups: [rbac.authorization.k8s.io]
  resources: [rolebindings]
  verbs: [get, list, watch, create, patch, delete]  # patch: removes the finalizers of those that must be deleted
- apiGroups: [events.k8s.io]
  resources: [events]  # of trouble alone
  verbs: [create, patch]
{{- if .Values.controller.bindableClusterRoles }}
# The roles that credentials may be granted, by name. Without the verb bind the API server would refuse every
# binding to a role that has more rights than the operator itself. Extend it by a ClusterRole and a binding of your
# own, with care: whoever may write a Credential may then grant these roles to it, as far as CredentialPolicies allow.
{{- include "credential-operator.bind" . }}
{{- end }}
{{- end }}
{{- define "credential-operator.mint" }}
- apiGroups: [""]
  resources: [serviceaccounts/token]
  verbs: [create]
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [kube-root-ca.crt]  # the authority of the API server, for Kubeconfigs that name none
  verbs: [get]
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
  resources: [customresourcedefinitions]  # whether a policy that is gone went with it
  verbs: [get]
  resourceNames: [credentialpolicies.credential-operator.io]
- apiGroups: [""]
  resources: [namespaces]  # their labels alone, by which policies select them
  verbs: [list, watch]
- apiGroups: [admissionregistration.k8s.io]  # whether they are as they were shipped
  resources: [validatingadmissionpolicies, validatingadmissionpolicybindings]
  verbs: [get, list, watch]
{{- end }}
{{- define "credential-operator.whole" }}
- apiGroups: [credential-operator.io]
  resources: [credentialpolicies/status]
  verbs: [update]  # how many namespaces, credentials and violations there are
- apiGroups: [rbac.authorization.k8s.io]
  resources: [clusterrolebindings]
  verbs: [get, list, watch, create, patch, delete]  # patch: removes the finalizers of those that must be deleted
{{- end }}
{{- define "credential-operator.home" }}
# A dry run, which the admission policies must refuse, to see that they are in force. Nothing is ever created by it.
- apiGroups: [credential-operator.io]
  resources: [credentials]
  verbs: [create]
# The Lease, by which one of several controllers works.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [credential-operator]
  verbs: [get, list, watch, patch]
{{- if .Values.watchNamespaces }}
# The keyring, and events of what stops all.
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
  namespace: {{ toYaml . }}
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
  namespace: {{ toYaml . }}
  {{- end }}
  labels: {{- include "credential-operator.labels" (list $ $component) | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ $kind }}
  name: {{ $name }}
subjects:
- kind: ServiceAccount
  name: {{ $account }}
  namespace: {{ toYaml $.Release.Namespace }}
{{- end }}
