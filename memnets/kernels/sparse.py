"""All steps of a sparse access memory as one node of the autograd graph, in one copy of the memory.

The twins of :meth:`memnets.memories.SAM.unroll`, and of :meth:`memnets.cells.Loop.unroll` for an
LSTM, a GRU, a feed-forward or direct controller, or a chain of these, on such a memory, on the CPU.
The backward pass takes the steps of the controller again: see :func:`_repeats`.

A step changes few slots, so it writes in place. What the backward pass needs of a step are the
slots that were read: they are kept as they were, k for each head, and the memory itself need not be
rolled back (Rae et al. 2016, section 3.4, keep the slots that a step overwrites, and roll back).
The gradient of the memory has a row for each slot that any step has touched, and no more.

Nothing takes time or memory for a slot that no step has touched:

- all of these hold zeros, the same score. So a search looks at the slots that were used so far, and
  at the first k of the others;
- the slots that were not accessed for the longest time come from a queue. An access puts a slot at
  its end, and an entry that is no longer true is passed over when it comes to the front;
- the copy of the memory begins as pages of zeros that the system makes when they are written to.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from memnets import fast, functional
from memnets.addressing import LeastRecent, Sharp
from memnets.cells.composed import Chain, Loop, LoopState
from memnets.cells.recurrent import GRU, LSTM, Direct, FeedForward
from memnets.core import map_state
from memnets.functional import Sparse
from memnets.kernels.parts import (
    PointedKeys,
    inverse_norms,
    key_gradients,
    pointed_keys,
    recomputing,
    softmax_gradient,
    unrecorded,
)
from memnets.memories.sam import SAM, SAMLayout, SAMState
from memnets.normalizers import TopK
from memnets.precision import called_with
from memnets.scores import Cosine

__all__ = ["Settings", "loop_unroll", "settings_of", "step", "unroll"]

#: Most scores of a row that are sorted whole, and the size of the blocks in which more of them are
#: looked through.
_SORTED, _BLOCK = 256, 64


class Settings(NamedTuple):
    """Settings of a memory, as they are when its steps are taken.

    Attributes:
        layout: layout of the interface.
        reads: k, slots that a head reads.
        writes: n, slots that a head writes to besides those that it read.
        threshold: weights up to it are no access.
        epsilon: added inside the roots of the cosine.
    """

    layout: SAMLayout
    reads: int
    writes: int
    threshold: float
    epsilon: float


def settings_of(memory: SAM) -> Settings | None:
    """The settings of a memory, or ``None`` for other addressings than those computed here."""
    reading, writing = memory.reading, memory.writing
    if (type(reading), type(writing)) != (Sharp, LeastRecent):
        return None
    # A size that the interface was not made for is the definition's to tell.
    if memory.layout != (memory.heads, memory.width):
        return None
    score, normalizer = reading.score, reading.normalizer
    if type(score) is not Cosine or type(normalizer) is not TopK:
        return None
    if (normalizer.count, writing.count) != (memory.read_slots, memory.write_slots):
        return None
    return Settings(
        memory.layout, memory.read_slots, memory.write_slots, writing.threshold, score.epsilon
    )


def _zeros(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Zeros that take no memory before they are written to; PyTorch would write them all."""
    return torch.from_numpy(np.zeros(tuple(shape), torch.empty(0, dtype=dtype).numpy().dtype))


def _greatest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """As :func:`memnets.functional.greatest`, without a sort of many numbers.

    The k greatest numbers stand in the k blocks with the greatest peaks, unless more blocks have a
    peak as great as the least of the k.
    """
    size = scores.shape[-1]
    if size > max(_SORTED, count * _BLOCK):
        even = size - size % _BLOCK
        peaks = scores[..., :even].unflatten(-1, (-1, _BLOCK)).amax(-1)
        if even < size:
            peaks = torch.cat([peaks, scores[..., even:].amax(-1, keepdim=True)], -1)
        # In the order of the slots, so that of equal scores the first comes first.
        blocks = peaks.topk(count, -1).indices.sort(-1).values.unsqueeze(-1)
        places = (blocks * _BLOCK + torch.arange(_BLOCK)).flatten(-2)
        found = scores.gather(-1, places.clamp_max(size - 1))
        values, best = functional.greatest(found.masked_fill_(places >= size, -torch.inf), count)
        if ((peaks >= values[..., -1:]).sum(-1) <= count).all():
            return values, places.gather(-1, best)
    return functional.greatest(scores, count)


