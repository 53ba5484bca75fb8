"""SNAIL: convolutions over time and causal attention in turn (Mishra et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from memnets.cells.attention import AttentionBlock
from memnets.cells.composed import Chain, kept
from memnets.cells.convolutions import TCBlock
from memnets.cells.dropout import Dropout
from memnets.cells.embeddings import Embedding, Inputs, Output, Vectors
from memnets.cells.positions import Positions, split_positions
from memnets.checks import check_positive, check_source
from memnets.core import Addressing, Cell
from memnets.models.sequence import SequenceModel

__all__ = ["SNAIL"]


class SNAIL(SequenceModel):
    """SNAIL: attention blocks with a block of temporal convolutions between each two of them.

    The few-shot network of Mishra et al. 2018. The convolutions tell the attention the order of the
    steps.

    Args:
        input_size: tokens of source and answer, or the width of their vectors, at least 1.
        output_size: tokens of the answer, or the width of its vectors, at least 1.
        width: width of the embedding of tokens or vectors; ``None`` = vectors without an embedding.
        max_length: most steps of a sequence, source and answer together, at least 2.
        attentions: sizes of key and value for each attention block, at least one pair.
        filters: number of filters of each dense block, at least 1.
        kernel_size: number of inputs of each convolution, at least 1.
        likeness: see :class:`~memnets.cells.AttentionBlock`; it makes few-shot learning much
            faster.
        dropout: dropout on embeddings and before the logits, in ``[0, 1)``.
        tied: whether tokens have one embedding as inputs and outputs; a linear layer then maps the
            last block's outputs to its width.
        positions: how the attention blocks learn the places of steps, beside the convolutions;
            ``None``, as in the paper, for nothing more.
        settings: see :class:`~memnets.models.Model`.

    Raises:
        ValueError: a size is out of its range; the positions do not fit; or ``tied`` without an
            embedding, or with source and answer of different sizes.
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
        dropout: float = 0.0,
        tied: bool = False,
        positions: Positions | None = None,
        **settings: Any,
    ) -> None:
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
        if tied and (width is None or input_size != output_size):
            raise ValueError(
                "tied needs a width, and as many tokens in the source as in the answer; got "
                f"width={width}, input_size={input_size} and output_size={output_size}"
            )
        added, within = split_positions(positions)
        embedding = Vectors(input_size) if width is None else Embedding(input_size, width)
        # Each block appends its output to its input, so the width grows from block to block.
        size = first_size = input_size if width is None else width
        blocks: list[Cell] = []
        for key_size, value_size in attentions:
            if blocks:
                blocks.append(TCBlock(size, max_length, filters, kernel_size))
                size = blocks[-1].output_size
            blocks.append(AttentionBlock(size, key_size, value_size, likeness, within))
            size = blocks[-1].output_size
        body = Chain(first_size, [kept(block) for block in blocks])
        output: nn.Module
        if tied:
            assert isinstance(embedding, Embedding)
            logits = Output(embedding.weight.shape[1], output_size, embedding)
            output = nn.Sequential(
                nn.Linear(size, embedding.weight.shape[1]), Dropout(dropout), logits
            )
        else:
            output = nn.Linear(size, output_size)
            if dropout:
                output = nn.Sequential(Dropout(dropout), output)
        inputs = Inputs(embedding, embedding, added, dropout)
        super().__init__(inputs, body, output, max_length=max_length, **settings)
        self.input_size = input_size

    def check_source(self, source: Tensor, mask: Tensor | None) -> None:
        """See :meth:`~memnets.training.Model.check_source`."""
        check_source(source, mask)

    def alignments(self) -> dict[str, Addressing]:
        """See :meth:`~memnets.core.EncoderDecoder.alignments`: a label for each attention block."""
        blocks = (cell for cell in self.body.modules() if isinstance(cell, AttentionBlock))
        return {f"attention {n + 1}": block.addressing for n, block in enumerate(blocks)}
