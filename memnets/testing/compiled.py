"""Graphs of ``torch.compile`` for the laws."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__: list[str] = []


def compiles() -> bool:
    """Whether ``torch.compile`` can read functions of this version of Python."""
    from torch._dynamo.eval_frame import is_dynamo_supported  # not at the top: it takes seconds

    return bool(is_dynamo_supported())


def in_one_graph(function: Callable[..., Any], *arguments: Any, backend: str = "eager") -> Any:
    """Results of a function that ``torch.compile`` has made into one graph.

    Args:
        function: takes and returns structures of tensors.
        *arguments: arguments of the function.
        backend: what runs the graph; ``eager`` runs its operations one by one.

    Raises:
        AssertionError: the graph breaks; the message says where and why.
    """
    import torch._dynamo

    # Graphs of other parts would count against the limit of graphs for the same code.
    torch._dynamo.reset()
    graph = torch.compile(function, fullgraph=True, backend=backend)
    try:
        # The compiler's own warnings, such as of old ways to use PyTorch, say nothing of the part.
        with warnings.catch_warnings(), _untold():
            warnings.simplefilter("ignore")
            return graph(*arguments)
    except torch._dynamo.exc.TorchDynamoException as error:
        raise AssertionError(f"the graph breaks: {_reason(str(error))}") from None


@contextmanager
def _untold() -> Iterator[None]:
    """Without the compiler's own records, which pytest would print below a law that breaks."""
    records = logging.getLogger("torch.__trace")
    before, records.disabled = records.disabled, True
    try:
        yield
    finally:
        records.disabled = before


def _reason(message: str) -> str:
    """The reason and the place in the user's code, of a message of many lines."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    reasons = [line for line in lines if line.startswith("Explanation: ")] or lines
    places = [number for number, line in enumerate(lines) if line.startswith("File ")]
    place = ", ".join(lines[places[-1] : places[-1] + 2]) if places else "no place is known"
    return f"{reasons[0].removeprefix('Explanation: ')} ({place})"