class _Times:
    """When the slots of a row were accessed, and which come next to be written to.

    Args:
        accessed: time of the last access of each slot, ``[N]``.
        used: all slots from this number on were never accessed.
        most: the greatest number of slots that will be asked for or accessed.
    """

    def __init__(self, accessed: Tensor, used: int, most: int) -> None:
        self.slots, self.fresh = len(accessed), used
        before = accessed[:used].numpy()
        self.now = int(before.max(initial=0))
        #: Times later than those of ``accessed``, by slot.
        self.later: dict[int, int] = {}
        #: Times and numbers of the slots that were taken last.
        self.taken: list[tuple[int, int]] = []
        self.never = deque(np.flatnonzero(before == 0)[:most].tolist())
        # Slots of the same time are in the order of their numbers. No more of them than are needed:
        # to sort all takes long.
        (slots,) = before.nonzero()
        order = before[slots] * self.slots + slots
        if len(order) > most:
            order = np.partition(order, most)[:most]
        order.sort()
        times, slots = np.divmod(order, self.slots)
        self.past = deque(zip(times.tolist(), slots.tolist(), strict=True))

    def take(self, count: int) -> list[int]:
        """The slots that were not accessed for the longest time, the longest first."""
        self.taken, later = [], self.later
        while len(self.taken) < count:
            if self.never:
                time, slot = 0, self.never.popleft()
            elif self.fresh < self.slots:
                time, slot = 0, self.fresh
                self.fresh += 1
            else:
                time, slot = self.past.popleft()
            if later.get(slot, time) == time:
                self.taken.append((time, slot))
        return [slot for _, slot in self.taken]

    def access(self, slots: Iterable[int]) -> None:
        """Note the slots that a step has accessed; those taken that it has not come again."""
        found = set(slots)
        self.now += bool(found)
        self.later.update(dict.fromkeys(found, self.now))
        self.past.extend((self.now, slot) for slot in sorted(found))
        for time, slot in reversed(self.taken):
            if slot not in found:
                if time:
                    self.past.appendleft((time, slot))
                else:
                    self.never.appendleft(slot)


class _Kept(NamedTuple):
    """Parts of a step that its backward pass needs, and of all steps, which then come first.

    Attributes:
        interface: ``[B, I]``.
        written: places of the slots that were written, ``[B, H, k + n]``: ``b N + slot``.
        before: weights of the read before, ``[B, H, k]``.
        read: places of the slots that were read, ``[B, H, k]``.
        rows: these slots, ``[B, H, k, W]``.
        weight: their weights, ``[B, H, k]``.
    """

    interface: Tensor
    written: Tensor
    before: Tensor
    read: Tensor
    rows: Tensor
    weight: Tensor


