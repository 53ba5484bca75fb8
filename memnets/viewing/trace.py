"""Record the weights of any model, whatever addressing it uses.

Example::

    with trace.record(model) as tape:
        model.logits(batch)
    tape.weights["access.addressing"]        # one [*B, Q, N] a call
    tape.plot("weights.png")
    tape.plot_alignment("alignment.png", model.alignments(), source_words, target_words)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from memnets import fast
from memnets.addressing import Content
from memnets.core import Addressing, Memory

__all__ = ["Tape", "record"]


class Tape:
    """Weights that were recorded.

    Attributes:
        weights: name of the addressing -> weights ``[*B, Q, N]`` of each call, in order.
        heads: name of the addressing -> a name for each of its Q queries, where the memory that
            holds it gives them.
    """

    def __init__(self) -> None:
        self.weights: dict[str, list[Tensor]] = {}
        self.heads: dict[str, list[str]] = {}

    def stacked(self, name: str) -> Tensor:
        """All calls of an addressing as one tensor ``[*B, calls, Q, N]``.

        Slots that a memory did not have yet weigh 0.

        Raises:
            KeyError: nothing was recorded under this name.
        """
        return torch.stack(self._padded(name), -3)

    def _padded(self, name: str) -> list[Tensor]:
        """All calls of an addressing, with as many slots as the last has."""
        if name not in self.weights:
            raise KeyError(f"nothing was recorded for {name!r}; there is {sorted(self.weights)}")
        calls = self.weights[name]
        slots = max(weights.shape[-1] for weights in calls)
        return [nn.functional.pad(weights, (0, slots - weights.shape[-1])) for weights in calls]

    def over_time(self, name: str, sequence: int = 0) -> Tensor:
        """The weights of one sequence of the batch, head by head: ``[H, T, N]``.

        It is the same whether the addressing was called once with T queries or T times with one,
        and whether its heads are queries of one memory (``[B, Q, N]``, where the memory names
        them) or batch (``[B, H, T, N]``). Slots that a memory did not have yet weigh 0.

        Args:
            name: of the addressing.
            sequence: which sequence of the batch.

        Raises:
            KeyError: nothing was recorded under this name.
        """
        calls = [weights[sequence] for weights in self._padded(name)]
        if name in self.heads and calls[0].dim() == 2:
            return torch.stack(calls, 1)
        steps = torch.cat(calls, -2)
        return steps.reshape(-1, *steps.shape[-2:])

    def plot(self, path: str | Path, sequence: int = 0, split: int = 0) -> Path:
        """Draw the weights of one sequence of the batch over time, a panel a head.

        Args:
            path: file to write; its ending says the format.
            sequence: which sequence of the batch.
            split: the step at which the source ends and the answer starts, marked if not 0.

        Returns:
            The path.
        """
        from memnets.viewing import (
            plots,  # matplotlib takes longer to import than the rest together
        )

        panels = {}
        for name in self.weights:
            weights = self.over_time(name, sequence)
            for head, image in zip(self._head_names(name, len(weights)), weights, strict=True):
                panels[head if len(self.weights) == 1 else f"{name}: {head}"] = image
        return plots.weights(panels, path, split=split)

    def plot_alignment(
        self,
        path: str | Path,
        names: Mapping[str, str],
        source_labels: Sequence[str],
        target_labels: Sequence[str],
        sequence: int = 0,
        heads: bool = False,
        title: str = "",
    ) -> Path:
        """Draw what one sequence of the batch looked at while it answered.

        Args:
            path: file to write; its ending says the format.
            names: label of a panel -> name of the addressing, as a model's ``alignments()``.
            source_labels: a word for each of the N slots.
            target_labels: a word for each step of the answer, the last T of the steps recorded.
            sequence: which sequence of the batch.
            heads: a panel a head, in place of the mean of the heads of an addressing.
            title: stands above.

        Returns:
            The path.

        Raises:
            KeyError: nothing was recorded under a name.
            ValueError: the labels are not as many as steps and slots.
        """
        from memnets.viewing import (
            plots,  # matplotlib takes longer to import than the rest together
        )

        panels: dict[str, Tensor] = {}
        columns = None
        for label, name in names.items():
            weights = self.over_time(name, sequence)[:, -len(target_labels) :]
            if heads and len(weights) > 1:
                columns = len(weights)
                panels.update(
                    (f"{label}, {head}", image)
                    for head, image in zip(self._head_names(name, columns), weights, strict=True)
                )
            else:
                panels[label] = weights.mean(0)
        return plots.alignment(panels, source_labels, target_labels, path, title, columns)

    def _head_names(self, name: str, count: int) -> list[str]:
        return self.heads.get(name, [f"head {head + 1}" for head in range(count)])


@contextmanager
def record(model: nn.Module) -> Iterator[Tape]:
    """Record, within the block, what every addressing in ``model`` returns.

    Scores of :meth:`~memnets.addressing.Content.scores`, of which a pointer makes its answer, are
    recorded as the weights that they stand for. Fast paths are off meanwhile, since they need not
    make the weights at all.
    """
    tape = Tape()
    modules = dict(model.named_modules())

    def keep(name: str, weights: Tensor) -> None:
        tape.weights.setdefault(name, []).append(weights.detach().cpu())

    def watch(name: str) -> Any:
        return lambda module, arguments, outputs: keep(name, outputs[0])

    def watch_scores(name: str, module: Content) -> None:
        scores = module.scores

        def watched(query: Tensor, memory: Memory) -> Tensor:
            found = scores(query, memory)
            keep(name, module.normalizer(found, memory.mask))
            return found

        module.scores = watched  # type: ignore[method-assign]
        stack.callback(delattr, module, "scores")

    with ExitStack() as stack:
        for name, module in modules.items():
            if isinstance(module, Addressing):
                stack.callback(module.register_forward_hook(watch(name)).remove)
                if isinstance(module, Content):
                    watch_scores(name, module)
                owner, _, attribute = name.rpartition(".")
                heads: dict[str, list[str]] = getattr(modules[owner], "head_names", dict)()
                if attribute in heads:
                    tape.heads[name] = heads[attribute]
        stack.enter_context(fast.naive())
        yield tape
