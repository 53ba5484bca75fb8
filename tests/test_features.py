"""Features against their definitions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from memnets import fast
from memnets.addressing import Content
from memnets.features import FeatureAttention, FourierFeatures, ImageFeatures, VectorFeatures
from memnets.scores import ScaledDot
from memnets.viewing import trace


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
        (lambda: FeatureAttention(0), "channels must be .* got 0"),
        (lambda: FeatureAttention(4, value_size=0), "value_size must be .* got 0"),
        (lambda: FeatureAttention(4, pool=0), "pool must be .* got 0"),
        (
            lambda: FeatureAttention(4, pool=3)(torch.zeros(1, 4, 2, 5)),
            "sides of a map must be at least pool = 3; got 2 x 5",
        ),
    ],
)
def test_wrong_features(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def weighted(part: FeatureAttention, maps: np.ndarray) -> np.ndarray:
    """Attention over a map by loops over its places (Zhang et al. 2019, equations 1 to 3)."""
    layers = {
        name: (layer.weight.detach().numpy(), layer.bias.detach().numpy())
        for name, layer in part.named_children()
        if isinstance(layer, nn.Linear)
    }

    def layer(name: str, vector: np.ndarray) -> np.ndarray:
        weight, bias = layers[name]
        return weight @ vector + bias

    result = np.empty_like(maps)
    count, _, height, width = maps.shape
    for number in range(count):
        slots = []
        for row in range(height // part.pool):
            for column in range(width // part.pool):
                square = [
                    maps[number, :, part.pool * row + down, part.pool * column + right]
                    for down in range(part.pool)
                    for right in range(part.pool)
                ]
                slots.append(
                    [np.max([layer(name, x) for x in square], 0) for name in ("key", "value")]
                )
        for row in range(height):
            for column in range(width):
                x = maps[number, :, row, column]
                scores = np.array([layer("query", x) @ key for key, _ in slots])
                beta = np.exp(scores - scores.max())
                read = sum(
                    b * value for b, (_, value) in zip(beta / beta.sum(), slots, strict=True)
                )
                result[number, :, row, column] = part.gate.item() * layer("output", read) + x
    return result


def attention_over(channels: int, gate: float, **settings) -> FeatureAttention:
    torch.manual_seed(0)
    part = FeatureAttention(channels, **settings).double()
    with torch.no_grad():
        part.gate.fill_(gate)
    return part


def maps_of(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@given(
    channels=st.integers(1, 9),
    sides=st.tuples(st.integers(2, 5), st.integers(2, 5)),
    pool=st.integers(1, 2),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_attention_over_a_map_is_the_equations_of_the_paper(channels, sides, pool, sizes) -> None:
    settings = {"key_size": sizes[0], "value_size": sizes[1], "pool": pool}
    part = attention_over(channels, 0.7, **settings)
    maps = maps_of(2, channels, *sides)
    expected = torch.from_numpy(weighted(part, maps.numpy()))
    torch.testing.assert_close(part(maps), expected)
    with fast.naive(), trace.record(part) as tape:
        torch.testing.assert_close(part(maps), expected)
    rows, columns = part.slots(*sides)
    assert tape.calls(part.attention)[0].shape == (2, sides[0] * sides[1], rows * columns)


def test_a_gate_of_0_leaves_a_map_as_it_is_and_learns() -> None:
    part = FeatureAttention(16).double()
    maps = maps_of(2, 16, 3, 3)
    assert torch.equal(part(maps), maps)
    assert (part.key.out_features, part.value.out_features) == (2, 2)
    (part(maps) * maps_of(2, 16, 3, 3)).sum().backward()
    assert part.gate.grad != 0
    # Behind a gate of 0, nothing else learns yet.
    others = [each for name, each in part.named_parameters() if name != "gate"]
    assert not any(each.grad.any() for each in others)


@given(order=st.permutations(range(12)))
def test_a_permutation_of_the_places_permutes_the_result(order: list[int]) -> None:
    part = attention_over(4, 1.3)
    maps = maps_of(2, 4, 3, 4)
    moved = part(maps.flatten(2)[..., order].view(2, 4, 3, 4))
    torch.testing.assert_close(moved, part(maps).flatten(2)[..., order].view(2, 4, 3, 4))


def test_gradients_and_precision_of_attention_over_a_map() -> None:
    part = attention_over(4, 0.5, key_size=2, pool=2)
    maps = maps_of(1, 4, 2, 4).requires_grad_()
    assert torch.autograd.gradcheck(part, (maps,))
    whole = part(maps)
    for dtype in (torch.bfloat16, torch.float16):
        half = part.to(dtype)(maps.to(dtype))
        assert half.dtype == dtype
        torch.testing.assert_close(half.double(), whole, atol=0.05, rtol=0.05)
        with torch.autocast("cpu", dtype):
            torch.testing.assert_close(
                part.float()(maps.float()).double(), whole, atol=0.05, rtol=0.05
            )


def test_attention_fits_into_any_convolutional_network() -> None:
    network = nn.Sequential(nn.Conv2d(1, 8, 3), FeatureAttention(8, attention=Content(ScaledDot())))
    assert network(torch.zeros(2, 1, 6, 7)).shape == (2, 8, 4, 5)
