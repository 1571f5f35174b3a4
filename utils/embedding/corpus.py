"""Stage 2 on a corpus: its embeddings of each view, brought up to date by one process or by several that share the work.

Reads the manifests and their mouths; writes the stores of `utils.embedding.store`, the failed.csv of each, and the marks
<data_dir>/.done-2-<store name>.json.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.data.fingerprints import StageMark, hash_contents
from utils.data.manifest import Manifest
from utils.embedding.embed import EmbeddingPlan, plan_embedding, require_room, run_plan
from utils.embedding.frontends import Frontend
from utils.embedding.precomputed import PrecomputedEmbeddings
from utils.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CorpusOptions:
    """How to embed a corpus."""

    data_dir: Path  # the marks go there
    dump_dir: Path  # stores are in dump_dir/embeddings
    precision: str  # of the stored embeddings
    batch_size: int  # clips
    nj: int  # threads that read ahead
    max_failed: int  # mouths
    force: bool
    share: tuple[int, int]  # rank of this process, number of processes


def embed_corpus(
    manifests: Sequence[Manifest], frontend: Frontend | PrecomputedEmbeddings, views: Sequence[str], options: CorpusOptions
) -> None:
    """Bring this process' share of every view's store up to date; mark a view once the whole of it is.

    Raises:
        UserError: no room on the disk, or more than `max_failed` mouths of a view could not be embedded.
    """
    plans = [_plan(manifests, frontend, view, options, options.share, options.force) for view in views]
    require_room(plans)
    for plan in plans:
        _embed_view(manifests, frontend, plan, options)


def _plan(
    manifests: Sequence[Manifest],
    frontend: Frontend | PrecomputedEmbeddings,
    view: str,
    options: CorpusOptions,
    share: tuple[int, int] = (0, 1),
    force: bool = False,
) -> EmbeddingPlan:
    where = (options.dump_dir, view, options.precision, options.batch_size, options.nj)
    return plan_embedding(manifests, frontend, *where, share, force)


def _embed_view(
    manifests: Sequence[Manifest],
    frontend: Frontend | PrecomputedEmbeddings,
    plan: EmbeddingPlan,
    options: CorpusOptions,
) -> None:
    rank, n_processes = options.share
    mark = _mark(manifests, plan.root.parent.name, plan.view, options)
    changes = mark.changed()
    if not plan.groups and changes == []:
        logger.info("stage 2: up to date (%s view, %d clips in %s)", plan.view, plan.n_clips, plan.root)
        return
    because = f" ({'; '.join(changes)})" if changes else ""
    logger.info("stage 2: %s view, %d of %d clips to embed%s", plan.view, plan.n_pending, plan.n_clips, because)
    failed_path = plan.root / ("failed.csv" if n_processes == 1 else f"failed-{rank}.csv")
    problems = run_plan(plan, frontend, options.nj, failed_path.name)
    for other in plan.root.glob("failed-*.csv" if n_processes == 1 else "failed.csv"):
        other.unlink(missing_ok=True)  # of an earlier run with another number of processes
    if len(problems) > options.max_failed:
        raise UserError(
            f"{failed_path}: {len(problems)} of {plan.n_clips} mouths could not be embedded, the first "
            f"{problems[0].path} ({problems[0].reason}); mend them, or allow so many with --max_failed"
        )
    # the last of several processes finds nothing missing
    if n_processes == 1 or not _plan(manifests, frontend, plan.view, options).groups:
        mark.write()


def _mark(manifests: Sequence[Manifest], name: str, view: str, options: CorpusOptions) -> StageMark:
    files = [path for manifest in manifests for path in (manifest.path, manifest.path.with_suffix(".json"))]
    inputs = {"manifests": hash_contents(files), "visual frontend": name, "view": view, "precision": options.precision}
    return StageMark(options.data_dir / f".done-2-{name}.json", inputs)
