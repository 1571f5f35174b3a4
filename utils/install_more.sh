#!/usr/bin/env bash
# Adds a requirements file to the environment of path.sh, if packages of it are missing; without dependencies, which the file
# lists itself. Called by utils/environment.py where videos are read: by stages 1 and 4, and by stage 0 with
# egs/<corpus>/requirements.txt.
#   utils/install_more.sh requirements-video.txt
set -euo pipefail

ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cd -- "$ROOT"
. utils/log.sh
[[ $# -eq 1 && -f $1 ]] || usage_error "which file? utils/install_more.sh requirements-video.txt"
. ./path.sh

if missing=$(python3 utils/environment.py check "$1"); then exit 0; fi
log "adding to $(dirname "$(dirname "$(command -v python3)")"): ${missing//$'\n'/, }"
python3 -m pip install --quiet --no-input --disable-pip-version-check --no-deps -r "$1" >&2 ||
    die "pip failed (its reason is above); the packages of $1 are needed"
