#!/usr/bin/env bash
# The recipe on the DLA set: ./egs/dla/run.sh --corpus_dir /data/dla_dataset --frontend_weights FILE [any option of run.sh]
CDPATH='' cd -- "$(dirname -- "$0")/../.." && exec ./run.sh --corpus dla "$@"
