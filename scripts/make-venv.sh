#!/bin/sh
# Creates a virtual environment in $1 with ${PYTHON:-python3} and a pip that knows dependency groups.
# Debian ships python3 without ensurepip: what is missing is installed from its packages.
set -eu

venv=$1
python=${PYTHON:-python3}
here=$(dirname "$0")

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python 3.11 or newer is needed; $python is $("$python" -V 2>&1). Name another one: make PYTHON=python3.12 ..." >&2
    exit 1
}
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    sh "$here/install-packages.sh" :python"$version"-venv || sh "$here/install-packages.sh" :python3-venv
fi
# A half-made environment would be taken for a whole one the next time.
trap 'test -x "$venv/.pip-ready" || rm -rf "$venv"' EXIT
"$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --upgrade 'pip>=25.1'
: > "$venv/.pip-ready"
chmod +x "$venv/.pip-ready"
