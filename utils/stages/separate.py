"""Stage 4: separate the mixtures of a test set.

Reads   exp/<tag>/best_model.pth and frontend.json, and --test_dir: a prepared CSV, or a folder in the DLA layout, of
        which data/<test name>/test.csv is made; or a video or a folder of videos, see utils/separation/videos.py. Embeddings
        that are missing are added to the store.
Writes  exp/<tag>/separated/<test name>/: {s1,s2,...}/<mixture id>.wav, separated.csv, failed.csv and the journal
        made.jsonl; with --cue_test true the same in cues_swapped/ and cues_shuffled/ below it.
Run     python -m utils.stages.separate --exp_dir exp/avdprnn_demo --test_dir data/demo/test.csv --cue_test true
        python -m utils.stages.separate --exp_dir exp/avdprnn_demo --test_dir /path/to/folder --subtype pcm16

Voices that lie there already, made from the same files by the same network and options, are not made again.
"""

import argparse
import csv
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from utils.data.estimates import JOURNAL_NAME, SUBTYPES, write_separated
from utils.data.files import exclusive_lock, read_json, sha256_file
from utils.data.fingerprints import StageMark, hash_contents, hash_stats
from utils.data.manifest import Manifest, Problem, write_failed
from utils.embedding.precomputed import PrecomputedEmbeddings
from utils.errors import OptionParser, UserError, flag, run_cli
from utils.separation.test_set import TestSet, find_test_set
from utils.separation.videos import find_videos, is_video_set
from utils.stages.mouths import ALIGNMENTS

if TYPE_CHECKING:
    from utils.embedding.store import EmbeddingStore
    from utils.separation.tasks import SeparationOptions, Task

logger = logging.getLogger(__name__)

CUE_FOLDERS = ("cues_swapped", "cues_shuffled")


def main() -> int:
    """Check everything that is cheap to check, then separate."""
    args = parse_args()
    facts = check_experiments(args)
    if is_video_set(args.test_dir):
        return _separate_videos(args, facts)
    test_set = find_test_set(args.test_dir, args.test_name, args.data_root_dir, args.nj)
    folder = args.exp_dir / "separated" / test_set.name
    if args.cue_test and facts is None:
        logger.info("stage 4: %s is audio-only, there are no cues to test", args.exp_dir)
        args.cue_test = False
    mark = StageMark(folder / ".done-4.json", _inputs(args, facts, test_set))
    changes = mark.changed()
    if changes == [] and not args.force and _voices_are_there(folder, args.cue_test):
        logger.info("stage 4: up to date, the voices are in %s", folder)
        return 0
    for change in changes or []:
        logger.info("stage 4: changed since the last separation: %s", change)
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(folder, "the estimates of this test set"):
        n_failed = separate_test_set(args, facts, test_set, folder)
        if n_failed > args.max_failed:
            raise UserError(
                f"{n_failed} of {len(test_set.manifest.items) + len(test_set.problems)} mixtures could not be separated "
                f"(--max_failed {args.max_failed}), see {folder / 'failed.csv'}; the others are in {folder}"
            )
        mark.write()
    return 0


