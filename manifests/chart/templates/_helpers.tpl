{{- define "nri-enforcer.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "nri-enforcer.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "nri-enforcer.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "nri-enforcer.selector" -}}
app.kubernetes.io/name: {{ include "nri-enforcer.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "nri-enforcer.labels" -}}
{{ include "nri-enforcer.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "nri-enforcer.serviceAccount" -}}
{{- default (include "nri-enforcer.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "nri-enforcer.image" -}}
{{- $repository := required "image.repository is empty: there is no public image, build manifests/image and say where it is" .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- /* What differs between ways to set a node up. README.md says what of this was tried. */ -}}
{{- define "nri-enforcer.presets" -}}
kubeadm:
  containerdConfig: /etc/containerd/config.toml
# https://docs.k3s.io/advanced#configuring-containerd
k3s:
  containerdConfig: /var/lib/rancher/k3s/agent/etc/containerd/config.toml.tmpl
rke2:
  containerdConfig: /var/lib/rancher/rke2/agent/etc/containerd/config.toml.tmpl
k0s:
  # imported by the file that k0s writes anew at each start, from k0s 1.27.1 on: https://docs.k0sproject.io/stable/runtime/
  containerdConfig: /etc/k0s/containerd.d/nri-enforcer.toml
  kubeletDir: /var/lib/k0s/kubelet
  # left alone by host policies; the daemon's defaults have them, too
  hostExempt:
    - system.slice/k0scontroller.service
    - system.slice/k0sworker.service
    - /var/lib/k0s/bin/containerd-shim-runc-v2
# the arguments' directory: https://canonical.com/microk8s/docs/configuring-services; the file is the snap's own,
# microk8s-resources/default-args/containerd-template.toml of github.com/canonical/microk8s
microk8s:
  containerdConfig: /var/snap/microk8s/current/args/containerd-template.toml
  kubeletDir: /var/snap/microk8s/common/var/lib/kubelet
  hostExempt:
    - system.slice/snap.microk8s.daemon-kubelite.service
    - system.slice/snap.microk8s.daemon-containerd.service
    - system.slice/snap.microk8s.daemon-k8s-dqlite.service
    - /snap/microk8s/current/bin/containerd-shim-runc-v2
# Amazon Linux 2023: written at each boot by nodeadm, nodeadm/internal/containerd of github.com/awslabs/amazon-eks-ami.
# Not Bottlerocket, whose root is read-only and whose configuration is made by its own API.
eks:
  containerdConfig: /etc/containerd/config.toml
gke:
  containerdConfig: /etc/containerd/config.toml
  # Container-Optimized OS: the root file system is read-only, and most others are mounted noexec; /etc is gone at a reboot:
  # https://cloud.google.com/container-optimized-os/docs/concepts/disks-and-filesystem
  hookDir: /home/kubernetes/bin/nri-enforcer
  quota: true
aks:
  containerdConfig: /etc/containerd/config.toml
{{- end -}}

{{- /* The paths of this release, as YAML: the preset's, unless values name others. */ -}}
{{- define "nri-enforcer.paths" -}}
{{- $preset := get (fromYaml (include "nri-enforcer.presets" .)) .Values.runtime.preset -}}
nriSocket: {{ default "/var/run/nri/nri.sock" .Values.runtime.nriSocket | quote }}
kubeletDir: {{ default (default "/var/lib/kubelet" (get $preset "kubeletDir")) .Values.runtime.kubeletDir | quote }}
containerdConfig: {{ default (get $preset "containerdConfig") .Values.runtime.containerdConfig | quote }}
hookDir: {{ default (default "/opt/nri-enforcer" (get $preset "hookDir")) .Values.hook.dir | quote }}
hostExempt: {{ default list (get $preset "hostExempt") | toJson }}
quota: {{ ternary (default false (get $preset "quota")) .Values.priorityClassQuota (kindIs "invalid" .Values.priorityClassQuota) }}
{{- end -}}

{{- /* Whether metrics are at an address that only the pod or the node itself reaches. */ -}}
{{- define "nri-enforcer.loopback" -}}
{{- regexMatch "^(127\\.|\\[(0{0,4}:){2,7}0{0,3}1\\]$)" .Values.metrics.address -}}
{{- end -}}

{{- /* Whether metrics are at all addresses. */ -}}
{{- define "nri-enforcer.everywhere" -}}
{{- has .Values.metrics.address (list "0.0.0.0" "[::]") -}}
{{- end -}}

{{- /*
Where kubelet asks. Without a host it asks the pod's address, which on the node's network may be of the other family, or
none that the daemon listens at.
*/ -}}
{{- define "nri-enforcer.probeHost" -}}
{{- if eq .Values.metrics.address "0.0.0.0" -}}127.0.0.1
{{- else if eq .Values.metrics.address "[::]" -}}::1
{{- else -}}{{ .Values.metrics.address | trimPrefix "[" | trimSuffix "]" }}
{{- end -}}
{{- end -}}

{{- /* The version of MutatingAdmissionPolicy that the cluster serves: https://kubernetes.io/docs/reference/access-authn-authz/mutating-admission-policy/ */ -}}
{{- define "nri-enforcer.admissionVersion" -}}
{{- if semverCompare ">=1.36-0" .Capabilities.KubeVersion.Version -}}v1
{{- else if semverCompare ">=1.34-0" .Capabilities.KubeVersion.Version -}}v1beta1
{{- else if semverCompare ">=1.32-0" .Capabilities.KubeVersion.Version -}}v1alpha1
{{- else -}}{{- fail "apparmor.admission needs Kubernetes 1.32, which brought MutatingAdmissionPolicy" -}}
{{- end -}}
{{- end -}}

{{- /* What no schema can say. */ -}}
{{- define "nri-enforcer.validate" -}}
{{- $paths := fromYaml (include "nri-enforcer.paths" .) -}}
{{- if and .Values.hook.everyContainer (not .Values.nri.autoEnable) -}}
{{- fail "hook.everyContainer needs nri.autoEnable: both edit containerd's configuration" -}}
{{- end -}}
{{- if and .Values.hook.everyContainer (not (has "kube-system" .Values.exemptNamespaces)) -}}
{{- fail "hook.everyContainer needs kube-system in exemptNamespaces: a node whose own pods wait for the daemon may never be able to start it" -}}
{{- end -}}
{{- if and .Values.hook.everyContainer (not .Values.hook.enabled) -}}
{{- fail "hook.everyContainer needs hook.enabled" -}}
{{- end -}}
{{- if and .Values.hook.everyContainer (or (hasSuffix ".tmpl" $paths.containerdConfig) (has .Values.runtime.preset (list "k0s" "microk8s"))) -}}
{{- fail (printf "hook.everyContainer: the configuration of the preset %s is a template or a part, so it does not show which runtimes there are" .Values.runtime.preset) -}}
{{- end -}}
{{- with .Values.nri.requiredPlugin -}}
{{- if .enabled -}}
{{- if not .kubeSystemTolerates -}}
{{- fail (printf "nri.requiredPlugin locks a node out whose own pods wait for the daemon: give every pod of kube-system, static ones too, the annotation %s: \"true\", and then set nri.requiredPlugin.kubeSystemTolerates" .toleration) -}}
{{- end -}}
{{- if not (has "kube-system" $.Values.exemptNamespaces) -}}
{{- fail "nri.requiredPlugin needs kube-system in exemptNamespaces: in others no pod may have its annotation" -}}
{{- end -}}
{{- if not $.Values.nri.autoEnable -}}
{{- fail "nri.requiredPlugin needs nri.autoEnable: both edit containerd's configuration" -}}
{{- end -}}
{{- if not (semverCompare ">=1.30.0-0" $.Capabilities.KubeVersion.Version) -}}
{{- fail "nri.requiredPlugin needs Kubernetes 1.30, whose ValidatingAdmissionPolicy keeps other pods from its annotation" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $nriDir := dir $paths.nriSocket | clean | replace "/var/run" "/run" -}}
{{- $others := list "/" "/etc" "/run" "/run/containerd" "/run/crio" "/run/docker" "/run/k0s" "/run/k0s/containerd" "/run/k3s" "/run/k3s/containerd" "/tmp" "/var" "/var/lib" "/var/snap/microk8s/common/run" "/var/snap/microk8s/common/run/containerd" -}}
{{- if has $nriDir $others -}}
{{- fail (printf "runtime.nriSocket: its directory comes into the pod, and %s holds more than that, such as the socket of the runtime: give NRI's socket a directory of its own" $nriDir) -}}
{{- end -}}
{{- if not (or .Values.policies.kubeApi .Values.policies.files .Values.policies.hostDir) -}}
{{- fail "policies: there is no source of policies; set policies.kubeApi, policies.files or policies.hostDir" -}}
{{- end -}}
{{- if and (or .Values.metrics.podMonitor.enabled .Values.metrics.serviceMonitor.enabled) (not .Values.metrics.enabled) -}}
{{- fail "metrics.podMonitor and metrics.serviceMonitor need metrics.enabled" -}}
{{- end -}}
{{- if and .Values.metrics.rules.enabled (not .Values.metrics.enabled) -}}
{{- fail "metrics.rules needs metrics.enabled" -}}
{{- end -}}
{{- if and .Values.nri.autoEnable (not .Values.hook.enabled) -}}
{{- fail "nri.autoEnable needs hook.enabled: one step does both" -}}
{{- end -}}
{{- if and .Values.metrics.enabled (ne (include "nri-enforcer.everywhere" .) "true") (not .Values.hostNetwork) -}}
{{- fail "metrics.address: kubelet asks the address of the pod, so without hostNetwork it is 0.0.0.0 or [::]" -}}
{{- end -}}
{{- if and (or .Values.metrics.podMonitor.enabled .Values.metrics.serviceMonitor.enabled) (eq (include "nri-enforcer.loopback" .) "true") -}}
{{- fail "metrics.address: Prometheus reaches no loopback address, so metrics.podMonitor and metrics.serviceMonitor need another" -}}
{{- end -}}
{{- if and .Values.feed.service (not .Values.feed.enabled) -}}
{{- fail "feed.service needs feed.enabled" -}}
{{- end -}}
{{- if and .Values.feed.relay (not .Values.feed.enabled) -}}
{{- fail "feed.relay needs feed.enabled" -}}
{{- end -}}
{{- if and .Values.feed.relay (or (ne (int .Values.feed.port) 32767) (regexMatch "^(127\\.|\\[(0{0,4}:){2,7}0{0,3}1\\]$)" .Values.feed.address)) -}}
{{- fail "feed.relay: KubeArmor's relay asks the pod's address at port 32767, so feed.port is that, and feed.address no loopback address" -}}
{{- end -}}
{{- if .Values.apparmor.admission.enabled -}}
{{- $loads := and (has "apparmor" .Values.lsmOrder) (or .Values.combine (eq (first .Values.lsmOrder) "apparmor")) (not .Values.seccompOnly) -}}
{{- if not $loads -}}
{{- fail "apparmor.admission needs apparmor as the first of lsmOrder, or combine, and no seccompOnly: a pod that names a profile is not created on a node whose daemon loads none" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.combine (lt (len .Values.lsmOrder) 2) -}}
{{- fail "combine needs two names in lsmOrder" -}}
{{- end -}}
{{- end -}}

{{- /* Postures, by class, without those that are empty. */ -}}
{{- define "nri-enforcer.postures" -}}
{{- $posture := dict -}}
{{- range $class, $action := . -}}
{{- if $action -}}{{- $_ := set $posture $class $action -}}{{- end -}}
{{- end -}}
{{- toYaml $posture -}}
{{- end -}}

{{- /* Whether nodes are asked for their labels. */ -}}
{{- define "nri-enforcer.asksNodes" -}}
{{- and .Values.policies.kubeApi .Values.hostPolicies.enabled (not .Values.seccompOnly) (not .Values.uninstall) -}}
{{- end -}}

{{- /* Whether each daemon is held to the report of its node: tokens tell their node from Kubernetes 1.30 on. */ -}}
{{- define "nri-enforcer.protectsReports" -}}
{{- $new := semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version -}}
{{- $wanted := ternary $new .Values.policies.protectReports (kindIs "string" .Values.policies.protectReports) -}}
{{- and .Values.policies.kubeApi .Values.policies.kubeStatus $wanted (not .Values.uninstall) -}}
{{- end -}}

{{- /* The daemon's configuration file. */ -}}
{{- define "nri-enforcer.config" -}}
{{- $paths := fromYaml (include "nri-enforcer.paths" .) -}}
{{- $v := .Values -}}
{{- $config := dict
  "nriSocket" $paths.nriSocket
  "stateDir" "/var/lib/nri-enforcer/state"
  "exemptNamespaces" $v.exemptNamespaces
  "strict" $v.strict
  "honourPodAnnotations" $v.honourPodAnnotations
  "seccompDirs" (list (printf "%s/seccomp" $paths.kubeletDir))
  "clusterName" $v.clusterName
  "logFormat" $v.log.format
  "logLevel" $v.log.level
  "alertRate" (int $v.alerts.rate)
  "logRate" (int $v.alerts.logRate)
-}}
{{- $_ := set $config "posture" (fromYaml (include "nri-enforcer.postures" $v.postures)) -}}
{{- if $v.visibility -}}{{- $_ := set $config "visibility" $v.visibility -}}{{- end -}}
{{- if $v.policies.kubeApi -}}
{{- $_ := set $config "kubeApi" true -}}
{{- if $v.policies.kubeStatus -}}
{{- $_ := set $config "kubeStatus" true -}}
{{- $_ := set $config "kubeStatusInterval" (int $v.policies.statusInterval) -}}
{{- end -}}
{{- end -}}
{{- $dirs := list -}}
{{- if $v.policies.files -}}{{- $dirs = append $dirs "/policies/files" -}}{{- end -}}
{{- if $v.policies.hostDir -}}{{- $dirs = append $dirs "/policies/host" -}}{{- end -}}
{{- if $dirs -}}{{- $_ := set $config "policyDirs" $dirs -}}{{- end -}}
{{- if $v.hook.enabled -}}{{- $_ := set $config "hook" (printf "%s/nri-enforcer-hook" $paths.hookDir) -}}{{- end -}}
{{- if $v.seccompOnly -}}
{{- $_ := set $config "seccompOnly" true -}}
{{- else -}}
{{- $_ := set $config "lsmOrder" $v.lsmOrder -}}
{{- if $v.combine -}}{{- $_ := set $config "combine" true -}}{{- end -}}
{{- if $v.hostPolicies.enabled -}}
{{- $_ := set $config "hostPolicies" true -}}
{{- $_ := set $config "hostPosture" (fromYaml (include "nri-enforcer.postures" $v.hostPolicies.postures)) -}}
{{- if $v.hostPolicies.nodeLabels -}}{{- $_ := set $config "nodeLabels" $v.hostPolicies.nodeLabels -}}{{- end -}}
{{- with concat $paths.hostExempt $v.hostPolicies.exempt | uniq -}}{{- $_ := set $config "hostExempt" . -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- if $v.libseccomp -}}{{- $_ := set $config "libseccomp" $v.libseccomp -}}{{- end -}}
{{- if $v.alerts.hostDir -}}
{{- $_ := set $config "alerts" "/var/log/nri-enforcer/alerts.jsonl" -}}
{{- $_ := set $config "alertsMaxBytes" (int64 $v.alerts.maxBytes) -}}
{{- $_ := set $config "alertsKeep" (int $v.alerts.keep) -}}
{{- end -}}
{{- if $v.alerts.logs -}}{{- $_ := set $config "logs" (ternary "/var/log/nri-enforcer/logs.jsonl" "-" (ne $v.alerts.hostDir "")) -}}{{- end -}}
{{- if $v.metrics.enabled -}}{{- $_ := set $config "metrics" (printf "%s:%d" $v.metrics.address (int $v.metrics.port)) -}}{{- end -}}
{{- if $v.feed.enabled -}}{{- $_ := set $config "feed" (printf "%s:%d" $v.feed.address (int $v.feed.port)) -}}{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{- /* The OCI hook's configuration file. Its exempt namespaces are the daemon's, and the daemon's own. */ -}}
{{- define "nri-enforcer.hookConfig" -}}
{{- dict
  "socket" "/run/nri-enforcer/gate.sock"
  "spool" "/var/lib/nri-enforcer/open-starts"
  "mode" .Values.failMode
  "deadlineMillis" (int .Values.hook.deadlineMillis)
  "exemptNamespaces" (append .Values.exemptNamespaces .Release.Namespace | uniq | sortAlpha)
  | toPrettyJson -}}
{{- end -}}

{{- /* AppArmor's default profile forbids writing to bpffs, and looking into other containers' roots. */ -}}
{{- define "nri-enforcer.appArmorField" -}}
{{- semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version -}}
{{- end -}}

{{- /* What every container of ours has: an argument is the list of capabilities. */ -}}
{{- define "nri-enforcer.securityContext" -}}
{{- $root := index . 0 -}}
{{- $capabilities := index . 1 -}}
runAsUser: 0
runAsGroup: 0
readOnlyRootFilesystem: true
allowPrivilegeEscalation: false
privileged: false
capabilities:
  drop: [ALL]
{{- if $capabilities }}
  add:
    {{- range $capabilities }}
    - {{ . | quote }}
    {{- end }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- if eq (include "nri-enforcer.appArmorField" $root) "true" }}
appArmorProfile:
  type: Unconfined
{{- end }}
{{- with $root.Values.seLinuxOptions }}
seLinuxOptions:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
