#!/usr/bin/env bash
# The recipe on GRID: ./egs/grid/run.sh --corpus_dir /data/GRID --frontend_weights FILE [any option of run.sh]
CDPATH='' cd -- "$(dirname -- "$0")/../.." && exec ./run.sh --corpus grid "$@"