def _separate_videos(args: argparse.Namespace, facts: dict | None) -> int:
    for option, given in (("--cue_test", args.cue_test), ("--fallback_exp_dir", args.fallback_exp_dir)):
        if given:
            logger.warning("stage 4: %s has no meaning for videos", option)
    find_videos(args.test_dir, args.landmarks_dir)  # what can be refused is, before torch is imported
    if facts is None:
        raise UserError(f"{args.exp_dir}: an audio-only network cannot tell which voice is whose; give an audio-visual one")
    if Path(facts["weights"]).is_dir():
        raise UserError(f"{args.exp_dir}: trained on ready-made features, which videos have not; give prepared mixtures")
    from utils.separation.videos import separate_videos
    from utils.stages.embed import choose_device

    return separate_videos(args, facts, choose_device(args.id, os.environ))


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = OptionParser(prog="separate", description="Stage 4: separate the mixtures of a test set.")
    parser.add_argument("--exp_dir", type=Path, required=True, help="folder of the experiment")
    parser.add_argument("--test_dir", type=Path, required=True, help="CSV of mixtures, folder in the DLA layout, or videos")
    parser.add_argument("--test_name", default="", help="name of the outputs; empty: made from --test_dir")
    parser.add_argument("--cue_test", type=flag, default=False, help="also separate with swapped and shuffled faces")
    parser.add_argument("--fallback_exp_dir", default="", help="audio-only experiment for mixtures without good mouths")
    parser.add_argument("--frontend_weights", default="", help="where its front end lies now, or other features")
    parser.add_argument("--subtype", default="float", choices=tuple(SUBTYPES), help="sample format of the voices")
    parser.add_argument("--window_sec", type=float, default=8.0, help="longer mixtures are separated in such windows")
    parser.add_argument("--hop_sec", type=float, default=6.0, help="from window to window")
    parser.add_argument("--batch_size", type=int, default=4, help="equally long mixtures separated at once")
    parser.add_argument("--dump_dir", type=Path, default=Path("dump"), help="stores are in dump_dir/embeddings")
    parser.add_argument("--data_root_dir", type=Path, default=Path("data"), help="where a folder's manifest is made")
    parser.add_argument("--nj", type=int, default=2, help="processes and threads that read files")
    parser.add_argument("--id", default="", help="GPU, e.g. 0; cpu; empty: a GPU if there is one")
    parser.add_argument("--max_failed", type=int, default=0, help="mixtures that may fail before the stage does")
    parser.add_argument("--out_dir", default="", help="videos: the tracks go here; empty: <exp_dir>/separated/<test name>")
    parser.add_argument("--preview", type=flag, default=False, help="videos: also write each again with each face's track")
    parser.add_argument("--landmarks_dir", default="", help="videos: landmarks found before, a file named as each video")
    parser.add_argument("--alignment", default="centred8", choices=ALIGNMENTS, help="videos: how mouths are aligned")
    parser.add_argument("--audio_stream", type=int, default=0, help="videos: 1 is the first; 0: the default, or one with sound")
    parser.add_argument("--min_sec", type=float, default=0.5, help="videos: people on screen for less are left out")
    parser.add_argument("--people", type=_people, default=0, help="videos: at most so many people; empty or 0: no limit")
    parser.add_argument("--force", type=flag, nargs="?", const=True, default=False, help="make everything again")
    args = parser.parse_args()
    for name in ("nj", "batch_size"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} {getattr(args, name)} must be at least 1")
    if args.audio_stream < 0:
        parser.error(f"--audio_stream {args.audio_stream} must be 0 or more")
    if not 0 <= args.min_sec < float("inf"):
        parser.error(f"--min_sec {args.min_sec:g} must be 0 or more")
    if not 0 < args.hop_sec < args.window_sec <= 2 * args.hop_sec:
        parser.error("--hop_sec must be shorter than --window_sec and at least half of it")
    return args


def _people(text: str) -> int:
    if text and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number of people")
    return int(text or 0)


def check_experiments(args: argparse.Namespace) -> dict | None:
    """Check that the experiments' files are there, without torch.

    Returns:
        What the experiment says of its front end; None for an audio-only one.

    Raises:
        UserError: a file is missing, or the fallback needs faces itself.
    """
    _check_experiment("--exp_dir", args.exp_dir)
    if args.fallback_exp_dir:
        fallback = Path(args.fallback_exp_dir)
        _check_experiment("--fallback_exp_dir", fallback)
        if (fallback / "frontend.json").is_file():
            raise UserError(f"--fallback_exp_dir {fallback}: needs faces itself; give an audio-only experiment")
    path = args.exp_dir / "frontend.json"
    if not path.is_file():
        return None
    facts = read_json(path)
    wanted = ("weights", "layer", "view", "precision", "store_name")
    if not isinstance(facts, dict) or not all(isinstance(facts.get(name), str) for name in wanted):
        raise UserError(f"{path}: does not name {', '.join(wanted)}; run stage 3 again")
    weights = Path(args.frontend_weights or facts["weights"])
    if not weights.exists():
        raise UserError(f"{weights}: the front end of {args.exp_dir} is not there; say where with --frontend_weights")
    return facts | {"weights": str(weights)}


