"""The end of every corpus' preparation: rows checked against their files, failures listed, manifests written."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from utils.data.constants import SAMPLE_RATE_HZ, SPLITS
from utils.data.manifest import VIDEOS_NAME, Manifest, Mixture, Problem, Utterance, item_id, write_failed, write_manifest
from utils.data.validation import validate_manifest
from utils.errors import UserError

Items = Sequence[Mixture] | Sequence[Utterance]


def keep_usable(items: Items, root: Path, sample_rate: int, *, deep: bool, nj: int) -> tuple[list, list[Problem]]:
    """Check the files of rows that are to become a manifest.

    Args:
        items: mixtures, or utterances.
        root: where their paths start.
        sample_rate: that all audio must have, Hz.
        deep: decode every file; False only looks for the files.
        nj: threads that open files.

    Returns:
        The items that can be used, and why others cannot (their rows are not those of any file, hence 0).
    """
    if not items:
        return [], []
    manifest = Manifest(root / "new.csv", root.name, "", root, sample_rate, 0, tuple(items))
    problems = [Problem(0, p.item_id, p.path, p.reason) for p in validate_manifest(manifest, deep=deep, nj=nj)]
    broken = {problem.item_id for problem in problems}
    return [item for item in items if item_id(item) not in broken], problems


def label_mixtures(
    mixtures: Mapping[str, Sequence[Mixture]], train_speakers: set[str] | None = None
) -> dict[str, list[Mixture]]:
    """Name the subset of each mixture: `same_voice`, `unseen_face` or `different_voices`.

    Args:
        mixtures: by split, with their speakers; those without get "".
        train_speakers: who is trained on; without anybody no face is unseen. None: the speakers of the train mixtures.
    """
    if train_speakers is None:
        train_speakers = {name for item in mixtures.get("train", []) for name in item.speakers}
    return {
        split: [replace(item, subset=_subset(item.speakers, train_speakers)) for item in items]
        for split, items in mixtures.items()
    }


def _subset(speakers: tuple[str, ...], train_speakers: set[str]) -> str:
    if not all(speakers):
        return ""
    if len(set(speakers)) < len(speakers):
        return "same_voice"
    if train_speakers and not train_speakers.issuperset(speakers):
        return "unseen_face"
    return "different_voices"


def training_utterances(mixtures: Mapping[str, Sequence[Mixture]]) -> tuple[list[Utterance], set[str]]:
    """The clips of the train mixtures, each once, and the ids of those of val and test, which none of them is.

    The sound of a clip is the source of one of its mixtures, cut and scaled as in that mixture; without sources it has none.
    """
    held_out = {Path(path).stem for split in ("val", "test") for item in mixtures.get(split, []) for path in item.mouth_paths}
    found: dict[str, Utterance] = {}
    for item in mixtures.get("train", []):
        for speaker, audio, mouth in zip(item.speakers, item.source_paths, item.mouth_paths, strict=True):
            name = Path(mouth).stem
            if audio and name not in held_out and name not in found:
                found[name] = Utterance(name, speaker, audio, mouth, item.length, item.frames, item.fps)
    return list(found.values()), held_out


def too_short(length: int, min_sec: float) -> str:
    """The reason against a sound of `length` samples, "" if it is long enough."""
    if length >= min_sec * SAMPLE_RATE_HZ:
        return ""
    return f"lasts {length / SAMPLE_RATE_HZ:.3f} s, less than --min_sec {min_sec:g}"


def refuse_failures(path: Path, problems: Sequence[Problem], max_failed: int) -> None:
    """List what cannot be used; stop if that is more than the user allowed.

    Raises:
        UserError: more items fail than `max_failed`.
    """
    write_failed(path, problems)
    failed = count_failed(problems)
    if failed > max_failed:
        raise UserError(
            f"{failed} items cannot be used, for the reasons listed there (first: {_first(problems)}); repair them, or "
            f"leave them out with --max_failed {failed}",
            path,
        )


def count_failed(problems: Sequence[Problem]) -> int:
    """Items with a problem; those without a name count by their rows."""
    return len({(problem.item_id or problem.path, problem.row) for problem in problems})


def write_corpus(
    data_dir: Path, root: Path, sample_rate: int, contents: Mapping[str, Items], mouths_go_on: bool = False
) -> None:
    """Write a manifest for each name that has items, and remove those that an earlier preparation left behind.

    Args:
        data_dir: the corpus' folder; its name is the corpus'.
        root: where relative paths start.
        sample_rate: Hz.
        contents: items by the manifest's name: train, val, test, utterances, clips. A `videos.csv` of an earlier
            preparation is removed; a preparation of raw video writes it afterwards.
        mouths_go_on: mouths of mixtures may last longer than the mixtures.

    Raises:
        UserError: nothing is left to be written.
    """
    if not any(contents.values()):
        raise UserError(f"holds nothing that can be used; see {data_dir / 'failed.csv'}", root)
    (data_dir / VIDEOS_NAME).unlink(missing_ok=True)
    for name in dict.fromkeys((*SPLITS, "utterances", "clips", *contents)):
        path, items = data_dir / f"{name}.csv", contents.get(name)
        if items:
            n_src = len(items[0].source_paths) if isinstance(items[0], Mixture) else 1
            shared = {"corpus": data_dir.absolute().name, "data_root": root, "sample_rate": sample_rate}
            goes_on = mouths_go_on and isinstance(items[0], Mixture)
            write_manifest(path, split=name, n_src=n_src, items=items, mouths_go_on=goes_on, **shared)
        else:
            path.with_suffix(".json").unlink(missing_ok=True)
            path.unlink(missing_ok=True)


def print_summary(data_dir: Path, contents: Mapping[str, Items], problems: Sequence[Problem]) -> None:
    """A line for each manifest, with its subsets, and one for what was left out, by reason."""
    for name, items in contents.items():
        subsets = Counter(item.subset for item in items if isinstance(item, Mixture) and item.subset)
        details = ", ".join(f"{count} {subset}" for subset, count in sorted(subsets.items()))
        if items:
            print(f"{data_dir}: {name}: {len(items)}" + (f" ({details})" if details else ""))
    if problems:
        print(f"{data_dir}: {count_failed(problems)} left out, see {data_dir / 'failed.csv'}; first: {_first(problems)}")


def _first(problems: Sequence[Problem]) -> str:
    first = problems[0]
    row = f"row {first.row}, " if first.row else ""
    return f"{row}{first.item_id or first.path}: {first.reason}"
