"""Stage 1: the mouth crops of a corpus are checked, every file of them opened.

Reads   data/<corpus>/*.csv and the mouth crops that they name; corpora in today's recipes ship theirs
Writes  data/<corpus>/failed_mouths.csv and the done mark .done-1.json
Run     python -m utils.stages.mouths --data_dir data/dla --nj 8
"""

import argparse
import hashlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from utils.data.manifest import Manifest, Problem, find_manifests, read_manifest, write_failed
from utils.data.manifest_rows import item_id, item_mouths
from utils.data.validation import check_files, check_mouths, find_mouth_problems
from utils.errors import OptionParser, UserError, run_cli
from utils.stages.marks import StageMark, fingerprint_files

log = logging.getLogger(__name__)


def main() -> int:
    """Open every mouth crop unless nothing changed, list those that cannot be used."""
    args = _parse_args()
    paths = find_manifests(args.data_dir)
    if not paths:
        raise UserError(f"{args.data_dir}: no manifest there; stage 0 (--stage 0) makes them")
    manifests = [read_manifest(path) for path in paths]
    for manifest in manifests:
        _require_mouths(manifest)
    crops = sorted({manifest.resolve(path) for manifest in manifests for path in manifest.mouth_paths()})
    side_files = [path.with_suffix(".json") for path in paths]
    inputs = {"manifests": fingerprint_files([*paths, *side_files]), "mouth crops": _fingerprint_crops(crops)}
    mark = StageMark(args.data_dir / ".done-1.json", {**inputs, "max_failed": str(args.max_failed)})
    changes = mark.changed()
    if changes == [] and not args.force:
        log.info("stage 1: up to date (%s)", args.data_dir)
        return 0
    for change in changes or []:
        log.info("stage 1: runs again, %s", change)
    log.info("stage 1: the corpus ships its mouth crops; none to make, %d to check", len(crops))
    checks = check_files(check_mouths, crops, args.nj, "mouths")
    _report([problem for manifest in manifests for problem in _problems(manifest, checks)], args)
    mark.write()
    return 0


def _parse_args() -> argparse.Namespace:
    parser = OptionParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", type=Path, required=True, help="the folder of the manifests")
    parser.add_argument("--nj", type=int, default=1, help="threads that open files")
    parser.add_argument("--max_failed", type=int, default=0, help="rows with broken mouths that are let pass")
    parser.add_argument("--force", action="store_true", help="run even if nothing changed")
    return parser.parse_args()


def _require_mouths(manifest: Manifest) -> None:
    for row, item in enumerate(manifest.items, start=2):  # the header is line 1
        if not all(item_mouths(item)):
            raise UserError(
                f"{manifest.path}, row {row}: {item_id(item)} has no mouth path; making mouths from raw video is not "
                "part of this corpus' recipe, so cut them beforehand and name them in the corpus"
            )


def _fingerprint_crops(paths: list[Path]) -> str:
    """Hash names, sizes and times; a missing file counts as one without size."""
    total = hashlib.sha256()
    for path in paths:
        stat = path.stat() if path.is_file() else None
        total.update(f"{path}\0{stat and stat.st_size}\0{stat and stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return total.hexdigest()


def _problems(manifest: Manifest, checks: Mapping) -> list[Problem]:
    """The rows with broken crops, each with the manifest in which it stands."""
    found = find_mouth_problems(manifest, checks)
    return [replace(problem, reason=f"{manifest.path.name}: {problem.reason}") for problem in found]


def _report(problems: list[Problem], args: argparse.Namespace) -> None:
    path = args.data_dir / "failed_mouths.csv"
    write_failed(path, problems)
    rows = len({(problem.reason.partition(":")[0], problem.row) for problem in problems})
    if rows > args.max_failed:
        raise UserError(
            f"{path}: {rows} rows have mouth crops that cannot be used, for the reasons listed there; mend them, "
            f"or let them pass with --max_failed {rows}"
        )
    log.info("stage 1: %d rows with broken mouth crops%s", rows, f", see {path}" if rows else "")


if __name__ == "__main__":
    run_cli(main)
