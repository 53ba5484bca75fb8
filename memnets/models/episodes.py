"""Models that learn from few examples: they read labelled examples, then answer queries.

An episode is a batch: the source is the examples, each a vector followed by its label,
``[B, S, I]``; the inputs are the queries, with zeros in place of the label. The answer to a query
depends on the examples alone, not on other queries. For an online learner, examples and queries are
one: each input has the label of the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from memnets import functional
from memnets.addressing import Content
from memnets.batches import Batch
from memnets.checks import check_source
from memnets.core import Addressing, EncoderDecoder, Memory, State
from memnets.factories import make
from memnets.features import Features, made_features
from memnets.precision import full_precision
from memnets.scores import SquaredDistance
from memnets.training.model import Model, masked_mean
from memnets.training.objectives import Labels

__all__ = ["MetaLearner", "OnlineLearner", "OnlineState", "Prototypical"]


class _Episodic(Model[State]):
    """Base class for models of episodes.

    Args:
        input_size: width of a vector and its label together.
        output_size: width of a label, at least 1; the number of classes for one-hot labels.
        features: makes the features of a vector from its width; the vector itself by default.
        settings: see :class:`~memnets.models.Model`.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        features: Callable[[int], Features] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        if self.tbptt_steps is not None:
            raise ValueError(
                "an episode is learned as a whole, so there is nothing to cut: tbptt_steps must be "
                f"None; got {self.tbptt_steps}"
            )
        if not 0 < output_size < input_size:
            raise ValueError(
                f"an input is a vector and its label: input_size must be more than "
                f"output_size, at least 1; got {input_size} and {output_size}"
            )
        self.input_size = input_size
        self.sizes = [input_size - output_size, output_size]
        self.features = made_features(features, self.sizes[0])
        self.nearness = Content(SquaredDistance())

    def check_source(self, source: Tensor, mask: Tensor | None) -> None:
        """See :meth:`~memnets.training.Model.check_source`."""
        check_source(source, mask)

    def see(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Split inputs into features and labels.

        Args:
            inputs: ``[B, T, input_size]``.

        Returns:
            Features ``[B, T, F]`` and labels ``[B, T, output_size]``.

        Raises:
            ValueError: a shape does not fit.
        """
        if inputs.dim() != 3 or inputs.shape[-1] != self.input_size:
            raise ValueError(
                f"an episode must be [B, T, {self.input_size}], vectors with their labels; "
                f"got {list(inputs.shape)}"
            )
        vectors, labels = inputs.split(self.sizes, -1)
        return self.features(vectors), labels


class Prototypical(_Episodic[Memory]):
    """Prototypical network: the answer is the class with the nearest mean (Snell et al. 2017, 2.2).

    The means are the keys of a memory. The logits are the scores of addressing by content: minus
    the squared distances, ``-inf`` for classes without an example.

    Args:
        input_size: width of a vector and its label together.
        output_size: number of classes, at least 1.
        features: makes the features of a vector from its width; the vector itself by default.
        settings: see :class:`~memnets.models.Model`.

    Raises:
        ValueError: a size is out of its range.
    """

    def encode(self, source: Tensor, mask: Tensor | None = None) -> Memory:
        """The prototypes of the examples ``[B, S, I]``.

        Raises:
            ValueError: a shape does not fit, or there is no example.
            TypeError: the mask is not boolean.
        """
        self.check_source(source, mask)
        vectors, labels = self.see(source)
        return prototypes(vectors, labels, mask)

    def decode(self, inputs: Tensor, state: Memory) -> tuple[Tensor, Memory]:
        """Logits ``[B, T, O]`` for queries ``[B, T, I]``, and the unchanged state."""
        vectors, _ = self.see(inputs)
        return self.nearness.scores(vectors, state), state


class _Learner(_Episodic[State]):
    """Base class for models that give episodes to a model of sequences.

    Args:
        input_size: width of a vector and its label together.
        output_size: width of a label, at least 1.
        learner: see :class:`MetaLearner`.
        features: makes the features of a vector from its width; the vector itself by default.
        prototypical: see :class:`MetaLearner`.
        detached_steps: see :class:`MetaLearner`.
        settings: see :class:`~memnets.models.Model`.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        learner: Callable[[int, int], EncoderDecoder],
        features: Callable[[int], Features] | None = None,
        prototypical: float = 0.0,
        detached_steps: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(input_size, output_size, features, **settings)
        if prototypical < 0 or detached_steps < 0:
            raise ValueError(
                f"prototypical and detached_steps must be at least 0; "
                f"got {prototypical} and {detached_steps}"
            )
        if detached_steps and not prototypical:
            raise ValueError(
                "with detached_steps, features learn from the prototypical loss alone: "
                f"its weight must be more than 0; got prototypical={prototypical}"
            )
        if prototypical and not isinstance(self.objective, Labels):
            raise ValueError(
                f"a prototypical loss needs the objective Labels; "
                f"got {type(self.objective).__name__}"
            )
        sizes = (self.features.output_size + output_size, output_size)
        self.learner = make("learner", learner, Model, *sizes)
        self.prototypical = prototypical
        self.detached_steps = detached_steps

    def _detached(self) -> bool:
        return self.global_step < self.detached_steps

    def graph_settings(self) -> Hashable:
        """See :meth:`~memnets.training.Model.graph_settings`: whether the features are detached."""
        return self._detached()


class MetaLearner(_Learner[State]):
    """A model of sequences on episodes: it reads the examples, then answers each query.

    The model of Mishra et al. 2018 (section 5.1) with a SNAIL; a label comes with its own vector.
    The examples are read once. Each query is one step from the state after them. With labels one
    step late, as in Santoro et al. 2016, it is an :class:`OnlineLearner`.

    Random features learn little from a random learner. A prototypical loss trains the features
    directly, in addition to the learner's loss or, for the first steps, instead of it.

    Args:
        input_size: width of a vector and its label together.
        output_size: width of a label, at least 1.
        learner: makes the model of sequences from the widths of its input and output. Its settings
            of training are not used.
        features: makes the features of a vector from its width; the vector itself by default.
        prototypical: weight of the prototypical loss, at least 0; above 0 for classes alone.
        detached_steps: number of first training steps in which the features learn from the
            prototypical loss alone, and the learner's gradient does not reach them.
        settings: see :class:`~memnets.models.Model`.

    Raises:
        ValueError: a size or a number is out of its range, or ``prototypical`` is above 0 and the
            objective is not :class:`~memnets.training.Labels`.

    Example:
        ``MetaLearner(784 + 5, 5, SNAIL, ImageFeatures, objective=Labels())``
    """

    def encode(self, source: Tensor, mask: Tensor | None = None) -> State:
        """State of the learner after the examples ``[B, S, I]``."""
        self.check_source(source, mask)
        return self.learner.encode(torch.cat(self.see(source), -1), mask)  # type: ignore[no-any-return]

    def decode(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Logits ``[B, T, O]`` for queries ``[B, T, I]``, and the unchanged state."""
        return self.learner.decode_each(torch.cat(self.see(inputs), -1), state), state

    def logits(self, batch: Batch) -> Tensor:
        """See :meth:`~memnets.core.EncoderDecoder.logits`."""
        self.check_source(batch.source, batch.source_mask)
        examples, queries = (torch.cat(self.see(part), -1) for part in (batch.source, batch.inputs))
        return self.learner.continuations(examples, queries, batch.source_mask)

    def loss(self, batch: Batch) -> Tensor:
        """Mean loss of all queries but padding, plus the weighted prototypical loss, a scalar."""
        # Features are computed once and serve both losses.
        (examples, labels), (queries, none) = self.see(batch.source), self.see(batch.inputs)
        beside = torch.zeros((), device=examples.device)
        if self.prototypical:
            memory = prototypes(examples, labels, batch.source_mask)
            logits = self.nearness.scores(queries, memory)
            losses = self.objective.losses(logits, batch.targets)
            beside = self.prototypical * masked_mean(losses, batch.target_mask)
        if self._detached():
            examples, queries = examples.detach(), queries.detach()
        logits = self.learner.continuations(
            torch.cat([examples, labels], -1), torch.cat([queries, none], -1), batch.source_mask
        )
        losses = self.objective.losses(logits, batch.targets)
        return masked_mean(losses, batch.target_mask) + beside

    def reorder(self, state: State, index: Tensor, same_source: bool = False) -> State:
        """See :meth:`~memnets.core.EncoderDecoder.reorder`."""
        return self.learner.reorder(state, index, same_source)  # type: ignore[no-any-return]

    def alignments(self) -> dict[str, Addressing]:
        """See :meth:`~memnets.core.EncoderDecoder.alignments`."""
        return self.learner.alignments()


class OnlineState(NamedTuple):
    """State of an :class:`OnlineLearner`.

    Attributes:
        learner: state of the learner.
        last: features of the last vector, whose label comes next, ``[B, F]``.
    """

    learner: Any
    last: Tensor


class OnlineLearner(_Learner[OnlineState]):
    """A model of sequences that learns as it answers: each label comes one step late.

    The setting of Santoro et al. 2016 (section 2): the inputs ``[B, T, I]`` are one sequence. Each
    is a vector with the label of the vector before, and each step answers with the label of its own
    vector. So the model has a loss at each step, and goes on from the state of the step before. The
    source is what comes before the first vector, such as a step of zeros.

    As in the paper, the learner reads an input as it is. A memory must then learn to tell an image
    from the label beside it, which belongs to another one. *In pairs*, the learner takes two steps
    for an input: it reads the vector before once more, now with its label, then the new vector with
    zeros in place of the label, and answers. Its inputs then look like those of a
    :class:`MetaLearner`, and the keys of an image with and without its label start alike.

    The prototypical loss at a step is that of the means of the vectors before it; it counts where
    the class of the step has come before.

    Args:
        input_size: width of a vector and a label together.
        output_size: width of a label, at least 1.
        learner: see :class:`MetaLearner`.
        features: makes the features of a vector from its width; the vector itself by default.
        prototypical: see :class:`MetaLearner`.
        detached_steps: see :class:`MetaLearner`.
        in_pairs: whether the learner reads each vector once more with its label.
        settings: see :class:`~memnets.models.Model`.

    Raises:
        ValueError: as :class:`MetaLearner`.

    Example:
        ``OnlineLearner(64 + 5, 5, partial(MemoryMachine, controller=LSTM, access=LRUA()),
        ImageFeatures, objective=Labels())``
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        learner: Callable[[int, int], EncoderDecoder],
        features: Callable[[int], Features] | None = None,
        prototypical: float = 0.0,
        detached_steps: int = 0,
        in_pairs: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(
            input_size, output_size, learner, features, prototypical, detached_steps, **settings
        )
        self.in_pairs = in_pairs

    def encode(self, source: Tensor, mask: Tensor | None = None) -> OnlineState:
        """State after the steps before the first input, ``[B, S, I]``."""
        self.check_source(source, mask)
        vectors, labels = self.see(source)
        return self._begun(vectors, labels, mask)

    def decode(self, inputs: Tensor, state: OnlineState) -> tuple[Tensor, OnlineState]:
        """Logits ``[B, T, O]`` for inputs ``[B, T, I]``, and the state after the last."""
        return self._continued(*self.see(inputs), state)

    def logits(self, batch: Batch) -> Tensor:
        """See :meth:`~memnets.core.EncoderDecoder.logits`."""
        return self.decode(batch.inputs, self.encode(batch.source, batch.source_mask))[0]

    def loss(self, batch: Batch) -> Tensor:
        """Mean loss of all steps but padding, plus the weighted prototypical loss, a scalar."""
        self.check_source(batch.source, batch.source_mask)
        # Features are computed once and serve both losses.
        (vectors, labels), (before, none) = self.see(batch.inputs), self.see(batch.source)
        beside = torch.zeros((), device=vectors.device)
        if self.prototypical:
            # Each step is a row of its own here: it has means of its own.
            first = _last(before, batch.source_mask)
            means = earlier(torch.cat([first.unsqueeze(1), vectors[:, :-1]], 1), labels)
            logits = self.nearness.scores(vectors.unsqueeze(-2), means)
            logits = logits.squeeze(-2)
            known = logits.gather(-1, batch.targets.unsqueeze(-1)).isfinite()
            losses = self.objective.losses(logits.masked_fill(~known, 0.0), batch.targets)
            counted = known.squeeze(-1)
            if batch.target_mask is not None:
                counted = counted & batch.target_mask
            total = losses.masked_fill(~counted, 0.0).sum()
            beside = self.prototypical * total / counted.sum().clamp_min(1)
        if self._detached():
            vectors, before = vectors.detach(), before.detach()
        state = self._begun(before, none, batch.source_mask)
        logits, _ = self._continued(vectors, labels, state)
        losses = self.objective.losses(logits, batch.targets)
        return masked_mean(losses, batch.target_mask) + beside

    def reorder(self, state: OnlineState, index: Tensor, same_source: bool = False) -> OnlineState:
        """See :meth:`~memnets.core.EncoderDecoder.reorder`."""
        learner = self.learner.reorder(state.learner, index, same_source)
        return OnlineState(learner, functional.rows(state.last, index))

    def _begun(self, vectors: Tensor, labels: Tensor, mask: Tensor | None) -> OnlineState:
        """State after the features ``[B, S, F]`` and labels ``[B, S, O]`` of a source."""
        state = self.learner.encode(torch.cat([vectors, labels], -1), mask)
        return OnlineState(state, _last(vectors, mask))

    def _continued(
        self, vectors: Tensor, labels: Tensor, state: OnlineState
    ) -> tuple[Tensor, OnlineState]:
        """Logits for features ``[B, T, F]`` with the labels of those before, ``[B, T, O]``."""
        last = torch.cat([state.last.unsqueeze(1), vectors], 1)
        asked = torch.cat([vectors, labels], -1)
        if self.in_pairs:
            told = torch.cat([last[:, :-1], labels], -1)
            alone = torch.cat([vectors, torch.zeros_like(labels)], -1)
            asked = torch.stack([told, alone], 2).flatten(1, 2)
        logits, learner = self.learner.decode(asked, state.learner)
        if self.in_pairs:
            logits = logits[:, 1::2]
        return logits, OnlineState(learner, last[:, -1])


def _last(vectors: Tensor, mask: Tensor | None) -> Tensor:
    """The last vector of each sequence that is no padding: ``[B, S, F] -> [B, F]``."""
    if mask is None:
        return vectors[:, -1]
    last = mask.sum(1) - 1
    return vectors[torch.arange(len(vectors), device=last.device), last]


@full_precision
def prototypes(vectors: Tensor, labels: Tensor, mask: Tensor | None) -> Memory:
    """Memory with a slot for each class: the mean of its examples (Snell et al. 2017, equation 1).

    Args:
        vectors: ``[B, S, F]``.
        labels: one-hot, ``[B, S, O]``.
        mask: bool ``[B, S]``, False = padding; ``None`` = no padding.

    Returns:
        A memory of O slots; the slots of classes without an example are masked.
    """
    # With a label of zeros, a padded example belongs to no class.
    if mask is not None:
        labels = labels.masked_fill(~mask.unsqueeze(-1), 0.0)
    count = labels.sum(1)
    means = labels.mT @ vectors / count.clamp_min(1.0).unsqueeze(-1)
    return Memory(means, means, (count > 0).unsqueeze(1))


@full_precision
def earlier(before: Tensor, labels: Tensor) -> Memory:
    """For each step, a memory with a slot for each class: the mean of its vectors so far.

    Args:
        before: the vector before each step, ``[B, T, F]``.
        labels: its label, one-hot, ``[B, T, O]``; zeros = it has none.

    Returns:
        A memory ``[B, T, O, F]`` of the vectors before each step; the slots of classes that have
        not come are masked.
    """
    count = labels.cumsum(1).unsqueeze(-1)
    means = (labels.unsqueeze(-1) * before.unsqueeze(-2)).cumsum(1) / count.clamp_min(1.0)
    return Memory(means, means, (count > 0).mT)
