#!/usr/bin/env bash
# The recipe on voxceleb2: ./egs/voxceleb2/run.sh --corpus_dir DIR --frontend_weights FILE [any option of run.sh]
CDPATH='' cd -- "$(dirname -- "$0")/../.." && exec ./run.sh --corpus voxceleb2 "$@"
