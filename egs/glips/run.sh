#!/usr/bin/env bash
# The recipe on GLips: ./egs/glips/run.sh --corpus_dir /data/GLips --frontend_weights FILE [any option of run.sh]
CDPATH='' cd -- "$(dirname -- "$0")/../.." && exec ./run.sh --corpus glips --fix_av_offset auto "$@"
