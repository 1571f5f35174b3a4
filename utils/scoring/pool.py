"""Score many mixtures over the cores, so that neither a killed run nor a crashed worker costs more than one of them.

Finished mixtures go line by line into a journal beside the results; the next run takes from it what has not changed.
PESQ is C code that can end its process: the mixtures that were in work are then tried again one at a time, and the one
at fault is reported by its name. (Nothing heavy is imported at the top: the workers set their threads first.)
"""

import json
import logging
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from utils.data.files import write_text
from utils.errors import UserError
from utils.scoring.items import ScoreItem, files_fingerprint

logger = logging.getLogger(__name__)
Function = Callable[[ScoreItem], dict]


def score_all(
    function: Function, items: Sequence[ScoreItem], nj: int, journal: Path, version: str, title: str = "score"
) -> tuple[list[dict], list[str]]:
    """Apply `function` to each item, or take its result from the journal.

    Args:
        function: picklable; returns plain JSON data, or raises `UserError` where the item cannot be scored.
        items: the mixtures.
        nj: processes.
        journal: the file that finished results are kept in.
        version: changes whenever `function` would give other results; older lines of the journal are then ignored.
        title: of the progress bar.

    Returns:
        For each item its result ({} where it failed) and the reason of its failure ("" where it did not).
    """
    from tqdm import tqdm

    keys = [f"{version} {item.mixture_id} {files_fingerprint(item.paths)}" for item in items]
    known = _read_journal(journal)
    results = {index: known[key] for index, key in enumerate(keys) if key in known}
    if results:
        logger.info("%s: %d of %d mixtures were done before and have not changed", title, len(results), len(items))
    reasons: dict[int, str] = {}
    todo = [index for index in range(len(items)) if index not in results]
    _write_journal(journal, keys, results)  # without stale lines and the one that a kill cut short
    with open(journal, "a", encoding="utf-8") as handle:
        for index, result, reason in tqdm(
            _work(function, items, todo, nj), total=len(todo), desc=title, unit="mixture", disable=None
        ):
            if reason:
                reasons[index] = reason
                continue
            results[index] = result
            handle.write(_line(keys[index], result))
            handle.flush()
    _write_journal(journal, keys, results)
    return [results.get(index, {}) for index in range(len(items))], [reasons.get(i, "") for i in range(len(items))]


def _work(function: Function, items: Sequence[ScoreItem], todo: list[int], nj: int) -> Iterator[tuple[int, dict, str]]:
    """Yield (index, result, reason) as they come; after a crash a new pool goes on with what was not in work."""
    waiting = todo[::-1]
    while waiting:
        suspects: list[int] = []
        running: dict[Future, int] = {}
        with _open_pool(min(nj, len(waiting))) as pool:
            while (waiting or running) and not suspects:
                try:
                    while waiting and len(running) < nj:  # no queue: what is lost in a crash is what was in work
                        future = pool.submit(_guarded, function, items[waiting[-1]])
                        running[future] = waiting.pop()
                except BrokenProcessPool:
                    suspects.extend(running.values())
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    try:
                        outcome = future.result()
                    except BrokenProcessPool:
                        suspects.extend(running.values())
                        break
                    yield running.pop(future), *outcome
        for index in suspects:
            yield index, *_alone(function, items[index])


def _alone(function: Function, item: ScoreItem) -> tuple[dict, str]:
    with _open_pool(1) as pool:
        try:
            return pool.submit(_guarded, function, item).result()
        except BrokenProcessPool:
            return {}, "the process that scored it died (out of memory, or a crash in PESQ's C code)"


def _open_pool(nj: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(nj, multiprocessing.get_context("spawn"), initializer=_start_worker)


def _start_worker() -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # before numpy is imported; the processes already fill the cores
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _guarded(function: Function, item: ScoreItem) -> tuple[dict, str]:
    try:
        return function(item), ""
    except UserError as error:
        return {}, str(error)


def _line(key: str, result: dict) -> str:
    return json.dumps({"key": key, "result": result}) + "\n"


def _write_journal(path: Path, keys: list[str], results: dict[int, dict]) -> None:
    write_text(path, "".join(_line(keys[index], results[index]) for index in sorted(results)))


def _read_journal(path: Path) -> dict[str, dict]:
    if not path.is_file():
        return {}
    known = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
            known[entry["key"]] = entry["result"]
        except (ValueError, KeyError, TypeError):  # the line that a kill cut short
            continue
    return known
