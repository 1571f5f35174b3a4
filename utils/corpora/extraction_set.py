"""A fixed set for target-speaker extraction: a target with its face, with interfering speech, noise, or both.

Reads   --faces: a CSV of utterances, or of mixtures with references (each source with a mouth is a target); recordings
        of speech and noise in the folders --interferer_dir and --noise_dir (wav or flac, mono, the corpus' rate).
Writes  --out_dir/<split>.csv with its side file: mixtures of one source and one mouth whose `subset` is the condition;
        --out_dir/<split>/{mix,s1}/<mixture>.wav (float32), with --join_sec mouths/, and failed_<split>.csv: what cannot
        be a target
Run     python -m utils.corpora.extraction_set --faces data/grid/test.csv --interferer_dir SPEECH --noise_dir NOISE \\
            --out_dir data/grid_tse --n_mixtures 50

All targets have the same level. SIR and SNR are true ones over the whole mixture: the target over the interferer, and
all speech over the noise. Where the target is absent its face is given, the interferer is as loud as it would be with
the target, and the source is silence. The corpus keeps its name and its root, so that embeddings of its mouths are
found again.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from utils.corpora.joined import whole_frames, write_joined_mouths
from utils.corpora.output import refuse_failures, usable
from utils.data.audio import read_audio, write_wav
from utils.data.clock import frames_to_samples
from utils.data.constants import SPLITS
from utils.data.manifest import Manifest, Mixture, Problem, Utterance, item_id, read_manifest, write_failed, write_manifest
from utils.data.progress import progress_bar
from utils.errors import OptionParser, UserError, run_cli
from utils.mixing.levels import SILENCE_POWER, add_noise, mix_at_sir, power
from utils.mixing.recordings import SPEECH_POWER, draw_stretch, recording_lengths
from utils.mixing.rendering import part_paths

CONDITIONS = {"ss": "speech+speech", "sn": "speech+noise", "ssn": "speech+speech+noise", "abs": "absent target"}
NEED_SPEECH, NEED_NOISE = {"ss", "ssn", "abs"}, {"sn", "ssn"}
TARGET_RMS = 0.05  # of every target


def main() -> int:
    """Check everything that is cheap to check, then mix."""
    args = parse_args()
    manifest = read_manifest(args.faces)
    rate = manifest.sample_rate
    wanted = wanted_mixtures(args.n_mixtures, args.n_absent)
    speech = recording_lengths("interferer_dir", args.interferer_dir, rate) if NEED_SPEECH & set(wanted) else {}
    noise = recording_lengths("noise_dir", args.noise_dir, rate) if NEED_NOISE & set(wanted) else {}
    problems: list[Problem] = []
    targets = usable(_targets(manifest), problems)
    failed_path = args.out_dir / f"failed_{args.split}.csv"
    write_failed(failed_path, problems)
    if not targets:
        raise UserError(f"no utterance with a face can be used, see {failed_path}", args.faces)
    refuse_failures(failed_path, problems, args.max_failed)
    maker = Maker(args, manifest, sorted(targets, key=lambda clip: clip.mouth_path), speech, noise)
    jobs = [(kind, number) for kind, n in wanted.items() for number in range(n)]
    items = [maker.make(kind, number) for kind, number in progress_bar(jobs, unit="mix")]
    path = args.out_dir / f"{args.split}.csv"
    shared = {"corpus": manifest.corpus, "data_root": manifest.data_root, "sample_rate": rate}
    write_manifest(path, split=args.split, n_src=1, items=items, **shared)
    print(f"{path}: mixtures: {len(items)}, targets: {len(targets)}, left out: {len(problems)}")
    return 0


def parse_args() -> argparse.Namespace:
    parser = OptionParser(prog="extraction_set", description="A fixed set for target-speaker extraction.")
    parser.add_argument("--faces", type=Path, required=True, help="CSV of utterances, or of mixtures with references")
    parser.add_argument("--interferer_dir", type=Path, help="folder of speech without faces")
    parser.add_argument("--noise_dir", type=Path, help="folder of noise")
    parser.add_argument("--out_dir", type=Path, required=True, help="gets the set, e.g. data/grid_tse")
    parser.add_argument("--split", default="test", choices=SPLITS, help="name of the CSV")
    parser.add_argument("--n_mixtures", type=int, default=50, help="of each of the three conditions")
    parser.add_argument("--n_absent", type=int, default=0, help="mixtures in which the target is absent")
    parser.add_argument("--sir_low_db", type=float, default=-10.0, help="lowest SIR of the target over the interferer")
    parser.add_argument("--sir_high_db", type=float, default=10.0, help="highest SIR of the target over the interferer")
    parser.add_argument("--snr_low_db", type=float, default=-5.0, help="lowest SNR of all speech over the noise")
    parser.add_argument("--snr_high_db", type=float, default=15.0, help="highest SNR of all speech over the noise")
    parser.add_argument("--join_sec", type=_span, help="LOW:HIGH: a speaker's clips are joined to recordings that long")
    parser.add_argument("--max_failed", type=int, default=0, help="utterances that may be left out")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    args = parser.parse_args()
    if args.n_mixtures < 0 or args.n_absent < 0 or args.n_mixtures + args.n_absent < 1:
        parser.error("--n_mixtures and --n_absent must be zero or more, and one of them above it")
    for name in ("sir", "snr"):
        if getattr(args, f"{name}_low_db") > getattr(args, f"{name}_high_db"):
            parser.error(f"--{name}_low_db is above --{name}_high_db; exchange them")
    wanted = wanted_mixtures(args.n_mixtures, args.n_absent)
    for name, kinds in (("interferer_dir", NEED_SPEECH), ("noise_dir", NEED_NOISE)):
        if getattr(args, name) is None and (needing := [kind for kind in wanted if kind in kinds]):
            parser.error(f"--{name} FOLDER is needed for the condition {CONDITIONS[needing[0]]}")
    return args


def wanted_mixtures(n_mixtures: int, n_absent: int) -> dict[str, int]:
    """The numbers of mixtures by condition; only those that are wanted."""
    numbers = (n_mixtures,) * 3 + (n_absent,)
    return {kind: number for kind, number in zip(CONDITIONS, numbers, strict=True) if number}


def _span(text: str) -> tuple[float, float]:
    try:
        low, high = (float(word) for word in text.split(":"))
    except ValueError:
        low, high = 0.0, 0.0
    if not 0 < low <= high < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is no span of seconds such as 4:49")
    return low, high


def _targets(manifest: Manifest) -> Iterator[Utterance | Problem]:
    """Every utterance with a mouth once, named by its mouth, and what cannot be a target."""
    taken = set()
    for row, item in enumerate(manifest.items, start=2):
        if isinstance(item, Utterance):
            parts = [(item.speaker, item.audio_path, item.mouth_path)]
        else:
            parts = list(zip(item.speakers, item.source_paths, item.mouth_paths, strict=True))
        for speaker, audio, mouth in parts:
            if mouth in taken:
                continue
            reason = "has no mouth" if not mouth else "has no reference" if not audio else _silence(manifest, audio)
            if reason:
                yield Problem(row, item_id(item), mouth or audio, reason)
            else:
                taken.add(mouth)
                yield Utterance(Path(mouth).stem, speaker, audio, mouth, item.length, item.frames, item.fps)


def _silence(manifest: Manifest, audio: str) -> str:
    try:
        loudness = power(read_audio(manifest.resolve(audio), sample_rate=manifest.sample_rate))
    except UserError as error:
        return str(error)
    return "" if loudness > SILENCE_POWER else "is silent"


class Maker:
    """Makes mixtures; each depends only on the seed, its condition and its number.

    Args:
        args: of the program.
        manifest: of the targets.
        targets: each is taken about equally often.
        speech, noise: recordings with their samples.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        manifest: Manifest,
        targets: Sequence[Utterance],
        speech: dict[Path, int],
        noise: dict[Path, int],
    ) -> None:
        self.args, self.manifest, self.targets, self.speech, self.noise = args, manifest, targets, speech, noise
        self.out_dir = args.out_dir.absolute()
        self.rate, self.fps = manifest.sample_rate, targets[0].fps

    def make(self, kind: str, number: int) -> Mixture:
        """Mix, write, and give the row of the manifest.

        Raises:
            UserError: a file cannot be read.
        """
        args = self.args
        rng = np.random.default_rng([args.seed, *kind.encode(), number])
        turn, place = divmod(number, len(self.targets))
        order = np.random.default_rng([args.seed, *kind.encode(), turn]).permutation(len(self.targets))
        chain = self._chain(self.targets[order[place]], rng)
        name = f"{kind}_{number:04d}_{chain[0].utterance_id}"
        target, mouth_path, frames = self._target(chain, name)
        sir_db, snr_db = rng.uniform(args.sir_low_db, args.sir_high_db), rng.uniform(args.snr_low_db, args.snr_high_db)
        heard = target
        if kind in NEED_SPEECH:
            both = np.stack([target, self._interferer(len(target), rng)])
            heard, (_, interferer) = mix_at_sir(both, np.array([sir_db]))
            heard = interferer if kind == "abs" else heard
        if kind in NEED_NOISE:
            heard = add_noise(heard, draw_stretch("noise_dir", self.noise, len(heard), self.rate, rng), snr_db)
        source = np.zeros_like(target) if kind == "abs" else target
        paths = part_paths(str(self.out_dir / args.split), name, 1)
        for path, signal in zip(paths, (heard, source), strict=True):
            write_wav(path, signal.astype(np.float32), self.rate)
        true_sir_db = None if kind == "sn" else round(sir_db, 4)
        return Mixture(
            name, paths[0], (paths[1],), "", len(target), (mouth_path,), frames, self.fps, (chain[0].speaker,),
            true_sir_db, CONDITIONS[kind],
        )  # fmt: skip

    def _chain(self, first: Utterance, rng: np.random.Generator) -> list[Utterance]:
        """The clips of a target: one, or as many of its speaker as reach the length that is drawn."""
        if self.args.join_sec is None:
            return [first]
        wanted = rng.uniform(*self.args.join_sec) * self.rate
        own = [clip for clip in self.targets if clip.speaker == first.speaker] if first.speaker else [first]
        chain = [first]
        while sum(clip.length for clip in chain) < wanted:
            chain.append(own[rng.integers(len(own))])
        while len(chain) > 1 and sum(clip.length for clip in chain) > self.args.join_sec[1] * self.rate:
            chain.pop()
        return chain

    def _target(self, chain: Sequence[Utterance], name: str) -> tuple[np.ndarray, str, int]:
        """The target's sound, its mouth's path and frames; the mouths of a joined one are written."""
        if len(chain) == 1:
            clip = chain[0]
            return self._read(clip, clip.length), clip.mouth_path, clip.frames
        whole = whole_frames(self.manifest, chain)
        path = self.out_dir / "mouths" / f"{name}.npz"
        write_joined_mouths(self.manifest, chain, whole, path)
        lengths = [frames_to_samples(n_frames, self.rate, self.fps) for n_frames in whole]
        clips = [self._read(clip, length) for clip, length in zip(chain, lengths, strict=True)]
        return np.concatenate(clips), str(path), sum(whole)

    def _read(self, clip: Utterance, length: int) -> np.ndarray:
        audio = read_audio(self.manifest.resolve(clip.audio_path), 0, length, self.rate)
        return (audio * (TARGET_RMS / power(audio) ** 0.5)).astype(np.float32)

    def _interferer(self, length: int, rng: np.random.Generator) -> np.ndarray:
        """Speech of one folder: a stretch of a recording, or several end to end where none is long enough."""
        drawn = list(self.speech)[rng.integers(len(self.speech))]
        own = {path: there for path, there in self.speech.items() if path.parent == drawn.parent}
        if self.speech[drawn] >= length or len(own) == 1:
            return draw_stretch("interferer_dir", {drawn: self.speech[drawn]}, length, self.rate, rng, SPEECH_POWER)
        order = [list(own)[index] for index in rng.permutation(len(own))]
        joined = np.concatenate([read_audio(path, sample_rate=self.rate) for path in order])
        if power(joined) <= SILENCE_POWER:
            raise UserError(f"--interferer_dir: {drawn.parent} holds only silence; take it out of the folder")
        return np.resize(joined, length)


if __name__ == "__main__":
    run_cli(main)
