"""A trained network as it is given to others: a folder for a model hub, or for `--exp_dir`, half as large.

Reads   --exp_dir, an experiment of stage 3, and its results of stage 5; --baseline_exp_dir, an audio-only one to compare with
Writes  --out_dir: model.safetensors (weights as float16), conf.yml without paths of this machine, frontend.json, LR-ASD, whose
        licence (MIT) allows it, as frontend.safetensors, unless --frontend_weights says where others will have the visual
        frontend; README.md, the model card (utils/tools/model_card.py), and LICENSE
Run     python -m utils.tools.publish --exp_dir exp/unseen_4 --out_dir exp/unseen
        python -m utils.tools.publish --exp_dir exp/unseen_4 --out_dir exp/unseen --corpora glips,grid --licence cc-by-nc-4.0 \\
            --notes LIMITS.md --push USER/NAME --private true

Who has it: `./separate.sh VIDEO --exp_dir hf://USER/NAME`.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from utils.data.experiments import BUILT_IN_FRONTENDS, FRONTEND_FILES, NETWORK_FILES, open_experiment
from utils.data.files import atomic_path, read_json, write_json, write_text
from utils.data.hub import PREFIX, push
from utils.data.reports import REPOSITORY
from utils.embedding.checkpoints import LR_ASD_PREFIX, read_checkpoint
from utils.embedding.frontends import load_frontend, store_name
from utils.errors import OptionParser, UserError, flag, run_cli
from utils.tools.model_card import Licence, card_text, read_terms
from utils.training.config import read_separation_config, write_config
from utils.training.experiment import save_as_published

FRONTEND = "frontend.safetensors"
LR_ASD_LICENCE = "LICENSE-LR-ASD"


def main() -> int:
    """Write the folder, push it where that is asked for."""
    args = _parse_args()
    if (args.out_dir / NETWORK_FILES[0]).exists():
        raise UserError(f"--out_dir {args.out_dir}: holds a {NETWORK_FILES[0]}, of a training; give another folder")
    if args.out_dir.resolve() == args.exp_dir.resolve():
        raise UserError(f"--out_dir {args.out_dir}: is --exp_dir itself; give another folder")
    if args.push and not (args.licence and args.corpora):
        raise UserError(
            f"--push {args.push}: say what others may do with it (--licence) and what it was trained on (--corpora)"
        )
    terms = read_terms(args.corpora, args.licence)
    notes = _read_notes(args.notes) if args.notes else ""
    experiment = open_experiment(args.exp_dir, args.frontend_weights, needs_weights=False)
    config = read_separation_config(args.exp_dir / "conf.yml")
    for kind in experiment.frontends:
        path = args.exp_dir / FRONTEND_FILES[kind]
        if kind != "lips" and read_json(path).get("weights") not in BUILT_IN_FRONTENDS:
            raise UserError(f"{path}: its weights are a file, which is not given away; only built-in ones go with a network")
    weights = _lr_asd(args.exp_dir) if "lips" in experiment.frontends and not args.frontend_weights else {}
    target = args.out_dir / NETWORK_FILES[1]
    save_as_published(target, experiment.network_path)
    folders = {key: Path(value).name for key, value in vars(config.data).items() if key.endswith("_dir") and value}
    config = replace(config, data=replace(config.data, **folders))
    write_config(args.out_dir / "conf.yml", config)
    for name in (*FRONTEND_FILES.values(), FRONTEND, LR_ASD_LICENCE):
        (args.out_dir / name).unlink(missing_ok=True)
    for kind in experiment.frontends:
        facts = read_json(args.exp_dir / FRONTEND_FILES[kind])
        facts.pop("int8", None)  # the graph stays behind
        if weights and kind == "lips":
            facts |= _write_lr_asd(args.out_dir, weights, facts)
        elif kind == "lips":
            facts |= {"weights": args.frontend_weights}
        write_json(args.out_dir / FRONTEND_FILES[kind], facts)
    name = args.push or args.out_dir.resolve().name
    licence = Licence(args.licence, terms, bool(weights))
    write_text(args.out_dir / "LICENSE", f"{licence.text}\n")
    address = f"{PREFIX}{args.push}" if args.push else "THIS_FOLDER"
    experiments = args.exp_dir, args.baseline_exp_dir
    write_text(args.out_dir / "README.md", card_text(name, address, config, experiments, licence, notes))
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")
    if args.push:
        print(push(args.out_dir, args.push, args.private))
    return 0


def _lr_asd(exp_dir: Path) -> dict[str, Any]:
    """The weights of an experiment's LR-ASD, which alone is given away with a network."""
    record = open_experiment(exp_dir).frontends["lips"]
    checkpoint = None if record.is_precomputed else read_checkpoint(record.weights)
    if checkpoint is None or checkpoint.family != "lr_asd":
        raise UserError(
            f"{record.weights}: no LR-ASD, which alone is given away with a network; say where others will have this visual "
            "frontend with --frontend_weights FILE"
        )
    found = store_name(load_frontend(record.weights), record.view, record.precision)
    if found != record.store_name:
        raise UserError(f"{record.weights}: gives the embeddings {found}, but {exp_dir} was trained on {record.store_name}")
    return {key: value.clone() for key, value in checkpoint.state.items() if key.startswith(LR_ASD_PREFIX)}


def _write_lr_asd(out_dir: Path, weights: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    """Write them; gives what changes in frontend.json: the same tensors in another file have another fingerprint."""
    path = out_dir / FRONTEND
    with atomic_path(path) as temporary:
        save_file(weights, temporary)
    licence = REPOSITORY / "egs/own_video/pretrained" / LR_ASD_LICENCE
    write_text(out_dir / LR_ASD_LICENCE, licence.read_text(encoding="utf-8"))
    frontend, how = load_frontend(path), (facts["view"], facts["precision"])
    name = store_name(frontend, *how)
    return {"weights": FRONTEND, "store_name": name, "training_stores": [name], "description": frontend.describe(*how)}


def _read_notes(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--notes {path}: cannot be read ({error}); give a text file, UTF-8") from None


def _parse_args() -> argparse.Namespace:
    parser = OptionParser(prog="publish", description=__doc__.splitlines()[0])
    parser.add_argument("--exp_dir", type=Path, required=True, help="a trained experiment")
    parser.add_argument("--out_dir", type=Path, required=True, help="gets the network")
    parser.add_argument("--baseline_exp_dir", type=Path, help="audio-only experiment whose scores stand beside")
    parser.add_argument("--frontend_weights", default="", help="where others will have those of the visual frontend")
    parser.add_argument("--corpora", type=lambda text: text.split(",") if text else [], default=[],
                        help="folders of egs/ that it was trained on, separated by commas")  # fmt: skip
    parser.add_argument("--licence", default="", help="of the weights, as hubs name it: mit, cc-by-nc-4.0, ..., other")
    parser.add_argument("--notes", type=Path, help="text file: what the network cannot do")
    parser.add_argument("--push", default="", help="USER/NAME: push the folder to a hub")
    parser.add_argument("--private", type=flag, nargs="?", const=True, default=False, help="make a new repository private")
    return parser.parse_args()


if __name__ == "__main__":
    run_cli(main)
