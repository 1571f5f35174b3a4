"""The end of every corpus' preparation: failures listed, mixtures labelled, manifests written.

Readers of corpora and of lists give streams in which a `Problem` stands in the place of what cannot be used; `usable`
tells the two apart.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from utils.data.constants import SAMPLE_RATE_HZ, SPLITS
from utils.data.manifest import VIDEOS_NAME, Mixture, Problem, Utterance, write_failed, write_manifest
from utils.errors import UserError

Item = TypeVar("Item")
Items = Sequence[Mixture] | Sequence[Utterance]


def usable(found: Iterable[Item | Problem], problems: list[Problem]) -> list[Item]:
    """The items of a stream; its problems are added to the list `problems`."""
    items: list[Item] = []
    for item in found:
        (problems if isinstance(item, Problem) else items).append(item)
    return items


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

    def subset(speakers: tuple[str, ...]) -> str:
        if not all(speakers):
            return ""
        if len(set(speakers)) < len(speakers):
            return "same_voice"
        return "unseen_face" if train_speakers and not train_speakers.issuperset(speakers) else "different_voices"

    return {split: [replace(item, subset=subset(item.speakers)) for item in items] for split, items in mixtures.items()}


def training_utterances(mixtures: Mapping[str, Sequence[Mixture]]) -> tuple[list[Utterance], set[str]]:
    """The clips of the train mixtures, each once, and the ids of those of val and test, which none of them is.

    The sound of a clip is the source of one of its mixtures, cut and scaled as in it; without sources it has none.
    """
    tested = [item for split in ("val", "test") for item in mixtures.get(split, [])]
    held_out = {Path(path).stem for item in tested for path in item.mouth_paths}
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
    failed = _count_failed(problems)
    if failed > max_failed:
        raise UserError(
            f"{failed} item{'s' if failed > 1 else ''} cannot be used, for the reasons listed there (first: "
            f"{_first(problems)}); repair what is wrong, or leave it out with --max_failed {failed}",
            path,
        )


def write_corpus(data_dir: Path, root: Path, contents: Mapping[str, Items], mouths_go_on: bool = False) -> None:
    """Write a manifest for each name that has items, and remove those that an earlier preparation left behind.

    Args:
        data_dir: the corpus' folder; its name is the corpus'.
        root: where relative paths start.
        contents: items by the manifest's name: train, val, test, utterances, clips. A `videos.csv` of an earlier
            preparation is removed; a preparation of raw video writes it afterwards.
        mouths_go_on: mouths of mixtures may last longer than the mixtures.

    Raises:
        UserError: nothing is left to be written.
    """
    if not any(contents.values()):
        raise UserError(f"holds nothing that can be used; see {data_dir / 'failed.csv'}", root)
    (data_dir / VIDEOS_NAME).unlink(missing_ok=True)
    shared = {"corpus": data_dir.absolute().name, "data_root": root, "sample_rate": SAMPLE_RATE_HZ}
    for name in dict.fromkeys((*SPLITS, "utterances", "clips", *contents)):
        path, items = data_dir / f"{name}.csv", contents.get(name)
        if items:
            are_mixtures = isinstance(items[0], Mixture)
            n_src = len(items[0].source_paths) if are_mixtures else 1
            goes_on = mouths_go_on and are_mixtures
            write_manifest(path, split=name, n_src=n_src, items=items, mouths_go_on=goes_on, **shared)
        else:
            path.with_suffix(".json").unlink(missing_ok=True)
            path.unlink(missing_ok=True)


def print_summary(data_dir: Path, contents: Mapping[str, Items], problems: Sequence[Problem]) -> None:
    """A line for each manifest, with its subsets, and one for what was left out."""
    for name, items in contents.items():
        subsets = Counter(item.subset for item in items if isinstance(item, Mixture) and item.subset)
        details = ", ".join(f"{count} {subset}" for subset, count in sorted(subsets.items()))
        if items:
            print(f"{data_dir}: {name}: {len(items)}" + (f" ({details})" if details else ""))
    if problems:
        said = f"{_count_failed(problems)} left out, see {data_dir / 'failed.csv'}; first: {_first(problems)}"
        print(f"{data_dir}: {said}")


def _count_failed(problems: Sequence[Problem]) -> int:
    """Items with a problem; those without a name count by their rows."""
    return len({(problem.item_id or problem.path, problem.row) for problem in problems})


def _first(problems: Sequence[Problem]) -> str:
    first = problems[0]
    row = f"row {first.row}, " if first.row else ""
    return f"{row}{first.item_id or first.path}: {first.reason}"
