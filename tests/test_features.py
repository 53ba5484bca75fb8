"""Features against their definitions."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from memnets.features import FourierFeatures, ImageFeatures, VectorFeatures


@pytest.mark.parametrize(("side", "filters"), [(28, [2, 3, 4, 3]), (8, [3, 3, 3]), (5, [3])])
def test_image_features_are_the_layers_of_torch(side: int, filters: list[int]) -> None:
    torch.manual_seed(0)
    features = ImageFeatures(side * side, filters).double()
    images = torch.randn(2, 4, side * side, dtype=torch.float64)
    hidden = images.view(8, 1, side, side)
    for layer in range(len(filters)):
        conv, norm = features.layers[4 * layer : 4 * layer + 2]
        hidden = nn.functional.conv2d(hidden, conv.weight, padding=1)
        mean = hidden.mean((2, 3), keepdim=True)
        variance = hidden.var((2, 3), keepdim=True, correction=0)
        hidden = (hidden - mean) / (variance + 1e-5).sqrt()
        hidden = hidden * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)
        hidden = nn.functional.max_pool2d(hidden.clamp_min(0), 2)
    expected = nn.functional.layer_norm(hidden.flatten(1), [features.output_size])
    assert features.output_size == 3 * (side // 2 ** len(filters)) ** 2
    torch.testing.assert_close(features(images), expected.view(2, 4, -1))


@given(
    rows=st.lists(st.lists(st.floats(-2, 2), min_size=2, max_size=2), min_size=1, max_size=3),
    frequencies=st.integers(1, 6),
)
def test_fourier_features_are_waves_that_halve(rows: list[list[float]], frequencies: int) -> None:
    features = FourierFeatures(2, frequencies).double()
    seen = features(torch.tensor(rows, dtype=torch.float64))
    assert seen.shape == (len(rows), features.output_size)
    for row, numbers in zip(rows, seen.tolist(), strict=True):
        angles = [2**k * math.pi * number for number in row for k in range(frequencies)]
        expected = [*row, *map(math.sin, angles), *map(math.cos, angles)]
        # Pi is a number of single precision there.
        assert numbers == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ImageFeatures(783), "square image .* got 783"),
        (lambda: ImageFeatures(64), "at least 16 for 4 layers; got 64"),
        (lambda: ImageFeatures(64, []), "layers must be .* got 0"),
        (lambda: ImageFeatures(64, [8, 0]), "filters must be .* got 0"),
        (lambda: VectorFeatures(0), "input_size must be .* got 0"),
        (lambda: VectorFeatures(3, 0), "output_size must be .* got 0"),
        (lambda: FourierFeatures(2, 0), "frequencies must be .* got 0"),
    ],
)
def test_wrong_features(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
