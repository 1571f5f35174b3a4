"""The whole recipe on small copies of corpora: their parts, the commands of their READMEs, and checks of every run."""

import csv
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np
import soundfile
import torch
from corpora_helpers import RATE_HZ, encode_clip
from scipy.signal import resample_poly

from utils.data.manifest import Manifest, read_manifest
from utils.data.mouths import MouthFile, fill_unseen, read_mouths
from utils.embedding.frontends import load_frontend
from utils.separation.overlap_add import separate_window
from utils.training.experiment import load_model

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT / "egs/demo/lipreader.pth.tar"
LEARNING = (
    "--epochs 1 --epoch_size 8 --batch_size 4 --num_workers 0 --segment_sec 1.0 --lr 0.01 --warmup_steps 0 --off_screen_prob 0 "
    "--same_speaker_prob 0"
)
TINY = (
    f"{LEARNING} --extra_speaker_prob 0 --bn_chan 8 --hid_size 8 --n_repeats 2 --n_audio_repeats 1 --bands 16x4 "
    "--visual_chan 8 --visual_hid 8 --visual_blocks 1 --n_filters 128 --kernel_size 128 --stride 64"
)
TINY_TIME_DOMAIN = (
    f"{LEARNING} --bn_chan 8 --hid_size 8 --n_repeats 2 --n_filters 32 --visual_chan 8 --visual_hid 8 --visual_blocks 1"
)
CORNER = (110, 81)  # row and column at which a mouth crop lies in the mean face's frame


@dataclass(frozen=True)
class Clip:
    """Two seconds of somebody who speaks."""

    samples: np.ndarray  # float32 (32000,)
    mouths: np.ndarray  # uint8 (50, 96, 96)


def draw_clips(folder: Path) -> list[Clip]:
    """Twelve clips of the demo corpus, two of each of six speakers; nothing but the recipe is needed for them."""
    sizes = ["--n_train", "4", "--n_val", "4", "--n_test", "4", "--nj", "2"]
    command = [sys.executable, "egs/demo/prepare.py", "--data_dir", str(folder), "--raw_dir", str(folder / "raw"), *sizes]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    paths = sorted((folder / "utterances").glob("*.wav"), key=lambda path: path.stem[1:])  # f00u0000, m01u0000, ...
    return [
        Clip(soundfile.read(path, dtype="float32")[0], np.load(folder / "mouths" / f"{path.stem}.npz")["data"])
        for path in paths
    ]


def draw_video(path: Path, clips: Sequence[Clip], samples: np.ndarray) -> list[np.ndarray]:
    """A video of drawn mouths side by side, each where the mean face has its own; their landmarks, (50, 68, 2) each."""
    from test_video_alignment import mean_face

    row, column = CORNER
    pictures = np.full((len(clips[0].mouths), 256, 256 * len(clips), 3), 128, np.uint8)
    for place, clip in enumerate(clips):
        left = 256 * place + column
        pictures[:, row : row + 96, left : left + 96] = clip.mouths[..., None]
    encode_clip(path, samples, RATE_HZ, Fraction(25), list(pictures))
    return [np.repeat([mean_face() + (256 * place, 0)], len(pictures), axis=0) for place in range(len(clips))]


def film_clip(path: Path, source: Path, seconds: float, fps: Fraction, rate_hz: int) -> np.ndarray:
    """The beginning of a real clip at another rate of pictures and of samples, as mp4; its sound at 16 kHz."""
    from utils.video.decoding import read_pictures

    samples = sound_of(source)[: round(seconds * RATE_HZ)]
    shown = [picture for _, picture in read_pictures(source, round(seconds * 25))]
    pictures = [shown[min(int(number / fps * 25), len(shown) - 1)] for number in range(round(seconds * fps))]
    encode_clip(path, at_rate(samples, rate_hz), rate_hz, fps, pictures)
    return samples


def sound_of(video: Path) -> np.ndarray:
    """The sound of a video at 16 kHz."""
    from utils.video.decoding import extract_sound

    with tempfile.TemporaryDirectory() as folder:
        extract_sound(video, Path(folder) / "sound.wav")
        return soundfile.read(Path(folder) / "sound.wav", dtype="float32")[0]


