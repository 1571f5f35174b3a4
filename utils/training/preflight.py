"""The cheap checks of training, before anything is prepared: run.sh calls this so that a wrong conf costs no preparation.

    python -m utils.training.preflight --conf conf/demo.yml --train_args "--lr 0.1" --frontend_weights FILE

Imports no torch.
"""

import argparse
import importlib.util
import shlex
from pathlib import Path

from utils.data.experiments import BUILT_IN_FRONTENDS, DLIB, FRONTEND_OPTIONS, weights_by_kind
from utils.data.faces import CHIP_SIZE
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


def check_frontend_weights(config: Config, frontend_weights: str, face_weights: str) -> None:
    """Check that the weights of the visual frontends exist that the network's embeddings come from.

    Raises:
        UsageError: none are given.
        UserError: a path is missing.
    """
    folder = config.model.wav2vec2_dir if config.is_voice_to_mouth else ""
    if folder and not (Path(folder) / "config.json").is_file():
        raise UserError(f"--wav2vec2_dir {folder}: holds no config.json of a pretrained wav2vec 2.0")
    if folder and importlib.util.find_spec("transformers") is None:
        raise UserError("--features wav2vec2 needs a package: pip install transformers")
    weights = weights_by_kind(frontend_weights, face_weights)
    for kind in config.kinds_of_frontends:
        check_weights(kind, weights[kind])


def check_weights(kind: str, weights: Path | str) -> None:
    """Check the weights of one visual frontend; arguments and errors as of `check_frontend_weights`."""
    option = FRONTEND_OPTIONS[kind]
    if not str(weights):
        instead = "or train an audio-only network: --conf conf/av_tfdprnn_audio_only.yml"
        if kind == "face":
            instead = f"or take {DLIB}, whose weights come with requirements-video.txt"
        raise UsageError(
            f"{option} FILE is needed: the checkpoint of the visual frontend (utils/download_weights.sh fetches "
            f"public ones); {instead}"
        )
    if str(weights) not in BUILT_IN_FRONTENDS and not Path(weights).exists():
        raise UserError(f"{option} {weights}: no such file or folder; utils/download_weights.sh fetches public ones")


def main() -> int:
    """Check the command line of run.sh, or print how large the faces are that the conf asks for."""
    args = _parse_args()
    if args.print_face_size:
        asks = "face" in read_train_config(args.conf, args.train_args).kinds_of_frontends
        print(_face_size(args.face_weights) if asks else 0)
        return 0
    check_frontend_weights(read_train_config(args.conf, args.train_args), args.frontend_weights, args.face_weights)
    return 0


def _face_size(face_weights: str) -> int:
    check_weights("face", face_weights)
    if face_weights == DLIB:
        return CHIP_SIZE
    from utils.embedding.face_frontends import face_size  # brings torch

    return face_size(face_weights)


def _parse_args() -> argparse.Namespace:
    parser = OptionParser(prog="preflight", description="The cheap checks of training.")
    parser.add_argument("--conf", type=Path, required=True, help="conf/*.yml")
    parser.add_argument("--train_args", default="", help="keys of the conf to change")
    parser.add_argument("--frontend_weights", default="", help="of the visual frontend, or a folder of embeddings")
    parser.add_argument("--face_weights", default="", help="of the face frontend, or dlib")
    parser.add_argument("--print_face_size", action="store_true", help="print the pixels of the faces that are needed, or 0")
    return parser.parse_args()


if __name__ == "__main__":
    run_cli(main)
