"""All steps of any controller on a hard NTM, by the places of its heads.

The twin of :meth:`memnets.cells.Loop.unroll` for an :class:`~memnets.memories.NTM` that is hard,
where no gradient is recorded. With one-hot weights a shift moves a place, a read takes a slot, and
a write changes one, in a memory that was copied once. So a step takes the same time for any number
of slots, as long as no head looks for content.

A head looks only where content could change its place. Its weight at the best move is at least
``(1 - g) s``, with g the gate and s the share of that move, and no other weight is more than
``(1 - g) s' + g``, with s' the share of the second move. So where ``(1 - g) (s - s') > g``, and a
margin for rounding, the head moves without a look.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from memnets import fast, functional
from memnets.cells.composed import Loop, LoopState
from memnets.checks import check_step
from memnets.core import Memory, choose_state
from memnets.memories.ntm import NTM, NTMState

__all__ = ["MARGIN", "on_places", "unroll"]

#: By how much a move must win. It is more than :data:`memnets.functional.TIE`, the share by which
#: the greatest weight may exceed another one that counts as equal.
MARGIN = 1e-2


def on_places(memory: NTM, state: Any) -> bool:
    """Whether a memory is hard, and each head of a state has all its weight on one slot."""
    if type(memory) is not NTM or not memory.addressing.hard or type(state) is not NTMState:
        return False
    weights = state.weights
    return weights.numel() > 0 and bool(
        ((weights.amax(-1) == 1) & (weights.count_nonzero(dim=-1) == 1)).all()
    )


def _fits(loop: Loop, inputs: Tensor, state: LoopState, mask: Tensor | None) -> bool:
    # On a GPU the host would have to wait for the device at each step.
    return (
        inputs.device.type == "cpu"
        and inputs.dim() == 3
        and inputs.numel() > 0
        and on_places(loop.access, state.access)  # type: ignore[arg-type]
    )


@fast.twin(Loop, "unroll", fits=_fits, only_values=True, hard=True)
def unroll(
    loop: Loop, inputs: Tensor, state: LoopState, mask: Tensor | None
) -> tuple[Tensor, LoopState]:
    """``[B, T, input_size] -> [B, T, output_size]``: see :meth:`memnets.core.Cell.unroll`."""
    access: Any = loop.access
    controller, (memory, weights), read = state
    slots = memory.shape[1]
    memory, places = memory.clone(), weights.argmax(-1)
    every = torch.arange(len(inputs)).unsqueeze(-1)
    features = []
    for number, now in enumerate(inputs.unbind(1)):
        hidden, following = loop.controller.step(torch.cat([now, read], -1), controller)
        driven = loop.interface(hidden)
        check_step(access, driven)
        query, erase, add = access.queries(access.noisy(driven))
        moved = _moved(access, query, memory, places)
        looking, marking = moved.tensor_split((access.read_heads,), 1)
        vectors = memory[every, looking].flatten(1)
        # The definition, on the slots that the heads are on: [B, heads, W].
        same = (marking.unsqueeze(-1) == marking.unsqueeze(-2)).to(memory.dtype)
        written = functional.erase_add(memory[every, marking], same, erase, add)
        if mask is None:
            memory[every, marking] = written
            controller, places, read = following, moved, vectors
        else:
            taken = mask[:, number]
            memory[every[taken], marking[taken]] = written[taken]
            controller = loop.controller.choose(taken, following, controller)
            places, read = choose_state(taken, (moved, vectors), (places, read))
        features.append(torch.cat([hidden, vectors], -1))
    weights = _one_hot(places, slots, weights)
    return torch.stack(features, 1), LoopState(controller, NTMState(memory, weights), read)


def _moved(access: NTM, query: Any, memory: Tensor, places: Tensor) -> Tensor:
    """The next place of each head, ``[B, H]``."""
    slots, size = memory.shape[1], query.shift.shape[-1]
    shares, moves = query.shift.topk(min(2, size), -1)
    lead = shares[..., 0] - (shares[..., 1] if size > 1 else 0.0)
    gate = query.gate.squeeze(-1)
    sure = (1 - gate) * lead > gate + MARGIN
    moved: Tensor = (places + moves[..., 0] - size // 2) % slots
    if not sure.all():
        before = _one_hot(places, slots, memory)
        weights, _ = access.addressing(query, Memory(memory, memory), before)
        moved = torch.where(sure, moved, weights.argmax(-1))
    return moved


def _one_hot(places: Tensor, slots: int, like: Tensor) -> Tensor:
    """Weights ``[B, H, N]`` for places ``[B, H]``."""
    weights = like.new_zeros(*places.shape, slots)
    return weights.scatter(-1, places.unsqueeze(-1), 1.0)
