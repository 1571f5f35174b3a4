#!/usr/bin/env bash
# From voices to the motion of faces: ./egs/wav2kp/run.sh --corpus_dir DIR [any option of run.sh]
CDPATH='' cd -- "$(dirname -- "$0")/../.." && exec ./run.sh --corpus wav2kp --conf conf/wav2kp.yml "$@"
