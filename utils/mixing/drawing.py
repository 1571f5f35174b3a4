"""Lists of drawn mixtures: seeded, speaker-disjoint, every clip used about equally often.

`split_speakers` gives each speaker to one split; `draw_mixtures` draws pairs or triples of a split's clips. The same clips,
numbers and seed give the same list, for any order of the clips.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from utils.data.manifest import Utterance
from utils.errors import UserError
from utils.mixing.lists import ListedMixture, ListedSource
from utils.mixing.public_lists import mixture_name
from utils.mixing.rooms import RoomOptions, draw_responses

_ENUMERABLE = 500_000  # combinations that may be written out one by one


@dataclass(frozen=True)
class ListOptions:
    """Options of drawn mixtures.

    Attributes:
        n_src: sources of a mixture, 2 or 3.
        sir_low_db, sir_high_db: SIR of the first source over each other one, uniform between them.
        same_speaker: also mix speakers with themselves.
        noises: files of a noise folder with their samples; none: no noise.
        noise_prob: probability that a mixture has noise, where there are noises.
        snr_low_db, snr_high_db: SNR of all sources together over the noise, uniform between them.
        rooms: the rooms, or none.
    """

    n_src: int = 2
    sir_low_db: float = -5.0
    sir_high_db: float = 5.0
    same_speaker: bool = False
    noises: Mapping[str, int] = field(default_factory=dict)
    noise_prob: float = 1.0
    snr_low_db: float = 0.0
    snr_high_db: float = 20.0
    rooms: RoomOptions = field(default_factory=RoomOptions)


def split_speakers(speakers: Sequence[str], shares: Mapping[str, float], seed: int, fewest: int = 1) -> dict[str, str]:
    """Give each speaker to one split.

    Args:
        speakers: at least `fewest` for each split with a share.
        shares: of the speakers, by split, e.g. {"train": 0.8, "val": 0.1, "test": 0.1}; their sum counts as the whole.
        seed: of the draw.
        fewest: speakers that each split gets; a mixture of n different speakers needs n.

    Returns:
        The split of each speaker.

    Raises:
        UserError: there are fewer speakers than splits, or no split has a share.
    """
    wanted = {split: share for split, share in shares.items() if share > 0}
    names = sorted(set(speakers))
    if not wanted:
        raise UserError(f"no split of {', '.join(shares)} has a share of the speakers; give one of them a share above 0")
    if len(names) < fewest * len(wanted):
        raise UserError(
            f"{len(names)} speakers are too few for {len(wanted)} splits of at least {fewest}; set fewer shares "
            "(--val_share 0 or --test_share 0), give more speakers, or mix speakers with themselves (--same_speaker true)"
        )
    order = list(np.random.default_rng(seed).permutation(len(names)))
    bounds = np.cumsum([share / sum(wanted.values()) for share in wanted.values()]) * len(names)
    sizes = np.diff([0, *np.rint(bounds).astype(int)])
    while (sizes < fewest).any():  # from the largest one
        sizes[sizes.argmax()] -= 1
        sizes[sizes.argmin()] += 1
    splits = [split for split, size in zip(wanted, sizes, strict=True) for _ in range(size)]
    return {names[index]: split for index, split in zip(order, splits, strict=True)}


def draw_mixtures(
    clips: Sequence[Utterance], split: str, n_mixtures: int, seed: int, options: ListOptions | None = None
) -> list[ListedMixture]:
    """Draw a list of different mixtures; each clip is used about equally often.

    Args:
        clips: of this split only.
        split: train, val or test; it also tells the draws of the splits apart.
        n_mixtures: their number; no set of clips is taken twice.
        seed: of the draw.
        options: of the mixtures.

    Raises:
        UserError: so many different mixtures cannot be made of these clips.
    """
    options = options or ListOptions()
    clips = sorted(clips, key=lambda clip: clip.utterance_id)
    possible = count_mixtures([clip.speaker for clip in clips], options.n_src, options.same_speaker)
    if n_mixtures > possible:
        raise UserError(
            f"the {split} split: {n_mixtures} mixtures of {options.n_src} sources are wanted where its {len(clips)} clips of "
            f"{len({clip.speaker for clip in clips})} speakers make {possible}; ask for fewer"
        )
    rng = np.random.default_rng([seed, *split.encode()])
    few = n_mixtures > possible // 4 and possible <= _ENUMERABLE
    groups = _all_groups(clips, options) if few else _queued_groups(clips, options, rng)
    if few:
        chosen = list(groups)
        groups = iter([chosen[index] for index in rng.permutation(len(chosen))])
    mixtures, taken = [], set()
    while len(mixtures) < n_mixtures:
        group = next(groups)
        if frozenset(group) not in taken:
            taken.add(frozenset(group))
            order = rng.permutation(len(group)) if few else range(len(group))
            mixtures.append(_listed([clips[group[index]] for index in order], split, options, rng))
    return mixtures


def count_mixtures(speakers: Sequence[str], n_src: int, same_speaker: bool) -> int:
    """The number of different sets of `n_src` clips, given the speaker of each clip."""
    counts = [1] * len(speakers) if same_speaker else list(Counter(speakers).values())
    ways = [1] + [0] * n_src  # elementary symmetric polynomials of the counts
    for count in counts:
        for size in range(n_src, 0, -1):
            ways[size] += ways[size - 1] * count
    return ways[n_src]


def _all_groups(clips: Sequence[Utterance], options: ListOptions) -> Iterator[tuple[int, ...]]:
    for group in combinations(range(len(clips)), options.n_src):
        if options.same_speaker or len({clips[index].speaker for index in group}) == options.n_src:
            yield group


def _queued_groups(clips: Sequence[Utterance], options: ListOptions, rng: np.random.Generator) -> Iterator[tuple[int, ...]]:
    """Take the clips in shuffled order: the next one, and the next ones after it of other speakers."""
    queue: list[int] = []
    while True:
        group: list[int] = []
        passed: list[int] = []
        while len(group) < options.n_src:
            if not queue:
                held = {*group, *passed}
                queue = [int(index) for index in rng.permutation(len(clips)) if index not in held]
            index = queue.pop()
            speakers = {clips[other].speaker for other in group}
            (passed if clips[index].speaker in speakers and not options.same_speaker else group).append(index)
        queue += passed[::-1]  # they come first in the next mixture
        yield tuple(group)


def _listed(clips: Sequence[Utterance], split: str, options: ListOptions, rng: np.random.Generator) -> ListedMixture:
    levels = [0.0, *(-round(float(rng.uniform(options.sir_low_db, options.sir_high_db)), 4) for _ in clips[1:])]
    responses = draw_responses(options.rooms, len(clips), rng)
    sources = tuple(
        ListedSource(clip.utterance_id, clip.speaker, level + 0.0, response)
        for clip, level, response in zip(clips, levels, responses, strict=True)
    )
    noise, start, snr_db = "", 0, None
    if options.noises and rng.random() < options.noise_prob:
        noise = sorted(options.noises)[rng.integers(len(options.noises))]
        start = int(rng.integers(options.noises[noise]))  # what is too short goes on from its beginning
        snr_db = round(float(rng.uniform(options.snr_low_db, options.snr_high_db)), 4)
    return ListedMixture(mixture_name(sources), split, sources, noise, start, snr_db)
