"""Clips of a speaker that follow each other as one recording: which there are, how long, their sound and mouth crops."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from utils.data.audio import read_audio
from utils.data.clock import frames_to_samples, samples_to_frames
from utils.data.manifest import Manifest, Utterance
from utils.data.mouths import MOUTH_EXTRAS, MouthFile, MouthWriter

_BLOCK_FRAMES = 64  # of crops in memory


def clips_by_speaker(manifest: Manifest) -> dict[str, list[Utterance]]:
    """The sources of a manifest's mixtures that have a speaker and a mouth, by their speakers, each once."""
    found: dict[str, dict[str, Utterance]] = defaultdict(dict)
    for item in manifest.items:
        for source, mouth, speaker in zip(item.source_paths, item.mouth_paths, item.speakers, strict=True):
            if speaker and mouth:
                clip = Utterance(Path(mouth).stem, speaker, source, mouth, item.length, item.frames, item.fps)
                found[speaker].setdefault(mouth, clip)
    return {speaker: list(clips.values()) for speaker, clips in found.items()}


def whole_frames(manifest: Manifest, clips: Sequence[Utterance]) -> list[int]:
    """The video frames of each clip that have both crops and sound throughout."""
    files = [MouthFile(manifest.resolve(clip.mouth_path)) for clip in clips]
    heard = [samples_to_frames(clip.length, manifest.sample_rate, clip.fps) for clip in clips]
    return [min(file.n_frames, frames) for file, frames in zip(files, heard, strict=True)]


def joined_sound(manifest: Manifest, clips: Sequence[Utterance], n_frames: Sequence[int]) -> np.ndarray:
    """The sound of the first video frames of each clip, one clip after the other: (time,)."""
    rate = manifest.sample_rate
    lengths = [frames_to_samples(count, rate, clip.fps) for clip, count in zip(clips, n_frames, strict=True)]
    paths = [manifest.resolve(clip.audio_path) for clip in clips]
    return np.concatenate([read_audio(path, 0, length, rate) for path, length in zip(paths, lengths, strict=True)])


def write_joined_mouths(manifest: Manifest, clips: Sequence[Utterance], n_frames: Sequence[int], path: Path) -> None:
    """Write the first frames of each clip, one clip after the other.

    Args:
        manifest: of the clips.
        clips: each has a mouth.
        n_frames: of each clip, at most as `whole_frames` gives it.
        path: the npz file.
    """
    files = [MouthFile(manifest.resolve(clip.mouth_path)) for clip in clips]
    with MouthWriter(path, sum(n_frames)) as writer:
        for name, (_, shape) in MOUTH_EXTRAS.items():
            if any(name in file.extra for file in files):
                unknown = np.full((max(n_frames), *shape), np.nan)
                parts = [file.extra.get(name, unknown)[:count] for file, count in zip(files, n_frames, strict=True)]
                writer.extra[name] = np.concatenate(parts)
        for file, count in zip(files, n_frames, strict=True):
            crops = (crop for block in file.blocks(_BLOCK_FRAMES) for crop in block)
            for crop, seen in islice(zip(crops, file.mask, strict=True), count):
                writer.add(crop, bool(seen))
