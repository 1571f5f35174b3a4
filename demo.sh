#!/usr/bin/env bash
# A web page for ./separate.sh: drop or record a video, then hear, mix and download the voice of each face in it.
#
#   ./demo.sh                                        on this machine: http://127.0.0.1:7860/
#   ./demo.sh --host 0.0.0.0 --password "..."        for others, too (not encrypted: let a proxy do that, or use an SSH tunnel)
#
# One video is separated at a time, others wait in line. The files of a visitor are in a folder of their own below the system's
# folder for temporary files ($TMPDIR), and are removed an hour after their last use, and when the page ends (Ctrl-C). The page
# fetches nothing from other hosts. The first call adds the packages of requirements-demo.txt. See docs/page.md.
# Exit codes: 0 ended by Ctrl-C, 1 failed, 2 wrong usage.
set -euo pipefail

host=127.0.0.1     # address to listen on; one that other machines can reach needs --password
port=7860          # 0: any that is free
password=          # asked of every visitor; 8 characters or more
max_minutes=10     # longer videos are refused
max_mb=500         # larger files are refused
exp_dir=           # folder of an experiment of your own (run.sh, stage 3); empty: the network that comes with the recipe
frontend_weights=  # the visual frontend's file, if it is not where the experiment had it
face_weights=      # the same for the face frontend
id=                # GPU, e.g. 0; cpu: none; empty: the first that is visible

ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
. "$ROOT/utils/parse_options.sh"
. "$ROOT/utils/log.sh"
for name in exp_dir frontend_weights face_weights; do # paths are the caller's, also after the cd
    [[ -z ${!name} ]] || IFS= read -r -d '' "$name" < <(realpath -zms -- "${!name}")
done
cd -- "$ROOT"
. utils/recipe.sh

exp_dir=${exp_dir:-egs/own_video/pretrained}
check_experiment "$exp_dir"
. ./path.sh
utils/install_more.sh requirements-demo.txt
export AVSEP_PAGE_PASSWORD=$password # other users see the words of a command
exec python3 -m utils.page.server "--host=$host" "--port=$port" "--max_minutes=$max_minutes" "--max_mb=$max_mb" \
    "--exp_dir=$exp_dir" "--frontend_weights=$frontend_weights" "--face_weights=$face_weights" "--id=$id"
