"""Objectives: the meaning of a model's outputs, their loss and their scores."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from memnets import functional
from memnets.batches import END, PAD, Batch, check_target_mask
from memnets.checks import at_hand, check_numbers
from memnets.core import EncoderDecoder, map_state
from memnets.decoding import check_search, generate, play

__all__ = [
    "Actions",
    "Bits",
    "Candidates",
    "Examined",
    "Labels",
    "NextToken",
    "Numbers",
    "Objective",
    "Symbols",
    "Tokens",
]


#: Answers to a batch, and the scores of its sequences ``[B]``, by name.
Examined = tuple[Tensor, dict[str, Tensor]]


class Objective(ABC):
    """Base class for functions from logits to a loss, an answer and scores.

    Attributes:
        monitor: name of a score of a set (:meth:`summarize`) that improves as it falls; the best
            checkpoint has the lowest.
    """

    monitor: str

    def check(self, batch: Batch) -> None:
        """Check that a task's batch fits this objective.

        A training by Lightning calls it for each batch, before it goes to a GPU, and so does
        :meth:`memnets.training.Model.loss` on a CPU. :meth:`losses` takes numbers as they come.

        Raises:
            ValueError: it does not.
            TypeError: the mask of the targets is no boolean tensor.
        """
        check_target_mask(batch)
        if batch.rewards is not None:
            raise ValueError(
                f"a task whose answers bring rewards needs the objective Actions; "
                f"got {type(self).__name__}"
            )

    @abstractmethod
    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss of each step.

        Args:
            logits: ``[B, T, O]``.
            targets: ``[B, T, O]`` or ``[B, T]``.

        Returns:
            ``[B, T]``.
        """

    @abstractmethod
    def answer(self, logits: Tensor) -> Tensor:
        """The model's answer, in the form of the targets.

        Args:
            logits: ``[B, T, O]``.
        """

    @abstractmethod
    def solved(self, scores: Mapping[str, float]) -> bool:
        """Whether a task with these scores of a set counts as solved."""

    def summarize(self, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scores of a whole set, from the means of the scores of its sequences.

        The default is the means themselves. Override it for a score that is no mean over
        sequences, such as a ratio of two sums: the ratio of their means is the same number.

        Args:
            means: the mean of each score over all sequences of the set, a scalar, by name.

        Returns:
            Scores of the set, scalars, by name.
        """
        return dict(means)

    def examine(self, model: EncoderDecoder, batch: Batch) -> dict[str, Examined]:
        """Let a model answer on its own, as in a test.

        Args:
            model: the model.
            batch: a batch of a test set.

        Returns:
            Answers and scores for each way of answering, by the ending of its scores' names; the
            first ending is empty.
        """
        logits = model.logits(batch)
        scores = self.scores(logits, batch.targets, batch.target_mask)
        return {"": (self.answer(logits), scores)}

    def respond(self, model: EncoderDecoder, batch: Batch) -> Tensor:
        """A model's own answers to sources without targets, in the form of the targets.

        Args:
            model: the model, in evaluation mode.
            batch: sources and inputs; its targets are not looked at.
        """
        return self.answer(model.logits(batch))

    def chances(self, logits: Tensor) -> Tensor:
        """Probability of the model's :meth:`answer` at each step.

        Args:
            logits: ``[B, T, O]``.

        Returns:
            ``[B, T]``, in ``[0, 1]``.

        Raises:
            TypeError: the answers, as by default, have no probabilities.
        """
        raise TypeError(
            f"expected a model that answers with labels, whose probabilities can be told; the "
            f"objective is {type(self).__name__}"
        )

    def notes(self, answers: Sequence[Tensor]) -> list[str]:
        """Notes on the answers to a test set, to show with its scores; none by default.

        Args:
            answers: answers to each batch of the set, in the form of the targets.
        """
        return []

    @abstractmethod
    def scores(self, logits: Tensor, targets: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """Scores of each sequence of answers.

        Args:
            logits: ``[B, T, O]``.
            targets: ``[B, T, O]`` or ``[B, T]``.
            mask: bool ``[B, T]``, False = padding; ``None`` = no padding.

        Returns:
            Scores ``[B]``, one number for each sequence, by name.
        """


class Bits(Objective):
    """Binary vectors, with independent bits (Graves et al. 2014, section 4).

    The scores are ``bits``, the cost of a sequence: the cross-entropy summed over all steps and
    bits, in bits; ``wrong_bits``, the number of wrong bits in a sequence at a threshold of one
    half; and ``exact``, 1 if no bit is wrong, else 0.
    """

    monitor = "bits"

    def check(self, batch: Batch) -> None:
        """Check that the targets of a batch are vectors of numbers in ``[0, 1]``.

        Raises:
            ValueError: they are not; numbers in the padding do not count.
        """
        super().check(batch)
        _check_vectors(self, batch.targets)
        _check_shares(
            self, batch, "for real numbers use --model.objective=memnets.training.Numbers"
        )

    def solved(self, scores: Mapping[str, float]) -> bool:
        """Whether the cost is less than 0.01 bits a sequence."""
        return scores["bits"] < 0.01

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of a step's bits, in nats: ``[B, T, O] -> [B, T]``.

        That the targets are in ``[0, 1]`` is asked by :meth:`check`: here it is not known what is
        padding, which may be anything.

        Raises:
            ValueError: logits and targets differ in shape.
        """
        _check_same_shape(self, logits, targets)
        return nn.functional.binary_cross_entropy_with_logits(
            logits, targets.to(logits.dtype), reduction="none"
        ).mean(-1)

    def answer(self, logits: Tensor) -> Tensor:
        """The likelier value of each bit, 0 or 1."""
        return (logits > 0).to(logits.dtype)

    def scores(self, logits: Tensor, targets: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """``bits``, ``wrong_bits`` and ``exact`` of each sequence."""
        # Scores are computed in float32, since 16 bits round their sums. The loss is a mean over
        # the bits of a step, in nats.
        bits = self.losses(logits.float(), targets) * (targets.shape[-1] / math.log(2))
        wrong = (self.answer(logits) != targets).sum(-1)
        wrong = functional.inside(wrong, mask).sum(-1)
        return {
            "bits": functional.inside(bits, mask).sum(-1),
            "wrong_bits": wrong.to(torch.float32),
            "exact": (wrong == 0).to(torch.float32),
        }


class Labels(Objective):
    """One of O classes at each step.

    The scores are ``loss``, the cross-entropy of a step, in nats, and ``accuracy``, the share of
    right answers.

    Args:
        monitor: score that chooses the best checkpoint, one of :attr:`monitors`; the first by
            default. ``error``, the share of wrong answers, is a score where it is chosen. Take it
            where the loss rises while the errors still fall: a model that learns its examples by
            heart grows ever more certain, also of what it gets wrong.

    Attributes:
        monitors: scores that can be chosen.
    """

    monitor = "loss"
    monitors: ClassVar[tuple[str, ...]] = ("loss", "error")

    def __init__(self, monitor: str | None = None) -> None:
        if monitor is not None:
            if monitor not in self.monitors:
                expected = " or ".join(map(repr, self.monitors))
                raise ValueError(
                    f"monitor of {type(self).__name__} must be {expected}; got {monitor!r}"
                )
            self.monitor = monitor

    def check(self, batch: Batch) -> None:
        """Check that the targets of a batch are whole numbers, one a step.

        Raises:
            ValueError: they are not.
        """
        super().check(batch)
        _check_whole(self, batch.targets)

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of each step, in nats: ``[B, T]``.

        Raises:
            ValueError: targets are not whole numbers ``[B, T]``.
        """
        return _cross_entropy(self, logits, targets)

    def answer(self, logits: Tensor) -> Tensor:
        """The likeliest class of each step, ``[B, T]``."""
        return logits.argmax(-1)

    def chances(self, logits: Tensor) -> Tensor:
        """Probability of the likeliest class of each step, ``[B, T]``."""
        return logits.float().softmax(-1).amax(-1)

    def solved(self, scores: Mapping[str, float]) -> bool:
        """Whether at least 99 % of the answers are right."""
        return scores["accuracy"] >= 0.99

    def scores(self, logits: Tensor, targets: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """``loss`` and ``accuracy`` of each sequence; ``error`` too if it is monitored."""
        losses = _cross_entropy(self, logits.float(), targets)
        accuracy = _means(self.answer(logits) == targets, mask)
        scores = {"loss": _means(losses, mask), "accuracy": accuracy}
        if self.monitor == "error":
            scores["error"] = 1.0 - accuracy
        return scores


class _Sequences(Labels):
    """Labels that make a whole, such as a sentence: it is right only if each of them is."""

    monitors = ("loss", "error", "sequence_error")

    def scores(self, logits: Tensor, targets: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """``loss``, ``accuracy`` and ``exact`` of each sequence, and what is monitored."""
        wrong = self.answer(logits) != targets
        wrong = wrong if mask is None else wrong & mask
        return {**super().scores(logits, targets, mask), **self._whole(~wrong.any(-1))}

    def _whole(self, exact: Tensor) -> dict[str, Tensor]:
        """Scores of sequences ``[B]`` that are right as a whole, or not."""
        right = exact.to(torch.float32)
        errors = {"sequence_error": 1.0 - right} if self.monitor == "sequence_error" else {}
        return {"exact": right, **errors}


class Symbols(_Sequences):
    """One of O symbols at each step, for strings as answers that no input repeats.

    The scores are those of :class:`Labels`, and ``exact``, 1 if no symbol of a sequence is wrong,
    else 0. A test also gives ``state``, the number of floats of the model's state for one sequence
    after its answer: the size of its memory. It grows with the sequence where each step is kept, as
    in attention.

    Args:
        monitor: see :class:`Labels`; also ``sequence_error``, the share of sequences that are not
            exact.
    """

    def solved(self, scores: Mapping[str, float]) -> bool:
        """Whether at least 99 % of the sequences are exact."""
        return scores["exact"] >= 0.99

    def examine(self, model: EncoderDecoder, batch: Batch) -> dict[str, Examined]:
        """See :meth:`Objective.examine`; with the size of the state."""
        state = model.encode_batch(batch)
        logits, state = model.decode(batch.inputs, state)
        scores = self.scores(logits, batch.targets, batch.target_mask)
        floats: list[int] = []

        def count(part: Tensor) -> Tensor:
            floats.append(part.numel() if part.is_floating_point() else 0)
            return part

        map_state(count, state)
        sequences = len(batch.targets)
        scores["state"] = torch.full_like(scores["loss"], sum(floats) / sequences)
        return {"": (self.answer(logits), scores)}


class Actions(Labels):
    """One of O actions with a reward at each step; the targets are a teacher's actions.

    Training imitates the teacher, in the states that the task gives. In a test the scores of
    :class:`Labels` are computed in those states too. The model also plays on its own
    (:func:`~memnets.decoding.play`); ``reward`` is the sum of its rewards in a sequence.
    """

    def check(self, batch: Batch) -> None:
        """Check that a batch has rewards, and a teacher's actions as targets.

        Raises:
            ValueError: it does not.
        """
        check_target_mask(batch)
        if batch.rewards is None:
            raise ValueError(
                "the objective Actions needs a task with rewards, such as tasks.Bandits; "
                "got a batch without"
            )
        if batch.rewards.shape[:-1] != batch.targets.shape:
            raise ValueError(
                f"rewards must be [B, T, O] with [B, T] = {list(batch.targets.shape)}, as the "
                f"targets; got {list(batch.rewards.shape)}"
            )
        _check_whole(self, batch.targets)

    def examine(self, model: EncoderDecoder, batch: Batch) -> dict[str, Examined]:
        """Actions of the model's own play, and their scores.

        Raises:
            ValueError: the batch has no rewards.
        """
        self.check(batch)
        assert batch.rewards is not None
        # The scores on the teacher's states, then the reward of the model's own play.
        (_, known), *_ = super().examine(model, batch).values()
        actions = play(model, batch.source, batch.rewards, batch.source_mask)
        brought = batch.rewards.float().gather(-1, actions.unsqueeze(-1)).squeeze(-1)
        reward = functional.inside(brought, batch.target_mask).sum(-1)
        return {"": (actions, {**known, "reward": reward})}


class Tokens(_Sequences):
    """One of O tokens at each step; the answer ends with the end mark.

    The scores are ``loss``, the cross-entropy of a token, in nats, without smoothing; ``accuracy``,
    the share of right tokens, each predicted from the right ones before it; and ``exact``, 1 if all
    are right, else 0. In a test the model answers on its own, and ``exact`` compares this answer
    with the target.

    Args:
        label_smoothing: share of the target's probability that is spread evenly over all tokens, in
            ``[0, 1)`` (Vaswani et al. 2017, section 5.4).
        beam: width of a beam search in tests, at least 1. Above 1, a test also searches with this
            beam; the names of its scores end in ``_beam``.
        length_penalty: alpha of that search, at least 0.
        max_length: most tokens of an answer in a test, at least 1; ``2 S + 10`` by default, with S
            the steps of the source. A longer answer is cut, also at the limit of the model
            (:meth:`~memnets.core.EncoderDecoder.longest_answer`).
        monitor: see :class:`Labels`; also ``sequence_error``, the share of answers that are not
            exact, in validation each token predicted from the right ones before it.
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        beam: int = 1,
        length_penalty: float = 1.0,
        max_length: int | None = None,
        monitor: str | None = None,
    ) -> None:
        super().__init__(monitor)
        check_search(beam, length_penalty, max_length=max_length)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1); got {label_smoothing}")
        self.label_smoothing = label_smoothing
        self.beam = beam
        self.length_penalty = length_penalty
        self.max_length = max_length

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of each step with smoothed targets, in nats: ``[B, T]``.

        Raises:
            ValueError: targets are not tokens ``[B, T]``.
        """
        return _cross_entropy(self, logits, targets, self.label_smoothing)

    def solved(self, scores: Mapping[str, float]) -> bool:
        """Whether at least 99.9 % of the answers are exact."""
        return scores["exact"] >= 0.999

    def notes(self, answers: Sequence[Tensor]) -> list[str]:
        """A note on the number of answers that were cut at their greatest length, if any."""
        cut = sum(int((~(tokens == END).any(1)).sum()) for tokens in answers)
        count = sum(map(len, answers))
        return [f"{cut} of {count} answers cut at their greatest length"] if cut else []

    def chances(self, logits: Tensor) -> Tensor:
        """No probabilities: an answer is what a search finds.

        Raises:
            TypeError: always.
        """
        return Objective.chances(self, logits)

    def respond(self, model: EncoderDecoder, batch: Batch) -> Tensor:
        """The best answer of a search with :attr:`beam`, ``[B, T]``."""
        return self._found(model, batch, self.beam)

    def _found(self, model: EncoderDecoder, batch: Batch, beam: int) -> Tensor:
        source, mask, places = batch.source, batch.source_mask, model.places_of(batch)
        return generate(model, source, mask, beam, self.length_penalty, self.max_length, places)

    def examine(self, model: EncoderDecoder, batch: Batch) -> dict[str, Examined]:
        """Greedy answers and, with a beam, the best of its search."""
        known = self.scores(model.logits(batch), batch.targets, batch.target_mask)
        found = {}
        # Greedy answers are always there, to compare runs with different beams.
        for way, beam in {"": 1, "_beam": self.beam}.items():
            if way and beam == 1:
                continue
            answers = self._found(model, batch, beam)
            scores = self._whole(_same(answers, batch.targets))
            found[way] = (answers, scores if way else {**known, **scores})
        return found


class Candidates(Objective):
    """One of O candidates at each step, of which several may be right.

    Targets ``[B, T, O]`` are 1 for a right candidate and 0 for others. The loss is the negative
    logarithm of the probability of all right ones together, so a model need not choose among them.
    An answer is the probability of each candidate, which ranks them.

    The scores are ``loss``, in nats, and ``hits``, the share of steps whose likeliest candidate is
    right (hits@1).
    """

    monitor = "loss"

    def check(self, batch: Batch) -> None:
        """Check that the targets of a batch are vectors of numbers in ``[0, 1]``.

        Raises:
            ValueError: they are not; numbers in the padding do not count.
        """
        super().check(batch)
        _check_vectors(self, batch.targets)
        _check_shares(self, batch, "1 for a right candidate, 0 for others")

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cost of each step, in nats: ``[B, T, O], [B, T, O] -> [B, T]``.

        A step for which no candidate is right costs nothing. That the targets are in ``[0, 1]`` is
        asked by :meth:`check`.

        Raises:
            ValueError: logits and targets differ in shape.
        """
        _check_same_shape(self, logits, targets)
        # Of 16 bits, the sum over many candidates would lose the small ones.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        targets = targets.to(logits.dtype)
        targets = targets.masked_fill(~targets.gt(0).any(-1, keepdim=True), 1.0)
        # The logarithm of a target of 0 is -inf, which adds nothing to the sum.
        return logits.logsumexp(-1) - (logits + targets.log()).logsumexp(-1)

    def answer(self, logits: Tensor) -> Tensor:
        """The probability of each candidate, ``[B, T, O]``."""
        return logits.softmax(-1)

    def solved(self, scores: Mapping[str, float]) -> bool:
        """Whether the likeliest candidate is right in at least 99 % of the steps."""
        return scores["hits"] >= 0.99

    def scores(self, logits: Tensor, targets: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """``loss`` and ``hits`` of each sequence."""
        right = targets.gather(-1, logits.argmax(-1, keepdim=True)).squeeze(-1) > 0
        return {"loss": _means(self.losses(logits, targets), mask), "hits": _means(right, mask)}


class NextToken(Labels):
    """The next one of O tokens, after all those before it: a language model.

    The scores of a sequence are sums: ``nats``, the negative log probability of all its tokens;
    ``tokens``, their number, with the end mark; ``right``, those of them that were the likeliest.
    Scores of a set follow from the sums over all its sequences, whatever their lengths and batches:
    ``perplexity``, ``exp(nats / tokens)``; ``loss``, nats a token; and ``accuracy``, the share of
    right tokens. A test gives each token its probability after the right ones before it, as
    training does; nothing is generated.

    The answer to a user's own text (:meth:`respond`) is the log probability of each of its tokens.
    """

    monitor = "perplexity"
    monitors = ("perplexity",)

    def solved(self, scores: Mapping[str, float]) -> bool:
        """``False``: nobody knows the least perplexity of a text."""
        return False

    def scores(self, logits: Tensor, targets: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """``nats``, ``tokens`` and ``right`` of each sequence."""
        mask = torch.ones_like(targets, dtype=torch.bool) if mask is None else mask
        losses = _cross_entropy(self, logits.float(), targets).masked_fill(~mask, 0.0)
        right = (self.answer(logits) == targets) & mask
        return {
            "nats": losses.sum(-1),
            "tokens": mask.sum(-1, dtype=torch.float32),
            "right": right.sum(-1, dtype=torch.float32),
        }

    def summarize(self, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``perplexity``, ``loss`` and ``accuracy`` of a set."""
        loss = means["nats"] / means["tokens"]
        accuracy = means["right"] / means["tokens"]
        return {"perplexity": loss.exp(), "loss": loss, "accuracy": accuracy}

    def chances(self, logits: Tensor) -> Tensor:
        """No probabilities: the answer is one itself.

        Raises:
            TypeError: always.
        """
        return Objective.chances(self, logits)

    def respond(self, model: EncoderDecoder, batch: Batch) -> Tensor:
        """Log probability of each target after all those before it, in nats: ``[B, T]``."""
        return -self.losses(model.logits(batch).float(), batch.targets)


class Numbers(Objective):
    """Real numbers, O at each step.

    The score is ``error``, the mean squared error of a sequence (Finn et al. 2017, section 5.1).
    """

    monitor = "error"

    def check(self, batch: Batch) -> None:
        """Check that the targets of a batch are vectors of finite numbers.

        Raises:
            ValueError: they are not; numbers in the padding do not count.
        """
        super().check(batch)
        _check_vectors(self, batch.targets)
        _check_targets(self, batch, batch.targets.isfinite(), "finite", "NaN or infinity")

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error of each step: ``[B, T, O] -> [B, T]``.

        Raises:
            ValueError: logits and targets differ in shape.
        """
        _check_same_shape(self, logits, targets)
        return (logits - targets).square().mean(-1)

    def answer(self, logits: Tensor) -> Tensor:
        """The logits themselves, ``[B, T, O]``."""
        return logits

    def solved(self, scores: Mapping[str, float]) -> bool:
        """Whether the mean squared error is at most 0.01."""
        return scores["error"] <= 0.01

    def scores(self, logits: Tensor, targets: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """``error`` of each sequence."""
        return {"error": _means(self.losses(logits.float(), targets), mask)}


def _means(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of each sequence over its own steps, ``[B, T] -> [B]``; 0 for one without a step."""
    # Not over the steps of all sequences, in which long ones would dominate.
    mask = torch.ones_like(values, dtype=torch.bool) if mask is None else mask
    return functional.inside(values, mask).sum(-1) / mask.sum(-1).clamp_min(1)


def _check_vectors(objective: Objective, targets: Tensor) -> None:
    if targets.dim() != 3:
        raise ValueError(
            f"the objective {type(objective).__name__} needs a task whose targets are vectors "
            f"[B, T, O]; got {targets.dtype} {list(targets.shape)}: tokens need the objective "
            f"Tokens, classes Labels, as by --model.objective=memnets.training.Tokens"
        )


def _check_whole(objective: Objective, targets: Tensor) -> None:
    if targets.dim() != 2 or targets.is_floating_point():
        raise ValueError(
            f"the objective {type(objective).__name__} needs a task whose targets are whole "
            f"numbers [B, T]; got {targets.dtype} {list(targets.shape)}: binary vectors need the "
            f"objective Bits, real numbers Numbers, as by --model.objective=memnets.training.Bits"
        )


def _check_shares(objective: Objective, batch: Batch, hint: str) -> None:
    targets = batch.targets
    if targets.numel() and at_hand(targets):
        # In the usual case two numbers tell, and no mask is asked. Of NaN neither is in the range.
        low, high = (number.item() for number in targets.detach().aminmax())
        if low >= 0 and high <= 1:
            return
    right = (targets >= 0) & (targets <= 1)
    _check_targets(objective, batch, right, f"in [0, 1] ({hint})")


def _check_targets(
    objective: Objective, batch: Batch, right: Tensor, wanted: str, found: str | None = None
) -> None:
    """Check numbers of the targets, ``[B, T, O]``; a batch comes here before it goes to a GPU."""
    mask = batch.target_mask
    right = right if mask is None else right | ~mask.unsqueeze(-1)
    check_numbers(
        right.all(),
        f"the objective {type(objective).__name__} needs targets {wanted}",
        lambda: found or f"{batch.targets[~right][0].item():g}",
    )


def _check_same_shape(objective: Objective, logits: Tensor, targets: Tensor) -> None:
    _check_vectors(objective, targets)
    if logits.shape != targets.shape:
        raise ValueError(
            f"logits and targets must both be [B, T, O]; "
            f"got logits {list(logits.shape)} and targets {list(targets.shape)}"
        )


def _cross_entropy(
    objective: Objective, logits: Tensor, targets: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy of each step, in nats: ``[B, T, O], [B, T] -> [B, T]``."""
    _check_whole(objective, targets)
    if targets.shape != logits.shape[:2]:
        raise ValueError(
            f"targets must be whole numbers [B, T] = {list(logits.shape[:2])}; "
            f"got {targets.dtype} {list(targets.shape)}"
        )
    losses = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), label_smoothing)
    return losses.view_as(targets)


def _same(answers: Tensor, targets: Tensor) -> Tensor:
    """Whether two batches of tokens ``[B, T]`` agree up to their end marks: bool ``[B]``."""
    longest = max(answers.shape[1], targets.shape[1])
    padded = [
        nn.functional.pad(tokens, (0, longest - tokens.shape[1]), value=PAD)
        for tokens in (answers, targets)
    ]
    # True behind the first end mark: what follows it does not belong to the answer.
    over = [tokens.eq(END).cumsum(1) - tokens.eq(END).long() > 0 for tokens in padded]
    ours, theirs = (
        tokens.masked_fill(late, PAD) for tokens, late in zip(padded, over, strict=True)
    )
    return (ours == theirs).all(1)