def _check_experiment(option: str, exp_dir: Path) -> None:
    if (exp_dir / "best_model.pth").is_file():
        return
    known = ", ".join(sorted(str(path.parent) for path in exp_dir.parent.glob("*/best_model.pth"))) or "none"
    what = "holds no best_model.pth" if exp_dir.is_dir() else "no such experiment"
    raise UserError(f"{option} {exp_dir}: {what}; stage 3 makes it; experiments that are trained: {known}")


def separate_test_set(args: argparse.Namespace, facts: dict | None, test_set: TestSet, folder: Path) -> int:
    """Separate and list; gives the number of mixtures that failed."""
    from utils.separation.tasks import (  # torch comes only after the paths were found good
        SeparationOptions,
        load_separator,
        plan_tasks,
        with_shuffled_faces,
        with_swapped_faces,
    )
    from utils.stages.embed import choose_device

    device = choose_device(args.id, os.environ)
    options = SeparationOptions(args.window_sec, args.hop_sec, args.subtype, args.batch_size)
    separator = load_separator(args.exp_dir, device)
    fallback = load_separator(Path(args.fallback_exp_dir), device) if args.fallback_exp_dir else None
    if separator.needs_faces and facts is None:
        raise UserError(f"{args.exp_dir / 'frontend.json'}: missing, but the network needs faces; run stage 3 again")
    store, reasons = embed_mouths(args, facts, test_set.manifest, device) if facts else (None, {})
    tasks, problems = plan_tasks(test_set.manifest, separator, fallback, store, reasons, options)
    by_cues = {folder: tasks}
    if args.cue_test:
        by_cues[folder / CUE_FOLDERS[0]] = with_swapped_faces(tasks)
        by_cues[folder / CUE_FOLDERS[1]] = with_shuffled_faces(tasks)
    problems = test_set.problems + problems + _separate_all(by_cues, test_set.manifest, store, options, args.force)
    write_failed(folder / "failed.csv", problems)
    _report(folder, problems, device)
    return len({problem.item_id for problem in problems})


def embed_mouths(
    args: argparse.Namespace, facts: dict, manifest: Manifest, device: str
) -> tuple["EmbeddingStore", dict[str, str]]:
    """The store with this manifest's mouths in it, and why some are not.

    Raises:
        UserError: the front end is not the one that the network was trained with.
    """
    from utils.embedding.embed import embed_manifests
    from utils.embedding.frontends import load_frontend, store_name

    frontend = load_frontend(facts["weights"], facts.get("conf") or None, facts["layer"], device)
    name = store_name(frontend, facts["view"], facts["precision"])
    if name != facts["store_name"]:
        remedy = "give the weights it was trained with, --frontend_weights"
        if Path(facts["weights"]).is_dir():
            remedy += "; ready-made features are known by the name of their folder and the values of a frame"
        raise UserError(
            f"{facts['weights']}: gives the embeddings {name}, but {args.exp_dir} was trained on {facts['store_name']}; "
            + remedy
        )
    where = {"view": facts["view"], "precision": facts["precision"], "nj": args.nj}
    store, problems = embed_manifests([manifest], frontend, args.dump_dir, **where)
    return store, {problem.path: problem.reason for problem in problems}


