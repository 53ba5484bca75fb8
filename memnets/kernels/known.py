"""Weights of layers for twins, and checks of what twins take for granted of these layers.

A twin that reads the weights of a layer does not call it. So it is right only as long as the layer
is what its part has made: of the exact class, with its biases, each tensor of the shape that the
sizes of the part say. A user may have put another layer of PyTorch in its place, or changed a size
that the layers were made for; then the definition runs, with its result or its error. The functions
here give the weights of a layer, or ``None`` if it is anything else. Every twin that reads weights
has them from here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from memnets.cells.attention import AttentionBlock, MultiHead
from memnets.cells.composed import Connection, Loop
from memnets.cells.convolutions import DenseBlock
from memnets.cells.dropout import Dropout
from memnets.cells.recurrent import GRU, LSTM, FeedForward
from memnets.fast import ORDINARY

__all__ = [
    "attention",
    "block",
    "connection",
    "layers",
    "linear",
    "loop",
    "position_wise",
    "tensors",
    "weights",
]

Tensors = tuple[Tensor, ...]


def layers(module: nn.Module) -> dict[str, Any]:
    """The modules in a module, by name.

    An attribute of a module is a search of several dictionaries, which takes longer than the check
    of a weight; and all this runs at every step.
    """
    found: dict[str, Any] = module.__dict__["_modules"]
    return found


def tensors(
    module: Any, kind: type, dtype: torch.dtype, **shapes: tuple[int, ...]
) -> Tensors | None:
    """Parameters of a module.

    Args:
        module: any object.
        kind: its class; a subclass may compute something else.
        dtype: type of the numbers.
        **shapes: name of a parameter -> its shape.

    Returns:
        The parameters; ``None`` if the module is of another class, or a parameter is missing, or of
        another type or shape.
    """
    return _tensors(module, dtype, shapes) if type(module) is kind else None


def _tensors(module: Any, dtype: torch.dtype, shapes: dict[str, tuple[int, ...]]) -> Tensors | None:
    kept = module.__dict__["_parameters"]
    found = []
    for name, shape in shapes.items():
        one = kept.get(name)
        if type(one) not in ORDINARY or one.shape != shape or one.dtype != dtype:
            return None
        found.append(one)
    return tuple(found)


def linear(layer: Any, rows: int, columns: int, dtype: torch.dtype) -> Tensors | None:
    """W ``[rows, columns]`` and b of a layer that is ``W x + b`` and nothing else."""
    return tensors(layer, nn.Linear, dtype, weight=(rows, columns), bias=(rows,))


def weights(controller: Any, dtype: torch.dtype) -> Tensors | None:
    """Weights of an LSTM or a GRU of one layer, or of a feed-forward controller.

    Args:
        controller: any cell.
        dtype: type of the numbers.

    Returns:
        Matrices and biases in PyTorch's order, layer by layer; ``None`` for any other controller,
        and for one that does not hold exactly these tensors.
    """
    kind = type(controller)
    if kind is FeedForward:
        return _feed_forward(controller, dtype)
    if kind is not LSTM and kind is not GRU:
        return None
    network = layers(controller).get("lstm" if kind is LSTM else "gru")
    if not isinstance(network, nn.RNNBase) or network.mode != kind.__name__:
        return None
    # More parameters are those of more layers, of another direction, or of a projection.
    if len(network.__dict__["_parameters"]) != 4:
        return None
    size, width = controller.hidden_size, controller.input_size
    gates = (4 if kind is LSTM else 3) * size
    shapes = {
        "weight_ih_l0": (gates, width),
        "weight_hh_l0": (gates, size),
        "bias_ih_l0": (gates,),
        "bias_hh_l0": (gates,),
    }
    return _tensors(network, dtype, shapes)


def _feed_forward(controller: FeedForward, dtype: torch.dtype) -> Tensors | None:
    network = layers(controller).get("layers")
    every = list(layers(network).values()) if type(network) is nn.Sequential else []
    size, width = controller.hidden_size, controller.input_size
    found: Tensors = ()
    # The layers are open to changes, such as a dropout between them.
    for one, other in zip(every[::2], every[1::2], strict=False):
        both = linear(one, size, width, dtype)
        if both is None or type(other) is not nn.Tanh:
            return None
        found, width = (*found, *both), size
    return found if found and len(every) == len(found) else None


def loop(cell: Loop, dtype: torch.dtype) -> Tensors | None:
    """Weights of a loop: those of its controller as :func:`weights` gives them, then U and a.

    Args:
        cell: the loop.
        dtype: type of the numbers.

    Returns:
        The tensors; ``None`` if they, or the widths of controller and memory, do not go together.
    """
    parts = layers(cell)
    controller, access = parts["controller"], parts["access"]
    found = weights(controller, dtype)
    if found is None or controller.input_size != cell.input_size + access.output_size:
        return None
    driving = linear(parts["interface"], access.interface_size, controller.hidden_size, dtype)
    return None if driving is None else (*found, *driving)


def attention(part: MultiHead, width: int, dtype: torch.dtype) -> Tensors | None:
    """The matrix and bias of an attention of a width, and those of its last layer."""
    if type(part) is not MultiHead or part.width != width or part.heads < 1 or width % part.heads:
        return None
    first = tensors(part, MultiHead, dtype, weight=(3 * width, width), bias=(3 * width,))
    last = linear(layers(part)["output"], width, width, dtype)
    return None if first is None or last is None else (*first, *last)


def connection(part: Any, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, float] | None:
    """Scale, offset and epsilon of the norm of a skip connection that drops nothing."""
    if type(part) is not Connection:
        return None
    inner = layers(part)
    norm = inner["norm"]
    found = tensors(norm, nn.LayerNorm, dtype, weight=(width,), bias=(width,))
    if found is None or norm.normalized_shape != (width,) or not _idle(inner["dropout"]):
        return None
    scale, offset = found
    return scale, offset, norm.eps


def _idle(layer: Any) -> bool:
    """Whether a layer is dropout that drops nothing."""
    return type(layer) is Dropout and not (layer.training and layer.p)


def position_wise(network: Any, width: int, dtype: torch.dtype) -> Tensors | None:
    """Matrices and biases of the network of a Transformer's layer that drops nothing."""
    if type(network) is not nn.Sequential:
        return None
    every = tuple(layers(network).values())
    if [type(each) for each in every] != [nn.Linear, nn.ReLU, Dropout, nn.Linear]:
        return None
    first, _, dropped, last = every
    hidden = first.out_features
    both = linear(first, hidden, width, dtype), linear(last, width, hidden, dtype)
    if both[0] is None or both[1] is None or not _idle(dropped):
        return None
    return *both[0], *both[1]


def block(part: Any, dtype: torch.dtype) -> Tensors | None:
    """Matrix and bias of a block of a SNAIL."""
    width, added = part.input_size, part.output_size - part.input_size
    rows, columns = 2 * added, width
    if type(part) is AttentionBlock:
        key, other, value = part.sizes
        rows = 2 * key + value
        if key != other or value != added:
            return None
    elif type(part) is DenseBlock and part.dilation > 0:
        columns = part.kernel_size * width
    else:
        return None
    return linear(layers(part)["layer"], rows, columns, dtype)
