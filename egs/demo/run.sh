#!/usr/bin/env bash
# The demo: a corpus made on the spot, its own small lip reader, and a small model. Any option of ../../run.sh may follow.
CDPATH='' cd -- "$(dirname -- "$0")/../.." && exec ./run.sh --corpus demo "$@"
