{{/* The users that the controllers' accounts are, as a list in an expression, as `credential-operator crds` writes it. */}}
{{- define "credential-operator-crds.controllers" -}}
{{- $users := list -}}
{{- range .Values.controllerAccounts -}}
{{- $users = append $users (printf "'system:serviceaccount:%s'" .) -}}
{{- end -}}
{{- printf "[%s]" (join ", " $users) -}}
{{- end -}}
