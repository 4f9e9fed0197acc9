#!/usr/bin/env bash
# Makes .venv with everything in requirements.txt, in the versions of constraints.txt.  Run by every make target:
# it answers at once, and without a network, when nothing has changed since it last went through.
#   PYTHON=python3.12   the Python to use         TORCH_INDEX=URL   one more package index, for a CPU build of torch
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=.venv
stamp=$venv/.setup-done
inputs=(requirements.txt requirements-dev.txt constraints.txt pyproject.toml scripts/setup.sh)
# The folder is part of it: a virtual environment that was moved does not work any more.
want="$(pwd) $(cat "${inputs[@]}" | cksum)"

if [[ -x $venv/bin/python && -f $stamp && $(<"$stamp") == "$want" ]]; then
    exit 0
fi

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { say "$*"; exit 2; }
is_debian_root() { [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; }
sudo_hint() { [[ $(id -u) == 0 ]] || printf 'sudo '; }

supported() {  # a shim of a version manager may be on the path and still not run: so run it
    [[ -n $1 ]] && "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}

find_python() {
    local name
    if [[ -n ${PYTHON:-} ]]; then
        supported "$PYTHON" || fail "PYTHON=$PYTHON is not a Python 3.11, 3.12 or 3.13 that runs"
        echo "$PYTHON"
        return
    fi
    for name in python3.11 python3.12 python3.13 python3 python; do
        if supported "$name"; then
            echo "$name"
            return
        fi
    done
    fail "no Python 3.11, 3.12 or 3.13 found.  Debian/Ubuntu: $(sudo_hint)apt-get install python3 python3-venv;" \
        "elsewhere: https://www.python.org/downloads.  Then again, with PYTHON=/path/to/python if it is not on the path."
}

make_venv() {
    local python version
    python=$(find_python)
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    say "making $venv with Python $version"
    if ! "$python" -c 'import ensurepip' 2>/dev/null; then  # Debian ships venv apart
        if is_debian_root; then
            apt-get update -qq
            apt-get install -y -qq --no-install-recommends "python$version-venv" >&2
        else
            fail "Python $version lacks venv: $(sudo_hint)apt-get install python$version-venv"
        fi
    fi
    "$python" -m venv --clear "$venv"
}

system_libraries() {  # EGL, for MuJoCo without a display; everything else comes inside wheels
    [[ $(uname -s) == Linux ]] || return 0
    local found
    found=$(ldconfig -p 2>/dev/null || /sbin/ldconfig -p 2>/dev/null || true)
    [[ $found == *libEGL.so.1* && $found == *libGL.so.1* ]] && return 0
    local install="apt-get install -y --no-install-recommends libegl1 libgl1"
    if is_debian_root; then
        say "installing libegl1 and libgl1 (headless rendering for DeepMind Control)"
        { apt-get update -qq && $install -qq >&2; } || say "that failed; dmc_* environments will not render.  Later: $install"
    elif command -v apt-get >/dev/null; then
        say "dmc_* environments need EGL to render: sudo apt-get update && sudo $install"
    else
        say "dmc_* environments need libEGL.so.1 and libGL.so.1 to render: install Mesa's EGL and GL packages"
    fi
}

if ! supported "$venv/bin/python" || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    make_venv
fi
system_libraries

pip=("$venv/bin/python" -m pip install --disable-pip-version-check)
[[ -t 2 ]] || pip+=(--quiet)  # progress bars are for terminals
# A CPU build is called 2.13.0+cpu and sorts above 2.13.0: an extra index with one is enough for pip to prefer it.
[[ -z ${TORCH_INDEX:-} ]] || pip+=(--extra-index-url "$TORCH_INDEX")
say "installing packages (torch for Linux is a download of up to 3 GB; requirements.txt names the small CPU build)"
"${pip[@]}" -r requirements.txt -r requirements-dev.txt -c constraints.txt ||
    fail "pip failed (its message is above).  Check the network and the free disk space, then run the same command again."
printf '%s' "$want" >"$stamp"
say "done"
