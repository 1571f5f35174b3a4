#!/usr/bin/env bash
# The recipe on lrs2: ./egs/lrs2/run.sh --corpus_dir DIR --frontend_weights FILE [any option of run.sh]
CDPATH='' cd -- "$(dirname -- "$0")/../.." && exec ./run.sh --corpus lrs2 "$@"
