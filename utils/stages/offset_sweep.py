"""Stage 5, offsets: how much a network loses where faces and voices are out of step.

Reads   exp/<tag>/best_model.pth, frontend.json and separated/<test name>/ (stage 4: offset 0, refused where it was made with
        other options than the sweep's), the test set, its embeddings.
Writes  exp/<tag>/separated/<test name>/offset_<frames>/: the voices at each other offset; and
        exp/<tag>/results/<test name>/offset_sweep.{csv,md,png}: SI-SNR, SI-SNRi, SDRi, PESQ, STOI by offset and subset.
Run     python -m utils.stages.offset_sweep --exp_dir exp/tse_grid --test_dir data/grid_tse/test.csv --av_offset_sweep=-5:5

An offset of +2 shows every face two video frames too late. Voices and scores that are there already are not made again.
"""

import argparse
import csv
import io
import logging
import os
import re
from functools import partial
from pathlib import Path

from utils.data.estimates import SUBTYPES, write_separated
from utils.data.files import read_json, write_text
from utils.data.manifest import Manifest, write_failed
from utils.embedding.store import EmbeddingStore
from utils.errors import OptionParser, UserError, run_cli
from utils.scoring.items import read_separated
from utils.scoring.offsets import COLUMNS, offset_rows, offset_table, plot_offsets
from utils.separation.test_set import find_test_set
from utils.stages.score import score_version

logger = logging.getLogger(__name__)

MOST_FRAMES = 50


def main() -> int:
    """Check everything that is cheap to check, then separate and score each offset."""
    args = parse_args()
    facts = _front_end(args.exp_dir)
    test_set = find_test_set(args.test_dir, args.test_name, args.data_root_dir, args.nj)
    folder, out_dir = (args.exp_dir / name / test_set.name for name in ("separated", "results"))
    _, _, absent = read_separated(folder / "separated.csv")
    if absent:
        logger.warning("offsets: cannot score %s: no references (%s)", test_set.name, ", ".join(absent))
        return 0
    separate_offsets(args, facts, test_set.manifest, folder)
    rows = [row for by in args.av_offset_sweep for row in _score(by, folder, out_dir, args.nj)]
    _write(rows, out_dir, f"{args.exp_dir.resolve().name} on {test_set.name}")
    logger.info("offsets: the table is %s", out_dir / "offset_sweep.md")
    return 0


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = OptionParser(prog="offset_sweep", description="Stage 5, offsets: faces that come too late or too early.")
    parser.add_argument("--exp_dir", type=Path, required=True, help="folder of the experiment")
    parser.add_argument("--test_dir", type=Path, required=True, help="CSV of mixtures, or folder in the DLA layout")
    parser.add_argument("--test_name", default="", help="name of stage 4's outputs; empty: made from --test_dir")
    parser.add_argument("--av_offset_sweep", type=offsets, default="-5:5", help="video frames, =-5:5 or =-5,-1,0,1,5")
    parser.add_argument("--subtype", default="float", choices=tuple(SUBTYPES), help="sample format of the voices")
    parser.add_argument("--window_sec", type=float, default=8.0, help="longer mixtures are separated in such windows")
    parser.add_argument("--hop_sec", type=float, default=6.0, help="from window to window")
    parser.add_argument("--batch_size", type=int, default=4, help="equally long mixtures separated at once")
    parser.add_argument("--dump_dir", type=Path, default=Path("dump"), help="stores are in dump_dir/embeddings")
    parser.add_argument("--data_root_dir", type=Path, default=Path("data"), help="where a folder's manifest is")
    parser.add_argument("--nj", type=int, default=2, help="processes that score")
    parser.add_argument("--id", default="", help="GPU, e.g. 0; cpu; empty: a GPU if there is one")
    args = parser.parse_args()
    for name in ("nj", "batch_size"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} {getattr(args, name)} must be at least 1")
    if not 0 < args.hop_sec < args.window_sec <= 2 * args.hop_sec:
        parser.error("--hop_sec must be shorter than --window_sec and at least half of it")
    return args


