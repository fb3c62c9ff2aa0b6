#!/usr/bin/env bash
# tests/package/run.sh TOLLGATE    builds the Debian package around this binary and lives with it: install,
# configure, serve, upgrade under a stream, remove, purge. In a copy of this machine that goes away with the
# script: as root, on Debian. There is no systemd in it: what the unit says is done here by its own lines.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
binary=$(realpath "$1")

if [ -z "${TOLLGATE_PACKAGE_INSIDE:-}" ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  # cargo deb takes what stands in the folder of the profile; it is not built again.
  profile=$(basename "$(dirname "$binary")")
  [ "$profile" = debug ] && profile=dev
  for version in 0.1.0-1 0.1.0-2; do
    cargo deb --quiet --no-build --profile "$profile" --deb-version "$version" --output "$work/$version.deb"
  done
  dpkg-deb --info "$work/0.1.0-1.deb" | grep -E "^ (Package|Version|Depends|Section)"
  # The machine, with all that is written kept apart, and a root of its own.
  TOLLGATE_PACKAGE_INSIDE=$work unshare --mount --pid --fork --kill-child bash -euo pipefail -c '
    apart=$TOLLGATE_PACKAGE_INSIDE/apart; mkdir "$apart"; mount -t tmpfs tmpfs "$apart"
    mkdir "$apart"/{upper,work,root}
    mount -t overlay overlay -o "lowerdir=/,upperdir=$apart/upper,workdir=$apart/work" "$apart/root"
    mkdir -p "$apart/root$TOLLGATE_PACKAGE_INSIDE"
    cp "$TOLLGATE_PACKAGE_INSIDE"/*.deb "$apart/root$TOLLGATE_PACKAGE_INSIDE/"
    mount -t proc proc "$apart/root/proc"; mount --rbind /dev "$apart/root/dev"
    mount -t tmpfs tmpfs "$apart/root/run"
    cp tests/package/inside.sh "$apart/root$TOLLGATE_PACKAGE_INSIDE/"
    exec chroot "$apart/root" "$TOLLGATE_PACKAGE_INSIDE/inside.sh"'
fi
