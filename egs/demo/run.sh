#!/usr/bin/env bash
# The demo: a corpus made on the spot, its own small lip reader, and a small model. Any option of ../../run.sh may follow.
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/../../run.sh" --corpus demo "$@"
