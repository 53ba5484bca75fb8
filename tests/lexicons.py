"""A small lexicon of made-up words, for tests."""

import itertools
from pathlib import Path

CONSONANTS = {"b": "B", "d": "D", "k": "K", "l": "L", "m": "M", "s": "S"}
VOWELS = {"a": "AE1", "e": "EH0", "o": "AA2"}


def lexicon(folder: Path, words: int = 150) -> str:
    """Path of a lexicon; every third word has a second pronunciation, with another end."""
    lines = [";;; words that there are not"]
    syllables = ["".join(pair) for pair in itertools.product(CONSONANTS, VOWELS)]
    sounds = {**CONSONANTS, **VOWELS}
    for number, pair in enumerate(itertools.islice(itertools.product(syllables, repeat=2), words)):
        word = "".join(pair)
        phonemes = [sounds[letter] for letter in word]
        lines.append(f"{word}  {' '.join(phonemes)}")
        if number % 3 == 0:
            lines.append(f"{word}(2)\t{' '.join([*phonemes[:-1], 'IY2'])}")
    path = folder / "small.dict"
    path.write_text("\n".join(lines) + "\n")
    return str(path)
