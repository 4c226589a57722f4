#!/usr/bin/env bash
# Fetches what tests/interop needs into .interop, or into $PVNET_INTEROP: a QEMU that is a vfio-user client (10.1 or
# newer), a Linux kernel for its guest and a busybox, each as Debian ships it.
#
# Nothing is installed and root is not needed: apt runs with a sources list and a state of its own, and packages are
# unpacked aside.  The mirror is the one that this machine's apt uses, or $PVNET_DEBIAN_MIRROR.  What is there already
# is not fetched again; to have newer versions, remove the folder.
#
# Exit code 77: they cannot be had on this machine; the only line of output says why.
set -euo pipefail
cd "$(dirname "$0")/.."
into=$(realpath -m "${PVNET_INTEROP:-.interop}")
suite=trixie

cannot() {
  echo "no peers for tests/interop: $*"
  exit 77
}

[[ $(uname -m) == x86_64 ]] || cannot "they are programs for x86_64, this is $(uname -m)"
mkdir -p "$into"
exec 9>"$into/lock"
flock 9
complete() { [[ -e $into/$1/.complete ]]; }
if complete qemu && complete linux && complete busybox; then
  cat "$into"/{qemu,linux,busybox}/.complete
  exit
fi

for program in apt-get apt-cache dpkg-deb; do
  command -v "$program" >/dev/null || cannot "$program is not installed"
done
for keys in /usr/share/keyrings/debian-archive-keyring.{pgp,gpg} none; do
  [[ ! -e $keys ]] || break
done
[[ $keys != none ]] || cannot "the keys of Debian's archive are not installed: apt install debian-archive-keyring"

rm -rf "$into"/work.*
work=$(mktemp -d "$into/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{state/lists/partial,cache/archives/partial,none}
: >"$work/status"
options=(-q -o "Dir::Etc::SourceList=$work/sources.list" -o "Dir::Etc::SourceParts=$work/none"
  -o "Dir::Etc::Preferences=/dev/null" -o "Dir::Etc::PreferencesParts=$work/none" -o "Dir::State=$work/state"
  -o "Dir::State::status=$work/status" -o "Dir::Cache=$work/cache" -o APT::Architecture=amd64
  -o APT::Architectures=amd64 -o APT::Sandbox::User= -o APT::Update::Error-Mode=any -o Acquire::Languages=none
  -o Acquire::Retries=3 -o APT::Install-Recommends=false)
say() { tail -n 1 "$work/log"; }

# A machine's sources name several archives; Debian's own is the one whose lists its keys have signed.
found=
for mirror in ${PVNET_DEBIAN_MIRROR:-$(apt-get update --print-uris 2>/dev/null | sed -n "s#^'\([^']*\)/dists/.*#\1#p" | sort -u)}; do
  printf "deb [signed-by=$keys] $mirror %s main\n" "$suite" "$suite-backports" >"$work/sources.list"
  if apt-get "${options[@]}" update >"$work/log" 2>&1; then
    found=$mirror
    break
  fi
done
[[ $found ]] || cannot "no mirror of Debian $suite among the sources of apt; \$PVNET_DEBIAN_MIRROR may name one"

# fetch FOLDER PACKAGE APT-ARGUMENT...: unpack what apt downloads, completely or not at all; note the package's version.
fetch() {
  local folder=$1 package=$2 deb
  shift 2
  rm -f "$work"/cache/archives/*.deb
  (cd "$work/cache/archives" && apt-get "${options[@]}" "$@") >"$work/log" 2>&1 || cannot "$package: $(say)"
  mkdir "$work/$folder"
  for deb in "$work"/cache/archives/*.deb; do
    dpkg-deb --extract "$deb" "$work/$folder"
  done
  deb=$(find "$work/cache/archives" -name "${package}_*.deb")
  dpkg-deb --show --showformat '${Package} ${Version}\n' "$deb" >"$work/$folder/.complete"
  rm -rf "${into:?}/$folder"
  mv "$work/$folder" "$into/$folder"
}

complete qemu || fetch qemu qemu-system-x86 install --yes --download-only -t "$suite-backports" qemu-system-x86
if ! complete linux; then
  kernel=$(apt-cache "${options[@]}" depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: //p' | head -n 1)
  fetch linux "$kernel" download "$kernel"
fi
complete busybox || fetch busybox busybox-static download busybox-static
cat "$into"/{qemu,linux,busybox}/.complete
