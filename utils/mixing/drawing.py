"""Lists of drawn mixtures: seeded, speaker-disjoint, every clip used about equally often.

`split_speakers` gives each speaker to one split; `draw_mixtures` draws pairs or triples of a split's clips. The same
clips, numbers and seed give the same list, for any order of the clips.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np

from utils.data.manifest import Utterance
from utils.errors import UserError
from utils.mixing.lists import ListedMixture, ListedSource, mixture_name
from utils.mixing.options import MixOptions
from utils.mixing.recordings import draw_positions

log = logging.getLogger(__name__)
Group = tuple[int, ...]  # places of clips
_ENUMERABLE = 500_000  # combinations that may be written out one by one
_WALL_M = 0.5  # speakers and microphone keep this distance from the walls
_SIZES_M = ((3.5, 8.0), (3.0, 6.0), (2.4, 3.2))
_HEIGHT_M = (1.2, 1.9)
_RT60_SEC = (0.15, 0.5)


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
        raise UserError(f"no split of {', '.join(shares)} has a share of the speakers; give one of them one above 0")
    if len(names) < fewest * len(wanted):
        raise UserError(
            f"{len(names)} speakers are too few for {len(wanted)} splits of at least {fewest}; set fewer shares "
            "(--val_share 0 or --test_share 0), give more speakers, or mix speakers with themselves (--same_speaker "
            "true)"
        )
    order = list(np.random.default_rng(seed).permutation(len(names)))
    bounds = np.cumsum([share / sum(wanted.values()) for share in wanted.values()]) * len(names)
    sizes = np.diff([0, *np.rint(bounds).astype(int)])
    while (sizes < fewest).any():  # from the largest one
        sizes[sizes.argmax()] -= 1
        sizes[sizes.argmin()] += 1
    return {names[index]: split for index, split in zip(order, np.repeat([*wanted], sizes).tolist(), strict=True)}


def draw_mixtures(clips: Sequence[Utterance], split: str, n_mixtures: int, options: MixOptions) -> list[ListedMixture]:
    """Draw a list of different mixtures; each clip is used about equally often.

    Args:
        clips: of this split only.
        split: train, val or test; it also tells the draws of the splits apart.
        n_mixtures: their number, at most: no set of clips is taken twice. That there are fewer is logged.
        options: of the mixtures.

    Raises:
        UserError: no mixture can be made of these clips.
    """
    clips = sorted(clips, key=lambda clip: clip.utterance_id)
    speakers = [clip.speaker for clip in clips]
    possible = count_mixtures(speakers, options.n_src, options.same_speaker)
    if n_mixtures and not possible:
        raise UserError(
            f"the {split} split has {len(clips)} clips of {len(set(speakers))} speakers, of which no mixture can be "
            f"made: give more, or say --n_{split} 0, or change the splits (--{split}_share) or --same_speaker"
        )
    if possible < n_mixtures:
        log.warning("%s: different mixtures that can be made: %d; wanted were %d", split, possible, n_mixtures)
    n_mixtures = min(n_mixtures, possible)
    rng = np.random.default_rng([options.seed, *split.encode()])
    # where few are left to be found by chance, all are written out and shuffled
    few = n_mixtures > possible // 4 and possible <= _ENUMERABLE
    groups = (_shuffled_groups if few else _queued_groups)(speakers, options, rng)
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


def _shuffled_groups(speakers: Sequence[str], options: MixOptions, rng: np.random.Generator) -> Iterator[Group]:
    groups = [
        group
        for group in combinations(range(len(speakers)), options.n_src)
        if options.same_speaker or len({speakers[index] for index in group}) == options.n_src
    ]
    return (groups[index] for index in rng.permutation(len(groups)))


def _queued_groups(speakers: Sequence[str], options: MixOptions, rng: np.random.Generator) -> Iterator[Group]:
    """Take the clips in shuffled order: the next one, and the next ones after it of other speakers."""
    queue: list[int] = []
    while True:
        group: list[int] = []
        passed: list[int] = []
        while len(group) < options.n_src:
            if not queue:
                held = {*group, *passed}
                queue = [int(index) for index in rng.permutation(len(speakers)) if index not in held]
            index = queue.pop()
            is_other = options.same_speaker or speakers[index] not in {speakers[other] for other in group}
            (group if is_other else passed).append(index)
        queue += passed[::-1]  # they come first in the next mixture
        yield tuple(group)


def _listed(clips: Sequence[Utterance], split: str, options: MixOptions, rng: np.random.Generator) -> ListedMixture:
    levels = [0.0, *(-round(float(rng.uniform(options.sir_low_db, options.sir_high_db)), 4) for _ in clips[1:])]
    sources = tuple(
        ListedSource(clip.utterance_id, clip.speaker, level + 0.0, response)
        for clip, level, response in zip(clips, levels, draw_responses(options, len(clips), rng), strict=True)
    )
    noise, start, snr_db = "", 0, None
    if options.noises and rng.random() < options.noise_prob:
        noise = sorted(options.noises)[rng.integers(len(options.noises))]
        start = int(rng.integers(options.noises[noise]))  # what is too short goes on from its beginning
        snr_db = round(float(rng.uniform(options.snr_low_db, options.snr_high_db)), 4)
    return ListedMixture(mixture_name(sources), split, sources, noise, start, snr_db)


def draw_responses(options: MixOptions, n_src: int, rng: np.random.Generator) -> list[str]:
    """The room responses of a mixture's sources (utils/mixing/rooms.py), "" for all of them where it is in no room.

    Raises:
        UserError: there are fewer responses than sources.
    """
    if not options.room_prob or rng.random() >= options.room_prob:
        return [""] * n_src
    if options.responses:
        return [f"{name}#{channel}" for name, channel in draw_positions(options.responses, n_src, rng)]
    if not options.simulate_rooms:
        raise UserError("--room_prob needs --rir_dir, or --simulate_rooms true; give one of them")
    size = [rng.uniform(*bounds) for bounds in _SIZES_M]

    def place() -> str:
        return _metres([*(rng.uniform(_WALL_M, side - _WALL_M) for side in size[:2]), rng.uniform(*_HEIGHT_M)])

    room = f"shoebox {_metres(size)} rt60 {rng.uniform(*_RT60_SEC):.3f} mic {place()}"
    return [f"{room} voice {place()}" for _ in range(n_src)]


def _metres(values: list[float]) -> str:
    return " ".join(f"{value:.2f}" for value in values)
