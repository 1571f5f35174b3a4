"""Fine-tune LR-ASD for telling whose voice is whose, and show what it gains on people who are not trained on.

Reads   --exp_dir: an experiment whose network compares faces with voices (conf/av_tfdprnn_match.yml); --data_dir:
        utterances.csv, and val.csv and test.csv where there are such; the crops and sounds that they name
Writes  --out_dir: frontend.pth, a visual frontend for --frontend_weights (float16, 1.0 MB); best_model.pth, the network of
        --exp_dir with the comparison that was tuned with it, for --init_exp_dir
Run     python -m utils.tools.tune_frontend --data_dir data/several --exp_dir exp/unseen_3 --out_dir exp/unseen_frontend \\
            --frontend_weights dump/weights/lr_asd_talkset.pth.tar

The last of LR-ASD's three blocks learns (`utils.training.frontend_tuning`). The table counts how often it is told right
which of two clean voices belongs to which of two faces, from one, two and four clips of each. An interrupted training goes on
from its last epoch. The network's separation is not touched; the comparison is to be trained again on its estimates, with
embeddings of the new frontend (--conf conf/av_tfdprnn_match.yml --init_exp_dir OUT_DIR).
"""

import argparse
import logging
from pathlib import Path

import numpy as np
import torch

from local_models.matching import FaceVoiceMatcher
from utils.corpora.joined import clips_by_speaker, joined_sound, whole_frames
from utils.data.clock import frames_to_samples
from utils.data.devices import choose_device
from utils.data.experiments import network_path
from utils.data.files import atomic_path
from utils.data.fingerprints import StageMark, hash_contents, hash_json
from utils.data.hub import experiment_folder
from utils.data.manifest import Manifest, read_manifest
from utils.data.mouths import MouthFile
from utils.data.reports import markdown_table
from utils.embedding.checkpoints import LR_ASD_PREFIX
from utils.embedding.frontends import Frontend, load_frontend
from utils.embedding.landmarks import LipShapes
from utils.errors import OptionParser, UserError, at_least, run_cli
from utils.mixing.levels import mix_at_sir
from utils.tools.sections import add_results_options, publish
from utils.training.experiment import load_model, save_model
from utils.training.frontend_tuning import VoicePairs, tune

log = logging.getLogger(__name__)

_PRODUCTS = ("frontend.pth", "best_model.pth")
_N_CLIPS = (1, 2, 4)
_N_PAIRS = 400
_SHORTEST_SEC = 0.4
_MAX_SIR_DB = 5.0


def main() -> int:
    """Tune, write both files, print the table."""
    args = _parse_args()
    if args.epoch_size < args.batch_size:
        raise UserError(f"--epoch_size {args.epoch_size} is below --batch_size {args.batch_size}; raise it")
    if not args.segment_sec >= _SHORTEST_SEC:
        raise UserError(
            f"--segment_sec {args.segment_sec:g}: movements of less than {_SHORTEST_SEC:g} s tell nothing; raise it"
        )
    source = network_path(args.exp_dir)
    network, manifest = load_model(source), read_manifest(args.data_dir / "utterances.csv")
    if network.matcher is None:
        raise UserError(f"--exp_dir {args.exp_dir}: its network compares no faces with voices (model.match_chan is 0)")
    inputs = {"files": hash_contents([source, manifest.path, args.frontend_weights])}
    inputs |= {name: str(getattr(args, name)) for name in ("epochs", "epoch_size", "batch_size", "segment_sec", "lr", "seed")}
    mark = StageMark(args.out_dir / ".done.json", inputs)
    if mark.changed() == [] and all((args.out_dir / name).is_file() for name in _PRODUCTS):
        log.info("up to date: %s", args.out_dir)
        return 0
    device = choose_device(args.id)
    frontend, matcher = load_frontend(args.frontend_weights).to(device), network.matcher.to(device)
    segments = {"segment_sec": args.segment_sec, "fps": matcher.video_fps}
    pairs = VoicePairs(manifest, frontend, **segments, size=args.epoch_size, seed=args.seed)
    paths = [args.data_dir / f"{part}.csv" for part in ("val", "test")]
    parts = {path.stem: read_manifest(path) for path in paths if path.is_file()}
    before = {part: shares_told(frontend, matcher, each) for part, each in parts.items()}
    checkpoint = args.out_dir / f"checkpoint-{hash_json(inputs)[:12]}.pth"  # another tuning does not go on from it
    sizes = {"epochs": args.epochs, "batch_size": args.batch_size, "lr": args.lr, "num_workers": args.num_workers}
    tune(frontend, matcher, pairs, checkpoint, **sizes)
    frontend_path, model_path = (args.out_dir / name for name in _PRODUCTS)
    _write_frontend(frontend_path, frontend)
    save_model(model_path, network, {})
    frontend = load_frontend(frontend_path).to(device)  # as others will have it
    after = {part: shares_told(frontend, matcher, each) for part, each in parts.items()}
    head = ["people of", *(f"{count} clip{'s' * (count > 1)}" for count in _N_CLIPS)]
    rows = [
        [f"{part}, {when}", *(f"{share:.1%}" for share in shares[part])]
        for part in parts
        for when, shares in (("before", before), ("after", after))
    ]
    publish(markdown_table([head, *rows]), args.results, args.section)
    mark.write()
    for path in args.out_dir.glob("checkpoint-*.pth"):
        path.unlink()
    return 0


