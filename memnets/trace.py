"""Record the weights of any model, whatever addressing it uses.

Example::

    with trace.record(model) as tape:
        model.logits(batch)
    tape.weights["access.addressing"]        # one [*B, Q, N] a call
    tape.plot("weights.png")
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from memnets import kernels
from memnets.core import Addressing

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
        if name not in self.weights:
            raise KeyError(f"nothing was recorded for {name!r}; there is {sorted(self.weights)}")
        calls = self.weights[name]
        slots = max(weights.shape[-1] for weights in calls)
        padded = [nn.functional.pad(weights, (0, slots - weights.shape[-1])) for weights in calls]
        return torch.stack(padded, -3)

    def plot(self, path: str | Path, sequence: int = 0, split: int = 0) -> Path:
        """Draw the weights of one sequence of the batch over time, a panel a head.

        Args:
            path: file to write; its ending says the format.
            sequence: which sequence of the batch.
            split: the step at which the source ends and the answer starts, marked if not 0.

        Returns:
            The path.
        """
        from memnets import plots  # matplotlib takes longer to import than the rest together

        panels = {}
        for name in self.weights:
            weights = self.stacked(name)[sequence]
            heads = self.heads.get(
                name, [f"query {query + 1}" for query in range(weights.shape[1])]
            )
            for query, head in enumerate(heads):
                label = head if len(self.weights) == 1 else f"{name}: {head}"
                panels[label] = weights[:, query]
        return plots.weights(panels, path, split=split)


@contextmanager
def record(model: nn.Module) -> Iterator[Tape]:
    """Record, within the block, what every addressing in ``model`` returns.

    Fast paths are off meanwhile, since they need not make the weights at all.
    """
    tape = Tape()
    modules = dict(model.named_modules())

    def watch(name: str) -> Any:
        def hook(module: nn.Module, arguments: Any, outputs: tuple[Tensor, Any]) -> None:
            tape.weights.setdefault(name, []).append(outputs[0].detach().cpu())

        return hook

    with ExitStack() as stack:
        for name, module in modules.items():
            if isinstance(module, Addressing):
                stack.callback(module.register_forward_hook(watch(name)).remove)
                owner = modules[name.rpartition(".")[0]]
                if hasattr(owner, "head_names"):
                    tape.heads[name] = owner.head_names()
        stack.enter_context(kernels.naive())
        yield tape
