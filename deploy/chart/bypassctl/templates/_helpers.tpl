{{- define "bypassctl.name" -}}
{{- if contains "bypassctl" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-bypassctl" .Release.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "bypassctl.selector" -}}
app.kubernetes.io/name: bypassctl
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: webhook
{{- end }}

{{- define "bypassctl.labels" -}}
{{ include "bypassctl.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "bypassctl.cniSelector" -}}
app.kubernetes.io/name: bypassctl
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: cni
{{- end }}

{{- define "bypassctl.cniLabels" -}}
{{ include "bypassctl.cniSelector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "bypassctl.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "bypassctl.secret" -}}
{{- if eq .Values.tls.mode "secret" }}{{ .Values.tls.secretName }}{{ else }}{{ include "bypassctl.name" . }}-webhook-tls{{ end }}
{{- end }}

{{/* Cluster-wide, so it names the namespace too. */}}
{{- define "bypassctl.configuration" -}}
{{ include "bypassctl.name" . }}-{{ .Release.Namespace }}
{{- end }}

{{/* What a schema cannot say: values that do not go together, or not with this cluster. */}}
{{- define "bypassctl.check" -}}
{{- if and (eq .Values.inject.sidecar "native") (semverCompare "<1.29.0-0" .Capabilities.KubeVersion.Version) }}
{{- fail (printf "inject.sidecar: native sidecars need Kubernetes 1.29, and this is %s; set inject.sidecar=classic (Jobs are refused then), or say --kube-version" .Capabilities.KubeVersion.Version) }}
{{- end }}
{{- if eq (int .Values.webhook.port) (int .Values.webhook.adminPort) }}
{{- fail (printf "webhook.port and webhook.adminPort are both %d, and only one can listen there; set another webhook.adminPort" (int .Values.webhook.port)) }}
{{- end }}
{{- end }}

{{/* The subjects of a namespace: (dict "namespace" … "accounts" …) */}}
{{- define "bypassctl.subjects" -}}
{{- $namespace := .namespace }}
{{- range .accounts }}
- {kind: ServiceAccount, name: {{ . }}, namespace: {{ $namespace }}}
{{- else }}
- {kind: Group, apiGroup: rbac.authorization.k8s.io, name: "system:serviceaccounts:{{ $namespace }}"}
{{- end }}
{{- end }}
