"""The demo's speakers, a voice of espeak-ng each, and their sentences.

No voice and no face is shared between the splits. `en-us+f1` is a dialect and a variant; pitch and pitch range (0..99, 50
is the variant's own) and rate are the speaker's. Every name was checked to exist and to sound different from the others
(tests/test_demo_corpus.py).

The words were chosen for lips that move: many bilabials, labiodentals and rounded vowels, few look-alikes, and every
English sound. The sentences are word lists without grammar, so that no voice can be guessed from what it says next.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Voice:
    """One speaker."""

    speaker: str
    split: str
    gender: str
    name: str  # of espeak-ng: dialect+variant
    pitch: int
    pitch_range: int
    rate_wpm: int


_TABLE = """
train f en-us+Alicia             45 60 170
train m en-us+Alex               55 60 165
train f en-gb-x-rp+Andrea        50 50 160
train m en-gb-scotland+Denis     40 50 175
train f en-us+aunty              55 70 170
train m en-us+Gene2              50 50 180
train f en-029+f1                40 50 160
train m en-us+Lee                45 60 165
train f en-us+f2                 60 65 175
train m en-us-nyc+Marco          50 60 185
train f en-gb-x-gbcwmd+f4        70 55 165
train m en-gb-x-rp+Michael       60 70 170
train f en-us+linda              50 60 180
train m en-us+Reed               50 50 160
train f en-gb-scotland+anika     35 50 165
train m en-029+announcer         55 45 175
train f en-us+steph              55 60 170
train m en-us+boris              60 60 165
train f en-us-nyc+zac            20 45 170
train m en-gb-x-gbcwmd+ed        45 55 180
train f en-us+Nguyen             90 60 165
train m en-us+m1                 35 60 170
train f en-gb-x-rp+caleb         10 40 170
train m en-gb-scotland+m4        65 60 160
train m en-us+paul               45 50 175
train m en-us+klatt4             60 60 170
val   f en-us+shelby             50 60 170
val   m en-us+Mario              50 60 165
val   f en-gb-x-rp+f5            60 55 175
val   m en-gb-scotland+travis    55 60 170
test  f en-us+Annie              50 60 165
test  m en-us+Andy               50 60 170
test  f en-gb-scotland+belinda   55 55 170
test  m en-gb-x-rp+david         60 60 175
test  f en-us+f3                 65 65 175
test  m en-us+pablo              55 60 165
test  f en-029+grandma           40 50 170
test  m en-us+m7                 70 60 180
"""


def _read_table() -> tuple[Voice, ...]:
    voices = []
    for number, line in enumerate(_TABLE.split("\n")[1:-1]):
        split, gender, name, pitch, pitch_range, rate = line.split()
        voices.append(Voice(f"{gender}{number:02d}", split, gender, name, int(pitch), int(pitch_range), int(rate)))
    return tuple(voices)


VOICES = _read_table()


def voices_of(split: str) -> list[Voice]:
    """The voices of a part (`train`, `val`, `test`)."""
    return [voice for voice in VOICES if voice.split == split]


_TEXT = """
about after almost alone always amazing animal apple autumn baby balloon banana basket beautiful before below
between bicycle blue bottle bridge brother bubble butter butterfly camera castle chocolate coffee cowboy cucumber
dolphin double elephant eleven family father favour fifty finger five flower follow forever forty garden ginger
giraffe goodbye green hamburger happy harbour holiday honey household hundred imagine island jacket jumping
kangaroo kitchen ladder lemon library lovely machine magic maybe mirror moment money monster morning mother
mountain move movie music never november nothing oatmeal ocean orange outside oyster paper people pepper
perfume piano pillow pineapple pocket polite problem puppy purple rabbit rainbow remember river robot rubber
sailboat sandwich seven shadow shampoo shower silver somebody spoon strawberry sugar summer table telephone
thirty thousand together tomato tomorrow trouble umbrella vanilla vegetable video village violin volcano waffle
water weather welcome whisper window wonderful woman yellow yesterday zebra
"""

WORDS = tuple(_TEXT.split())

WORDS_A_SENTENCE = 11  # more than two seconds' worth for the fastest voice, with room to start anywhere


def draw_sentence(rng: np.random.Generator) -> str:
    """Draw a sentence: different words in random order, no pause between them."""
    return " ".join(rng.choice(WORDS, size=WORDS_A_SENTENCE, replace=False))
