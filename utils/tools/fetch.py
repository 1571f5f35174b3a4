"""A published network of a model hub as an experiment's folder here; prints the folder.

Reads   --exp_dir, `hf://USER/NAME[@REVISION]`; a folder is left as it is
Writes  exp/hub/USER/NAME[@REVISION]/ (--hub_dir), see utils/data/hub.py
Run     python -m utils.tools.fetch --exp_dir hf://USER/NAME
"""

from pathlib import Path

from utils.data.hub import HUB_DIR, experiment_folder
from utils.errors import OptionParser, run_cli


def main() -> int:
    """Fetch, print."""
    parser = OptionParser(prog="fetch", description=__doc__.splitlines()[0])
    parser.add_argument("--exp_dir", required=True, help="hf://USER/NAME[@REVISION]")
    parser.add_argument("--hub_dir", type=Path, default=HUB_DIR, help="it is put below this folder")
    args = parser.parse_args()
    print(experiment_folder(args.exp_dir, args.hub_dir))
    return 0


if __name__ == "__main__":
    run_cli(main)