class _Memory:
    """The memory of a run, into which all steps write.

    Args:
        settings: settings of the memory.
        state: the state before the first step; it is not changed.
        steps: number of the steps.
    """

    def __init__(self, settings: Settings, state: SAMState, steps: int) -> None:
        memory, accessed, used, self.read = state
        (heads, _), reads, writes, _, _ = self.settings = settings
        batch, slots, width = memory.shape
        self.used = used.tolist()
        end = max(self.used)
        self.memory = _zeros(memory.shape, memory.dtype)
        self.memory[:, :end] = memory[:, :end]
        self.before = accessed
        most = 2 * steps * heads * (reads + writes)
        self.times = [_Times(row, end, most) for row, end in zip(accessed, self.used, strict=True)]
        # 1 / |M| of the slots that a search looks at.
        self.scale = memory.new_empty(batch, slots)
        self.scale[:, :end] = inverse_norms(self.memory[:, :end], settings.epsilon)
        self.scaled = end
        self.rows, self.scales = self.memory.view(-1, width), self.scale.view(-1)
        self.first = slots * torch.arange(batch).view(-1, 1, 1)
        self.shares = memory.new_full((batch, heads, writes), 1 / writes)

    @unrecorded
    def step(self, interface: Tensor, taken: Tensor | None) -> tuple[Tensor, _Kept]:
        """Take one step.

        Args:
            interface: ``[B, interface_size]``.
            taken: bool ``[B]``, False = the sequence skips the step; ``None`` = none does.

        Returns:
            The vectors read, ``[B, H, W]``, and what the backward pass needs.
        """
        (heads, width), reads, writes, threshold, epsilon = self.settings
        batch, slots, _ = self.memory.shape
        queries, add, strengths, gates = interface.split(self.settings.layout.sizes, -1)
        strengths = nn.functional.softplus(strengths).unsqueeze(-1)
        pointed = pointed_keys(queries.view(batch, heads, width), strengths, epsilon).pointed
        gate, write_gate = gates.sigmoid().view(batch, 2, heads, 1).unbind(1)
        takes = [True] * batch if taken is None else taken.tolist()

        # Write. A sequence that skips the step writes with weight 0, to any slots.
        nothing = list(range(heads * writes))
        new = [
            times.take(len(nothing)) if takes_it else nothing
            for times, takes_it in zip(self.times, takes, strict=True)
        ]
        index = torch.cat([self.read.index, torch.tensor(new).view(batch, heads, writes)], -1)
        weight = torch.cat([gate * self.read.weight, (1 - gate) * self.shares], -1).mul_(write_gate)
        written = index + self.first
        places, emptied = written.flatten(), written[..., reads:].flatten()
        if taken is None:
            self.rows.index_fill_(0, emptied, 0.0)
        else:
            # Numbers at a skipped step may be anything, also infinite.
            weight.masked_fill_(~taken.view(-1, 1, 1), 0.0)
            kept = (~taken).repeat_interleave(len(nothing)).unsqueeze(-1)
            self.rows.index_copy_(0, emptied, self.rows.index_select(0, emptied) * kept)
        added = weight.unsqueeze(-1) * add.view(batch, heads, 1, width)
        if taken is not None:
            added.masked_fill_(~taken.view(-1, 1, 1, 1), 0.0)
        self.rows.index_add_(0, places, added.view(-1, width))
        changed = inverse_norms(self.rows.index_select(0, places), epsilon)
        self.scales.index_copy_(0, places, changed)

        # Read.
        for row, numbers in enumerate(new):
            if takes[row]:
                self.used[row] = max(self.used[row], 1 + max(numbers))
        end = min(slots, max(self.used) + reads)
        if end > self.scaled:
            self.scale[:, self.scaled : end] = inverse_norms(
                self.memory[:, self.scaled : end], epsilon
            )
            self.scaled = end
        scores = torch.bmm(pointed, self.memory[:, :end].mT)
        scores, best = _greatest(scores.mul_(self.scale[:, :end].unsqueeze(1)), reads)
        share = scores.softmax(-1)
        read = best + self.first
        rows = self.rows.index_select(0, read.flatten()).view(-1, reads, width)
        vectors = torch.bmm(share.view(-1, 1, reads), rows).view(batch, heads, width)
        saved = _Kept(interface, written, self.read.weight, read, rows, share)

        # Note the accesses.
        touched = torch.cat([index, best], -1).flatten(1).tolist()
        # A head may write to a slot both as one that it read last and as a new one.
        same = index.unsqueeze(-1) == index.unsqueeze(-2)
        whole = (same * weight.unsqueeze(-2)).sum(-1)
        weights = torch.cat([whole, share], -1).flatten(1).tolist()
        last = ((best + 1) * (share > 0)).flatten(1).amax(1).tolist()
        for row, times in enumerate(self.times):
            if takes[row]:
                self.used[row] = max(self.used[row], last[row])
                both = zip(touched[row], weights[row], strict=True)
                times.access(slot for slot, by in both if by > threshold)
        if taken is not None:
            best = torch.where(taken.view(-1, 1, 1), best, self.read.index)
            share = torch.where(taken.view(-1, 1, 1), share, self.read.weight)
        self.read = Sparse(best, share)
        return vectors, saved

    def state(self) -> SAMState:
        """The state after the last step; it is the run's own memory."""
        accessed = _zeros(self.before.shape, self.before.dtype)
        for row, before, times, used in zip(
            accessed, self.before, self.times, self.used, strict=True
        ):
            row[:used] = before[:used]
            later = torch.tensor(list(times.later.items()), dtype=row.dtype).view(-1, 2)
            row[later[:, 0]] = later[:, 1]
        return SAMState(self.memory, accessed, torch.tensor(self.used), self.read)


