"""Stage 0: a corpus becomes manifests.

Reads   --corpus_dir, by way of egs/<corpus>/prepare.py, which knows that corpus' layout
Writes  data/<corpus>/<split>.csv with their side files, failed.csv, and the done mark .done-0.json
Run     python -m utils.stages.prepare --corpus dla --corpus_dir /data/dla_dataset --nj 8
"""

import argparse
import logging
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

from utils.data.cluster import add_cluster_option, use_cluster
from utils.data.devices import n_cores
from utils.data.files import remove_leftovers
from utils.data.fingerprints import StageMark, hash_contents, hash_tree
from utils.data.manifest import VIDEOS_NAME, find_manifests, read_manifest, read_videos
from utils.data.validation import validate_manifest
from utils.environment import add_missing
from utils.errors import OptionParser, UsageError, UserError, flag, run_cli

log = logging.getLogger(__name__)
EGS = Path(__file__).resolve().parents[2] / "egs"
OUTPUT_OPTIONS = ("--raw_dir", "--raw-dir", "--clips_dir", "--clips-dir")  # of folders that a preparation writes


def main() -> int:
    """Run the corpus' own preparation unless nothing changed, then check its manifests."""
    args = _parse_args()
    use_cluster(args.cluster)
    script = _find_script(args.corpus)
    corpus_args = _split(args.corpus_args)
    corpus_dir = Path(args.corpus_dir) if args.corpus_dir else None
    if corpus_dir and not corpus_dir.is_dir():
        raise UserError(f"--corpus_dir {corpus_dir}: no such folder; give the folder of the corpus '{args.corpus}'")
    data_dir = Path(args.data_dir or Path("data", args.corpus))
    inputs = {"corpus": args.corpus, "corpus_args": args.corpus_args, "max_failed": str(args.max_failed)}
    inputs |= _input_files(script, corpus_dir, corpus_args)
    changes = _mark(data_dir, inputs).changed()
    if changes == [] and not args.force:
        log.info("stage 0: up to date (%s)", data_dir)
        return 0
    for change in changes or []:
        log.info("stage 0: runs again, %s", change)
    if (script.parent / "requirements.txt").is_file():
        add_missing(f"egs/{args.corpus}/requirements.txt")
    remove_leftovers(data_dir)
    command = [sys.executable, str(script), "--data_dir", str(data_dir)]
    command += ["--corpus_dir", str(corpus_dir)] if corpus_dir else []
    code = _run([*command, "--nj", str(args.nj), "--max_failed", str(args.max_failed), *corpus_args])
    if code:
        return code  # the corpus' own program has said why
    _check(data_dir, script)
    _mark(data_dir, inputs).write()
    return 0


def _parse_args() -> argparse.Namespace:
    parser = OptionParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", default="demo", help="a folder of egs/")
    parser.add_argument("--corpus_dir", default="", help="folder of the corpus; some need none")
    parser.add_argument("--corpus_args", default="", help="further options of egs/<corpus>/prepare.py, as one text")
    parser.add_argument("--data_dir", default="", help="gets the manifests; empty: data/<corpus>")
    parser.add_argument("--nj", type=int, default=n_cores(), help="parallel workers")
    add_cluster_option(parser)
    parser.add_argument("--max_failed", type=int, default=0, help="items that may be left out")
    parser.add_argument("--force", type=flag, nargs="?", const=True, default=False, help="run even if nothing changed")
    return parser.parse_args()


def _find_script(corpus: str) -> Path:
    scripts = {path.parent.name: path for path in sorted(EGS.glob("*/prepare.py"))}
    if corpus not in scripts:
        raise UserError(f"--corpus {corpus}: there is no egs/{corpus}/prepare.py; the corpora are {', '.join(scripts)}")
    return scripts[corpus]


def _split(corpus_args: str) -> list[str]:
    try:
        return shlex.split(corpus_args)
    except ValueError as error:
        raise UsageError(f"--corpus_args {corpus_args}: {error}; correct the quotes") from None


def _input_files(script: Path, corpus_dir: Path | None, corpus_args: list[str]) -> dict[str, str]:
    """The files that manifests depend on; those named in `--corpus_args` count like the corpus itself."""
    inputs = {"egs/prepare.py": hash_contents(script.parent.glob("*.py"))}
    if corpus_dir:
        inputs["corpus_dir"] = str(corpus_dir.absolute())
    folders = [corpus_dir] if corpus_dir else []
    options = ["", *corpus_args]
    folders += [Path(arg) for option, arg in pairwise(options) if Path(arg).is_dir() and option not in OUTPUT_OPTIONS]
    files = [Path(arg) for arg in corpus_args if Path(arg).is_file()]
    inputs |= {f"file {path}": hash_contents([path]) for path in files}
    return inputs | {f"files of {folder}": hash_tree(folder) for folder in folders}


def _mark(data_dir: Path, inputs: dict[str, str]) -> StageMark:
    """The done mark; a manifest that was deleted since counts as a change too."""
    names = " ".join(path.name for path in find_manifests(data_dir))
    return StageMark(data_dir / ".done-0.json", {**inputs, "manifests": names})


def _run(command: list[str]) -> int:
    """Run a program; gives its exit code, unless a signal ended it."""
    code = subprocess.run(command, check=False).returncode
    if code < 0:
        raise UserError(f"killed by signal {-code}; the same command continues", command[1])
    return code


def _check(data_dir: Path, script: Path) -> None:
    """The cheap validation of every manifest."""
    paths = find_manifests(data_dir)
    if not paths:
        raise UserError(f"{script} wrote no manifest there; see its messages above", data_dir)
    videos = data_dir / VIDEOS_NAME  # the mouths of raw video are made by stage 1
    awaited = {clip.mouth_path for clip in read_videos(videos)} if videos.is_file() else set()
    for path in paths:
        manifest = read_manifest(path)
        problems = [problem for problem in validate_manifest(manifest) if problem.path not in awaited]
        if problems:
            first = problems[0]
            raise UserError(f"{path}, row {first.row}: {first.path}: {first.reason} ({len(problems)} problems in all)")
        log.info("stage 0: %s: rows: %d", path, len(manifest.items))


if __name__ == "__main__":
    run_cli(main)
