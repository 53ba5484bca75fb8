"""Training steps as CUDA graphs: each kind of step is recorded once, then replayed.

A small step on a GPU takes as long as Python needs to start its operations, one after the other. A
CUDA graph starts all of them with one call: forward pass, backward pass, clipping and the update of
the weights. The numbers are those of the same operations without a graph.

A graph repeats fixed operations on fixed places in memory. So each shape of batch has a graph of
its own, and so has each value of a setting that the step reads, such as the number of slots. The
first batch of a kind runs without a graph and prepares what a recording needs; the second one is
recorded. Few lengths of sequences make few graphs: see :func:`memnets.batches.padded_to`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from memnets.batches import Batch
from memnets.checks import check_positive
from memnets.core import map_state

__all__ = [
    "CudaRecorder",
    "FixedOptimizer",
    "GraphedSteps",
    "Recorder",
    "Results",
    "settings_of_modules",
]

Tensors = tuple[Tensor, ...]
Step = Callable[[Batch], Tensors]


class Recorder(Protocol):
    """Records the operations of a function, to repeat them without Python."""

    def warm(self, function: Callable[[], Tensors]) -> Tensors:
        """Run a function so that it can be recorded afterwards, and return its results."""

    def record(self, function: Callable[[], Tensors]) -> Callable[[], Tensors]:
        """Record the operations of a function without running them.

        Returns:
            A function that runs these operations and returns their results. The results are the
            same tensors each time: the next call overwrites them.
        """


class CudaRecorder:
    """The :class:`Recorder` of the current CUDA device."""

    def __init__(self) -> None:
        # Graphs run one after the other and keep no results but the last ones, so that they can
        # share memory.
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()

    def warm(self, function: Callable[[], Tensors]) -> Tensors:
        """See :class:`Recorder`."""
        # On the stream of the recording: what PyTorch prepares belongs to a stream.
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            results = function()
        torch.cuda.current_stream().wait_stream(self._stream)
        return results

    def record(self, function: Callable[[], Tensors]) -> Callable[[], Tensors]:
        """See :class:`Recorder`."""
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as that of a data loader, may go on calling CUDA meanwhile.
        with torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        ):
            results = function()

        def replay() -> Tensors:
            graph.replay()
            return results

        return replay


class _Recorded(NamedTuple):
    batch: Batch
    replay: Callable[[], Tensors]


class GraphedSteps:
    """A step on a batch, recorded once for each kind of batch and replayed from then on.

    Args:
        step: takes a batch whose tensors are on the device and returns tensors. It may change
            weights and states of an optimizer in place; all that it changes must stay at its place
            in memory.
        recorder: records the operations of a step.
        settings: returns all values besides the batch that the step reads in Python. A new value
            means a new graph.
        most: most graphs that are kept, at least 1; the one used last is kept longest.

    Attributes:
        count: number of graphs that are kept.
    """

    def __init__(
        self,
        step: Step,
        recorder: Recorder,
        settings: Callable[[], Hashable] = tuple,
        most: int = 128,
    ) -> None:
        check_positive(most=most)
        self._step = step
        self._recorder = recorder
        self._settings = settings
        self._most = most
        self._warm: OrderedDict[Hashable, None] = OrderedDict()
        self._recorded: OrderedDict[Hashable, _Recorded] = OrderedDict()

    @property
    def count(self) -> int:
        """Number of graphs that are kept."""
        return len(self._recorded)

    def __call__(self, batch: Batch) -> Tensors:
        """Results of the step; the next call may overwrite them."""
        kind = _kind(batch), self._settings()
        found = self._recorded.get(kind)
        if found is None:
            if kind not in self._warm:
                self._warm[kind] = None
                # Kinds that never come again, such as a noise that changes in each step, must not
                # pile up.
                if len(self._warm) > 64 * self._most:
                    self._warm.popitem(last=False)
                return self._recorder.warm(lambda: self._step(batch))
            own: Batch = map_state(torch.clone, batch)
            found = _Recorded(own, self._recorder.record(lambda: self._step(own)))
            self._recorded[kind] = found
            if len(self._recorded) > self._most:
                self._recorded.popitem(last=False)
        self._recorded.move_to_end(kind)
        map_state(lambda own, given: own.copy_(given, non_blocking=True), found.batch, batch)
        return found.replay()


def _kind(batch: Batch) -> Hashable:
    return tuple(None if part is None else (part.shape, part.dtype) for part in batch)


def settings_of_modules(module: nn.Module) -> Callable[[], Hashable]:
    """All plain values on a module and its parts, such as a number of slots, each time it is asked.

    Args:
        module: the module. Parts that are added later are not seen.
    """
    usual = vars(nn.Module()).keys() - {"training"}
    parts = [vars(part) for part in module.modules()]

    def settings() -> Hashable:
        return tuple(
            value
            for part in parts
            for name, value in part.items()
            if name not in usual and isinstance(value, (bool, int, float, str))
        )

    return settings


class FixedOptimizer:
    """Updates of an optimizer that can be recorded: they read no number from Python.

    The learning rate is a tensor during an update, so that a schedule may change it from step to
    step. Between updates, the optimizer is as it was: its settings and checkpoints are the usual.

    Args:
        optimizer: an optimizer of PyTorch with the setting ``capturable``, such as Adam.

    Raises:
        ValueError: the optimizer does not have it.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        groups = optimizer.param_groups
        if not all("capturable" in group for group in groups):
            raise ValueError(
                "cuda_graphs needs an optimizer with the setting capturable, such as Adam, AdamW "
                f"or RMSprop; got {type(optimizer).__name__}"
            )
        self._optimizer = optimizer
        self._device = groups[0]["params"][0].device
        self._rates = [torch.zeros((), device=self._device) for _ in groups]
        for state in optimizer.state.values():
            # A loaded state counts its steps on the CPU.
            if isinstance(state.get("step"), Tensor):
                state["step"] = state["step"].to(self._device)

    def settings(self) -> Hashable:
        """All settings of the optimizer but the learning rate."""
        plain = (bool, int, float, str, tuple)
        return tuple(
            value
            for group in self._optimizer.param_groups
            for name, value in group.items()
            if name != "lr" and isinstance(value, plain)
        )

    def read_rates(self) -> None:
        """Take over the present learning rates; to be called before each step or replay."""
        for rate, group in zip(self._rates, self._optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])

    def step(self) -> None:
        """Update the weights."""
        with self._fixed():
            # That of the class: the model may have replaced the method of this object.
            type(self._optimizer).step(self._optimizer)

    @contextmanager
    def _fixed(self) -> Iterator[None]:
        groups = self._optimizer.param_groups
        before = [(group["lr"], group["capturable"]) for group in groups]
        for rate, group in zip(self._rates, groups, strict=True):
            group["lr"], group["capturable"] = rate, self._device.type == "cuda"
        try:
            yield
        finally:
            for (rate, capturable), group in zip(before, groups, strict=True):
                group["lr"], group["capturable"] = rate, capturable


