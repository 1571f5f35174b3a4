"""The offset between faces and voices of a corpus of raw video, found by stage 1 before all mouths are cut.

Some corpora come with their sound late or early by some frames, all clips alike. The mouths of some clips are cut as they
are; the estimator (`utils.embedding.sync`), which was fitted to another corpus, says at which offset their movements go
best with the sound.
"""

import csv
import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from utils.data.files import read_json, write_json, write_text
from utils.data.fingerprints import hash_contents
from utils.data.manifest import VIDEOS_NAME, Problem, Utterance, read_videos
from utils.data.progress import progress_bar
from utils.embedding.frontends import load_frontend
from utils.embedding.sync import SHIPPED, CorpusOffset, clip_agreement, corpus_offset, load_sync_model, offset_of
from utils.errors import UserError

log = logging.getLogger(__name__)

MOST_CLIPS = 300
Cut = Callable[[Sequence[Utterance]], Sequence[Problem]]


def find_offset(data_dir: Path, frontend_weights: Path, alignment: str, cut: Cut) -> CorpusOffset:
    """Estimate the offset that the clips of a corpus have in common, from some of them; what was found once is kept.

    Writes av_offset.json and av_offset_clips.csv, `id,offset_frames,agreement,margin` of each clip that was looked at. (A CSV
    that has a JSON of its name would be taken for a manifest.)

    Args:
        data_dir: of the corpus.
        frontend_weights: of LR-ASD, to whose embeddings the estimator was fitted.
        alignment: of the mouth crops; another one is looked at anew.
        cut: cuts the mouths of clips as they are filmed, and gives those that failed.

    Raises:
        UserError: another visual frontend, or no clip is long enough.
    """
    path, by_clip = data_dir / "av_offset.json", data_dir / "av_offset_clips.csv"
    key = hash_contents([data_dir / VIDEOS_NAME, frontend_weights, SHIPPED]) + alignment
    saved = read_json(path) if path.is_file() else {}
    found = CorpusOffset(**saved["found"]) if saved.get("key") == key else None
    if found is None:
        found = _estimate(data_dir, frontend_weights, cut, by_clip)
        write_json(path, {"key": key, "found": asdict(found)})
    log.info("stage 1: %s; by clip: %s", found, by_clip)
    if not found.is_sure:
        log.warning("stage 1: that is not certain, and is not corrected; --fix_av_offset FRAMES does it all the same")
    return found


def _estimate(data_dir: Path, frontend_weights: Path, cut: Cut, by_clip: Path) -> CorpusOffset:
    """Look at some clips; writes `by_clip`."""
    model, frontend = load_sync_model(SHIPPED), load_frontend(frontend_weights, None, "trunk", "cpu")
    clips = read_videos(data_dir / VIDEOS_NAME)
    clips = clips[:: -(-len(clips) // MOST_CLIPS)]
    uncut = {problem.item_id for problem in cut(clips)}
    agreements, text = [], io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["id", "offset_frames", "agreement", "margin"])
    for clip in progress_bar(clips, desc="A/V offset", unit="clip"):
        if clip.utterance_id in uncut:
            continue
        agreement = clip_agreement(model, frontend, data_dir / clip.mouth_path, data_dir / clip.audio_path)
        if not np.isnan(agreement).all():
            agreements.append(agreement)
            own = offset_of(agreement)
            rows.writerow([clip.utterance_id, *(f"{value:.3f}" for value in (own.frames, own.agreement, own.margin))])
    if not agreements:
        raise UserError("no clip is long enough to tell an offset; give the frames with --fix_av_offset FRAMES")
    write_text(by_clip, text.getvalue())
    return corpus_offset(np.array(agreements))
