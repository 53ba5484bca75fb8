"""Features: what a network makes of an image or of a vector of numbers, for a model to use."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from memnets.addressing import Content
from memnets.checks import check_positive
from memnets.core import Addressing, Memory
from memnets.factories import check_made, make
from memnets.scores import Dot

__all__ = [
    "FeatureAttention",
    "Features",
    "FourierFeatures",
    "ImageFeatures",
    "VectorFeatures",
    "made_features",
]


class Features(nn.Module, ABC):
    """Base class for features: functions from an input to a vector that represents it.

    A subclass takes ``input_size`` as its first argument.

    Attributes:
        input_size: width of an input; the number of pixels for an image.
        output_size: width of the result.
    """

    input_size: int
    output_size: int

    @abstractmethod
    def forward(self, inputs: Tensor) -> Tensor:
        """``[*B, input_size] -> [*B, output_size]``."""


class VectorFeatures(Features):
    """The unchanged vector, or a linear map of it.

    Args:
        input_size: width of the input, at least 1.
        output_size: width of the linear map's result, at least 1; ``None`` = no linear map.
    """

    def __init__(self, input_size: int, output_size: int | None = None) -> None:
        super().__init__()
        check_positive(input_size=input_size)
        self.input_size = input_size
        self.layer: nn.Module = nn.Identity()
        self.output_size = input_size
        if output_size is not None:
            check_positive(output_size=output_size)
            self.layer = nn.Linear(input_size, output_size)
            self.output_size = output_size

    def forward(self, inputs: Tensor) -> Tensor:
        """``[*B, input_size] -> [*B, output_size]``."""
        outputs: Tensor = self.layer(inputs)
        return outputs


class FourierFeatures(Features):
    """Numbers with their sines and cosines at frequencies that double.

    ``[x, sin(2^k pi x), cos(2^k pi x)]`` for k from 0 to F - 1 (Mildenhall et al. 2020, equation
    4). They make a small difference of two numbers in ``[0, 1]`` easy to see for a network.

    Args:
        input_size: width of the input, at least 1.
        frequencies: F, the number of frequencies, at least 1.
    """

    def __init__(self, input_size: int, frequencies: int = 5) -> None:
        super().__init__()
        check_positive(input_size=input_size, frequencies=frequencies)
        self.input_size = input_size
        self.output_size = input_size * (1 + 2 * frequencies)
        self.frequencies: Tensor
        rising = math.pi * 2.0 ** torch.arange(frequencies)
        self.register_buffer("frequencies", rising, persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """``[*B, input_size] -> [*B, output_size]``."""
        angles = (inputs.unsqueeze(-1) * self.frequencies).flatten(-2)
        return torch.cat([inputs, angles.sin(), angles.cos()], -1)


class ImageFeatures(Features):
    """Layers of a 3 x 3 convolution, a norm, max-pooling by 2 and ReLU, then a norm of the vector.

    The default is the network of the papers on few-shot learning: four layers of 64 filters
    (Vinyals et al. 2016; Snell et al. 2017, section 3.1). One thing differs: each filter is
    normalised over its own image, not over the batch, so that the features of an image do not
    depend on the others. Most of the time goes into the first two layers; fewer filters in the
    first make the network faster.

    Args:
        input_size: number of pixels of a square image of one channel, row by row.
        filters: number of filters of each layer, each at least 1. Each layer halves the sides of
            the image.

    Raises:
        ValueError: a size is out of its range, or the image is not square or is too small.
    """

    def __init__(self, input_size: int, filters: Sequence[int] = (64, 64, 64, 64)) -> None:
        super().__init__()
        check_positive(input_size=input_size, layers=len(filters))
        self.input_size = input_size
        self.side = math.isqrt(input_size)
        smallest = self.side >> len(filters)
        if self.side**2 != input_size or smallest < 1:
            raise ValueError(
                f"input_size must be the pixels of a square image with sides of at least "
                f"{2 ** len(filters)} for {len(filters)} layers; got {input_size}"
            )
        self.output_size = filters[-1] * smallest**2
        self.layers = nn.Sequential()
        for before, count in itertools.pairwise([1, *filters]):
            check_positive(filters=count)
            self.layers.extend(
                [
                    nn.Conv2d(before, count, 3, padding=1, bias=False),
                    nn.GroupNorm(count, count),
                    # Max-pooling and ReLU commute; after the pool, ReLU has a quarter to do.
                    nn.MaxPool2d(2),
                    nn.ReLU(),
                ]
            )
        self.norm = nn.LayerNorm(self.output_size)

    def forward(self, inputs: Tensor) -> Tensor:
        """Images ``[*B, input_size] -> [*B, output_size]``."""
        images = inputs.reshape(-1, 1, self.side, self.side)
        outputs: Tensor = self.norm(self.layers(images).flatten(1))
        return outputs.view(*inputs.shape[:-1], self.output_size)


class FeatureAttention(nn.Module):
    """Self-attention over the places of a feature map, behind a gate (Zhang et al. 2019, 3).

    ``y_j = gamma o_j + x_j`` with ``o_j = v(sum_i beta_ji h(x_i))``. The weights beta of a place j
    are the softmax over all places i of ``f(x_i) . g(x_j)``, by default: the places are the slots
    of a memory, with keys f and values h, and g makes the query of each place. All four are linear
    maps of the vector of a place, 1 x 1 convolutions. The gate gamma is learned from 0, so at first
    the map stays as it is. It fits between any two layers of a convolutional network.

    Args:
        channels: channels of the map, at least 1.
        key_size: width of keys and queries, at least 1; an eighth of the channels by default.
        value_size: width of the values, at least 1; an eighth of the channels by default.
        pool: side of the squares of places that share a slot, by the greatest of their keys and of
            their values, at least 1; 1 = each place has its own. A larger one saves time and room.
        attention: addresses the places; by content with plain dot products by default. Its result
            may not depend on a past.

    Raises:
        ValueError: a size is out of its range.
        TypeError: ``attention`` is not an object.

    Example:
        ``nn.Sequential(nn.Conv2d(1, 64, 3, padding=1), nn.ReLU(), FeatureAttention(64))``
    """

    def __init__(
        self,
        channels: int,
        key_size: int | None = None,
        value_size: int | None = None,
        pool: int = 1,
        attention: Addressing | None = None,
    ) -> None:
        super().__init__()
        check_positive(channels=channels, pool=pool)
        key_size, value_size = (
            max(1, channels // 8) if size is None else size for size in (key_size, value_size)
        )
        check_positive(key_size=key_size, value_size=value_size)
        check_made("attention", attention, "Content(Dot())")
        self.pool = pool
        self.attention = Content(Dot()) if attention is None else attention
        self.query = nn.Linear(channels, key_size)
        self.key = nn.Linear(channels, key_size)
        self.value = nn.Linear(channels, value_size)
        self.output = nn.Linear(value_size, channels)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, maps: Tensor) -> Tensor:
        """``[B, channels, height, width] -> [B, channels, height, width]``.

        Raises:
            ValueError: a side of the map is less than ``pool``.
        """
        height, width = maps.shape[-2:]
        if min(height, width) < self.pool:
            raise ValueError(
                f"the sides of a map must be at least pool = {self.pool}; got {height} x {width}"
            )
        # The vectors of all places, [B, height, width, C].
        places = maps.movedim(-3, -1)
        memory = Memory(*(self._shared(layer(places)) for layer in (self.key, self.value)))
        read, _ = self.attention.read(self.query(places).flatten(-3, -2), memory)
        outputs: Tensor = self.output(read).unflatten(-2, (height, width))
        return self.gate * outputs.movedim(-1, -3) + maps

    def _shared(self, places: Tensor) -> Tensor:
        """Vectors of the slots: ``[B, height, width, C] -> [B, slots, C]``."""
        if self.pool > 1:
            rows, columns = self.slots(*places.shape[-3:-1])
            places = places[:, : rows * self.pool, : columns * self.pool]
            squares = places.unflatten(2, (columns, self.pool)).unflatten(1, (rows, self.pool))
            places = squares.amax((2, 4))
        return places.flatten(-3, -2)

    def slots(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the slots, by which the weights ``[B, places, slots]`` are laid out.

        Args:
            height: rows of the map.
            width: columns of the map.
        """
        return height // self.pool, width // self.pool


def made_features(features: Callable[[int], Features] | None, input_size: int) -> Features:
    """Make features for inputs of a given width.

    Args:
        features: makes the features from the width of an input; ``None`` = the input itself.
        input_size: width of an input.

    Raises:
        TypeError: ``features`` is a finished module, not a function that makes one.
    """
    if features is None:
        return VectorFeatures(input_size)
    return make("features", features, Features, input_size)
