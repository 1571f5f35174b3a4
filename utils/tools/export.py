"""A trained network and its visual frontends as ONNX files, for onnxruntime and other machines (docs/export.md).

Reads   --exp_dir, an experiment of stage 3, or hf://USER/NAME; with --int8 also --mouths_dir: mouth crops of stage 1 below it
Writes  --out_dir: model.onnx; matcher.onnx of a network that compares faces with voices; frontend.onnx of the lips,
        face_frontend.onnx; export.json: names, shapes, sample rate, fps, the sha256 of the weights, and by how much each graph
        differs from torch; with --int8 model.int8.onnx and frontend.int8.onnx
Run     python -m utils.tools.export --exp_dir egs/own_video/pretrained --out_dir exported
        python -m utils.tools.export --exp_dir egs/own_video/pretrained --out_dir exported --int8 true --mouths_dir dump/videos

A graph that differs from torch by more than 1e-4 is not written. `./separate.sh --runtime onnx` makes its own.
"""

import argparse
from functools import partial
from pathlib import Path

from utils.data.experiments import open_experiment
from utils.data.files import sha256_file
from utils.data.hub import experiment_folder
from utils.data.mouths import fill_unseen
from utils.embedding.exported import NAME, can_be_exported, frontend_facts, frontend_graph
from utils.embedding.frontends import Frontend
from utils.embedding.kinds import load_kind
from utils.environment import add_missing
from utils.errors import OptionParser, UserError, flag, run_cli
from utils.export.graphs import Tensors, write_graphs
from utils.separation.exported import separator_facts, separator_graphs
from utils.training.config import is_voice_to_mouth
from utils.training.experiment import load_model

_MOUTHS = 48  # files at most: every other one for the ranges of 8 bits, the others to look at what is lost
_MOUTH_FRAMES = 75  # of each


def main() -> int:
    """Write the folder."""
    args = _parse_args()
    add_missing("requirements-onnx.txt")
    experiment = open_experiment(args.exp_dir, args.frontend_weights, face_weights=args.face_weights)
    if is_voice_to_mouth(args.exp_dir):
        raise UserError(f"--exp_dir {args.exp_dir}: goes from a voice to a mouth; networks that separate are exported")
    network = load_model(experiment.network_path)
    graphs, quantisers = separator_graphs(network), {}
    facts = separator_facts(network, sha256_file(experiment.network_path))
    if args.int8:
        from utils.export.int8 import quantise_convolutions, quantise_lstms

        quantisers["model"] = partial(quantise_lstms, inputs=graphs["model"].trials)
    for kind, record in experiment.frontends.items():
        frontend = load_kind(kind, record.weights, record.conf, record.layer)
        if not can_be_exported(frontend):
            continue
        name = NAME if kind == "lips" else f"{kind}_{NAME}"
        graphs[name] = frontend_graph(frontend)
        facts[name] = frontend_facts(frontend)
        if args.int8 and kind == "lips":
            mouths = _mouths(args.mouths_dir, frontend)
            quantisers[name] = partial(quantise_convolutions, typical=mouths[::2], inputs=mouths[1::2])
    written = write_graphs(args.out_dir, graphs, facts, quantisers)["graphs"]
    for each in written.values():
        _tell(args.out_dir / each["file"], f"differs from torch by {each['differs_from_torch_by']:.1e}")
        if "int8" in each:
            _tell(args.out_dir / each["int8"]["file"], f"an SDR of {each['int8']['sdr_db']} dB against the former")
    return 0


def _mouths(folder: Path, frontend: Frontend) -> list[Tensors]:
    """Clips of mouth files below a folder, spread over all of them, preprocessed, as long as the shortest."""
    paths = sorted(folder.rglob("mouths/**/*.npz"))
    if len(paths) < 2:
        raise UserError(f"--mouths_dir {folder}: {len(paths)} mouth files (mouths/*.npz) below it; --int8 needs two or more")
    clips = []
    for path in paths[:: -(-len(paths) // _MOUTHS)]:
        file = frontend.crop_file(path)
        crops = next(file.blocks(_MOUTH_FRAMES))
        clips.append((frontend.preprocess(fill_unseen(crops, file.mask[: len(crops)]))[None],))
    shortest = min(clip.shape[1] for (clip,) in clips)
    return [(clip[:, :shortest],) for (clip,) in clips]


def _tell(path: Path, what: str) -> None:
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {what}")


def _parse_args() -> argparse.Namespace:
    parser = OptionParser(prog="export", description=__doc__.splitlines()[0])
    parser.add_argument("--exp_dir", type=experiment_folder, required=True, help="a trained experiment, or hf://USER/NAME")
    parser.add_argument("--out_dir", type=Path, required=True, help="gets the graphs")
    parser.add_argument("--frontend_weights", default="", help="where its visual frontend is now")
    parser.add_argument("--face_weights", default="", help="where its face frontend is now")
    parser.add_argument("--int8", type=flag, nargs="?", const=True, default=False, help="also in 8-bit integers")
    parser.add_argument("--mouths_dir", type=Path, default=Path("dump"), help="mouth crops below it tell the ranges of 8 bits")
    return parser.parse_args()


if __name__ == "__main__":
    run_cli(main)
