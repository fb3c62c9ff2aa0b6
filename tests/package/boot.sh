#!/usr/bin/env bash
# tests/package/boot.sh PACKAGE.deb    installs the package on an empty Debian that is booted with systemd, and lives with
# it as the README says: start, reload, upgrade, hang, stop. As root, with debootstrap; takes minutes.
# run.sh needs no systemd and is quicker; what systemd itself makes of the unit is seen here alone.
set -euo pipefail
package=$(realpath "$1")
cd "$(dirname "${BASH_SOURCE[0]}")"
work=$(mktemp -d)
root=$work/root
boot=
finish() {
  if [ -n "$boot" ]; then
    kill -9 "$boot" 2>/dev/null || true
    wait "$boot" 2>/dev/null || true
  fi
  # A moment, until its mounts are gone with it.
  for _ in $(seq 50); do rm -rf --one-file-system "$work" 2>/dev/null && return; sleep 0.1; done
  rm -rf --one-file-system "$work"
}
trap finish EXIT

suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,ca-certificates,curl,python3-minimal \
  "$suite" "$root" "${TOLLGATE_DEBIAN:-http://deb.debian.org/debian}" >"$work/debootstrap.log"
cp "$package" "$root/root/tollgate.deb"
cp booted.sh "$root/root/"

# A machine of its own, as far as namespaces go: nothing of this one's is seen or changed in it.
root=$root unshare --mount --pid --fork --uts --ipc --net --cgroup --kill-child bash -euc '
  mount --make-rprivate /
  mount --bind "$root" "$root"
  mount -t proc proc "$root/proc"
  mount -t sysfs sysfs "$root/sys"
  mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
  mount -t tmpfs -o mode=755 tmpfs "$root/run"
  mount -t tmpfs -o mode=755 tmpfs "$root/dev"
  for name in null zero full random urandom tty; do
    touch "$root/dev/$name"; mount --bind "/dev/$name" "$root/dev/$name"
  done
  mkdir "$root/dev/pts" "$root/dev/shm"
  mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
  ln -s pts/ptmx "$root/dev/ptmx"
  mount -t tmpfs tmpfs "$root/dev/shm"
  exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot "$root" /lib/systemd/systemd \
    --log-target=null' >/dev/null 2>&1 </dev/null &
boot=$!

init() { pgrep -P "$boot"; }
inside() { nsenter -t "$(init)" -m -p -u -i -n -C -r -w env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "$@"; }
for _ in $(seq 300); do
  # Degraded: there is no console.
  case $(inside systemctl is-system-running 2>/dev/null) in running | degraded) break ;; esac
  sleep 0.1
done
inside bash /root/booted.sh
