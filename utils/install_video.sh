#!/usr/bin/env bash
# Adds requirements-video.txt to the environment of path.sh, if it is not there yet. Called by ./separate.sh and run.sh where
# videos are read; harmless to call again.
#   utils/install_video.sh
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
. utils/log.sh
. ./path.sh

if missing=$(python3 utils/environment.py check requirements-video.txt); then exit 0; fi
log "adding what videos need to $(dirname "$(dirname "$(command -v python3)")"): ${missing//$'\n'/, }"
python3 -m pip install --quiet --no-input --disable-pip-version-check --no-deps -r requirements-video.txt >&2 ||
    die "pip failed (its reason is above); videos need the packages of requirements-video.txt (mediapipe: Python 3.11 or 3.12)"
