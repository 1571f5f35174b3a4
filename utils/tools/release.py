"""A trained network as it is given to others: half as large, and without the paths of the machine that trained it.

Reads   --exp_dir, an experiment of stage 3
Writes  --out_dir: best_model.pth (weights as float16: `from_pretrained` makes float32 of them), conf.yml, frontend.json,
        and LR-ASD, whose licence (MIT) allows it, as frontend.pth, unless --frontend_weights says where others will have
        the visual frontend
Run     python -m utils.tools.release --exp_dir exp/unseen_4 --out_dir egs/own_video/pretrained
"""

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import torch

from utils.data.experiments import BUILT_IN_FRONTENDS, FRONTEND_FILES
from utils.data.files import atomic_path, read_json, write_json
from utils.errors import OptionParser, UserError, run_cli
from utils.training.config import read_separation_config, write_config
from utils.training.experiment import load_model


def main() -> int:
    """Write the three files."""
    args = _parse_args()
    source, target = args.exp_dir / "best_model.pth", args.out_dir / "best_model.pth"
    load_model(source)  # refuses what is none
    frontend = args.exp_dir / FRONTEND_FILES["lips"]
    facts = read_json(frontend) if frontend.is_file() else {}
    if facts and not args.frontend_weights and facts.get("description", {}).get("network") != "lr_asd":
        raise UserError(
            f"{frontend}: no LR-ASD, which alone is given away with a network; say where others will have this visual frontend "
            "with --frontend_weights FILE"
        )
    others = [args.exp_dir / name for kind, name in FRONTEND_FILES.items() if kind != "lips"]
    for path in filter(Path.is_file, others):
        if read_json(path).get("weights") not in BUILT_IN_FRONTENDS:
            raise UserError(f"{path}: its weights are a file, which is not given away; only built-in ones go with a network")
    saved = torch.load(source, map_location="cpu", weights_only=True)
    weights = saved["state_dict"]
    saved["state_dict"] = {name: each.half() if each.is_floating_point() else each for name, each in weights.items()}
    largest = max(float(each.float().abs().max()) for each in saved["state_dict"].values())
    if not largest < float("inf"):
        raise UserError(f"{source}: holds weights beyond the range of float16; train it again with weight decay")
    with atomic_path(target) as temporary:
        torch.save(saved, temporary)
    config = read_separation_config(args.exp_dir / "conf.yml")
    folders = {key: Path(value).name for key, value in vars(config.data).items() if key.endswith("_dir") and value}
    write_config(args.out_dir / "conf.yml", replace(config, data=replace(config.data, **folders)))
    if facts:
        theirs = args.frontend_weights
        if not theirs:
            theirs = str(args.out_dir / "frontend.pth")
            with atomic_path(theirs) as temporary:
                shutil.copyfile(facts["weights"], temporary)
        write_json(args.out_dir / frontend.name, facts | {"weights": theirs})
    for path in others:
        (args.out_dir / path.name).unlink(missing_ok=True)
        if path.is_file():
            write_json(args.out_dir / path.name, read_json(path))
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")
    return 0


def _parse_args() -> argparse.Namespace:
    parser = OptionParser(prog="release", description=__doc__.splitlines()[0])
    parser.add_argument("--exp_dir", type=Path, required=True, help="a trained experiment")
    parser.add_argument("--out_dir", type=Path, required=True, help="gets the network")
    parser.add_argument("--frontend_weights", default="", help="where others will have those of the visual frontend")
    return parser.parse_args()


if __name__ == "__main__":
    run_cli(main)
