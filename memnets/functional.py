"""Pure tensor algebra of memory: one function an equation, no state, no parameters.

Shapes: ``*B`` any leading dimensions, ``Q`` queries (or heads), ``N`` slots, ``W`` slot width,
``S`` shift kernel. Weights are ``[*B, Q, N]`` with rows that are non-negative and sum to at most 1.

Equations that need more precision or range than 16 bits have are computed in float32 and return
float32 under autocast. Their arguments may be of several types.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from memnets import fast
from memnets.precision import full_precision

__all__ = [
    "Sparse",
    "additive_scores",
    "allocation",
    "append",
    "backward_weighting",
    "best_tokens",
    "cosine_similarity",
    "cross_entropy",
    "dense",
    "doubly_stochastic_penalty",
    "entmax15",
    "erase_add",
    "forward_weighting",
    "greatest",
    "harden",
    "inside",
    "interpolate",
    "least_recent",
    "least_used",
    "likeliest",
    "link",
    "masked",
    "move",
    "popped",
    "precedence",
    "push_pop",
    "read",
    "read_weighting",
    "retention",
    "rows",
    "sharpen",
    "shift",
    "softmax",
    "sparse",
    "sparsemax",
    "topmost",
    "usage",
    "write_weighting",
]


#: Share of the greatest weight by which another one may be less and still count as equal, where one
#: slot is chosen.
TIE = 1e-3

# -- from scores to weights -----------------------------------------------------------------------


def softmax(scores: Tensor) -> Tensor:
    """Softmax over the last dimension: ``exp(s_i) / sum_j exp(s_j)``.

    Args:
        scores: ``[..., N]``; ``-inf`` gets weight 0 as long as one entry of the row is finite.

    Returns:
        ``[..., N]``, rows on the simplex.
    """
    return scores.softmax(-1)


@full_precision
def sparsemax(scores: Tensor) -> Tensor:
    """Euclidean projection of the scores on the simplex: most weights are exactly 0.

    Martins & Astudillo 2016, "From Softmax to Sparsemax", algorithm 1.

    Args:
        scores: ``[..., N]``; ``-inf`` gets weight 0 as long as one entry of the row is finite.

    Returns:
        ``[..., N]``, rows on the simplex.
    """
    # The threshold is at least max - 1, so lower scores have weight 0 and may be clamped: no
    # infinity is left that a cumulative sum could turn into NaN.
    shifted = (scores - scores.amax(-1, keepdim=True).detach()).clamp_min(-2.0)
    ordered = shifted.sort(-1, descending=True).values
    rank = torch.arange(1, scores.shape[-1] + 1, dtype=shifted.dtype, device=scores.device)
    total = ordered.cumsum(-1)
    # Comparisons with NaN are False, so a row with NaN or +inf has no support. One slot keeps the
    # index below valid, and the row becomes NaN.
    support = (1 + rank * ordered > total).sum(-1, keepdim=True).clamp_min(1)
    threshold = (total.gather(-1, support - 1) - 1) / support
    return (shifted - threshold).clamp_min(0.0)


class _Entmax15(torch.autograd.Function):
    """1.5-entmax with a gradient of its own.

    The gradient follows from the weights alone. Through the sort it would pass roots of 0, whose
    slope is infinite.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(scores: Tensor) -> Tensor:
        # Algorithm 2 works on scores / 2. One more than 1 below the largest has weight 0, so the
        # clamp changes no weight and removes infinities.
        half = scores / 2
        half = (half - half.amax(-1, keepdim=True)).clamp_min(-2.0)
        ordered = half.sort(-1, descending=True).values
        rank = torch.arange(1, scores.shape[-1] + 1, dtype=half.dtype, device=scores.device)
        mean = ordered.cumsum(-1) / rank
        mean_of_squares = ordered.square().cumsum(-1) / rank
        deviation = rank * (mean_of_squares - mean.square())
        threshold = mean - ((1 - deviation) / rank).clamp_min(0.0).sqrt()
        # As in sparsemax, a row with NaN becomes NaN.
        support = (threshold <= ordered).sum(-1, keepdim=True).clamp_min(1)
        weights = (half - threshold.gather(-1, support - 1)).clamp_min(0.0).square()
        # The root above loses digits where its argument is near 0: the division restores the sum.
        return weights / weights.sum(-1, keepdim=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def _product(ctx: Any, direction: Tensor) -> Tensor:
        """Product of the Jacobian, which is symmetric, and a direction."""
        weights: Tensor = ctx.saved_tensors[0]
        # The root of 0 has no derivative: a second derivative would be NaN there.
        outside = weights == 0
        root = weights.masked_fill(outside, 1.0).sqrt().masked_fill(outside, 0.0)
        scaled = direction * root
        mean = scaled.sum(-1, keepdim=True) / root.sum(-1, keepdim=True)
        return scaled - mean * root

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Entmax15._product(ctx, gradient)


class _ForwardEntmax15(_Entmax15):
    """The same in forward mode too, which ``torch.compile`` does not take."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return _Entmax15._product(ctx, tangent)


@full_precision
def entmax15(scores: Tensor) -> Tensor:
    """1.5-entmax, halfway between softmax and sparsemax: sparse, with a smooth boundary.

    Peters, Niculae & Martins 2019, "Sparse Sequence-to-Sequence Models", algorithm 2.

    Args:
        scores: ``[..., N]``; ``-inf`` gets weight 0 as long as one entry of the row is finite.

    Returns:
        ``[..., N]``, rows on the simplex.
    """
    function = _Entmax15 if torch.compiler.is_compiling() else _ForwardEntmax15
    weights: Tensor = function.apply(scores)  # type: ignore[no-untyped-call]
    return weights


def masked(
    scores: Tensor, mask: Tensor | None, normalize: Callable[[Tensor], Tensor] = softmax
) -> Tensor:
    """Weights of the slots that may be addressed: *the* rule for masks, used by every part.

    A masked slot has weight exactly 0 and gets no gradient. A row without an open slot is all
    zeros, and so is its gradient; there is never a NaN.

    Args:
        scores: ``[*B, Q, N]``.
        mask: bool, broadcasts to ``scores``; True = may be addressed. ``None``: every slot may.
        normalize: a function from scores to rows on the simplex, which gives ``-inf`` weight 0.

    Returns:
        ``[*B, Q, N]``, rows that sum to 1, or to 0 in rows without an open slot.
    """
    # A row of no slots has none that is the greatest, which most others than softmax look for.
    if scores.shape[-1] == 0:
        return softmax(scores)
    if mask is None:
        return normalize(scores)
    # A row of ``-inf`` alone would be NaN, and so would its gradient, even where it is replaced
    # afterwards. A row without an open slot therefore keeps its scores until the last line.
    empty = ~mask.any(-1, keepdim=True)
    weights = normalize(scores.masked_fill(~(mask | empty), -torch.inf))
    return inside(weights, mask)


def inside(values: Tensor, mask: Tensor | None) -> Tensor:
    """Values where the mask is True, exact zeros elsewhere, whatever stood there; ``None`` = all.

    Args:
        values: of any shape.
        mask: bool, broadcasts to ``values``.
    """
    # A product with the mask would keep NaN and infinities.
    return values if mask is None else values.masked_fill(~mask, 0)


class Sparse(NamedTuple):
    """Weights that lie on few slots of many.

    Attributes:
        index: numbers of the slots, ``[*B, Q, k]``, in a row no two alike.
        weight: the weight of each, ``[*B, Q, k]``; all other slots have weight 0.
    """

    index: Tensor  # type: ignore[assignment]  # a tuple has a method of this name
    weight: Tensor


def greatest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The greatest numbers of each row and their places, the greatest first.

    Of equal numbers the first in the row comes first. ``torch.topk`` promises no order.

    Args:
        scores: ``[..., N]``.
        count: k, at most N.

    Returns:
        Numbers and places, both ``[..., k]``.
    """
    values, places = scores.sort(dim=-1, descending=True, stable=True)
    return values[..., :count], places[..., :count]


def sparse(weights: Tensor, count: int) -> Sparse:
    """The ``count`` greatest weights of each row, ``[*B, Q, N]``, as :class:`Sparse` weights."""
    weight, index = greatest(weights, count)
    return Sparse(index, weight)


def dense(weights: Sparse, slots: int) -> Tensor:
    """:class:`Sparse` weights over all of N slots, ``[*B, Q, N]``."""
    index, weight = weights
    return weight.new_zeros(*index.shape[:-1], slots).scatter(-1, index, weight)


# -- scores ---------------------------------------------------------------------------------------


@full_precision
def cosine_similarity(query: Tensor, keys: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Cosine of the angle between each query and each key (Graves et al. 2014, equation 6).

    Args:
        query: ``[*B, Q, W]``.
        keys: ``[*B, N, W]``.
        epsilon: added to each squared length, inside the root; it keeps the gradient of a zero row
            finite (as in DeepMind's DNC).

    Returns:
        ``[*B, Q, N]`` in ``[-1, 1]``.
    """
    query_length = (query.square().sum(-1, keepdim=True) + epsilon).rsqrt()
    key_length = (keys.square().sum(-1) + epsilon).rsqrt()
    # The scores are scaled, not the keys: scaled keys would be a copy of the whole memory.
    return (query * query_length) @ keys.mT * key_length.unsqueeze(-2)


def additive_scores(query: Tensor, keys: Tensor, direction: Tensor) -> Tensor:
    """``v . tanh(q + k)`` of all pairs (Bahdanau et al. 2015, section A.1.2), q and k projected.

    Args:
        query: ``[*B, Q, K]``.
        keys: ``[*B, N, K]``.
        direction: v, ``[K]``.

    Returns:
        ``[*B, Q, N]``.
    """
    twin = fast.find(additive_scores, "", query, keys, direction)
    if twin is not None:
        scores: Tensor = twin(query, keys, direction)
        return scores
    return torch.tanh(query.unsqueeze(-2) + keys.unsqueeze(-3)) @ direction


# -- addressing by location -----------------------------------------------------------------------


@full_precision
def interpolate(content: Tensor, previous: Tensor, gate: Tensor) -> Tensor:
    """``g_t w^c_t + (1 - g_t) w_{t-1}`` (Graves et al. 2014, equation 7).

    Args:
        content: weights by content, ``[*B, Q, N]``.
        previous: weights of the last step, ``[*B, Q, N]``.
        gate: g_t in ``[0, 1]``, ``[*B, Q, 1]``; 0 keeps ``previous``, 1 ignores it.

    Returns:
        ``[*B, Q, N]``.
    """
    return torch.lerp(previous, content, gate)


@full_precision
def shift(weights: Tensor, kernel: Tensor) -> Tensor:
    """Circular convolution ``w(i) <- sum_j w(i - j) s(j)`` (Graves et al. 2014, equation 8).

    Args:
        weights: ``[*B, Q, N]``.
        kernel: s_t, ``[*B, Q, S]``, rows on the simplex, S odd and at most N. Entry ``j`` is the
            weight of a move by ``j - S // 2`` slots: for S = 3 one back, stay, one forward.

    Returns:
        ``[*B, Q, N]`` of the same mass.

    Raises:
        ValueError: S is even or greater than N.
    """
    slots, size = weights.shape[-1], kernel.shape[-1]
    if size % 2 == 0 or size > slots:
        raise ValueError(
            f"a shift kernel needs an odd size of at most the number of slots; "
            f"got size {size} for {slots} slots"
        )
    # A kernel of one entry is all 1; the product carries its gradient.
    if size == 1:
        return weights * kernel
    reach = size // 2
    # The circle is cut open: the last slots stand before the first ones, and the reverse.
    padded = torch.cat([weights[..., -reach:], weights, weights[..., :reach]], -1)
    # Window i holds w(i - reach) ... w(i + reach): against the kernel it runs backwards.
    return (padded.unfold(-1, size, 1) @ kernel.flip(-1).unsqueeze(-1)).squeeze(-1)


@full_precision
def sharpen(weights: Tensor, sharpness: Tensor, mask: Tensor | None = None) -> Tensor:
    """``w(i)^gamma / sum_j w(j)^gamma`` (Graves et al. 2014, equation 9).

    Computed as a softmax of ``gamma log w``: a plain power underflows (128 equal weights at
    gamma = 30 are all 0, and their gradient with them).

    Args:
        weights: ``[*B, Q, N]``.
        sharpness: gamma_t >= 1, ``[*B, Q, 1]``; 1 changes nothing.
        mask: bool, broadcasts to ``weights``; True = may be addressed.

    Returns:
        ``[*B, Q, N]``, rows that sum to 1, or to 0 in rows without an open slot.
    """
    tiny = torch.finfo(weights.dtype).tiny
    # Behind a mask all the mass may lie on closed slots. The clamp stops the gradient there; the
    # sum would give one of 1 / tiny.
    logarithm = (weights + tiny if mask is None else weights.clamp_min(tiny)).log()
    return masked(sharpness * logarithm, mask)


# -- addressing by usage --------------------------------------------------------------------------


@full_precision
def retention(weights: Tensor, free_gates: Tensor) -> Tensor:
    """Share of each slot that is not freed: ``psi_t = prod_i (1 - f_t^i w_{t-1}^{r,i})``.

    This function and the next three are from Graves et al. 2016, Methods, "Dynamic memory
    allocation".

    Args:
        weights: weights of the read heads in the last step, ``[*B, H, N]``.
        free_gates: f_t in ``[0, 1]``, ``[*B, H, 1]``.

    Returns:
        ``[*B, N]`` in ``[0, 1]``.
    """
    return (1 - free_gates * weights).prod(-2)


def usage(previous: Tensor, written: Tensor, retention: Tensor) -> Tensor:
    """Usage of each slot: ``u_t = (u_{t-1} + w_{t-1}^w - u_{t-1} w_{t-1}^w) psi_t``.

    Args:
        previous: u_{t-1} in ``[0, 1]``, ``[*B, N]``.
        written: weights of the write head in the last step, ``[*B, N]``.
        retention: psi_t in ``[0, 1]``, ``[*B, N]``.

    Returns:
        ``[*B, N]`` in ``[0, 1]``.
    """
    # In this form rounding cannot lift a usage above 1.
    return (previous + (1 - previous) * written) * retention


@full_precision
def allocation(usage: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Weights of free slots: ``a_t(phi_j) = (1 - u_t(phi_j)) prod_{i < j} u_t(phi_i)``.

    The slots phi are in order of usage, least first; slots of equal usage keep their order. The
    order has no gradient.

    Args:
        usage: u_t in ``[0, 1]``, ``[..., N]``.
        epsilon: least usage of a slot: u is ``epsilon + (1 - epsilon) u_t``, which keeps the
            gradient of the product finite (as in DeepMind's DNC).

    Returns:
        ``[..., N]``, >= 0; a row sums to ``1 - prod_i u(i)``.
    """
    # Stable, since slots of equal usage are common: at the start all are 0.
    ordered, order = usage.sort(dim=-1, stable=True)
    # From 1 - u, so that a slot of usage 1 has weight exactly 0.
    free = (1 - epsilon) * (1 - ordered)
    product = (1 - free).cumprod(-1)
    before = torch.cat([torch.ones_like(product[..., :1]), product[..., :-1]], -1)
    return torch.zeros_like(free).scatter(-1, order, free * before)


def write_weighting(
    content: Tensor, allocation: Tensor, allocation_gate: Tensor, write_gate: Tensor
) -> Tensor:
    """Weights of the DNC's write head: ``w_t^w = g_t^w (g_t^a a_t + (1 - g_t^a) c_t^w)``.

    Args:
        content: c_t, weights by content, ``[*B, Q, N]``.
        allocation: a_t, ``[*B, Q, N]``.
        allocation_gate: g_t^a in ``[0, 1]``, ``[*B, Q, 1]``.
        write_gate: g_t^w in ``[0, 1]``, ``[*B, Q, 1]``; 0 writes nothing.

    Returns:
        ``[*B, Q, N]``.
    """
    return write_gate * interpolate(allocation, content, allocation_gate)


def decayed_usage(previous: Tensor, read: Tensor, written: Tensor, decay: float) -> Tensor:
    """Usage that decays: ``w_t^u = gamma w_{t-1}^u + w_t^r + w_t^w``, summed over all heads.

    Santoro et al. 2016, equation 5.

    Args:
        previous: w_{t-1}^u >= 0, ``[*B, N]``.
        read: w_t^r, ``[*B, H, N]``.
        written: w_t^w, ``[*B, H, N]``.
        decay: gamma in ``[0, 1]``.

    Returns:
        ``[*B, N]``, >= 0.
    """
    return decay * previous + (read + written).sum(-2)


def least_used(usage: Tensor, count: int) -> Tensor:
    """Weights on the slots used least, one slot a row: ``w^lu`` (Santoro et al. 2016, equation 6).

    Args:
        usage: w^u, ``[*B, N]``.
        count: n, the number of slots, at most N.

    Returns:
        ``[*B, count, N]``, one-hot rows, least used first; slots of equal usage keep their order.
        There is no gradient.
    """
    order = usage.argsort(dim=-1, stable=True)[..., :count]
    rows = usage.new_zeros(*order.shape, usage.shape[-1])
    return rows.scatter(-1, order.unsqueeze(-1), 1.0)


def least_recent(accessed: Tensor, count: int) -> Tensor:
    """The slots that were accessed the longest time ago (Rae et al. 2016, section 3.2).

    Args:
        accessed: the time of the last access of each slot, ``[*B, N]``.
        count: n, the number of slots, at most N.

    Returns:
        Numbers of slots, ``[*B, n]``, the longest ago first; slots of equal time keep their order.
    """
    return accessed.argsort(dim=-1, stable=True)[..., :count]


# -- addressing by the order of writing -----------------------------------------------------------


def precedence(previous: Tensor, written: Tensor) -> Tensor:
    """Degree to which each slot was written last: ``p_t = (1 - sum_i w_t^w(i)) p_{t-1} + w_t^w``.

    This function and the next four are from Graves et al. 2016, Methods, "Temporal memory linkage".

    Args:
        previous: p_{t-1}, ``[*B, N]``, which sums to at most 1.
        written: weights of the write head, ``[*B, N]``.

    Returns:
        ``[*B, N]``, which sums to at most 1.
    """
    return (1 - written.sum(-1, keepdim=True)) * previous + written


def link(previous: Tensor, precedence: Tensor, written: Tensor) -> Tensor:
    """Links: the degree to which slot i was written right after slot j.

    ``L_t(i, j) = (1 - w_t^w(i) - w_t^w(j)) L_{t-1}(i, j) + w_t^w(i) p_{t-1}(j)``, and 0 for i = j.

    Args:
        previous: L_{t-1}, ``[*B, N, N]``, with rows and columns that sum to at most 1.
        precedence: p_{t-1}, ``[*B, N]``.
        written: weights of the write head, ``[*B, N]``.

    Returns:
        ``[*B, N, N]``, with rows and columns that sum to at most 1.
    """
    row, column = written.unsqueeze(-1), written.unsqueeze(-2)
    linked = (1 - row - column) * previous + row * precedence.unsqueeze(-2)
    # A slot never follows itself: both terms above would add to the diagonal.
    itself = torch.eye(written.shape[-1], dtype=torch.bool, device=written.device)
    return linked.masked_fill(itself, 0.0)


@full_precision
def forward_weighting(link: Tensor, weights: Tensor) -> Tensor:
    """Weights one step forward in the order of writing: ``f_t = L_t w_{t-1}^r``.

    Args:
        link: L_t, ``[*B, N, N]``.
        weights: weights of the read heads in the last step, ``[*B, Q, N]``.

    Returns:
        ``[*B, Q, N]``, rows that sum to at most 1.
    """
    return weights @ link.mT


@full_precision
def backward_weighting(link: Tensor, weights: Tensor) -> Tensor:
    """Weights one step back in the order of writing: ``b_t = L_t^T w_{t-1}^r``.

    Args:
        link: L_t, ``[*B, N, N]``.
        weights: weights of the read heads in the last step, ``[*B, Q, N]``.

    Returns:
        ``[*B, Q, N]``, rows that sum to at most 1.
    """
    return weights @ link


def read_weighting(backward: Tensor, content: Tensor, forward: Tensor, modes: Tensor) -> Tensor:
    """Weights of the DNC's read heads: ``w_t^r = pi_t(1) b_t + pi_t(2) c_t^r + pi_t(3) f_t``.

    Args:
        backward: b_t, ``[*B, Q, N]``.
        content: c_t, weights by content, ``[*B, Q, N]``.
        forward: f_t, ``[*B, Q, N]``.
        modes: pi_t, ``[*B, Q, 3]``, rows on the simplex.

    Returns:
        ``[*B, Q, N]``.
    """
    back, by_content, on = modes.unsqueeze(-1).unbind(-2)
    return back * backward + by_content * content + on * forward


# -- reading and writing --------------------------------------------------------------------------


def read(weights: Tensor, values: Tensor) -> Tensor:
    """``r = sum_i w(i) M(i)`` (Graves et al. 2014, equation 2): a convex combination of the values.

    Args:
        weights: ``[*B, Q, N]``.
        values: ``[*B, N, V]``.

    Returns:
        ``[*B, Q, V]``.
    """
    return weights @ values


@full_precision
def doubly_stochastic_penalty(
    weights: Tensor, steps: Tensor | None = None, slots: Tensor | None = None
) -> Tensor:
    """Penalty on weights that leave out slots: ``sum_i (1 - sum_t w_t(i))^2``.

    The second term of equation 14 of Xu et al. 2015, without its factor lambda.

    Args:
        weights: ``[B, T, N]``.
        steps: bool ``[B, T]``, False = padding, which does not count; ``None`` = no padding.
        slots: bool ``[B, 1, N]``, False = a slot that does not count; ``None`` = all count.

    Returns:
        ``[B]``, at least 0.
    """
    if steps is not None:
        weights = weights.masked_fill(~steps.unsqueeze(-1), 0.0)
    missing = (1 - weights.sum(-2)).square()
    if slots is not None:
        missing = missing.masked_fill(~slots.squeeze(-2), 0.0)
    return missing.sum(-1)


@full_precision
def erase_add(memory: Tensor, weights: Tensor, erase: Tensor, add: Tensor) -> Tensor:
    """Write with several heads at once (Graves et al. 2014, equations 3 and 4).

    ``M(i) <- M(i) prod_h (1 - w_h(i) e_h) + sum_h w_h(i) a_h``: every head erases before any head
    adds, so the order of the heads does not matter (section 3.2).

    Args:
        memory: ``[*B, N, W]``.
        weights: ``[*B, H, N]``.
        erase: e_t in ``[0, 1]``, ``[*B, H, W]``.
        add: a_t, ``[*B, H, W]``.

    Returns:
        ``[*B, N, W]``; slots of weight 0 keep their bits.
    """
    # One head needs no product over heads, which would make [*B, H, N, W].
    if weights.shape[-2] == 1:
        erased = weights.mT * erase
        kept = torch.addcmul(memory, memory, erased, value=-1.0)
    else:
        kept = memory * (1 - weights.unsqueeze(-1) * erase.unsqueeze(-2)).prod(-3)
    return kept + weights.mT @ add


@full_precision
def empty_add(memory: Tensor, emptied: Tensor, weights: Tensor, add: Tensor) -> Tensor:
    """Empty slots, then write with several heads at once (Santoro et al. 2016, equation 8).

    ``M(i) <- M(i) (1 - sum_h e_h(i)) + sum_h w_h(i) a_h``.

    Args:
        memory: ``[*B, N, W]``.
        emptied: e, ``[*B, H, N]``, one-hot rows, no two alike.
        weights: ``[*B, H, N]``.
        add: a, ``[*B, H, W]``.

    Returns:
        ``[*B, N, W]``; slots that are neither emptied nor written keep their bits.
    """
    return memory * (1 - emptied.sum(-2).unsqueeze(-1)) + weights.mT @ add


@full_precision
def push_pop(stack: Tensor, actions: Tensor, pushed: Tensor, empty: Tensor) -> Tensor:
    """Push onto a stack, pop it and keep it, each to a degree (Joulin & Mikolov 2015, section 3).

    ``s(0) <- a_push v + a_pop s(1) + a_keep s(0)``, and below the top
    ``s(i) <- a_push s(i-1) + a_pop s(i+1) + a_keep s(i)``.

    Args:
        stack: s, top first, ``[*B, N, W]``.
        actions: degrees of push, pop and keep for each number of an element, which sum to 1,
            ``[*B, 3, W]``.
        pushed: v, ``[*B, W]``.
        empty: what lies under the lowest element, ``[W]``.

    Returns:
        ``[*B, N, W]``; the lowest element is lost as far as the stack is pushed.
    """
    below = empty.expand(*stack.shape[:-2], 1, -1)
    after_push = torch.cat([pushed.unsqueeze(-2), stack[..., :-1, :]], -2)
    after_pop = torch.cat([stack[..., 1:, :], below], -2)
    push, pop, keep = actions.unsqueeze(-2).unbind(-3)
    return push * after_push + pop * after_pop + keep * stack


@full_precision
def move(tape: Tensor, moves: Tensor, jump: Tensor | None = None) -> Tensor:
    """Move a tape under its head, left, right and not at all, each to a degree.

    The tape is a circle, and the head is on slot 0. With degrees l, r and s of the head's moves,
    ``m(i) <- l m(i - 1) + r m(i + 1) + s m(i)``. With jumps there are two terms more,
    ``m(i - n)`` and ``m(i + n)`` (the Tape-RNN of Deletang et al. 2023).

    Args:
        tape: m, ``[B, N, W]``.
        moves: degrees of the moves left, right and stay, and of the jumps left and right, for each
            number of a slot, ``[B, 3 or 5, W]``; they sum to 1.
        jump: n, int64 ``[B]``, of at least 0; ``None`` = the moves have no jumps.

    Returns:
        ``[B, N, W]``.

    Raises:
        ValueError: there are degrees of jumps and no length of them, or the other way round.
    """
    degrees = 3 if jump is None else 5
    if moves.shape[-2] != degrees:
        told = "a length of jumps" if jump is not None else "no length of jumps"
        raise ValueError(f"with {told}, moves must have {degrees} degrees; got {moves.shape[-2]}")
    left, right, stay, *jumps = moves.unsqueeze(-2).unbind(-3)
    moved = left * tape.roll(1, -2) + right * tape.roll(-1, -2) + stay * tape
    if jump is not None:
        slots = tape.shape[-2]
        places = torch.arange(slots, device=tape.device)
        for degree, far in zip(jumps, (-jump, jump), strict=True):
            index = (places + far.unsqueeze(-1)) % slots
            moved = moved + degree * tape.gather(-2, index.unsqueeze(-1).expand_as(tape))
    return moved


@full_precision
def popped(strengths: Tensor, degree: Tensor) -> Tensor:
    """Pop to a degree: take strength from the first slots, until the degree is spent.

    ``s_i <- max(0, s_i - max(0, u - sum_{j < i} s_j))`` (Grefenstette et al. 2015, equation 2).

    Args:
        strengths: s >= 0, ``[*B, N]``, in the order in which slots are popped.
        degree: u >= 0, ``[*B]``.

    Returns:
        ``[*B, N]``.
    """
    return (strengths - (degree.unsqueeze(-1) - _before(strengths)).clamp_min(0)).clamp_min(0)


@full_precision
def topmost(strengths: Tensor) -> Tensor:
    """Weights of the first slots, of a strength of 1 in all.

    ``w_i = min(s_i, max(0, 1 - sum_{j < i} s_j))`` (Grefenstette et al. 2015, equation 3).

    Args:
        strengths: s >= 0, ``[*B, N]``, in the order in which slots are read.

    Returns:
        ``[*B, N]``, rows >= 0 that sum to at most 1.
    """
    return torch.minimum(strengths, (1 - _before(strengths)).clamp_min(0))


def _before(strengths: Tensor) -> Tensor:
    """Sum of the strengths before each slot, ``[*B, N]``."""
    return torch.nn.functional.pad(strengths, (1, 0))[..., :-1].cumsum(-1)


def append(memory: Tensor, row: Tensor) -> Tensor:
    """Write by growing: append slots to the memory.

    Args:
        memory: ``[*B, N, W]``.
        row: the new slots, ``[*B, T, W]``.

    Returns:
        ``[*B, N + T, W]``.
    """
    twin = fast.find(append, "", memory, row)
    if twin is not None:
        longer: Tensor = twin(memory, row)
        return longer
    return torch.cat([memory, row], -2)


def rows(part: Tensor, index: Tensor) -> Tensor:
    """Rows of a part of a state, for each place of an index: ``[B, ...] -> [B', ...]``.

    Args:
        part: ``[B, ...]``.
        index: whole numbers in ``[0, B)``, ``[B']``; a row may come twice.
    """
    twin = fast.find(rows, "", part, index)
    if twin is not None:
        chosen: Tensor = twin(part, index)
        return chosen
    return part.index_select(0, index)


def harden(weights: Tensor) -> Tensor:
    """One-hot weights: all on the slot of the greatest weight, with the gradient of the weights.

    The straight-through estimator (Bengio, Léonard & Courville 2013, section 3): backwards the
    choice counts as the identity. Weights within a thousandth of the greatest count as equal to it,
    and of equal ones the first is taken, so that rounding does not choose.

    Args:
        weights: ``[*B, Q, N]``, rows >= 0 that sum to at most 1.

    Returns:
        ``[*B, Q, N]``, exact ones and zeros. A row that sums to less than a half, such as that of a
        closed write gate, becomes all 0.
    """
    if weights.shape[-1] == 0:
        return weights
    fixed = weights.detach()
    near = fixed >= (1 - TIE) * fixed.amax(-1, keepdim=True)
    # argmax of equal numbers is the first of them.
    place = near.long().argmax(-1, keepdim=True)
    chosen = torch.zeros_like(fixed).scatter(-1, place, 1.0)
    chosen = chosen * (fixed.sum(-1, keepdim=True) >= 0.5)
    # The difference is exactly 0 and carries the gradient.
    return chosen + (weights - fixed)


def with_gradient(values: Tensor, factor: float) -> Tensor:
    """The values themselves; their gradient is multiplied by ``factor``.

    Args:
        values: finite, ``[*B]``.
        factor: any number.
    """
    if not values.requires_grad:
        return values
    fixed = values.detach()
    return fixed + (values - fixed) * factor


# -- losses ---------------------------------------------------------------------------------------


def cross_entropy(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of tokens with smoothed targets, in nats (Vaswani et al. 2017, section 5.4).

    ``log sum_j exp(x_j) - (1 - e) x_y - e mean(x)``.

    Args:
        logits: x, ``[N, O]``.
        targets: y, whole numbers in ``[0, O)``, ``[N]``.
        smoothing: e, share of a target's probability that is spread over all tokens, in ``[0, 1)``.

    Returns:
        ``[N]``.

    Raises:
        ValueError: a target is out of range, also -100, which PyTorch would pass over: steps that
            do not count are told by masks. Only numbers on the CPU are looked at.
    """
    _check_classes(targets, logits.shape[-1])
    twin = fast.find(cross_entropy, "", logits, targets, smoothing)
    if twin is not None:
        losses: Tensor = twin(logits, targets, smoothing)
        return losses
    return nn.functional.cross_entropy(
        logits, targets, ignore_index=_NO_CLASS, reduction="none", label_smoothing=smoothing
    )


#: A number that is no target: PyTorch ignores targets of one number, -100 by default.
_NO_CLASS = torch.iinfo(torch.int32).min


def _check_classes(targets: Tensor, classes: int) -> None:
    # Elsewhere, Python may not look at the numbers; PyTorch's own check is an assertion there.
    unseen = torch.compiler.is_compiling() or fast.transformed()
    if unseen or targets.device.type != "cpu" or targets.numel() == 0:
        return
    least, greatest = (int(number) for number in targets.aminmax())
    if least < 0 or greatest >= classes:
        raise ValueError(
            f"targets must be whole numbers in [0, {classes}), also where a mask is False; "
            f"got {least} to {greatest}"
        )


# -- the choice of tokens -------------------------------------------------------------------------


def likeliest(scores: Tensor) -> Tensor:
    """Place of the greatest number of each row, the first of equals: ``[N, O] -> [N]``."""
    twin = fast.find(likeliest, "", scores)
    if twin is not None:
        places: Tensor = twin(scores)
        return places
    return scores.argmax(-1)


def best_tokens(logits: Tensor, scores: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best continuations of some unfinished answers by one token each, best first.

    The score of a continuation is that of the answer plus the token's log probability.

    Args:
        logits: logits of the tokens after each of M answers, ``[B, M, O]``.
        scores: log probability of each answer, ``[B, M]``; ``-inf`` = no answer.
        count: n, the number of continuations, at most ``M O``.

    Returns:
        Three tensors ``[B, n]``: the scores, the place of each continuation's answer among the M,
        and its token.
    """
    twin = fast.find(best_tokens, "", logits, scores, count)
    if twin is not None:
        found: tuple[Tensor, Tensor, Tensor] = twin(logits, scores, count)
        return found
    size = logits.shape[-1]
    totals = (scores.unsqueeze(-1) + logits.log_softmax(-1)).flatten(1)
    total, index = totals.topk(count, -1)
    return total, index // size, index % size