def _parse_args() -> argparse.Namespace:
    parser = OptionParser(prog="tune_frontend", description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", type=Path, required=True, help="data/<corpus> with mouth crops")
    parser.add_argument("--exp_dir", type=experiment_folder, required=True, help="its network has the comparison to start from")
    parser.add_argument("--frontend_weights", type=Path, required=True, help="LR-ASD, as the experiment had it")
    parser.add_argument("--out_dir", type=Path, required=True, help="gets the frontend and the network")
    parser.add_argument("--epochs", type=at_least(1), default=8)
    parser.add_argument("--epoch_size", type=at_least(1), default=1100, help="pairs of clips")
    parser.add_argument("--batch_size", type=at_least(1), default=16, help="pairs")
    parser.add_argument("--segment_sec", type=float, default=1.0, help="length of a clip in training")
    parser.add_argument("--lr", type=float, default=1.5e-4, help="of the frontend's last block")
    parser.add_argument("--num_workers", type=at_least(0), default=1, help="processes that read and vary pictures")
    parser.add_argument("--seed", type=at_least(0), default=0)
    parser.add_argument("--id", default="", help="GPU, e.g. 0; cpu: none; empty: the first that is visible")
    add_results_options(parser, "tune-frontend")
    return parser.parse_args()


def _write_frontend(path: Path, frontend: Frontend) -> None:
    """The visual half of LR-ASD as float16, with the names that it has in the public checkpoint."""
    state = {LR_ASD_PREFIX + name: each.cpu() for name, each in frontend.network.state_dict().items()}
    with atomic_path(path) as temporary:
        torch.save({name: each.half() if each.is_floating_point() else each for name, each in state.items()}, temporary)


@torch.inference_mode()
def shares_told(frontend: Frontend, matcher: FaceVoiceMatcher, manifest: Manifest) -> list[float]:
    """How often it is told right which of two clean voices belongs to which of two faces; chance is 0.5.

    Args:
        frontend, matcher: in evaluation mode, on one device.
        manifest: mixtures with sources, mouths and speakers; its clips are used, not its mixtures.

    Returns:
        A share for each of `_N_CLIPS`, the clips of each person that follow each other; nan where too few have so many.
    """
    clips, rng = clips_by_speaker(manifest), np.random.default_rng(0)
    device = next(matcher.parameters()).device
    kept: dict[str, torch.Tensor] = {}

    def embeddings(mouth: str) -> torch.Tensor:
        if mouth not in kept:
            file = MouthFile(manifest.resolve(mouth))
            seen = torch.tensor(file.mask, device=device)
            kept[mouth] = frontend(frontend.preprocess(file.all())[None].to(device))[0] * seen.unsqueeze(-1)
            if matcher.shape_dim:
                shapes = torch.from_numpy(LipShapes().read(file.path, file.n_frames, False)).to(device)
                kept[mouth] = torch.cat([kept[mouth], shapes], dim=-1)
        return kept[mouth]

    shares = []
    for count in _N_CLIPS:
        able = sorted(speaker for speaker, own in clips.items() if len(own) >= count)
        told = []
        for _ in range(_N_PAIRS if len(able) > 1 else 0):
            people = rng.choice(able, 2, replace=False)
            drawn = [[clips[name][i] for i in rng.permutation(len(clips[name]))[:count]] for name in people]
            frames = [whole_frames(manifest, own) for own in drawn]
            n_frames = min(map(sum, frames))
            length = frames_to_samples(n_frames, manifest.sample_rate, matcher.video_fps)
            sounds = [joined_sound(manifest, own, counts)[:length] for own, counts in zip(drawn, frames, strict=True)]
            faces = [
                torch.cat([embeddings(clip.mouth_path)[:each] for clip, each in zip(own, counts, strict=True)])[:n_frames]
                for own, counts in zip(drawn, frames, strict=True)
            ]
            mixture, sources = mix_at_sir(np.stack(sounds), rng.uniform(-_MAX_SIR_DB, _MAX_SIR_DB, 1))
            voices, mixtures = (torch.from_numpy(each.astype(np.float32)).to(device)[None] for each in (sources, mixture))
            agreement = matcher(voices, torch.stack(faces)[None], mixtures)[0].sum(dim=-1)  # (voices, faces)
            told.append(bool(agreement.diagonal().sum() > agreement.flip(1).diagonal().sum()))
        shares.append(float(np.mean(told)) if told else float("nan"))
    return shares


if __name__ == "__main__":
    run_cli(main)
