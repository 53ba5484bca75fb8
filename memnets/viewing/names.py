"""Names of scores in words, for pictures and pages."""

from __future__ import annotations

import re

__all__ = ["higher_is_better", "in_words"]

#: Last part of a score's name -> what it is, and its unit.
_SCORES = {
    "accuracy": ("right answers", "share"),
    "auc_pr": ("area under precision and recall", "0 to 1"),
    "area": ("area covered", "share"),
    "bayes_bits": ("cross-entropy of the best predictor", "bits per sequence"),
    "bits": ("cross-entropy", "bits per sequence"),
    "bleu": ("BLEU", "0 to 100"),
    "chrf": ("chrF", "0 to 100"),
    "exact": ("answers without a mistake", "share"),
    "frechet": ("Fréchet distance to real images", "0 = the same"),
    "frechet_floor": ("Fréchet distance of other real images", "0 = the same"),
    "hits": ("answers among the right ones", "share"),
    "invalid": ("invalid answers", "share"),
    "loss": ("loss", "nats per answer step"),
    "perplexity": ("perplexity", "words"),
    "phoneme_error": ("wrong phonemes", "share"),
    "regret": ("regret", "lost reward"),
    "reward": ("reward", "sum of an episode"),
    "state": ("state", "floats of a sequence"),
    "tour": ("length of the tour", "sides of the square"),
    "tour_ratio": ("length of the tour over the shortest", "ratio"),
    "word_error": ("wrong words", "share"),
    "wrong_bits": ("wrong bits", "bits per sequence"),
}
#: The scores of these that are better when they are higher; all others fall.
_HIGHER = {"accuracy", "area", "auc_pr", "bleu", "chrf", "exact", "hits", "reward"}
_SETS = {"val": "validation", "test": "test"}


def in_words(metric: str) -> tuple[str, str, str]:
    """Words for a score, its unit and its set: ``("wrong bits", "bits per sequence", "test")``.

    The unit is empty where the library does not know the score; its own name stands then.

    Args:
        metric: name in ``metrics.json``, such as ``"test/length_120/wrong_bits"``.
    """
    *places, last = metric.split("/")
    beam = last.endswith("_beam")
    name, unit = _SCORES.get(last.removesuffix("_beam"), (last.replace("_", " "), ""))
    if places and places[0] in _SETS:
        places[0] = _SETS[places[0]]
    where = ", ".join(re.sub(r"_", " ", place) for place in places)
    return name + ", beam search" * beam, unit, where


def higher_is_better(metric: str) -> bool | None:
    """Whether a score improves as it rises; ``None`` if the library does not know it."""
    last = metric.rpartition("/")[2].removesuffix("_beam")
    return last in _HIGHER if last in _SCORES else None