def at_rate(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """A sound of 16 kHz at another rate."""
    factor = Fraction(rate_hz, RATE_HZ)
    return resample_poly(samples, factor.numerator, factor.denominator).astype(np.float32)


def readme_command(corpus: str, beginning: str, places: Mapping[str, object]) -> list[str]:
    """The command of a corpus' README that begins so, as words; `places` has what stands for FILE and the like."""
    text = (ROOT / "egs" / corpus / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"\\\n\s*", "", text)
    (line,) = [line for line in text.splitlines() if line.startswith(beginning)]
    for name, place in places.items():
        assert name in line, f"egs/{corpus}/README.md: '{line}' has no '{name}'"
        line = line.replace(name, str(place))
    return shlex.split(line, comments=True)


class Recipe:
    """A corpus through `run.sh`, all outputs below one folder.

    Args:
        home: the folder; a prepared corpus is called as its last folder is.
        corpus: a folder of egs/.
        weights: of the visual frontend.
    """

    def __init__(self, home: Path, corpus: str, weights: Path = WEIGHTS) -> None:
        self.home, self.corpus, self.weights = home, corpus, weights
        self.raw, self.data, self.exp, self.dump = home / "raw", home / "data" / corpus, home / "exp", home / "dump"

    def run(self, command: Sequence[str], *more: object) -> str:
        """A command of the README with our folders; it must end well. What it said."""
        folders = ["--data_dir", self.data, "--exp_dir", self.exp, "--dump_dir", self.dump, "--nj", 2]
        return self.command([*command, *folders, *more])

    def command(self, words: Sequence[object]) -> str:
        """Any command of the recipe; it must end well. What it said."""
        done = subprocess.run(
            list(map(str, words)), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=900,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    @cached_property
    def test(self) -> Manifest:
        return read_manifest(self.data / "test.csv")

    @property
    def estimates(self) -> Path:
        return self.exp / "separated" / f"{self.corpus}_test"

    @property
    def results(self) -> Path:
        return self.exp / "results" / f"{self.corpus}_test"

    def rows(self, name: str) -> list[dict[str, str]]:
        with open(self.results / name, newline="", encoding="utf-8") as handle:
            return list(csv.DictReader(handle))

    def check(self, ids: Mapping[str, tuple[str, ...]], sounds: Mapping[str, np.ndarray]) -> None:
        """What every run must leave.

        Args:
            ids: of the clips in each mixture of the test set, the first source's first.
            sounds: of these clips, as the corpus had them.
        """
        self.check_manifest(ids, sounds)
        self.check_scores()
        self.check_estimates(ids)

    def check_manifest(self, ids: Mapping[str, tuple[str, ...]], sounds: Mapping[str, np.ndarray]) -> None:
        """Every mixture is there; the mouths are those of the ids in its name, and the sources their sounds."""
        assert {item.mixture_id for item in self.test.items} == set(ids)
        for item in self.test.items:
            names = ids[item.mixture_id]
            assert item.mouth_paths == tuple(f"mouths/{name}.npz" for name in names)
            for path, name in zip(item.source_paths, names, strict=True):
                source, _ = soundfile.read(self.test.resolve(path))
                count = min(len(source), len(sounds[name]))
                assert np.corrcoef(source[:count], sounds[name][:count])[0, 1] > 0.9, (path, name)

    def drawn_ids(self) -> dict[str, tuple[str, ...]]:
        """The ids in each mixture that the recipe has drawn for the test set, by its own list."""
        with open(self.data / "mixtures.csv", newline="", encoding="utf-8") as handle:
            rows = [row for row in csv.DictReader(handle) if row["split"] == "test"]
        numbers = range(1, self.test.n_src + 1)
        return {row["mixture_ID"]: tuple(row[f"utterance_{k}"] for k in numbers) for row in rows}

    def check_scores(self) -> None:
        """A row for every source of every mixture, with numbers in it, and a table for the reader."""
        rows = self.rows("all_metrics.csv")
        names = [*map(str, range(1, self.test.n_src + 1)), "mean"]
        wanted = sorted((item.mixture_id, name) for item in self.test.items for name in names)
        assert sorted((row["mixture_ID"], row["speaker"]) for row in rows) == wanted
        assert all(np.isfinite(float(row["si_snr_imp"])) for row in rows)
        assert "SI-SNRi |" in (self.results / "RESULTS.md").read_text(encoding="utf-8")

    def check_estimates(self, ids: Mapping[str, tuple[str, ...]]) -> None:
        """Estimates last as long as their mixture, and s1 is the network's for the mouth of the first source's id."""
        network = load_model(self.exp / "best_model.pth")
        frontend = load_frontend(self.weights)
        for item in self.test.items:
            mixture, _ = soundfile.read(self.test.resolve(item.mixture_path), dtype="float32")
            found = np.stack([soundfile.read(self.estimates / f"s{k + 1}" / f"{item.mixture_id}.wav", dtype="float32")[0]
                              for k in range(self.test.n_src)])  # fmt: skip
            assert found.shape == (self.test.n_src, item.length) == (self.test.n_src, len(mixture))
            faces = [self.embedding(frontend, name, len(mixture)) for name in ids[item.mixture_id]]
            wanted = self.separate(network, mixture, faces)
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-3)  # one pass for all faces rounds in another way
            exchanged = self.separate(network, mixture, faces[::-1])
            assert np.abs(exchanged - wanted).max() > 5e-3, "the network does not look: this shows nothing"

    def embedding(self, frontend, name: str, n_samples: int) -> np.ndarray:
        """The visual embeddings of a mouth, as long as the mixture."""
        path = self.test.data_root / "mouths" / f"{name}.npz"
        mask = MouthFile(path).mask
        crops = fill_unseen(read_mouths(path), mask)
        vectors = frontend(frontend.preprocess(crops)[None])[0].half().float().numpy() * mask[:, None]
        n_frames = -(-n_samples // (RATE_HZ // 25))
        return np.concatenate([vectors, vectors[-1:]])[:n_frames]

    def separate(self, network, mixture: np.ndarray, faces: Sequence[np.ndarray]) -> np.ndarray:
        """The estimates for these faces, in one pass or, where the network takes one face, face by face."""
        visual = torch.from_numpy(np.stack(faces))
        sound = torch.from_numpy(mixture)[None]
        groups = [visual[None]] if network.config.n_faces > 1 else [face[None, None] for face in visual]
        return torch.cat([separate_window(network, sound, group)[0] for group in groups]).numpy()
