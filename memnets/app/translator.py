"""Translate text with nothing but a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from jsonargparse import ArgumentError, ArgumentParser
from torch import Tensor

from memnets.batches import END, UNKNOWN, padded
from memnets.core import check_positive
from memnets.decoding import Hypotheses, beam_search, check_search
from memnets.models import Model
from memnets.training.runs import CheckpointError, check_same_model, load_checkpoint
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
        text: of the whole sentence.
        score: log probability over length penalty; 0 for the translation of an empty sentence.
    """

    text: str
    score: float


class Counts(NamedTuple):
    """What should not go unseen in a translation.

    Attributes:
        unknown_tokens: tokens of the sentences that the vocabulary does not have.
        empty_sentences: sentences with no words; their translation is empty too.
        cut_answers: answers that came to the greatest length before their end.
    """

    unknown_tokens: int = 0
    empty_sentences: int = 0
    cut_answers: int = 0


class Translator:
    """Translate sentences.

    A sentence is translated as if it were alone, whatever comes with it.

    Args:
        model: answers in tokens of the vocabulary; it is set to evaluate.
        vocabulary: of sentences and translations.

    Attributes:
        counts: of the last call.
    """

    def __init__(self, model: Model[Any], vocabulary: Vocabulary) -> None:
        self.model = model.eval()
        self.vocabulary = vocabulary
        self.counts = Counts()

    @classmethod
    def load(cls, checkpoint_path: str | Path) -> Translator:
        """The model and the vocabulary of a checkpoint that ``memnets fit`` wrote.

        Raises:
            CheckpointError: the checkpoint is missing, damaged, or holds no vocabulary.
        """
        checkpoint = load_checkpoint(checkpoint_path)
        try:
            config = yaml.safe_load(checkpoint["config"])
            settings, task = config["model"], str(config["data"]["class_path"])
        except (AttributeError, KeyError, TypeError, yaml.YAMLError) as error:
            raise CheckpointError(
                f"{checkpoint_path} holds no config: memnets fit did not write it"
            ) from error
        # Lightning keeps the state of a task under the name of its class.
        kept = checkpoint.get(task.rpartition(".")[2], {})
        if "vocabulary" not in kept:
            raise CheckpointError(
                f"expected a checkpoint with the vocabulary of a translation; "
                f"{checkpoint_path}, of {task}, holds none"
            )
        try:
            vocabulary = Vocabulary.from_tensor(kept["vocabulary"])
            model = _model(settings, len(vocabulary))
        except (ArgumentError, TypeError, ValueError) as error:
            raise CheckpointError(f"{checkpoint_path} cannot be used: {error}") from error
        check_same_model(model, checkpoint, str(checkpoint_path))
        model.load_state_dict(checkpoint["state_dict"])
        return cls(model, vocabulary)

    def __call__(
        self,
        sentences: Sequence[str],
        beam: int = 5,
        length_penalty: float = 1.0,
        max_length: int | None = None,
        batch_tokens: int = BATCH_TOKENS,
        progress: Callable[[int], object] | None = None,
    ) -> list[str]:
        """The best translation of each sentence that the search finds.

        Args:
            sentences: one with no words has an empty translation.
            beam: how many answers are followed at once, at least 1; 1 is greedy.
            length_penalty: see :func:`~memnets.decoding.beam_search`.
            max_length: of an answer, in tokens, the end mark included, at least 1; if not given,
                10 more than twice the tokens of the sentence, rounded up to a multiple of 8.
            batch_tokens: at most so many tokens in a batch, padding included, each counted
                ``beam`` times; a sentence that has more is a batch alone.
            progress: is told after each batch how many sentences it had.

        Returns:
            A translation for each sentence, in their order.

        Raises:
            ValueError: a number is out of its range, or a sentence is too long for the model.
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
        """The best few translations of each sentence, the best first.

        Args:
            sentences: one with no words has a single translation, which is empty.
            count: how many translations are wanted, 1 to ``beam``; there are fewer where the search
                meets fewer.
            beam: as in a call, and so the others.
            length_penalty: see there.
            max_length: see there.
            batch_tokens: see there.
            progress: see there.

        Raises:
            ValueError: a number is out of its range, or a sentence is too long for the model.
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
        found = [[Answer("", 0.0)] for _ in sentences]
        cut = 0
        for rows in _batches([len(row) for row in tokens], batch_tokens // beam):
            limit = 2 * _rounded(len(tokens[rows[0]])) + 10 if max_length is None else max_length
            best = self._search(search, {row: tokens[row] for row in rows}, limit)
            for row, answers, scores in zip(
                rows, best.tokens.tolist(), best.scores.tolist(), strict=True
            ):
                there = [i for i, score in enumerate(scores) if score > -torch.inf]
                cut += sum(END not in answers[i] for i in there)
                found[row] = [Answer(self.vocabulary.decode(answers[i]), scores[i]) for i in there]
            if progress is not None:
                progress(len(rows))
        self.counts = Counts(
            unknown_tokens=sum(row.count(UNKNOWN) for row in tokens),
            empty_sentences=sum(not row for row in tokens),
            cut_answers=cut,
        )
        return found

    def _encode(self, sentence: str) -> list[int]:
        """Tokens and the end mark; nothing for a sentence with no words."""
        tokens = self.vocabulary.encode(sentence) if sentence.strip() else []
        return [*tokens, END] if tokens else []

    def _search(
        self,
        search: Callable[[Tensor, Tensor | None, int], Hypotheses],
        batch: dict[int, list[int]],
        limit: int,
    ) -> Hypotheses:
        """Search for a batch, sentence number -> tokens; an error names the sentence.

        Raises:
            ValueError: a sentence is too long for the model.
        """
        source, mask = padded(list(batch.values()))
        device = self.model.device
        try:
            return search(source.to(device), None if mask is None else mask.to(device), limit)
        except ValueError as error:
            if len(batch) == 1:
                ((row, tokens),) = batch.items()
                raise ValueError(
                    f"sentence {row + 1}, of {len(tokens)} tokens, cannot be translated: {error}"
                ) from error
            for row, tokens in batch.items():
                self._search(search, {row: tokens}, limit)
            raise


def _model(settings: dict[str, Any], size: int) -> Model[Any]:
    """The model of a config, for a vocabulary of so many tokens."""
    sizes = {"input_size": size, "output_size": size}
    settings = {**settings, "init_args": {**settings.get("init_args", {}), **sizes}}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Model, "model", fail_untyped=False, required=True)
    config = parser.parse_object({"model": settings})
    model: Model[Any] = parser.instantiate_classes(config).model
    return model


def _rounded(length: int) -> int:
    return -(-length // _ROUND_TO) * _ROUND_TO


def _batches(lengths: list[int], budget: int) -> list[list[int]]:
    """Which sentences go together, the longest first; those of length 0 are left out."""
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
