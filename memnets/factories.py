"""Parts whose sizes only their owner knows: arguments that are functions from sizes to a part."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from torch import nn

from memnets.core import Addressing, Cell, Embedder, Encoder, Normalizer, Score

__all__ = ["check_made", "make", "make_encoder"]

Part = TypeVar("Part")

#: An example of a factory for each kind of part, for error messages.
_EXAMPLES = {
    "Cell": "partial(LSTM, hidden_size=100)",
    "Controller": "partial(LSTM, hidden_size=100)",
    "Embedder": "partial(Words, width=100)",
    "Encoder": "partial(SelfAttention, layers=3)",
    "Features": "partial(FourierFeatures, frequencies=5)",
    "Model": "partial(SNAIL, max_length=26)",
}


#: What callers ask of a cell, also of one that is duck-typed.
_OF_CELLS = ("output_size", "initial_state", "step", "unroll")


def check_made(name: str, part: object, example: str) -> None:
    """Check that an argument is a part and not, for instance, the class of one.

    Args:
        name: name of the argument.
        part: value of the argument; ``None`` = no such part.
        example: a valid value, for the message.

    Raises:
        TypeError: the argument is neither a module nor ``None``, or it is a cell without sizes.
    """
    if part is not None and not isinstance(part, nn.Module):
        raise TypeError(f"{name} must be an object, such as {example}; got {_named(part)}")
    if isinstance(part, Cell):
        _check_sizes(part)


def make(name: str, factory: Callable[..., Part], kind: type, *sizes: int) -> Part:
    """Make a part whose sizes only its owner knows.

    Args:
        name: name of the argument that holds the factory.
        factory: makes the part from its sizes: a class, or a partial of one.
        kind: class of the part that the factory must make.
        sizes: positional arguments for the factory.

    Raises:
        TypeError: the factory is a finished part, or it makes a part of another kind or width.
    """
    example = _EXAMPLES.get(kind.__name__, kind.__name__)
    article = "an" if kind.__name__[0] in "AEIOU" else "a"
    wanted = (
        f"{name} must make {article} {kind.__name__} when it is given its sizes, such as {example}"
    )
    if isinstance(factory, nn.Module) or not callable(factory):
        raise TypeError(f"{wanted}; got {_named(factory)}")
    part = factory(*sizes)
    # An object of a class that the library does not know passes: a part may be duck-typed.
    known = (Score, Normalizer, Addressing, Cell, Embedder, Encoder)
    if isinstance(part, known) and not isinstance(part, kind):
        raise TypeError(f"{wanted}; got a function that makes {_named(part)}")
    if isinstance(part, Cell):
        _check_sizes(part)
    missing = [name for name in _OF_CELLS if not hasattr(part, name)]
    if issubclass(kind, Cell) and missing:
        raise TypeError(
            f"{wanted}; got a function that makes {_named(part)}, which has no {missing[0]}: take "
            "memnets.cells.LSTM or GRU, or write a Controller around it"
        )
    if isinstance(part, Cell) and part.input_size != sizes[0]:
        raise TypeError(
            f"{wanted}; got a function that makes {_named(part)} for inputs of width "
            f"{part.input_size}, which should be {sizes[0]}"
        )
    return part


def make_encoder(
    factory: Callable[..., Encoder], input_size: int, width: int, name: str = "encoder"
) -> Encoder:
    """Make the encoder of a model.

    An encoder that owns its embedding (:attr:`Encoder.embeds`) gets the size of the source itself,
    another one the width of the model's embedding.

    Args:
        factory: makes the encoder from the width of its input.
        input_size: tokens of the source, or the width of its vectors.
        width: width of the model's embedding of the source.
        name: name of the argument that holds the factory.

    Raises:
        TypeError: see :func:`make`.
    """
    encoder = make(name, factory, Encoder, width)
    # Only the encoder itself knows whether it embeds.
    return make(name, factory, Encoder, input_size) if encoder.embeds else encoder


def _check_sizes(cell: Cell) -> None:
    """Check that a cell says how wide its inputs and outputs are."""
    for size in cell._sizes:
        width = getattr(cell, size, None)
        # bool is a kind of int: True would pass as 1.
        if isinstance(width, bool) or not hasattr(width, "__index__") or int(width) < 1:  # type: ignore[arg-type]
            name = type(cell).__name__
            raise TypeError(
                f"{name} must set {' and '.join(cell._sizes)} in its __init__, whole numbers of at "
                f"least 1; got {size} = {width!r}"
            )


def _named(part: object) -> str:
    """Describe a value that is not the expected part, for an error message."""
    if isinstance(part, type):
        return f"the class {part.__name__}"
    if isinstance(part, partial):
        return f"a partial of {getattr(part.func, '__name__', part.func)}"
    if isinstance(part, nn.Module):
        return f"an object, {type(part).__name__}(...)"
    return repr(part)
