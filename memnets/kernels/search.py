"""The choice of tokens in a search, a block of tokens at a time.

Twins of :func:`memnets.functional.likeliest` and :func:`memnets.functional.best_tokens`. PyTorch
finds the place of the greatest of many numbers one number after the other, but the greatest number
itself many at once. So the greatest number of each block of tokens comes first, then the best
blocks, and the best tokens are looked for in those alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from memnets import fast, functional
from memnets.kernels.loss import log_sum_exp

__all__ = ["best_tokens", "likeliest"]

#: Tokens in a block.
_BLOCK = 64

#: Least number of scores. With fewer, the operations take more time than is saved.
_LEAST = 1 << 17


def _peaks(scores: Tensor) -> Tensor:
    """Greatest number of each block, ``[*B, O] -> [*B, blocks]``; the last block may be shorter."""
    size = scores.shape[-1]
    even = size - size % _BLOCK
    peaks: Tensor = scores[..., :even].unflatten(-1, (-1, _BLOCK)).amax(-1)
    if even == size:
        return peaks
    return torch.cat([peaks, scores[..., even:].amax(-1, keepdim=True)], -1)


def _tokens(blocks: Tensor, size: int) -> Tensor:
    """All tokens of some blocks, ``[*B, n] -> [*B, n, 64]``; beyond the last token, it again."""
    tokens = blocks.unsqueeze(-1) * _BLOCK + torch.arange(_BLOCK, device=blocks.device)
    return tokens.clamp_max_(size - 1)


def _many(scores: Tensor, *others: object) -> bool:
    many = scores.numel() >= _LEAST and scores.shape[-1] > 2 * _BLOCK
    return many and scores.device.type == "cpu"


@fast.twin(functional.likeliest, fits=_many, any_precision=True, only_values=True)
def likeliest(scores: Tensor) -> Tensor:
    """Place of the greatest number of each row: ``[N, O] -> [N]``."""
    tokens = _tokens(_peaks(scores).argmax(-1), scores.shape[-1])
    place = scores.gather(-1, tokens).argmax(-1, keepdim=True)
    return tokens.gather(-1, place).squeeze(-1)


def _go_together(logits: Tensor, scores: Tensor, count: int) -> bool:
    # What is broadcast or promoted, and errors of shape, are the definition's.
    same = logits.dim() == 3 and logits.shape[:-1] == scores.shape and logits.dtype == scores.dtype
    return same and _many(logits)


@fast.twin(functional.best_tokens, fits=_go_together, only_values=True)
def best_tokens(logits: Tensor, scores: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best continuations of some answers: see :func:`memnets.functional.best_tokens`."""
    size = logits.shape[-1]
    peaks = _peaks(logits)
    whole = log_sum_exp(logits.flatten(0, -2)).view(scores.shape)
    # The best n tokens stand in the n blocks with the greatest peaks.
    offset = scores - whole
    best = (peaks + offset.unsqueeze(-1)).flatten(1)
    best = best.topk(min(count, best.shape[1]), -1).indices
    parent, block = best // peaks.shape[-1], best % peaks.shape[-1]
    tokens = _tokens(block, size)
    places = (parent.unsqueeze(-1) * size + tokens).flatten(1)
    totals = logits.flatten(1).gather(1, places).view_as(tokens)
    totals += offset.gather(1, parent).unsqueeze(-1)
    # The last token stands several times behind the end of the last block, and counts once.
    totals[..., 1:].masked_fill_(tokens[..., 1:] == tokens[..., :-1], -torch.inf)
    total, index = totals.flatten(1).topk(count, -1)
    return total, parent.gather(1, index // _BLOCK), tokens.flatten(1).gather(1, index)
