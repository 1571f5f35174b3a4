#!/usr/bin/env bash
# The recipe on tcd_timit: ./egs/tcd_timit/run.sh --corpus_dir DIR --frontend_weights FILE [any option of run.sh]
CDPATH='' cd -- "$(dirname -- "$0")/../.." && exec ./run.sh --corpus tcd_timit "$@"
