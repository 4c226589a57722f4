#!/bin/sh
# venv.sh DIR: make a virtual environment with pip in DIR, or say which package is missing.
# PYTHON chooses the interpreter; without it the newest one that works is taken (a pyenv shim may exist and still fail).
set -eu
dir=$1

if [ -x "$dir/bin/python" ] && "$dir/bin/python" -m pip --version >/dev/null 2>&1; then
  exit 0 # complete but its packages are older than pyproject.toml: pip brings it up to date
fi

python=
for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
  if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then
  echo "pvnet needs Python 3.11 or newer; looked for: ${PYTHON:-python3.13 python3.12 python3.11 python3}" >&2
  echo "on Debian 12, Ubuntu 24.04 or newer: apt install python3 python3-venv" >&2
  exit 1
fi
# The module alone proves nothing: Debian ships venv without the ensurepip that it needs.
if ! "$python" -c 'import venv, ensurepip; ensurepip.version()' >/dev/null 2>&1; then
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  echo "$python cannot make virtual environments: apt install python3-venv (python$version-venv)" >&2
  exit 1
fi
echo "making $dir with $("$python" --version) ($python)"
rm -rf "$dir"
if ! "$python" -m venv "$dir"; then
  rm -rf "$dir"
  exit 1
fi
