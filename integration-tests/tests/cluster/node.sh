# node.sh DIR PROGRAM...: runs the program on a node of its own: in a mount, pid, network, cgroup and host name namespace,
# where the paths that a node writes to are private and everything that was started ends with the program. What stays is below
# DIR; its `cgroups` names the cgroups that are to be removed.
set -euo pipefail
dir=$1

if [ "${NODE:-}" != inside ]; then
  # A cgroup of its own in each hierarchy. Under v1 it is below our own. Under v2 it is at the top: a cgroup with processes
  # may give its children no controllers.
  own=nri-enforcer-cluster-$$ hierarchies=$(cat /proc/self/cgroup)
  join() { mkdir "$1"; echo "$1" >>"$dir/cgroups"; [ ! -e "$1/cpuset.cpus" ] || [ -e "$1/cgroup.controllers" ] ||
    { cat "$1/../cpuset.cpus" >"$1/cpuset.cpus"; cat "$1/../cpuset.mems" >"$1/cpuset.mems"; }; echo $$ >"$1/cgroup.procs"; }
  while IFS=: read -r _ names path; do
    case $names in
      '') if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
            echo '+cpuset +cpu +io +memory +pids' >/sys/fs/cgroup/cgroup.subtree_control; join "/sys/fs/cgroup/$own"
          elif [ -d /sys/fs/cgroup/unified ]; then join "/sys/fs/cgroup/unified${path%/}/$own"; fi ;;
      name=systemd) join "/sys/fs/cgroup/systemd${path%/}/$own" ;;
      name=*) ;;
      *) join "/sys/fs/cgroup/${names%%,*}${path%/}/$own" ;;
    esac
  done <<<"$hierarchies"
  NODE=inside exec setpriv --pdeathsig KILL unshare --mount --pid --net --uts --ipc --cgroup --fork --kill-child --mount-proc \
    bash "$0" "$@"
fi

shift
mount --make-rprivate /
private=$dir/node
mkdir -p "$private"/{opt,etc,etc.work,local,local.work,var/lib,var/log,sysctl}
case $dir/ in /etc/* | /opt/* | /run/* | /usr/local/* | /var/lib/* | /var/log/*) echo "$dir is below a directory of the node's" >&2; exit 1 ;; esac
mount -t tmpfs -o mode=755 tmpfs /run
for path in /opt /var/lib /var/log; do mount --bind "$private$path" "$path"; done
mount -t overlay -o "lowerdir=/etc,upperdir=$private/etc,workdir=$private/etc.work" overlay /etc
mount -t overlay -o "lowerdir=/usr/local,upperdir=$private/local,workdir=$private/local.work" overlay /usr/local
# kubelet writes these, for the whole machine, unless they are so already
sysctl() { echo "$2" >"$private/sysctl/${1//\//.}"; mount --bind "$private/sysctl/${1//\//.}" "/proc/sys/$1"; }
sysctl vm/overcommit_memory 1; sysctl vm/panic_on_oom 0; sysctl kernel/panic 10; sysctl kernel/panic_on_oops 1
sysctl kernel/keys/root_maxkeys 1000000; sysctl kernel/keys/root_maxbytes 25000000

if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  umount /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup
  mkdir /sys/fs/cgroup/node; echo $$ >/sys/fs/cgroup/node/cgroup.procs
  sed 's/^\| / +/g' /sys/fs/cgroup/cgroup.controllers >/sys/fs/cgroup/cgroup.subtree_control
else
  names=$(cut -d: -f2 /proc/self/cgroup)
  mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
  for name in $names; do
    mkdir "/sys/fs/cgroup/${name#name=}"
    case $name in name=*) mount -t cgroup -o "none,$name" cgroup "/sys/fs/cgroup/${name#name=}" ;; *) mount -t cgroup -o "$name" cgroup "/sys/fs/cgroup/$name" ;; esac
  done
  mkdir /sys/fs/cgroup/unified; mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
fi
umount /sys/fs/bpf 2>/dev/null || true; mount -t bpf -o mode=700 bpf /sys/fs/bpf
mountpoint -q /sys/kernel/security || mount -t securityfs securityfs /sys/kernel/security
mount --make-rshared /

hostname node-1
ip link set lo up
ip link add node0 type bridge; ip addr add 10.98.0.1/24 dev node0; ip link set node0 up; ip route add default dev node0
echo 1 >/proc/sys/net/ipv4/ip_forward
"$@"
