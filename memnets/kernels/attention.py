"""Addressing by content and its read as one operation of PyTorch.

The twin of :meth:`memnets.addressing.Content.read` for dot-product scores under softmax, also with
positions that turn queries and keys, add to the scores or close slots. With a
fused kernel of PyTorch, the weights of all pairs are never stored, and a memory that grows is not
copied at each step.

The kernels of a GPU read words of 16 bytes. PyTorch chooses that of cuDNN by the sizes, wherever
rows begin, and keeps it for all calls with queries, keys and values of one layout, with the strides
of the first gradient. The gradient of a part of a concatenation has strides of its own, and begins
anywhere: such a step ended with misaligned addresses, and might have read other numbers. So on a
GPU all rows begin at a word, and the gradient comes in the layout of the result.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from memnets import fast
from memnets.addressing import Content
from memnets.cells.positions import Placed
from memnets.checks import check_memory
from memnets.core import Memory, Score
from memnets.normalizers import ScalableSoftmax, Softmax
from memnets.scores import Dot, ScaledDot

__all__ = ["aligned", "fits", "read", "read_placed", "scale"]

#: Bytes of a word, which a kernel of a GPU reads at once.
WORD = 16


def fits(part: Content, query: Tensor, memory: Memory, state: None) -> bool:
    """Whether the twin computes the weights of this addressing."""
    # Exact types: a subclass may compute another score.
    return type(part) is Content and _known(part)


def scale(score: Score, width: int) -> float | None:
    """Factor on ``q . k`` in a score of vectors of a width; ``None`` for scores of other kinds."""
    if type(score) is Dot:
        return 1.0
    return 1 / math.sqrt(width) if type(score) is ScaledDot else None


def _known(part: Content) -> bool:
    return type(part.score) in (Dot, ScaledDot) and (
        type(part.normalizer) in (Softmax, ScalableSoftmax)
    )


@fast.twin(Content, "read", fits=fits, any_precision=True)
def read(part: Content, query: Tensor, memory: Memory, state: None) -> tuple[Tensor, None]:
    """Vectors ``[*B, Q, V]``: see :meth:`memnets.core.Addressing.read`."""
    check_memory(query, memory)
    return _read(part, query, memory, None), None


def _fits_placed(part: Placed, query: Tensor, memory: Memory, state: None) -> bool:
    return _known(part) and not part.positions.weighs


@fast.twin(Placed, "read", fits=_fits_placed, any_precision=True)
def read_placed(part: Placed, query: Tensor, memory: Memory, state: None) -> tuple[Tensor, None]:
    """Vectors ``[*B, Q, V]``: see :meth:`memnets.core.Addressing.read`."""
    return _read(part, *part.placed(query, memory)), None


def _read(part: Content, query: Tensor, memory: Memory, bias: Tensor | None) -> Tensor:
    by = scale(part.score, query.shape[-1])
    assert by is not None
    keys, values, mask = memory
    # Its scores are c log n times the usual ones; the factor can go into the query.
    if isinstance(part.normalizer, ScalableSoftmax):
        count = torch.tensor(keys.shape[-2]) if mask is None else mask.sum(-1, keepdim=True)
        sharpness = part.normalizer.sharpness(count)
        query = query * sharpness
        bias = None if bias is None else bias * sharpness
    empty = None
    if mask is not None:
        # PyTorch's kernels disagree on rows without an open slot. Such a row addresses all slots
        # here; its result is set to zero afterwards, as in functional.masked.
        empty = ~mask.any(-1, keepdim=True)
        mask = mask | empty
    if bias is not None:
        # The kernels know one mask: of bool, or of numbers to add.
        mask = bias if mask is None else bias.masked_fill(~mask, -torch.inf)
        half = query.element_size() == 2 or torch.is_autocast_enabled(query.device.type)
        if half:
            # The kernels take it in 16 bits, which are exact enough near 0 alone. What all slots of
            # a row have in common changes no weight.
            mask = (mask - mask.detach().amax(-1, keepdim=True)).to(query.dtype)
    vectors = _attended(query, keys, values, mask, by)
    return vectors if empty is None else vectors.masked_fill(empty, 0.0)


def _attended(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float
) -> Tensor:
    """Read ``[*B, Q, V]`` by the fastest way, of those that keep little for the backward pass."""
    if mask is not None:
        # The fused kernels take a mask of as many dimensions as the query alone.
        mask = mask.view(*[1] * (query.dim() - mask.dim()), *mask.shape)
    # PyTorch has no fused kernel for values of another width than the keys, and its plain one keeps
    # a scaled copy of the keys. For one query, as in a search, two products may be faster than any.
    plain = keys.shape[-1] != values.shape[-1] or _one_query(query, keys)
    if query.device.type == "cpu" and plain:
        scores = (query * scale) @ keys.mT
        if mask is not None and mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, -torch.inf)
        elif mask is not None:
            scores = scores + mask
        return scores.softmax(-1) @ values
    # The fused kernels take memories with a dimension of heads alone.
    heads = query.dim() == 3
    if heads:
        query, keys, values = query.unsqueeze(1), keys.unsqueeze(1), values.unsqueeze(1)
        mask = None if mask is None else mask.unsqueeze(1)
    # No fused kernel takes rows of other widths.
    words = _by_words(query.device) and not any(
        each.shape[-1] * each.element_size() % WORD for each in (query, values)
    )
    if words:
        query, keys, values = (
            each if aligned(each) else each.clone(memory_format=torch.contiguous_format)
            for each in (query, keys, values)
        )
    vectors = nn.functional.scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, scale=scale
    )
    if words and vectors.requires_grad:
        vectors.register_hook(partial(_laid_out, vectors.stride()))
    return vectors.squeeze(1) if heads else vectors


def _by_words(device: torch.device) -> bool:
    """Whether the kernels there read words; a compiler of graphs lays tensors out itself."""
    return device.type == "cuda" and not torch.compiler.is_compiling()


def aligned(tensor: Tensor) -> bool:
    """Whether each row of ``[*B, W]`` is in one piece that begins at a whole number of words."""
    size = tensor.element_size()
    *steps, within = tensor.stride()
    # The memory that is allocated for a tensor begins so. The step of a single row is never taken.
    taken = [step for count, step in zip(tensor.shape, steps, strict=False) if count > 1]
    return within == 1 and not any(step * size % WORD for step in (tensor.storage_offset(), *taken))


def _laid_out(strides: tuple[int, ...], gradient: Tensor) -> Tensor:
    """A gradient with aligned rows and the strides of the tensor that it is of."""
    if gradient.stride() == strides and aligned(gradient):
        return gradient
    return gradient.new_empty_strided(gradient.shape, strides).copy_(gradient)


def _one_query(query: Tensor, keys: Tensor) -> bool:
    """Whether a query is alone, nothing will be kept for it, and the products are large enough."""
    large = query.shape[-2] == 1 and keys.shape[-1] >= 32 and keys.numel() >= 1 << 17
    # In 16 bits the fused kernels sum in float32.
    whole = query.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
    return large and whole and not torch.is_grad_enabled()
