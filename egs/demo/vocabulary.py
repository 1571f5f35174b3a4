"""Sentences of the demo's voices: common words with every English sound, and sentences drawn from them.

The words were chosen for lips that move: many bilabials, labiodentals and rounded vowels, few look-alikes. The
sentences are word lists without grammar, so that no voice can be guessed from what it says next.
"""

import numpy as np

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
