"""A corpus of a few seconds for the tests: speech is noise that comes and goes, and the visual embeddings tell when."""

from pathlib import Path

import numpy as np
import soundfile

from utils.data.manifest import Manifest, Mixture, Utterance, write_manifest
from utils.embedding.store import EmbeddingWriter, Source
from utils.mixing.levels import mix_at_sir

RATE_HZ, FPS, DIM = 16000, 25, 4


def make_source(rng: np.random.Generator, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Coloured noise (time,) switched on and off by frame, and its embeddings (frames, DIM) that tell which."""
    loudness = np.repeat(rng.random(-(-frames // 5)) > 0.4, 5)[:frames] * 1.0
    loudness[0] = 1.0
    samples = np.repeat(loudness, RATE_HZ // FPS) * rng.standard_normal(frames * RATE_HZ // FPS)
    colour = np.fft.rfft(samples)
    colour *= 1 / (1 + np.abs(np.arange(len(colour)) / len(colour) - rng.uniform(0.05, 0.6)) * 20)
    samples = np.fft.irfft(colour, len(samples))
    embedding = np.stack([loudness, 1 - loudness, rng.random(frames), rng.random(frames)], axis=1)
    return (0.1 * samples / samples.std()).astype(np.float32), embedding.astype(np.float32)


def make_corpus(root: Path, *, frames: int = 25, n_utterances: int = 8, n_mixtures: int = 5) -> dict[str, Manifest | Path]:
    """Write utterances.csv, train.csv and val.csv with their audio and embeddings under `root`.

    Returns:
        The manifests by split, and `store`, the folder of the embeddings.
    """
    rng = np.random.default_rng(0)
    utterances, mixtures = [], []
    with EmbeddingWriter(root / "dump" / "tiny") as writer:
        for index in range(n_utterances):
            audio, embedding = make_source(rng, frames)
            name = f"{index:04d}"
            _write(root / f"audio/{name}.wav", audio)
            writer.add(f"mouths/{name}.npz", embedding, Source(0, 0, ""))
            speaker = f"spk{index % 3}"
            utterances.append(
                Utterance(name, speaker, f"audio/{name}.wav", f"mouths/{name}.npz", len(audio), frames, float(FPS))
            )
    for index in range(n_mixtures):
        pair = utterances[index % n_utterances], utterances[(index + 1) % n_utterances]
        sources = [soundfile.read(root / item.audio_path, dtype="float32")[0] for item in pair]
        wanted_db = float(rng.uniform(-5, 5))
        mixture, sources = mix_at_sir(np.stack(sources), np.array([wanted_db]))
        name = f"{pair[0].utterance_id}_{pair[1].utterance_id}"
        paths = [f"audio/{part}/{name}.wav" for part in ("mix", "s1", "s2")]
        for path, signal in zip(paths, (mixture, *sources), strict=True):
            _write(root / path, signal)
        mixtures.append(
            Mixture(name, paths[0], tuple(paths[1:]), "", len(mixture), tuple(item.mouth_path for item in pair), frames,
                    float(FPS), tuple(item.speaker for item in pair), wanted_db, "different_voices")
        )  # fmt: skip
    common = {"corpus": "tiny", "data_root": root, "sample_rate": RATE_HZ}
    made: dict[str, Manifest | Path] = {"store": root / "dump" / "tiny"}
    made["utterances"] = write_manifest(root / "data/utterances.csv", split="utterances", n_src=1, items=utterances, **common)
    for split in ("train", "val"):
        made[split] = write_manifest(root / f"data/{split}.csv", split=split, n_src=2, items=mixtures, **common)
    return made


def _write(path: Path, signal: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, signal, RATE_HZ, subtype="FLOAT")
