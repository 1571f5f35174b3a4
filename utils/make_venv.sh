#!/usr/bin/env bash
# Makes .venv from requirements.txt, or brings it up to date. Called by path.sh with the sha256 of requirements.txt.
#
# .venv/.requirements says how far it got: "unfinished" while pip works, then the sha256 of what was installed. An
# installation that was killed is made again by the next call (pip keeps what it had downloaded in its own cache).
set -euo pipefail

wanted=$1
CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
mark=.venv/.requirements

say() { echo "path.sh: $*" >&2; }
state() { if [[ -r $mark ]]; then cat "$mark"; fi; }
write_mark() {
    echo "$1" >"$mark.new"
    mv "$mark.new" "$mark"
}

usable_python() { # the first usable interpreter, else python3 for the sake of the error message; last what nobody has tried
    local name
    for name in python3 python3.13 python3.12 python3.11 python3.14; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    echo python3
}

exec 9<requirements.txt # one installation at a time; a killed one that still has a pip running is waited for
if command -v flock >/dev/null && ! flock -n 9; then
    say "another process is making .venv: waiting for it"
    flock 9
fi
if [[ $(state) == "$wanted" && -x .venv/bin/python3 ]]; then exit 0; fi

if [[ ! -w . ]]; then
    say "error: $PWD cannot be written: its .venv cannot be made or mended; activate an environment that satisfies requirements.txt"
    exit 1
fi

python=$(usable_python)
if ! command -v "$python" >/dev/null; then
    say "error: there is no python3; install Python 3.11 or later"
    exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    say "error: $("$python" --version 2>&1) is too old; install Python 3.11 or later"
    exit 1
fi
if ! missing=$("$python" utils/environment.py build); then
    while read -r line; do say "error: $line"; done <<<"$missing"
    exit 1
fi

if [[ $(state) == unfinished || ! -x .venv/bin/python3 ]]; then
    say "making .venv from requirements.txt: about 5 GB to download and unpack, a minute or more"
    rm -rf .venv
    mkdir .venv
    write_mark unfinished
    "$python" -m venv .venv
else
    say "bringing .venv up to date with requirements.txt"
    write_mark unfinished
fi
if ! .venv/bin/python3 -m pip install --no-input --disable-pip-version-check -r requirements.txt >&2; then
    say "error: pip failed (its reason is above); mend that and run the same command again"
    exit 1
fi
write_mark "$wanted"
say ".venv is ready"
