"""Visual embeddings made of voices: stage 2 for speech without faces, where a conf asks for it (`data.made_embeddings`).

Reads   data/<corpus>/utterances.csv, of which those without a mouth are taken; an experiment of voice to mouth that predicts
        embeddings (`--voice_to_mouth_dir`), with its residuals.npz
Writes  into dump/embeddings/<visual frontend>/<corpus>/, among the real ones, under keys that begin with `made/`: no mouth file
        has such a path, so that validation and test, whose rows name mouth files, never meet one; made.json beside the parts
        (what they were made with, and their statistics beside the real ones), and made.png
Run     python -m utils.voice_to_mouth.made --data_dir data/several --voice_to_mouth_dir exp/voice_to_lips

What is made is the prediction plus what the voice does not tell: the differences of a real person, drawn clip by clip and
joined, so that it varies as real embeddings do. A speaker keeps the person. Killed and called again it goes on; what was made
of the same sounds (size and time of the file) by the same network stays.
"""

import argparse
import logging
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from local_models.voice_to_mouth import VoiceToMouth
from utils.data.audio import read_audio
from utils.data.experiments import Experiment, open_experiment
from utils.data.files import atomic_path, read_json, require_space, sha256_file, write_json
from utils.data.fingerprints import hash_contents, hash_json
from utils.data.manifest import Manifest, Utterance, read_manifest
from utils.data.progress import progress_bar
from utils.embedding.embed import source_of
from utils.embedding.store import EmbeddingStore, EmbeddingWriter, made_key
from utils.errors import OptionParser, UserError, run_cli
from utils.training.config import read_config
from utils.training.experiment import load_model
from utils.voice_to_mouth.residuals import N_LAGS, NAME, Residuals, Statistics, read_residuals, statistics

logger = logging.getLogger(__name__)

_VERSION = 3  # of the computation below; what another one made is made again
_FADE_FRAMES = 6  # from one clip's differences to the next one's
_N_MEASURED = 200  # utterances