def offsets(text: str) -> list[int]:
    """`-5:5` or `-5,-1,1,5` -> the offsets in order, 0 always among them.

    Raises:
        argparse.ArgumentTypeError: the text is neither.
    """
    found: set[int] = set()
    if span := re.fullmatch(r"([+-]?\d+):([+-]?\d+)", text):
        found = set(range(int(span[1]), int(span[2]) + 1))
    elif re.fullmatch(r"[+-]?\d+(,[+-]?\d+)*", text):
        found = {int(word) for word in text.split(",")}
    if not found or max(map(abs, found)) > MOST_FRAMES:
        raise argparse.ArgumentTypeError(
            f"'{text}' is no span of video frames such as -5:5 and no list such as -5,-1,1,5 (at most {MOST_FRAMES} either way)"
        )
    return sorted(found | {0})


def _front_end(exp_dir: Path) -> dict:
    path = exp_dir / "frontend.json"
    if not (exp_dir / "best_model.pth").is_file():
        raise UserError(f"--exp_dir {exp_dir}: holds no best_model.pth; stage 3 makes it")
    if not path.is_file():
        raise UserError(f"--exp_dir {exp_dir}: audio-only, it sees no faces that could be out of step")
    facts = read_json(path)
    if not isinstance(facts, dict) or not isinstance(facts.get("store_name"), str):
        raise UserError(f"{path}: does not name store_name; run stage 3 again")
    return facts


def offset_folder(folder: Path, by: int) -> Path:
    """Where the voices of an offset lie: those of 0 are stage 4's own."""
    return folder / f"offset_{by:+d}" if by else folder


def separate_offsets(args: argparse.Namespace, facts: dict, manifest: Manifest, folder: Path) -> None:
    """Separate with late and early faces; what is there already is left alone.

    Raises:
        UserError: stage 4 separated otherwise, or a mixture cannot be separated.
    """
    from utils.separation.offsets import (
        ShiftedStore,
        check_made_alike,
        with_late_faces,
    )  # torch comes only after the paths were found good
    from utils.separation.run import require_room, separate_tasks
    from utils.separation.tasks import SeparationOptions, load_separator, plan_tasks
    from utils.stages.embed import choose_device

    options = SeparationOptions(args.window_sec, args.hop_sec, args.subtype, args.batch_size)
    separator = load_separator(args.exp_dir, choose_device(args.id, os.environ))
    store = EmbeddingStore(args.dump_dir / "embeddings" / facts["store_name"] / manifest.corpus)
    tasks, _ = plan_tasks(manifest, separator, None, store, {}, options)  # what cannot be separated, stage 4 has listed
    check_made_alike(tasks, folder, options)
    late = {by: with_late_faces(tasks, by) for by in args.av_offset_sweep if by}
    by_folder = {offset_folder(folder, by): moved for by, moved in late.items()}
    require_room(folder, by_folder, manifest.n_src, options)
    for by, moved in late.items():
        target = offset_folder(folder, by)
        target.mkdir(parents=True, exist_ok=True)
        done = separate_tasks(moved, target, ShiftedStore(store, by), manifest.n_src, options)
        write_failed(target / "failed.csv", done.problems)
        write_separated(target, manifest, done.journal)
        if done.problems:
            raise UserError(f"{len(done.problems)} mixtures could not be separated, see {target / 'failed.csv'}")


def _score(by: int, folder: Path, out_dir: Path, nj: int) -> list[dict]:
    """The rows of the table for an offset."""
    from utils.scoring.pool import score_all
    from utils.scoring.scores import score_item

    items, _, _ = read_separated(offset_folder(folder, by) / "separated.csv")
    journal = out_dir / (f".scored-offset{by:+d}.jsonl" if by else ".scored.jsonl")
    function = partial(score_item, permute=False)
    results, reasons = score_all(function, items, nj, journal, score_version(permute=False), f"offset {by:+d}")
    for item, reason in zip(items, reasons, strict=True):
        if reason:
            logger.warning("offset %+d: %s: not scored: %s", by, item.mixture_id, reason)
    return offset_rows(by, items, results)


def _write(rows: list[dict], out_dir: Path, title: str) -> None:
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(out_dir / "offset_sweep.csv", text.getvalue())
    markdown = f"# {title}: faces out of step\n\n{offset_table(rows)}\n![offsets](offset_sweep.png)\n"
    write_text(out_dir / "offset_sweep.md", markdown)
    plot_offsets(rows, out_dir / "offset_sweep.png", title)
    print(f"\n{title}\n\n{offset_table(rows)}", flush=True)


if __name__ == "__main__":
    run_cli(main)
