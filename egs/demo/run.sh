#!/usr/bin/env bash
# The demo: a synthetic corpus, its own small visual frontend, and a small model. Any option of ../../run.sh may follow.
CDPATH='' cd -- "$(dirname -- "$0")/../.." && exec ./run.sh --corpus demo "$@"
