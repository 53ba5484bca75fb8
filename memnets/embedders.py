"""Embedders: tokens, sentences of tokens, or images, to the vectors that an encoder reads."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from memnets.batches import PAD
from memnets.cells import Embedding
from memnets.checks import check_positive
from memnets.core import Embedder

__all__ = ["Patches", "Sentences", "Words", "position_encoding"]


class Words(Embedder):
    """A vector for each token of a text, or a linear map of each vector of a sequence.

    Args:
        input_size: number of tokens, or width of the vectors, at least 1.
        width: width of the result, at least 1.
    """

    source_dims = 2

    def __init__(self, input_size: int, width: int = 128) -> None:
        super().__init__()
        self.embedding = Embedding(input_size, width)
        self.input_size, self.output_size = input_size, width

    def forward(self, source: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Tokens ``[B, S] -> [B, S, width]``, and the same mask."""
        return self.embedding(source), mask


def position_encoding(words: Tensor, width: int) -> Tensor:
    """Weights of the words of a sentence by their places (Sukhbaatar et al. 2015, section 4.1).

    ``l_kj = (1 - j / J) - (k / d) (1 - 2 j / J)`` for word j of J and number k of d, both from 1.

    Args:
        words: bool ``[*B, J']``, True = a word, False = padding behind the last of J words.
        width: d, at least 1.

    Returns:
        ``[*B, J', width]``, 0 at padding.
    """
    places = torch.arange(1, words.shape[-1] + 1, device=words.device, dtype=torch.float32)
    numbers = torch.arange(1, width + 1, device=words.device, dtype=torch.float32) / width
    share = places / words.sum(-1, keepdim=True).clamp_min(1)
    weights = (1 - share).unsqueeze(-1) - numbers * (1 - 2 * share).unsqueeze(-1)
    return weights.masked_fill(~words.unsqueeze(-1), 0.0)


class Sentences(Embedder):
    """A vector for each sentence: the sum of its words' vectors (Sukhbaatar et al. 2015).

    Args:
        input_size: number of tokens, at least 1.
        width: width of the result, at least 1.
        encoding: ``bag``, the plain sum, which does not see the order of the words; or
            ``position``, the sum weighted by :func:`position_encoding`.
    """

    source_dims = 3

    def __init__(
        self, input_size: int, width: int = 20, encoding: Literal["bag", "position"] = "position"
    ) -> None:
        super().__init__()
        if encoding not in ("bag", "position"):
            raise ValueError(f"encoding must be 'bag' or 'position'; got {encoding!r}")
        self.embedding = Embedding(input_size, width)
        self.encoding = encoding
        self.input_size, self.output_size = input_size, width

    def forward(self, source: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Sentences of tokens ``[B, S, L] -> [B, S, width]``, and the same mask.

        ``PAD`` fills a sentence.
        """
        vectors = self.embedding(source)
        words = source != PAD
        if self.encoding == "position":
            weights = position_encoding(words, self.output_size).to(vectors.dtype)
        else:
            weights = words.unsqueeze(-1).to(vectors.dtype)
        return (vectors * weights).sum(-2), mask


class Patches(Embedder):
    """Convolutional features of the patches of an image (Xu et al. 2015, section 3.1.1).

    Each layer is a 3 x 3 convolution, a norm of each filter over its own image, and ReLU; a layer
    with a stride of 2 halves the sides. The vector of a place is made of all filters there.
    The first layer keeps the sides, so that it sees every pixel, unless all layers must halve them.

    Args:
        input_size: number of channels of an image, at least 1.
        filters: number of filters of each layer, each at least 1.
        halvings: number of layers that halve the sides, rounded up: those behind the first.
        coordinates: whether each vector gets two more numbers, its row and its column, from -1 to
            1, so that it knows its place. They come behind the layers: as channels of the image
            they would decide the norms of all filters.
    """

    source_dims = 4

    def __init__(
        self,
        input_size: int,
        filters: Sequence[int] = (32, 64, 64),
        halvings: int = 2,
        coordinates: bool = False,
    ) -> None:
        super().__init__()
        check_positive(input_size=input_size, layers=len(filters))
        if not 0 <= halvings <= len(filters):
            raise ValueError(
                f"halvings must be from 0 to the number of layers, {len(filters)}; got {halvings}"
            )
        self.input_size, self.output_size = input_size, filters[-1] + 2 * coordinates
        self.halvings = halvings
        self.coordinates = coordinates
        self.layers = nn.Sequential()
        first = min(1, len(filters) - halvings)
        for number, (before, count) in enumerate(itertools.pairwise([input_size, *filters])):
            check_positive(filters=count)
            stride = 2 if first <= number < first + halvings else 1
            self.layers.extend(
                [
                    nn.Conv2d(before, count, 3, stride, padding=1, bias=False),
                    nn.GroupNorm(count, count),
                    nn.ReLU(),
                ]
            )

    def forward(self, source: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Images ``[B, height, width, channels] -> [B, S', output_size]``, row by row; no mask.

        Raises:
            ValueError: the images have another number of channels or a single place, or a mask
                came.
        """
        if source.dim() != 4 or source.shape[-1] != self.input_size:
            raise ValueError(
                f"images must be [B, height, width, {self.input_size}]; got {list(source.shape)}"
            )
        if self.grid(*source.shape[1:3]) == (1, 1):
            raise ValueError(
                f"images must have a side of more than {2**self.halvings} pixels, for more than "
                f"one place; got {list(source.shape)}"
            )
        if mask is not None:
            raise ValueError("images of a batch have one size and no padding; got a mask")
        features = self.layers(source.permute(0, 3, 1, 2))
        if self.coordinates:
            # In 16 bits the steps from place to place would be rounded, and their sums.
            exact = torch.promote_types(features.dtype, torch.float32)
            rows, columns = (
                torch.linspace(-1, 1, length, dtype=exact, device=features.device)
                for length in features.shape[2:]
            )
            places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
            features = torch.cat(
                [features, places.to(features.dtype).expand(len(source), -1, -1, -1)], 1
            )
        return features.flatten(2).transpose(1, 2), None

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the vectors of an image of this height and width, in pixels."""
        scale = 2**self.halvings
        return -(-height // scale), -(-width // scale)
