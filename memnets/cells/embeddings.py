"""Embeddings of tokens and vectors, and the places of their steps."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from memnets.batches import Places
from memnets.cells.dropout import Dropout
from memnets.cells.positions import (
    LearnedPositions,
    Positions,
    SinusoidalPositions,
    Start,
    add_positions,
    added_only,
)
from memnets.checks import check_mask, check_positive

__all__ = [
    "Embedding",
    "Inputs",
    "LearnedPositions",
    "OneHot",
    "Output",
    "Positions",
    "SinusoidalPositions",
    "Vectors",
    "tied_embeddings",
]


class Embedding(nn.Module):
    """A vector for each token, or a linear map of vectors; a token counts as a one-hot vector.

    Args:
        size: number of tokens, or width of the vectors, at least 1.
        width: width of the result, at least 1.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        check_positive(size=size, width=width)
        self.weight = nn.Parameter(torch.randn(size, width) / math.sqrt(width))

    def forward(self, inputs: Tensor) -> Tensor:
        """Tokens ``[*B]`` or vectors ``[*B, size]`` ``-> [*B, width]``.

        Raises:
            TypeError: the inputs are neither real numbers nor tokens, int32 or int64.
            ValueError: a token is out of range, or the vectors have another width.
        """
        size = len(self.weight)
        if not inputs.is_floating_point():
            _check_tokens(inputs, size)
            # PyTorch checks the range itself; a check here would wait for a GPU.
            try:
                return nn.functional.embedding(inputs, self.weight)
            except IndexError as error:
                raise _out_of_range(inputs, size) from error
        if inputs.shape[-1] != size:
            raise ValueError(f"vectors must have width {size}; got {list(inputs.shape)}")
        return inputs @ self.weight


def _check_tokens(inputs: Tensor, size: int) -> None:
    if inputs.dtype not in (torch.int64, torch.int32):
        raise TypeError(
            f"inputs must be real numbers [*B, {size}], or tokens [*B] of int64 or int32; "
            f"got {inputs.dtype} {list(inputs.shape)}"
        )


def _out_of_range(tokens: Tensor, size: int) -> ValueError:
    return ValueError(
        f"tokens must be in [0, {size}); got {tokens.min().item()} to {tokens.max().item()}"
    )


class OneHot(nn.Module):
    """Tokens as one-hot vectors; vectors pass unchanged.

    Args:
        size: number of tokens, or width of the vectors, at least 1.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        check_positive(size=size)
        self.size = size
        self.unit: Tensor
        # A buffer has the model's precision, whatever it is cast to later.
        self.register_buffer("unit", torch.ones(()), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Tokens ``[B, T]`` or vectors ``[B, T, size]`` ``-> [B, T, size]``.

        Raises:
            TypeError: the inputs are neither real numbers nor tokens, int32 or int64.
            ValueError: a token is out of range, or the inputs have another shape.
        """
        if inputs.is_floating_point():
            if inputs.dim() != 3 or inputs.shape[-1] != self.size:
                raise ValueError(
                    f"inputs must be [batch, time, {self.size}]; got {list(inputs.shape)}"
                )
            return inputs
        _check_tokens(inputs, self.size)
        if inputs.dim() != 2:
            raise ValueError(
                "inputs must be tokens [batch, time] of whole numbers, or vectors [batch, time, "
                f"{self.size}] of real numbers; got {inputs.dtype} {list(inputs.shape)}"
            )
        try:
            return nn.functional.one_hot(inputs.long(), self.size).to(self.unit.dtype)
        except RuntimeError as error:  # as in an Embedding; memory may also be short
            if inputs.device.type != "cpu" or ((inputs >= 0) & (inputs < self.size)).all():
                raise
            raise _out_of_range(inputs, self.size) from error