class _Step(NamedTuple):
    """Parts of the backward pass of a step that do not depend on the gradients.

    Attributes:
        written: rows of the gradient of the slots that were written, ``[B, H, k + n]``.
        read: rows of the gradient of the slots that were read, ``[B, H, k]``.
        rows: the slots that were read, ``[B H, k, W]``.
        weight: their weights, ``[B, H, k]``.
        scale: ``1 / |m|`` of these slots, ``[B, H, k]``.
        radial: their scores by ``1 / |m|``, ``[B, H, k]``.
        keys: the queries, scaled.
        pointed: ``keys.pointed``, ``[B H, 1, W]``.
        add: ``[B H, W, 1]``.
        before: weights of the read before, ``[B, H, k]``.
        proposed: ``(gamma w_before, (1 - gamma) / n)``, ``[B, H, k + n]``.
        gates: gamma and alpha, ``[B, 2, H]``.
        slope: slope of the softplus of the strengths, ``[B, H]``.
        taken: 1 = the sequence takes the step, 0 = it skips it, ``[B, 1, 1]``; ``None`` = all do.
    """

    written: Tensor
    read: Tensor
    rows: Tensor
    weight: Tensor
    scale: Tensor
    radial: Tensor
    keys: PointedKeys
    pointed: Tensor
    add: Tensor
    before: Tensor
    proposed: Tensor
    gates: Tensor
    slope: Tensor
    taken: Tensor | None


class _Backward:
    """The backward pass of a memory, from the last step to the first.

    Args:
        settings: settings of the memory when the steps were taken.
        kept: what was kept of all steps.
        taken: bool ``[T, B]``, or ``None`` where no sequence has skipped a step.
        memory_gradient: gradient of the last memory, ``[B, N, W]``; ``None`` = 0.
        weight_gradient: gradient of the last weights of the read, ``[B, H, k]``; ``None`` = 0.
    """

    @unrecorded
    def __init__(
        self,
        settings: Settings,
        kept: _Kept,
        taken: Tensor | None,
        memory_gradient: Tensor | None,
        weight_gradient: Tensor | None,
    ) -> None:
        self.settings = settings
        (heads, width), reads, writes, _, epsilon = settings
        interface, written, before, read, rows, weight = kept
        steps, batch = interface.shape[:2]
        # A row of the gradient for each slot that a step has written or read.
        every = torch.cat([written.flatten(), read.flatten()])
        self.touched, numbers = every.unique(return_inverse=True)
        self.last = memory_gradient
        if memory_gradient is None:
            self.gradient = rows.new_zeros(len(self.touched), width)
        else:
            self.gradient = memory_gradient.reshape(-1, width).index_select(0, self.touched)
        self.weight_gradient = weight.new_zeros(weight.shape[1:])
        if weight_gradient is not None:
            self.weight_gradient = weight_gradient
        to_written, to_read = numbers.split([written.numel(), read.numel()])

        # For all steps at once.
        queries, add, strengths, gates = interface.split(settings.layout.sizes, -1)
        queries, add = (part.reshape(-1, heads, width) for part in (queries, add))
        positive = nn.functional.softplus(strengths).view(-1, heads, 1)
        keys = pointed_keys(queries, positive, epsilon)
        gates = gates.sigmoid().view(steps, batch, 2, heads)
        gate = gates[:, :, 0].unsqueeze(-1)
        shares = ((1 - gate) / writes).expand(steps, batch, heads, writes)
        rows = rows.view(steps, batch * heads, reads, width)
        scale = inverse_norms(rows, epsilon).view(weight.shape)
        pointed = keys.pointed.view(steps, -1, 1, width)
        scores = torch.matmul(rows, pointed.mT).view(weight.shape) * scale
        every_taken: Sequence[Tensor | None] = [None] * steps
        if taken is not None:
            every_taken = taken.view(steps, batch, 1, 1).to(rows.dtype).unbind(0)
        by_step = zip(*(part.view(steps, batch, heads, -1) for part in keys), strict=True)
        parts = (
            to_written.view(written.shape), to_read.view(read.shape), rows, weight, scale,
            scores * scale, (PointedKeys(*each) for each in by_step), pointed,
            add.reshape(steps, -1, width, 1), before, torch.cat([gate * before, shares], -1), gates,
            strengths.sigmoid(), every_taken,
        )  # fmt: skip
        self.steps = [_Step(*step) for step in zip(*parts, strict=True)]

    @unrecorded
    def step(self, vectors_gradient: Tensor) -> Tensor:
        """Gradient of the interface of the last step that is left, ``[B, interface_size]``.

        Args:
            vectors_gradient: gradient of the vectors that the step has read, ``[B, H * W]``.
        """
        (heads, width), reads, writes, _, _ = self.settings
        step = self.steps.pop()
        rows, weight, taken, gradient = step.rows, step.weight, step.taken, self.gradient
        batch = len(weight)
        # The weights of a read are used again by the next step's write. A sequence that skips the
        # step hands on those before.
        later = self.weight_gradient
        passed = None if taken is None else later * (1 - taken)
        later = later if taken is None else later * taken

        # Read: r = sum w m, w = softmax(p.m / |m|).
        vectors_gradient = vectors_gradient.reshape(-1, width, 1)
        by_weight = torch.bmm(rows, vectors_gradient).view(weight.shape) + later
        by_score = softmax_gradient(by_weight, weight).mul_(step.scale)
        by_product = by_score.view(-1, 1, reads)
        pointed_gradient = torch.bmm(by_product, rows).view(batch, heads, width)
        rows_gradient = torch.bmm(weight.view(-1, reads, 1), vectors_gradient.mT)
        rows_gradient.baddbmm_(by_product.mT, step.pointed)
        # The length of a slot is part of its score.
        by_length = (by_score * step.radial).view(-1, reads, 1)
        rows_gradient.addcmul_(rows, by_length, value=-1.0)
        gradient.index_add_(0, step.read.flatten(), rows_gradient.view(-1, width))
        query_gradient, strength_gradient = key_gradients(pointed_gradient, step.keys)

        # Write: M = (1 - R) M + sum w a, w = alpha (gamma w_before, (1 - gamma) / n).
        gate, write_gate = step.gates.unsqueeze(-1).unbind(1)
        written = gradient.index_select(0, step.written.flatten())
        written = written.view(-1, reads + writes, width)
        by_weight = torch.bmm(written, step.add).view(step.written.shape)
        weight = write_gate * step.proposed
        emptied = step.written[..., reads:].flatten()
        if taken is None:
            gradient.index_fill_(0, emptied, 0.0)
        else:
            weight, by_weight = weight * taken, by_weight * taken
            left = (1 - taken).expand(-1, heads, writes).reshape(-1, 1)
            gradient.index_copy_(0, emptied, gradient.index_select(0, emptied) * left)
        add_gradient = torch.bmm(weight.view(-1, 1, reads + writes), written)
        write_gate_gradient = (by_weight * step.proposed).sum(-1)
        of_read, of_new = (by_weight * write_gate).split([reads, writes], -1)
        gate_gradient = (of_read * step.before).sum(-1) - of_new.mean(-1)
        self.weight_gradient = of_read * gate
        if passed is not None:
            self.weight_gradient += passed
        # The slope of y = sigmoid(x) is y - y^2.
        gates_gradient = torch.stack([gate_gradient, write_gate_gradient], 1)
        gates_gradient *= torch.addcmul(step.gates, step.gates, step.gates, value=-1.0)
        return torch.cat(
            [
                query_gradient.view(batch, -1),
                add_gradient.view(batch, -1),
                strength_gradient.view(batch, -1) * step.slope,
                gates_gradient.view(batch, -1),
            ],
            -1,
        )

    def memory_gradient(self, shape: torch.Size) -> Tensor:
        """Gradient of the first memory, when all steps are taken back.

        Args:
            shape: shape of the memory, ``[B, N, W]``.
        """
        if self.last is None:
            found = _zeros(shape, self.gradient.dtype)
        else:
            found = self.last.clone(memory_format=torch.contiguous_format)
        found.view(-1, shape[-1]).index_copy_(0, self.touched, self.gradient)
        return found


