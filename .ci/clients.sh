#!/usr/bin/env bash
# clients.sh [pypowervm|ansible]: puts the management software that tests/interop/novalink drives a lab with into
# .interop, or into $PVNET_INTEROP: each in a virtual environment of its own, unmodified, with pinned versions.
#
# pip's and ansible-galaxy's own settings say where packages come from; $PVNET_POWER_HMC names an ibm.power_hmc
# collection to take instead (a tarball, or a folder that has ansible_collections).  What is there already is not
# fetched again; to have it anew, remove its folder.
#
# Exit code 77: something cannot be had on this machine; a line of output says what and why.
set -euo pipefail
cd "$(dirname "$0")/.."
into=$(realpath -m "${PVNET_INTEROP:-.interop}")
pins=tests/interop/novalink
collection=ibm.power_hmc:1.8.2
missing=0

cannot() {
  echo "no $1 for tests/interop/novalink: $2"
  missing=77
}
last() { grep -v '^[[:space:]]*$' "$into/clients.log" | tail -n 1; }

# environment NAME PINS: a virtual environment of exactly the pinned packages, completely or not at all.
environment() {
  local folder=$into/$1 pinned=$2
  if [[ -e $folder/.complete ]] && cmp -s "$pinned" "$folder/.complete"; then
    return 0
  fi
  rm -rf "$folder"
  if ! sh .ci/venv.sh "$folder" >"$into/clients.log" 2>&1 ||
    ! "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r "$pinned" \
      >"$into/clients.log" 2>&1; then
    cannot "$1" "$(last)"
    rm -rf "$folder"
    return 1
  fi
  cp "$pinned" "$folder/.complete"
}

# The inventory plugin: from $PVNET_POWER_HMC, or from Ansible Galaxy.
power_hmc() {
  local collections=$into/ansible/collections source=${PVNET_POWER_HMC:-$collection}
  if [[ -e $collections/.complete ]]; then
    return 0
  fi
  rm -rf "$collections"
  mkdir -p "$collections"
  if [[ -d $source/ansible_collections ]]; then
    cp -r "$source/ansible_collections" "$collections/"
  elif ! timeout 120 "$into/ansible/bin/ansible-galaxy" collection install --no-deps -p "$collections" "$source" \
    >"$into/clients.log" 2>&1; then
    cannot ibm.power_hmc "$(last)"
    rm -rf "$collections"
    return 1
  fi
  touch "$collections/.complete"
}

mkdir -p "$into"
exec 9>"$into/clients.lock"
flock 9
for client in "${@:-pypowervm}"; do
  case $client in
    pypowervm) environment pypowervm "$pins/pypowervm.txt" || true ;;
    ansible) { environment ansible "$pins/ansible.txt" && power_hmc; } || true ;;
    *) cannot "$client" "expected pypowervm or ansible" ;;
  esac
done
for folder in pypowervm ansible; do
  if [[ -e $into/$folder/.complete ]]; then
    grep -E '^(pypowervm|ansible-core)==' "$into/$folder/.complete"
  fi
done
exit "$missing"