class Results:
    """Numbers of each step that the host reads later, without waiting for the device.

    Args:
        check: takes the number of a step and its numbers; it may raise an error.
        most: most steps whose numbers are still on their way; with more, the host waits.
    """

    def __init__(self, check: Callable[..., None], most: int = 64) -> None:
        self._check = check
        self._most = most
        self._waiting: deque[tuple[int, Tensor, torch.cuda.Event]] = deque()

    def note(self, step: int, *numbers: Tensor) -> None:
        """Send the numbers ``[]`` of a step to the host, and check those that have arrived."""
        sent = torch.stack([number.detach().float() for number in numbers])
        if sent.device.type != "cuda":
            self._check(step, *sent.tolist())
            return
        room = torch.empty(len(numbers), pin_memory=True)
        room.copy_(sent, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        self._waiting.append((step, room, arrived))
        while self._waiting and (len(self._waiting) > self._most or self._waiting[0][2].query()):
            self._check_oldest()

    def settle(self) -> None:
        """Wait for all numbers that were sent, and check them."""
        while self._waiting:
            self._check_oldest()

    def _check_oldest(self) -> None:
        step, room, arrived = self._waiting.popleft()
        arrived.synchronize()
        self._check(step, *room.tolist())


def only_closure(optimizer: torch.optim.Optimizer, closure: Callable[[], Any] | None = None) -> Any:
    """In place of ``Optimizer.step``: run the closure, in which a graph updates the weights."""
    return None if closure is None else closure()
