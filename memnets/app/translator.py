"""Translation of text with a checkpoint alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from memnets.app.checkpoints import build_model, read, vocabularies_of
from memnets.app.trust import checked_model
from memnets.batches import END, UNKNOWN, padded
from memnets.checks import check_positive
from memnets.core import map_state
from memnets.decoding import Hypotheses, beam_search, check_search
from memnets.models import Model
from memnets.vocabulary import Vocabulary

__all__ = ["Answer", "Counts", "Translator"]

#: Sentences are in one batch only if their numbers of tokens, rounded up to a multiple of this, are
#: the same; the greatest length of an answer follows from that number, and so from no neighbour.
_ROUND_TO = 8

#: Tokens of a batch.
BATCH_TOKENS = 8192


class Answer(NamedTuple):
    """A translation.

    Attributes:
        text: translation of the whole sentence.
        score: log probability over length penalty; 0 for the translation of an empty sentence.
    """

    text: str
    score: float


class Counts(NamedTuple):
    """Counts of the problems in a translation.

    Attributes:
        unknown_tokens: number of tokens that the vocabulary does not have.
        empty_sentences: number of sentences without words; their translation is empty.
        long_sentences: number of sentences too long for the model; their translation is empty.
        cut_answers: number of answers cut at the greatest length, or at the limit of the model.
    """

    unknown_tokens: int = 0
    empty_sentences: int = 0
    long_sentences: int = 0
    cut_answers: int = 0


class Translator:
    """Translates sentences with a model.

    The translation of a sentence does not depend on the other sentences of a call.

    Args:
        model: a model that answers in tokens of the vocabulary; it is set to evaluation mode.
        vocabulary: vocabulary of the sentences.
        target_vocabulary: vocabulary of the translations; ``None`` = that of the sentences.

    Attributes:
        counts: counts of the last call.
        too_long: places of the sentences in the last call that were too long for the model
            (:meth:`~memnets.core.EncoderDecoder.longest_answer`).
    """

    def __init__(
        self,
        model: Model[Any],
        vocabulary: Vocabulary,
        target_vocabulary: Vocabulary | None = None,
    ) -> None:
        self.model = model.eval()
        self.vocabulary = vocabulary
        self.target_vocabulary = target_vocabulary or vocabulary
        self.counts = Counts()
        self.too_long: list[int] = []

    @classmethod
    def load(cls, checkpoint_path: str | Path, trust: bool = False) -> Translator:
        """Load the model and the vocabulary of a checkpoint from ``memnets fit``.

        Args:
            checkpoint_path: a file, or the folder of a run.
            trust: whether to build parts from other libraries than this one and PyTorch, such as
                your own model. The author of the checkpoint chose them, and they run as programs.

        Raises:
            CheckpointError: the checkpoint is missing or damaged, has no vocabulary, or names parts
                that need ``trust``.
        """
        saved = read(checkpoint_path)
        checked_model(saved.config["model"], saved.path, trust)  # of two errors, this first
        vocabularies = vocabularies_of(saved)
        return cls(build_model(saved, trust), *vocabularies)

    def __call__(
        self,
        sentences: Sequence[str],
        beam: int = 5,
        length_penalty: float = 1.0,
        max_length: int | None = None,
        batch_tokens: int = BATCH_TOKENS,
        progress: Callable[[int], object] | None = None,
    ) -> list[str]:
        """Translate sentences.

        Args:
            sentences: the sentences. One without words, or one too long for the model, has an empty
                translation.
            beam: number of unfinished answers that the search follows at once, at least 1; 1 =
                greedy.
            length_penalty: see :func:`~memnets.decoding.beam_search`.
            max_length: most tokens of an answer, with the end mark, at least 1; by default 10 more
                than twice the tokens of the sentence, which are rounded up to a multiple of 8.
            batch_tokens: most tokens in a batch, with padding, each counted ``beam`` times; a
                longer sentence is a batch of its own.
            progress: called after each batch with its number of sentences.

        Returns:
            A translation for each sentence, in their order.

        Raises:
            ValueError: a number is out of its range.
        """
        check_search(beam, length_penalty, 1, max_length)

        def search(source: Tensor, mask: Tensor | None, limit: int) -> Hypotheses:
            tokens = self.model.generate(source, mask, beam, length_penalty, limit)
            return Hypotheses(tokens.unsqueeze(1), torch.zeros(len(tokens), 1))

        found = self._translate(sentences, search, beam, max_length, batch_tokens, progress)
        return [answers[0].text for answers in found]

    def alternatives(
        self,
        sentences: Sequence[str],
        count: int = 5,
        beam: int = 5,
        length_penalty: float = 1.0,
        max_length: int | None = None,
        batch_tokens: int = BATCH_TOKENS,
        progress: Callable[[int], object] | None = None,
    ) -> list[list[Answer]]:
        """The best few translations of each sentence, best first.

        Args:
            sentences: the sentences. One without words, or one too long for the model, has a single
                empty translation.
            count: number of translations, 1 to ``beam``; the search may find fewer.
            beam: as in a call.
            length_penalty: as in a call.
            max_length: as in a call.
            batch_tokens: as in a call.
            progress: as in a call.

        Raises:
            ValueError: a number is out of its range.
        """
        check_search(beam, length_penalty, count, max_length)

        def search(source: Tensor, mask: Tensor | None, limit: int) -> Hypotheses:
            return beam_search(self.model, source, mask, beam, length_penalty, count, limit)

        return self._translate(sentences, search, beam, max_length, batch_tokens, progress)

    def _translate(
        self,
        sentences: Sequence[str],
        search: Callable[[Tensor, Tensor | None, int], Hypotheses],
        beam: int,
        max_length: int | None,
        batch_tokens: int,
        progress: Callable[[int], object] | None,
    ) -> list[list[Answer]]:
        if isinstance(sentences, str):
            raise TypeError("expected a list of sentences; got a single string")
        check_positive(batch_tokens=batch_tokens)
        tokens = [self._encode(sentence) for sentence in sentences]
        lengths = [len(row) for row in tokens]
        none = {steps for steps in set(lengths) - {0} if self.model.longest_answer(steps) == 0}
        self.too_long = [row for row, steps in enumerate(lengths) if steps in none]
        found = [[Answer("", 0.0)] for _ in sentences]
        cut = 0
        asked = [0 if steps in none else steps for steps in lengths]
        for rows in _batches(asked, batch_tokens // beam):
            limit = 2 * _rounded(lengths[rows[0]]) + 10 if max_length is None else max_length
            batch = padded([tokens[row] for row in rows])
            source, mask = map_state(lambda part: part.to(self.model.device), batch)
            best = search(source, mask, limit)
            for row, answers, scores in zip(
                rows, best.tokens.tolist(), best.scores.tolist(), strict=True
            ):
                there = [i for i, score in enumerate(scores) if score > -torch.inf]
                cut += sum(END not in answers[i] for i in there)
                found[row] = [
                    Answer(self.target_vocabulary.decode(answers[i]), scores[i]) for i in there
                ]
            if progress is not None:
                progress(len(rows))
        self.counts = Counts(
            unknown_tokens=sum(row.count(UNKNOWN) for row in tokens),
            empty_sentences=sum(not row for row in tokens),
            long_sentences=len(self.too_long),
            cut_answers=cut,
        )
        return found

    def _encode(self, sentence: str) -> list[int]:
        """Tokens and the end mark; empty for a sentence without words."""
        tokens = self.vocabulary.encode(sentence) if sentence.strip() else []
        return [*tokens, END] if tokens else []


def _rounded(length: int) -> int:
    return -(-length // _ROUND_TO) * _ROUND_TO


def _batches(lengths: list[int], budget: int) -> list[list[int]]:
    """Group sentences of similar length into batches, longest first, without those of length 0."""
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if not lengths[row]:
            break
        longest = lengths[batches[-1][0]] if batches else 0
        together = _rounded(longest) == _rounded(lengths[row])
        if together and (len(batches[-1]) + 1) * longest <= budget:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