def _separate_all(
    by_cues: dict[Path, list["Task"]],
    manifest: Manifest,
    store: "EmbeddingStore | None",
    options: "SeparationOptions",
    force: bool,
) -> list[Problem]:
    """Separate into each folder; a folder's separated.csv is there only when the folder is up to date."""
    from utils.separation.run import require_room, separate_tasks

    main_folder = next(iter(by_cues))
    require_room(main_folder, by_cues, manifest.n_src, options)
    for path in (main_folder, *(main_folder / name for name in CUE_FOLDERS)):
        (path / "separated.csv").unlink(missing_ok=True)
        if force:
            (path / JOURNAL_NAME).unlink(missing_ok=True)
    problems: list[Problem] = []
    for folder, tasks in by_cues.items():
        if not tasks and folder != main_folder:
            logger.warning("stage 4: %s: left out, no mixture has faces to exchange", folder.name)
            continue
        start_sec = time.monotonic()
        done = separate_tasks(tasks, folder, store, manifest.n_src, options)
        elapsed_sec = time.monotonic() - start_sec
        problems += done.problems
        write_separated(folder, manifest, done.journal)
        if done.audio_sec:
            logger.info(
                "stage 4: %s: %.1f s of sound in %.1f s, real-time factor %.3f (embeddings not counted)",
                folder.name, done.audio_sec, elapsed_sec, elapsed_sec / done.audio_sec,
            )  # fmt: skip
    return problems


def _report(folder: Path, problems: Sequence[Problem], device: str) -> None:
    with open(folder / "separated.csv", newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    for name in sorted({row["separated_by"] for row in rows}):
        count = sum(row["separated_by"] == name for row in rows)
        logger.info("stage 4: %d mixtures separated by %s on %s", count, name, device)
    for problem in problems[:5]:
        logger.warning("stage 4: %s: not separated: %s", problem.item_id, problem.reason)
    if len(problems) > 5:
        logger.warning("stage 4: ... and %d more, see %s", len(problems) - 5, folder / "failed.csv")
    logger.info("stage 4: the voices are in %s", folder)


def _inputs(args: argparse.Namespace, facts: dict | None, test_set: TestSet) -> dict[str, str]:
    """What the voices depend on, for the mark; audio and mouths count by name, size and time."""
    manifest = test_set.manifest
    files = [manifest.resolve(path) for item in manifest.items for path in (item.mixture_path, *item.mouth_paths) if path]
    if facts and Path(facts["weights"]).is_dir():
        features = PrecomputedEmbeddings(facts["weights"])
        files += [features.path_of(path) for path in manifest.mouth_paths()]
    fallback = sha256_file(Path(args.fallback_exp_dir) / "best_model.pth") if args.fallback_exp_dir else ""
    return {
        "network": sha256_file(args.exp_dir / "best_model.pth"),
        "front end": facts["store_name"] if facts else "",
        "fallback": fallback,
        "test set": hash_contents([manifest.path, manifest.path.with_suffix(".json")]),
        "files of the test set": hash_stats(files),
        "window and hop": f"{args.window_sec:g} s, {args.hop_sec:g} s",
        "subtype": args.subtype,
        "cue_test": str(args.cue_test).lower(),
        "max_failed": str(args.max_failed),
    }


def _voices_are_there(folder: Path, cue_test: bool) -> bool:
    """Whether all that the lists name exists. (A cue test may be left out where there are no faces to exchange.)"""
    lists = [folder / "separated.csv", *(folder / name / "separated.csv" for name in CUE_FOLDERS if cue_test)]
    for path in [lists[0], *filter(Path.is_file, lists[1:])]:
        if not path.is_file():
            return False
        with open(path, newline="", encoding="utf-8") as handle:
            for row in csv.DictReader(handle):
                voices = [value for name, value in row.items() if name.startswith("estimate_")]
                if not all((path.parent / voice).is_file() for voice in voices):
                    return False
    return True


if __name__ == "__main__":
    run_cli(main)
