#!/usr/bin/env bash
# The recipe on lrs3: ./egs/lrs3/run.sh --corpus_dir DIR --frontend_weights FILE [any option of run.sh]
CDPATH='' cd -- "$(dirname -- "$0")/../.." && exec ./run.sh --corpus lrs3 "$@"