def main() -> int:
    """Make the embeddings of a corpus' speech."""
    parser = OptionParser(prog="made", description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", type=Path, required=True, help="data/<corpus>, with utterances without mouths")
    parser.add_argument("--voice_to_mouth_dir", type=Path, required=True, help="an experiment with --target lips")
    parser.add_argument("--dump_dir", type=Path, default=Path("dump"), help="the stores are dump_dir/embeddings/...")
    args: argparse.Namespace = parser.parse_args()
    make_embeddings(args.data_dir, args.voice_to_mouth_dir, args.dump_dir)
    return 0


def open_voice_to_lips(folder: Path | None) -> Experiment:
    """Open the experiment that makes embeddings.

    Raises:
        UserError: there is none, or it predicts something else.
    """
    if folder is None:
        raise UserError(
            "data.made_embeddings needs a network that makes them: --voice_to_mouth_dir DIR, an experiment of "
            "conf/wav2kp.yml with --train_args '--target lips'"
        )
    experiment = open_experiment(folder, option="--voice_to_mouth_dir", needs_weights=False)
    config = read_config(folder / "conf.yml")
    if not config.is_voice_to_mouth or config.model.target != "lips":
        raise UserError(f"--voice_to_mouth_dir {folder}: predicts no embeddings; train conf/wav2kp.yml with --target lips")
    return experiment


def made_stamp(root: Path) -> str:
    """What the made embeddings of a store depend on, for the fingerprint of a training.

    Raises:
        UserError: there are none, or their making was interrupted.
    """
    path = root / "made.json"
    facts = read_json(path) if path.is_file() else {}
    if "statistics" not in facts:
        raise UserError(f"{path}: no embeddings made of voices, or not all; stage 2 makes them (--stage 2)")
    return facts["stamp"]


def make_embeddings(data_dir: Path, exp_dir: Path, dump_dir: Path) -> None:
    """Make those that are missing.

    Raises:
        UserError: the experiment cannot be used, or there is no speech without faces.
    """
    experiment = open_voice_to_lips(exp_dir)
    manifest = read_manifest(data_dir / "utterances.csv")
    speech = [item for item in manifest.items if isinstance(item, Utterance) and not item.mouth_path]
    if not speech:
        raise UserError(f"{manifest.path}: every utterance has a face; there is nothing to make embeddings of")
    (record,) = experiment.frontends.values()
    root = dump_dir / "embeddings" / record.store_name / manifest.corpus
    stamp = hash_json([_VERSION, sha256_file(experiment.network_path), hash_contents([exp_dir / NAME])])
    root.mkdir(parents=True, exist_ok=True)
    facts = read_json(root / "made.json") if (root / "made.json").is_file() else {}
    store = EmbeddingStore(root)
    keys = {made_key(item.utterance_id): item for item in speech}
    there = {key for key in store.keys() if key.startswith(made_key(""))}  # noqa: SIM118
    old = there if facts.get("stamp") != stamp else there - set(keys)
    todo = [key for key, item in keys.items() if key in old or not _is_current(manifest, item, store, key)]
    if not todo and not old and "statistics" in facts:
        logger.info("stage 2: up to date, embeddings made of %d voices in %s", len(keys), root)
        return
    network: VoiceToMouth = load_model(experiment.network_path)
    residuals = read_residuals(exp_dir)
    n_frames = sum(keys[key].length for key in todo) / manifest.sample_rate * network.config.video_fps
    n_bytes = round(n_frames * network.config.visual_dim * np.dtype(record.precision).itemsize)
    require_space(root, n_bytes, f"the embeddings of {len(todo)} voices", "--dump_dir")
    made_with = {"stamp": stamp, "network": exp_dir.resolve().name}
    problems: list[str] = []
    with EmbeddingWriter(root, record.precision) as writer:
        writer.forget(old | set(todo))
        write_json(root / "made.json", made_with)  # without statistics: not finished
        for key in progress_bar(todo, desc="embeddings made of voices", unit="clip"):
            item = keys[key]
            try:
                made = _predicted(network, manifest, item)
            except UserError as error:
                problems.append(str(error))
                continue
            made += missing(residuals, item, len(made))
            writer.add(key, made, source_of(manifest.resolve(item.audio_path)))
            writer.commit_if_due()
    if problems:
        raise UserError(
            f"{len(problems)} of {len(keys)} voices could not be read, the others are made; mend them, or prepare the corpus "
            f"again without them; the first: {problems[0]}"
        )
    store = EmbeddingStore(root)
    shown = _some(list(keys.items()))
    found = {
        "real": residuals.real,
        "predicted": statistics(_predicted(network, manifest, item) for _, item in shown),
        "made": statistics(store.get(key) for key, _ in shown),
    }
    report = compared(found)
    draw(root / "made.png", found)
    write_json(root / "made.json", made_with | {"n_made": len(keys), "statistics": report})
    logger.info("stage 2: embeddings made of %d voices (%d now) in %s: %s", len(keys), len(todo), root, summary(report))


def missing(residuals: Residuals, item: Utterance, n_frames: int) -> np.ndarray:
    """What the voice does not tell, (n_frames, dim): a person's mean difference, and how the clips differ from it, joined.

    The same utterance gets the same; the utterances of a speaker get the same person.
    """
    people = np.unique(residuals.people)
    person = people[zlib.crc32((item.speaker or item.utterance_id).encode()) % len(people)]
    own = [residuals.clips[index] for index in np.flatnonzero(residuals.people == person)]
    mean = np.concatenate(own).mean(axis=0)
    rng = np.random.default_rng(zlib.crc32(item.utterance_id.encode()))
    joined = own[rng.integers(len(own))] - mean
    while len(joined) < n_frames:
        following = own[rng.integers(len(own))] - mean
        count = min(_FADE_FRAMES, len(joined) - 1, len(following) - 1)
        angle = (np.arange(count)[:, None] + 0.5) / count * np.pi / 2  # squares add up to one, as the two are independent
        fade = joined[-count:] * np.cos(angle) + following[:count] * np.sin(angle)
        joined = np.concatenate([joined[:-count], fade, following[count:]])
    start = rng.integers(len(joined) - n_frames + 1)
    return mean + joined[start : start + n_frames]


def compared(found: dict[str, Statistics]) -> dict[str, dict[str, Any]]:
    """Statistics beside those of real embeddings, as plain numbers."""
    real = found["real"]
    variance = max(float(real.variance.sum()), 1e-12)  # numbers that hardly vary count little
    return {
        name: {
            "mean_off": round(float(np.sqrt(((one.mean - real.mean) ** 2).sum() / variance)), 3),
            "variance_ratio": round(float(one.variance.sum()) / variance, 3),
            "autocorrelation": [round(float(value), 3) for value in one.autocorrelation],
        }
        for name, one in found.items()
    }


def summary(report: dict[str, dict[str, Any]]) -> str:
    """A line: how far what was made is from real embeddings."""
    made, real = report["made"], report["real"]
    off = max(abs(a - b) for a, b in zip(made["autocorrelation"], real["autocorrelation"], strict=True))
    return (
        f"mean {made['mean_off']:.2f} standard deviations off, variance {made['variance_ratio']:.2f} of that of real ones "
        f"(predicted alone {report['predicted']['variance_ratio']:.2f}), autocorrelation at most {off:.2f} off"
    )


def draw(path: Path, found: dict[str, Statistics]) -> None:
    """Variance of each number and autocorrelation over time, real, predicted and made, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    order = np.argsort(-found["real"].variance)
    for name, one in found.items():
        left.plot(np.sqrt(np.maximum(one.variance[order], 0)), label=name)
        right.plot(np.arange(N_LAGS + 1), one.autocorrelation, marker=".", label=name)
    left.set(xlabel="numbers of an embedding, largest first", ylabel="standard deviation")
    right.set(xlabel="frames apart", ylabel="autocorrelation")
    for panel in (left, right):
        panel.grid(alpha=0.3)
    right.legend(frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _some(items: Sequence[Any]) -> list[Any]:
    """At most `_N_MEASURED`, spread over all."""
    return [items[index] for index in np.unique(np.linspace(0, len(items) - 1, _N_MEASURED).round().astype(int))]


def _predicted(network: VoiceToMouth, manifest: Manifest, item: Utterance) -> np.ndarray:
    return network.predict(read_audio(manifest.resolve(item.audio_path), sample_rate=network.config.sample_rate))


def _is_current(manifest: Manifest, item: Utterance, store: EmbeddingStore, key: str) -> bool:
    path = manifest.resolve(item.audio_path)
    if key not in store or not path.is_file():
        return False
    status, source = path.stat(), store.clip(key).source
    return (status.st_size, status.st_mtime_ns) == (source.size, source.mtime_ns)


if __name__ == "__main__":
    run_cli(main)
