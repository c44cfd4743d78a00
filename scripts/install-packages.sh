#!/bin/sh
# install-packages.sh PROGRAM:PACKAGE ... - installs each Debian package whose PROGRAM is not there (":PACKAGE": always).
# Servers are installed to be started privately by tests; none is started or enabled as a service of the machine.
set -eu

PATH=$PATH:/usr/sbin:/sbin
missing=
for pair in "$@"; do
    program=${pair%%:*}
    if [ -z "$program" ] || ! command -v "$program" >/dev/null 2>&1; then
        missing="$missing ${pair#*:}"
    fi
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "Missing:$missing. This machine has no apt-get: install them by hand." >&2
    exit 1
fi
as_root=
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null 2>&1 || {
        echo "Missing:$missing. Run as root: apt-get install$missing" >&2
        exit 1
    }
    as_root=sudo
fi

# Debian asks this program before a package starts its service; 101 means: not allowed.
policy=/usr/sbin/policy-rc.d
saved=
restore() {
    if [ -n "$saved" ]; then $as_root mv "$saved" "$policy"; else $as_root rm -f "$policy"; fi
}
if [ -e "$policy" ]; then
    saved=$policy.saved.$$
    $as_root mv "$policy" "$saved"
fi
trap restore EXIT
trap 'exit 130' INT TERM
printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
$as_root chmod 755 "$policy"

echo "Installing$missing (not started as services)"
export DEBIAN_FRONTEND=noninteractive
quietly() {
    log=$(mktemp)
    if ! $as_root env DEBIAN_FRONTEND=noninteractive "$@" >"$log" 2>&1 </dev/null; then
        cat "$log" >&2
        rm -f "$log"
        return 1
    fi
    rm -f "$log"
}
quietly apt-get update
# shellcheck disable=SC2086 - a list of packages
quietly apt-get install --yes --no-install-recommends $missing

# Neither now nor at the next boot.
if [ -d /run/systemd/system ]; then
    for package in $missing; do
        if [ -e "/lib/systemd/system/$package.service" ]; then
            $as_root systemctl disable --now "$package.service" >/dev/null 2>&1 || true
        fi
    done
fi
