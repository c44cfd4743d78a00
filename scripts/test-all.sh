#!/bin/sh
# Runs the tests on every supported Python that this machine has, on the PATH or under pyenv, each in an environment of
# its own (.venv-3.N).
set -eu

here=$(dirname "$0")

# Print how to call Python $1. A pyenv shim stands on the PATH for versions that it refuses to run: so try it.
find_python() {
    if "python$1" -c '' 2>/dev/null; then
        echo "python$1"
    elif prefix=$(pyenv prefix "$1" 2>/dev/null) && [ -x "$prefix/bin/python" ]; then
        echo "$prefix/bin/python"
    else
        return 1
    fi
}

ran=
for version in 3.11 3.12 3.13; do
    python=$(find_python "$version") || { echo "python$version is not here, left out"; continue; }
    venv=.venv-$version
    [ -x "$venv/bin/python" ] || PYTHON="$python" sh "$here/make-venv.sh" "$venv"
    "$venv/bin/python" -m pip install --quiet --editable . --group dev
    echo "== Python $version"
    "$venv/bin/python" -m pytest "$@"
    ran="$ran $version"
done
[ -n "$ran" ] || { echo "no Python from 3.11 to 3.13 was found" >&2; exit 1; }
echo "passed on$ran"
