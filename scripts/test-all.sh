#!/bin/sh
# Runs the tests on every supported Python that this machine has, each in an environment of its own (.venv-3.N).
set -eu

here=$(dirname "$0")
ran=
for version in 3.11 3.12 3.13; do
    command -v "python$version" >/dev/null 2>&1 || { echo "python$version is not here, left out"; continue; }
    venv=.venv-$version
    [ -x "$venv/bin/python" ] || PYTHON="python$version" sh "$here/make-venv.sh" "$venv"
    "$venv/bin/python" -m pip install --quiet --editable . --group dev
    echo "== Python $version"
    "$venv/bin/python" -m pytest "$@"
    ran="$ran $version"
done
[ -n "$ran" ] || { echo "no Python from 3.11 to 3.13 was found" >&2; exit 1; }
echo "passed on$ran"
