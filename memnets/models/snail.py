"""SNAIL: convolutions over time to gather, causal attention to pinpoint (Mishra et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from memnets.convolutions import TCBlock
from memnets.core import check_positive
from memnets.layers import AttentionBlock, Embedding
from memnets.models.base import Model
from memnets.models.seq2seq import check_source

__all__ = ["SNAIL", "SNAILState"]


class SNAILState(NamedTuple):
    """State of a :class:`SNAIL` after t steps.

    Attributes:
        blocks: what each block remembers: the last inputs of its convolutions, or t slots.
        mask: bool ``[B, t]``, False = padding.
    """

    blocks: tuple[Any, ...]
    mask: Tensor


class SNAIL(Model[SNAILState]):
    """One causal stack that reads the source and goes on with the answer (Mishra et al. 2018).

    Attention blocks, and a TC block between each two of them, as in the paper's few-shot networks;
    the convolutions tell where a step stands.

    Args:
        input_size: tokens of source and answer, or the width of their vectors, at least 1.
        output_size: tokens of the answer, or the width of its vectors, at least 1.
        width: of the embedding of tokens or vectors; ``None`` = vectors go in as they are.
        max_length: steps of the longest sequence, source and answer together, at least 2.
        attentions: sizes of key and value for each attention block, at least one.
        filters: of each dense block, at least 1.
        kernel_size: of each convolution, at least 1.
        likeness: see :class:`~memnets.layers.AttentionBlock`; learning from few examples is much
            faster with it.
        settings: see :class:`~memnets.models.Model`.

    Raises:
        ValueError: a size is out of its range.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        width: int | None = None,
        max_length: int = 128,
        attentions: Sequence[tuple[int, int]] = ((64, 32), (256, 128), (512, 256)),
        filters: int = 128,
        kernel_size: int = 2,
        likeness: float | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_positive(
            input_size=input_size,
            output_size=output_size,
            filters=filters,
            kernel_size=kernel_size,
        )
        if max_length < 2:
            raise ValueError(f"max_length must be at least 2; got {max_length}")
        if not attentions:
            raise ValueError("attentions must have sizes for at least one block; got none")
        self.input_size = input_size
        self.max_length = max_length
        self.embedding = None if width is None else Embedding(input_size, width)
        size = input_size if width is None else width
        blocks: list[AttentionBlock | TCBlock] = []
        for key_size, value_size in attentions:
            if blocks:
                blocks.append(TCBlock(size, max_length, filters, kernel_size))
                size = blocks[-1].output_size
            blocks.append(AttentionBlock(size, key_size, value_size, likeness))
            size = blocks[-1].output_size
        self.blocks = nn.ModuleList(blocks)
        self.output = nn.Linear(size, output_size)

    def encode(self, source: Tensor, mask: Tensor | None = None) -> SNAILState:
        """Read the source ``[B, S]`` or ``[B, S, I]``.

        Raises:
            ValueError: a shape does not fit, or a source is empty or longer than ``max_length``.
            TypeError: the mask is not boolean.
        """
        check_source(source, mask)
        return self._run(source, None, mask)[1]

    def decode(self, inputs: Tensor, state: SNAILState) -> tuple[Tensor, SNAILState]:
        """Go on: logits ``[B, T, O]`` for inputs ``[B, T]`` or ``[B, T, I]``.

        Raises:
            ValueError: the sequence becomes longer than ``max_length``.
        """
        hidden, state = self._run(inputs, state, None)
        return self.output(hidden), state

    def longest_answer(self, source_steps: int) -> int:
        """See :meth:`~memnets.models.Model.longest_answer`: what ``max_length`` leaves."""
        return max(0, self.max_length - source_steps)

    def alignments(self) -> dict[str, str]:
        """See :meth:`~memnets.models.Model.alignments`: a label for each attention block."""
        return {
            f"attention {number + 1}": f"blocks.{2 * number}.addressing"
            for number in range((len(self.blocks) + 1) // 2)
        }

    def _run(
        self, inputs: Tensor, state: SNAILState | None, mask: Tensor | None
    ) -> tuple[Tensor, SNAILState]:
        """Some steps; ``mask`` is theirs, ``[B, T]``."""
        seen = inputs.new_ones(inputs.shape[:2], dtype=torch.bool) if mask is None else mask
        if state is not None:
            seen = torch.cat([state.mask, seen], 1)
        if (longest := int(seen.sum(1).max())) > self.max_length:
            raise ValueError(
                f"the model is made for at most max_length = {self.max_length} steps of source and "
                f"answer; got a sequence of length {longest}"
            )
        hidden = self._embed(inputs)
        blocks = []
        for index, block in enumerate(self.blocks):
            past = None if state is None else state.blocks[index]
            hidden, past = block(hidden, past, seen if isinstance(block, AttentionBlock) else mask)
            blocks.append(past)
        return hidden, SNAILState(tuple(blocks), seen)

    def _embed(self, inputs: Tensor) -> Tensor:
        """What goes into the first block, ``[B, T, width]``."""
        if self.embedding is not None:
            embedded: Tensor = self.embedding(inputs)
            return embedded
        if not inputs.is_floating_point() or inputs.shape[-1] != self.input_size:
            raise ValueError(
                f"without a width, inputs must be vectors [B, T, {self.input_size}]; "
                f"got {inputs.dtype} {list(inputs.shape)}"
            )
        return inputs
