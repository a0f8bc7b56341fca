{{- define "sixgate.selector" -}}
app.kubernetes.io/name: sixgate
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "sixgate.labels" -}}
{{ include "sixgate.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: sixgate
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "sixgate.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end }}

{{- define "sixgate.imageFields" -}}
image: {{ include "sixgate.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end }}

{{- /* A container that needs nothing of its node: no root, no capability, nothing to write. */ -}}
{{- define "sixgate.restricted" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{- define "sixgate.debug" -}}
{{- if eq .Values.logLevel "debug" }}
- --verbose
{{- end }}
{{- end }}

{{- /* A job of the chart's life cycle: root, name, hook, seconds, args, and objects where it reads the chart's objects. */ -}}
{{- define "sixgate.job" -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels: {{- include "sixgate.labels" .root | nindent 4 }}
    app.kubernetes.io/component: hook
  annotations:
    helm.sh/hook: {{ .hook }}
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
spec:
  backoffLimit: 2
  activeDeadlineSeconds: {{ add .seconds 60 }}
  template:
    metadata:
      labels: {{- include "sixgate.labels" .root | nindent 8 }}
        app.kubernetes.io/component: hook
    spec:
      serviceAccountName: sixgate-hooks
      restartPolicy: Never
      {{- with .root.Values.imagePullSecrets }}
      imagePullSecrets: {{- toYaml . | nindent 8 }}
      {{- end }}
      nodeSelector: {{- toYaml .root.Values.operator.nodeSelector | nindent 8 }}
      {{- with .root.Values.operator.tolerations }}
      tolerations: {{- toYaml . | nindent 8 }}
      {{- end }}
      containers:
        - name: hook
          {{- include "sixgate.imageFields" .root | nindent 10 }}
          args: {{- append .args (printf "--timeout=%d" (int .seconds)) | toYaml | nindent 12 }}
          env:
            - name: SIXGATE_NAMESPACE
              valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
          {{- include "sixgate.restricted" .root | nindent 10 }}
          {{- if .objects }}
          volumeMounts:
            - {name: objects, mountPath: /objects, readOnly: true}
          {{- end }}
      {{- if .objects }}
      volumes:
        - name: objects
          configMap: {name: sixgate-objects}
      {{- end }}
{{- end }}
