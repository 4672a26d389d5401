{{- /* What several templates say. */ -}}

{{- define "meltemi.suffix" -}}
{{- if .Values.revision }}-{{ .Values.revision }}{{ end -}}
{{- end -}}

{{- define "meltemi.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "meltemi.labels" -}}
app.kubernetes.io/part-of: meltemi
app.kubernetes.io/instance: meltemi{{ include "meltemi.suffix" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end -}}

{{- define "meltemi.pullSecrets" -}}
{{- if .Values.image.pullSecrets }}
imagePullSecrets:
{{- range .Values.image.pullSecrets }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "meltemi.mesh" -}}
cluster: {{ .Values.cluster | quote }}
network: {{ .Values.network | quote }}
trustDomain: {{ .Values.trustDomain | quote }}
clusterDomain: {{ .Values.clusterDomain | quote }}
rootNamespace: {{ .Release.Namespace | quote }}
logLevel: {{ .Values.logLevel | quote }}
{{- end -}}

{{- define "meltemi.controlPlaneConfig" -}}
{{ include "meltemi.mesh" . }}
revision: {{ .Values.revision | quote }}
source:
  kubernetes: true
ca:
  secret: true
  workloadTtlSeconds: {{ int .Values.controlPlane.workloadTtlSeconds }}
auth:
  tokenReview:
    audience: istio-ca
webhook:
  port: {{ if .Values.webhook.enabled }}15017{{ else }}0{{ end }}
  failurePolicy: {{ .Values.webhook.failurePolicy }}
leaderElection: true
{{- end -}}

{{- define "meltemi.upstream" -}}
address: meltemi{{ include "meltemi.suffix" . }}.{{ .Release.Namespace }}.svc:15012
serverName: meltemi.{{ .Release.Namespace }}.svc
rootCert: /var/run/secrets/istio/root-cert.pem
token: /var/run/secrets/tokens/istio-token
{{- end -}}

{{- define "meltemi.agentConfig" -}}
{{ include "meltemi.mesh" . }}
revision: {{ .Values.revision | quote }}
xds:
{{ include "meltemi.upstream" . | indent 2 }}
ca:
{{ include "meltemi.upstream" . | indent 2 }}
pods:
  kubernetes: true
cni:
  enabled: {{ and .Values.cni.enabled (not .Values.revision) }}
  socket: /run/meltemi/cni.sock
  binDir: {{ .Values.cni.binDir | quote }}
  confDir: {{ .Values.cni.confDir | quote }}
  exemptNamespaces: {{ append .Values.cni.exemptNamespaces .Release.Namespace | toJson }}
crlPath: /var/run/secrets/crl/ca-crl.pem
stateDir: /run/meltemi
meshPrefixes: {{ toJson .Values.agent.meshPrefixes }}
drainSeconds: {{ int .Values.agent.drainSeconds }}
accessLog: {{ .Values.agent.accessLog | quote }}
engine: {{ toJson .Values.agent.engine }}
{{- end -}}