class Vectors(nn.Module):
    """Vectors, passed unchanged; tokens raise an error.

    Args:
        size: width of the vectors, at least 1.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        check_positive(size=size)
        self.size = size

    def forward(self, inputs: Tensor) -> Tensor:
        """``[B, T, size] -> [B, T, size]``.

        Raises:
            ValueError: the inputs are tokens, or vectors of another width.
        """
        if not inputs.is_floating_point() or inputs.shape[-1] != self.size:
            raise ValueError(
                f"without a width, inputs must be vectors [B, T, {self.size}]; "
                f"got {inputs.dtype} {list(inputs.shape)}"
            )
        return inputs


class Inputs(nn.Module):
    """Inputs of a model as vectors: embeddings of source and answer, with positions.

    Args:
        source: embeds inputs of the source, ``[B, S]`` or ``[B, S, I]``; ``None`` if another part
            does.
        answer: embeds inputs while the model answers, ``[B, T]`` or ``[B, T, I]``; it may be the
            same module.
        positions: a scheme that has vectors to add for the places of the steps; ``None`` = nothing
            is added.
        dropout: dropout on the embedding, or on its sum with the position, in ``[0, 1)``.

    Attributes:
        max_length: number of positions; ``None`` = no limit.
    """

    def __init__(
        self,
        source: nn.Module | None,
        answer: nn.Module,
        positions: Positions | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        positions = added_only(positions, "others are given to the attention")
        self.answer = answer
        self.source = source
        self.positions = positions
        self.max_length = None if positions is None else positions.max_length
        self.dropout = Dropout(dropout)

    @property
    def coupled(self) -> bool:
        """Whether the positions need the places that a task gives."""
        return self.positions is not None and self.positions.coupled

    def start(self, source: Tensor, places: Places | None = None) -> Start | None:
        """Facts of the start of sequences that the positions need; see :meth:`Positions.start`."""
        return None if self.positions is None else self.positions.start(source, places)

    def forward(
        self,
        inputs: Tensor,
        taken: Tensor,
        mask: Tensor | None = None,
        source: bool = False,
        start: Start | None = None,
    ) -> Tensor:
        """Vectors of T steps.

        Args:
            inputs: ``[B, T]`` or ``[B, T, I]``.
            taken: steps that each sequence has taken before, int64 ``[B]``.
            mask: bool ``[B, T]``, False = padding, which takes no position; ``None`` = no padding.
            source: whether the inputs belong to the source, not to the answer.
            start: what :meth:`start` gave; ``None`` = nothing.

        Returns:
            ``[B, T, width]``.

        Raises:
            ValueError: a shape does not fit, or a position is not below ``max_length``.
            TypeError: the mask is not boolean, or the inputs have a type that no embedding takes.
        """
        embedding = self.source if source else self.answer
        assert embedding is not None
        vectors: Tensor = embedding(inputs)
        if vectors.dim() != 3:
            raise ValueError(
                "inputs must be tokens [batch, time] of whole numbers, or vectors [batch, time, "
                f"width] of real numbers; got {inputs.dtype} {list(inputs.shape)}"
            )
        check_mask(mask, vectors.shape)
        if self.positions is None:
            kept: Tensor = self.dropout(vectors)
            return kept
        if mask is None:
            order = torch.arange(inputs.shape[1], device=inputs.device)
        else:
            order = (mask.cumsum(1) - 1).clamp_min(0)
        # Embeddings have a length of about 1. Scaled by sqrt(width), they are as large as the
        # positions (Vaswani et al. 2017, section 3.4).
        scaled = vectors * math.sqrt(vectors.shape[-1])
        places = self.positions.along(taken.unsqueeze(1) + order, start, source)
        placed: Tensor = self.dropout(add_positions(scaled, self.positions, places))
        return placed


class Output(nn.Module):
    """Logits ``W h + b``; W is the embedding of the answer's tokens or a matrix of its own.

    Args:
        width: width of h, at least 1.
        size: number of logits, at least 1.
        embedding: the embedding to share the matrix with (Press & Wolf 2017); ``None`` = a matrix
            of its own.
    """

    def __init__(self, width: int, size: int, embedding: Embedding | None = None) -> None:
        super().__init__()
        check_positive(width=width, size=size)
        self.bias = nn.Parameter(torch.zeros(size))
        self.own = nn.Linear(width, size, bias=False) if embedding is None else None
        self.embedding = embedding

    def forward(self, hidden: Tensor) -> Tensor:
        """``[*B, width] -> [*B, size]``."""
        matrix = self.own if self.embedding is None else self.embedding
        assert matrix is not None
        # An embedding of any class shares its matrix: it is one of tokens, not of h.
        if isinstance(matrix, Embedding) or type(matrix) is nn.Linear:
            return nn.functional.linear(hidden, matrix.weight, self.bias)
        # A network that a user has put in the place of the layer.
        logits: Tensor = matrix(hidden)
        return logits + self.bias


def tied_embeddings(
    input_size: int, output_size: int, width: int, tied: bool, labels: bool = False
) -> tuple[Embedding, Embedding]:
    """Make embeddings of source and answer; one for both if they are tied and of equal size.

    Args:
        input_size: tokens of the source, or the width of its vectors, at least 1.
        output_size: tokens of the answer, or the width of its vectors, at least 1.
        width: width of the embeddings, at least 1.
        tied: whether source and answer share an embedding if both sizes are equal.
        labels: whether the inputs of an answer are tokens of the source, and not of the answer,
            which is a label: then they share an embedding in any case.

    Returns:
        The embedding of the source and that of the answer's inputs.
    """
    check_positive(input_size=input_size, output_size=output_size, width=width)
    if labels:
        both = Embedding(input_size, width)
        return both, both
    answer = Embedding(output_size, width)
    return (answer if tied and input_size == output_size else Embedding(input_size, width)), answer