# -- a run ----------------------------------------------------------------------------------------


class _Plan:
    """A run that is about to be taken: the part, its mask, and the structure of its state.

    Args:
        part: the memory, or the loop that holds it.
        state: the state before the first step.
        mask: bool ``[B, T]``, or ``None``.
    """

    def __init__(self, part: SAM | Loop, state: Any, mask: Tensor | None) -> None:
        self.part, self.state, self.mask = part, state, mask
        settings = settings_of(_memory_of(part))
        assert settings is not None
        self.settings = settings
        self.names = [name for name, _ in part.named_parameters()]
        #: The state after the last step, of which autograd sees the real numbers alone.
        self.last: Any = None

    def split(self, given: Sequence[Tensor]) -> tuple[dict[str, Tensor], Tensor, list[Tensor]]:
        """The parameters by their names, the inputs, and the real numbers of the state."""
        parameters, (inputs, *state) = given[: len(self.names)], given[len(self.names) :]
        return dict(zip(self.names, parameters, strict=True)), inputs, list(state)

    def filled(self, numbers: Iterable[Tensor]) -> Any:
        """The first state with other real numbers."""
        return _filled(self.state, numbers)

    def plain(self, *given: Tensor) -> tuple[Tensor, ...]:
        """The run by the definitions, with the settings that the memory had."""
        parameters, inputs, numbers = self.split(given)
        part = _with_settings(self.part, self.settings)
        run = partial(part.unroll, inputs, self.filled(numbers), self.mask)
        outputs, last = called_with(part, parameters, run)
        return outputs, *_numbers(last)

    def steps(self, inputs: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
        """The inputs of each step, ``[B, I]``, and whether each sequence takes it, bool ``[B]``."""
        masks = [None] * inputs.shape[1] if self.mask is None else self.mask.unbind(1)
        return zip(inputs.unbind(1), masks, strict=True)


def _with_settings(part: SAM | Loop, settings: Settings) -> SAM | Loop:
    """The same part with a memory of these settings; a memory has no parameters."""
    (heads, width), reads, writes, threshold, epsilon = settings
    least = max(reads, heads * writes)
    memory = SAM(least, width, heads, reads, writes, threshold, Cosine(epsilon))
    if not isinstance(part, Loop):
        return memory
    loop = copy.copy(part)
    loop._modules = {**part._modules, "access": memory}
    return loop


def _memory_of(part: SAM | Loop) -> SAM:
    memory = part.access if isinstance(part, Loop) else part
    assert isinstance(memory, SAM)
    return memory


def _numbers(state: Any) -> list[Tensor]:
    """The tensors of a state that hold real numbers."""
    found: list[Tensor] = []

    def collect(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            found.append(tensor)
        return tensor

    map_state(collect, state)
    return found


def _filled(state: Any, numbers: Iterable[Tensor]) -> Any:
    """A state with other real numbers."""
    rest = iter(numbers)
    return map_state(lambda old: next(rest) if old.is_floating_point() else old, state)


class _Control(NamedTuple):
    """Inputs of the memory in a step of a loop.

    Attributes:
        hidden: the controller's output, ``[B, hidden_size]``.
        interface: ``[B, interface_size]``.
        state: the next state of the controller.
    """

    hidden: Tensor
    interface: Tensor
    state: Any


def _control(
    loop: Loop, inputs: Tensor, read: Tensor, state: Any, taken: Tensor | None
) -> _Control:
    """Take a step of a loop's controller."""
    hidden, after = loop.controller.step(torch.cat([inputs, read], -1), state)
    if taken is not None:
        after = loop.controller.choose(taken, after, state)
    return _Control(hidden, loop.interface(hidden), after)


class _Run(torch.autograd.Function):
    """All steps as one node of the graph."""

    @staticmethod
    def forward(ctx: Any, plan: _Plan, recorded: bool, *given: Tensor) -> tuple[Tensor, ...]:
        _, inputs, numbers = plan.split(given)
        state, loop = plan.filled(numbers), plan.part if isinstance(plan.part, Loop) else None
        recorded = recorded and any(tensor.requires_grad for tensor in given)
        memory = _Memory(plan.settings, state.access if loop else state, inputs.shape[1])
        outputs, kept, controls = [], [], []
        for now, taken in plan.steps(inputs):
            if loop:
                if recorded:
                    controls.append([state.read, *_numbers(state.controller)])
                control = _control(loop, now, state.read, state.controller, taken)
                now = control.interface
            vectors, needed = memory.step(now, taken)
            vectors = vectors.flatten(1)
            if recorded:
                kept.append(needed)
            if loop:
                outputs.append(torch.cat([control.hidden, vectors], -1))
                if taken is not None:
                    vectors = torch.where(taken.unsqueeze(-1), vectors, state.read)
                state = LoopState(control.state, state.access, vectors)
            else:
                outputs.append(vectors)
        last = memory.state()
        plan.last = state._replace(access=last) if loop else last
        ctx.plan, ctx.given, ctx.plain = plan, len(given), plan.plain
        if recorded:
            stacked = [torch.stack(parts) for parts in zip(*kept, strict=True)]
            flat = [tensor for parts in controls for tensor in parts]
            # The mask too: PyTorch raises an error if it was changed since.
            ctx.save_for_backward(*given, *stacked, *flat, plan.mask)
        ctx.set_materialize_grads(False)
        return torch.stack(outputs, 1), *_numbers(plan.last)

    @staticmethod
    @recomputing
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        plan = ctx.plan
        *every, mask = ctx.saved_tensors  # asked for once: a checkpoint makes them anew
        given, rest = every[: ctx.given], every[ctx.given :]
        wanted = ctx.needs_input_grad[-ctx.given :]
        kept, flat = _Kept(*rest[: len(_Kept._fields)]), rest[len(_Kept._fields) :]
        parameters, inputs, numbers = plan.split(given)
        taken = None if mask is None else mask.t()
        outputs_gradient, *state_gradient = gradients
        if outputs_gradient is None:
            steps, batch = kept.interface.shape[:2]
            outputs_gradient = inputs.new_zeros(batch, steps, plan.part.output_size)
        if not isinstance(plan.part, Loop):
            back = _Backward(plan.settings, kept, taken, *state_gradient)
            found = [back.step(each) for each in reversed(outputs_gradient.unbind(1))]
            memory = back.memory_gradient(numbers[0].shape) if wanted[1] else None
            return None, None, torch.stack(found[::-1], 1), memory, back.weight_gradient
        # The gradients of the parameters are those of copies: hooks are not called twice.
        copies = {
            name: tensor.detach().requires_grad_(tensor.requires_grad)
            for name, tensor in parameters.items()
        }
        *own, memory_gradient, weight_gradient, read = state_gradient
        back = _Backward(plan.settings, kept, taken, memory_gradient, weight_gradient)
        rewind = partial(_rewind, plan, inputs, copies, flat, wanted[len(copies)], back)
        run = partial(rewind, outputs_gradient, [read, *own])
        inputs_gradient, parameters_gradient, (read, *own) = called_with(plan.part, copies, run)
        memory = back.memory_gradient(numbers[-3].shape) if wanted[-3] else None
        return (
            None, None, *parameters_gradient, inputs_gradient, *own, memory, back.weight_gradient,
            read,
        )  # fmt: skip


def _rewind(
    plan: _Plan,
    inputs: Tensor,
    parameters: dict[str, Tensor],
    flat: Sequence[Tensor],
    wanted: bool,
    back: _Backward,
    outputs_gradient: Tensor,
    state_gradient: list[Tensor | None],
) -> tuple[Tensor | None, list[Tensor | None], list[Tensor | None]]:
    """Go back through the steps of a loop; each step of the controller is taken again.

    Args:
        plan: the run.
        inputs: ``[B, T, I]``.
        parameters: the parameters of the loop, which now holds these.
        flat: the vector read, then the real numbers of the controller's state, before each step.
        wanted: whether the gradient of the inputs is.
        back: the backward pass of the memory.
        outputs_gradient: ``[B, T, hidden_size + read_size]``.
        state_gradient: of the vector read last, then of the controller's last state.

    Returns:
        Gradients of the inputs, of each parameter, and of what ``flat`` holds of the first step.
    """
    loop = plan.part
    assert isinstance(loop, Loop)
    learned = [tensor for tensor in parameters.values() if tensor.requires_grad]
    totals: list[Tensor | None] = [None] * len(learned)
    inputs_gradients: list[Tensor] = []
    each = len(state_gradient)
    size = loop.controller.output_size
    for number, (now, taken) in reversed(list(enumerate(plan.steps(inputs)))):
        hidden_gradient, vectors_gradient = outputs_gradient[:, number].tensor_split((size,), -1)
        read_gradient, *own_gradient = state_gradient
        passed = None
        if read_gradient is not None:
            if taken is not None:
                passed = read_gradient.masked_fill(taken.unsqueeze(-1), 0.0)
                read_gradient = read_gradient - passed
            vectors_gradient = vectors_gradient + read_gradient
        interface_gradient = back.step(vectors_gradient)
        with torch.enable_grad():
            now = now.detach().requires_grad_(wanted)
            before = flat[number * each : (number + 1) * each]
            read, *own = (tensor.detach().requires_grad_() for tensor in before)
            state = _filled(plan.state.controller, own)
            control = _control(loop, now, read, state, taken)
        ends = [control.hidden, control.interface, *_numbers(control.state)]
        by = [hidden_gradient, interface_gradient, *own_gradient]
        both = [
            (end, gradient)
            for end, gradient in zip(ends, by, strict=True)
            if gradient is not None and end.requires_grad
        ]
        sources = [read, *own, *([now] if wanted else []), *learned]
        found = torch.autograd.grad(
            [end for end, _ in both], sources, [gradient for _, gradient in both], allow_unused=True
        )
        state_gradient = list(found[:each])
        if passed is not None:
            first = state_gradient[0]
            state_gradient[0] = passed if first is None else first + passed
        if wanted:
            by_now = found[each]
            inputs_gradients.append(torch.zeros_like(now) if by_now is None else by_now)
        for place, more in enumerate(found[each + wanted :]):
            so_far = totals[place]
            if more is not None:
                totals[place] = more if so_far is None else so_far + more
    rest = iter(totals)
    every = [next(rest) if tensor.requires_grad else None for tensor in parameters.values()]
    return torch.stack(inputs_gradients[::-1], 1) if wanted else None, every, state_gradient


def _taken(part: SAM | Loop, inputs: Tensor, state: Any, mask: Tensor | None) -> tuple[Tensor, Any]:
    plan = _Plan(part, state, mask)
    given = *part.parameters(), inputs, *_numbers(state)
    # Asked here: within a node, gradients are always off.
    outputs, *numbers = _Run.apply(plan, torch.is_grad_enabled(), *given)  # type: ignore[no-untyped-call]
    last, plan.last = plan.last, None
    return outputs, _filled(last, numbers)


def _fits(part: SAM | Loop, inputs: Tensor, state: Any, mask: Tensor | None = None) -> bool:
    memory = part.access if isinstance(part, Loop) else part
    access = state.access if isinstance(part, Loop) and type(state) is LoopState else state
    if type(memory) is not SAM or type(access) is not SAMState or settings_of(memory) is None:
        return False
    if inputs.dim() != 3 or inputs.numel() == 0:
        return False
    batch, slots = inputs.shape[0], access.memory.shape[-2]
    heads = batch, memory.heads, memory.read_slots
    # Errors of shape are the definition's to tell.
    shapes = (
        (inputs.shape[2:], (part.input_size,)),
        (access.memory.shape, (batch, slots, memory.width)),
        (access.accessed.shape, (batch, slots)),
        (access.used.shape, (batch,)),
        (access.read.index.shape, heads),
        (access.read.weight.shape, heads),
    )
    return (
        all(tuple(found) == right for found, right in shapes)
        and slots >= max(memory.read_slots, memory.heads * memory.write_slots)
        and all(
            tensor.device.type == "cpu" and tensor.dtype == inputs.dtype
            for tensor in (inputs, *part.parameters(), *_numbers(state))
        )
        and (mask is None or (mask.shape == inputs.shape[:2] and mask.dtype == torch.bool))
    )


def _loop_fits(loop: Loop, inputs: Tensor, state: LoopState, mask: Tensor | None) -> bool:
    return (
        type(loop.access) is SAM
        and type(loop.interface) is nn.Linear
        and len(loop.interface.weight) == loop.access.input_size
        and _repeats(loop.controller)
        and _fits(loop, inputs, state, mask)
    )


def _repeats(controller: nn.Module) -> bool:
    """Whether a controller can take its steps again in the backward pass, with the same results.

    So its state must be real numbers alone, and it must draw nothing at random.
    """
    if type(controller) is Chain:
        return all(_repeats(cell) for cell in controller.cells)
    return type(controller) in (Direct, FeedForward, GRU, LSTM) and not any(
        isinstance(module, nn.Dropout) and module.training and module.p > 0
        for module in controller.modules()
    )


@fast.twin(SAM, "unroll", fits=_fits)
def unroll(
    memory: SAM, inputs: Tensor, state: SAMState, mask: Tensor | None
) -> tuple[Tensor, SAMState]:
    """``[B, T, interface_size] -> [B, T, read_size]``: see :meth:`memnets.core.Cell.unroll`."""
    return _taken(memory, inputs, state, mask)


@fast.twin(
    SAM, "step", fits=lambda memory, inputs, state: _fits(memory, inputs.unsqueeze(1), state)
)
def step(memory: SAM, inputs: Tensor, state: SAMState) -> tuple[Tensor, SAMState]:
    """``[B, interface_size] -> [B, read_size]``: see :meth:`memnets.core.Cell.step`."""
    outputs, state = _taken(memory, inputs.unsqueeze(1), state, None)
    return outputs.squeeze(1), state


@fast.twin(Loop, "unroll", fits=_loop_fits)
def loop_unroll(
    loop: Loop, inputs: Tensor, state: LoopState, mask: Tensor | None
) -> tuple[Tensor, LoopState]:
    """``[B, T, input_size] -> [B, T, output_size]``: see :meth:`memnets.core.Cell.unroll`."""
    return _taken(loop, inputs, state, mask)
