"""The cheap checks of training, before anything is prepared: run.sh calls this so that a wrong conf costs no preparation.

    python -m utils.training.preflight --conf conf/demo.yml --train_args "--lr 0.1" --frontend_weights FILE

Imports no torch.
"""

import argparse
import shlex
from pathlib import Path

from utils.errors import OptionParser, UsageError, UserError, run_cli
from utils.training.config import Config, read_config


def read_train_config(conf: Path, train_args: str) -> Config:
    """Read a conf with the keys that `--train_args` changes.

    Raises:
        UserError: no such conf, or a key or value that cannot be used.
        UsageError: quotes that do not close.
    """
    try:
        words = shlex.split(train_args)
    except ValueError as error:
        raise UsageError(f"--train_args: {error}") from None
    return read_config(conf, words)


def check_frontend_weights(config: Config, weights: str) -> None:
    """Check that the weights of the visual frontend exist, where the network needs visual embeddings.

    Raises:
        UsageError: none are given.
        UserError: the path is missing.
    """
    if not config.needs_visual:
        return
    if not weights:
        raise UsageError(
            "--frontend_weights FILE is needed: the checkpoint of the visual frontend (utils/download_weights.sh fetches "
            "public ones); or train an audio-only network: --conf conf/av_tfdprnn_audio_only.yml"
        )
    if not Path(weights).exists():
        raise UserError(f"--frontend_weights {weights}: no such file or folder; utils/download_weights.sh fetches public ones")


def main() -> int:
    """Check the command line of run.sh."""
    args = _parse_args()
    check_frontend_weights(read_train_config(args.conf, args.train_args), args.frontend_weights)
    return 0


def _parse_args() -> argparse.Namespace:
    parser = OptionParser(prog="preflight", description="The cheap checks of training.")
    parser.add_argument("--conf", type=Path, required=True, help="conf/*.yml")
    parser.add_argument("--train_args", default="", help="keys of the conf to change")
    parser.add_argument("--frontend_weights", default="", help="of the visual frontend, or a folder of embeddings")
    return parser.parse_args()


if __name__ == "__main__":
    run_cli(main)
