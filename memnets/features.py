"""Features: what a model sees of an image or a vector of numbers."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from memnets.core import check_positive, make

__all__ = ["Features", "FourierFeatures", "ImageFeatures", "VectorFeatures", "made_features"]


class Features(nn.Module, ABC):
    """From an input to the vector that stands for it.

    A subclass takes ``input_size`` as its first argument.

    Attributes:
        input_size: width of an input; of an image, its pixels.
        output_size: width of the vector.
    """

    input_size: int
    output_size: int

    @abstractmethod
    def forward(self, inputs: Tensor) -> Tensor:
        """``[*B, input_size] -> [*B, output_size]``."""


class VectorFeatures(Features):
    """A vector as it is, or a linear map of it.

    Args:
        input_size: at least 1.
        output_size: at least 1; ``None`` = as it is.
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
    """Numbers, and beside them their sines and cosines at frequencies that double.

    ``[x, sin(2^k pi x), cos(2^k pi x)]`` for k from 0 to F - 1 (Mildenhall et al. 2020, equation
    4): numbers in ``[0, 1]`` that differ by little look different.

    Args:
        input_size: at least 1.
        frequencies: F, at least 1.
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

    The four layers of 64 filters that the papers on few examples share (Vinyals et al. 2016; Snell
    et al. 2017, section 3.1), but that each filter is normalised over its own image, not over the
    batch: an image then looks the same whatever comes with it. Most of the time goes into the first
    two layers, so that fewer filters in the first make it fast.

    Args:
        input_size: pixels of a square image of one channel, row by row.
        filters: of each layer, each at least 1; each layer halves the sides of the image.

    Raises:
        ValueError: a size is out of its range, or the image is not square, or too small.
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
                    # ReLU keeps the greatest the greatest: after the pool it has less to do.
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


def made_features(features: Callable[[int], Features] | None, input_size: int) -> Features:
    """Features of an input of so many numbers, the numbers as they are if none are given.

    Raises:
        TypeError: features were given that are made already.
    """
    if features is None:
        return VectorFeatures(input_size)
    return make("features", features, Features, input_size)
