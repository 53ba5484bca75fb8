"""ConvS2S: against the paper's equations in plain loops; its start; the gradient to its encoder."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from memnets import functional
from memnets.batches import Batch
from memnets.cells import GatedConvolution, NormedLinear
from memnets.embedders import Patches
from memnets.encoders import Convolutional, Embedded
from memnets.models import ConvS2S
from memnets.training.objectives import Tokens

WIDTH, LETTERS, SOUNDS, KERNEL = 4, 7, 9, 3


def made(seed=0, **settings):
    torch.manual_seed(seed)
    settings = {"encoder_layers": 2, "layers": 2, "dropout": 0.0, **settings}
    return ConvS2S(LETTERS, SOUNDS, WIDTH, objective=Tokens(), **settings).double().eval()


def linear(layer, vector):
    """``W x + b`` with weight normalisation, row by row."""
    direction, length, bias = (
        part.detach().numpy() for part in (layer.direction, layer.length, layer.bias)
    )
    return np.array(
        [
            length[row, 0] * (direction[row] @ vector) / math.sqrt((direction[row] ** 2).sum())
            + bias[row]
            for row in range(len(bias))
        ]
    )


def gated(layer, window):
    """``a * sigmoid(b)`` with ``[a, b]`` of the inputs that a convolution sees."""
    both = linear(layer, np.concatenate(window))
    half = len(both) // 2
    return np.array([a / (1 + math.exp(-b)) for a, b in zip(both[:half], both[half:], strict=True)])


def embedded(tokens, embedding, positions):
    """Rows of the two tables, each of the deviation 0.1 at the start."""
    words, places = embedding.weight.detach().numpy(), positions.weight.detach().numpy()
    return [math.sqrt(WIDTH) * words[token] + places[t] for t, token in enumerate(tokens)]


def plain(model, source, inputs):
    """Logits of one sequence without padding, by the equations of section 3."""
    zeros, half = np.zeros(WIDTH), math.sqrt(0.5)
    e = embedded(source, model.inputs.source, model.inputs.positions)
    h = e
    for layer in model.encoder.layers:
        seen = [zeros, *h, zeros]
        h = [(gated(layer, seen[t : t + KERNEL]) + h[t]) * half for t in range(len(h))]
    z = [linear(model.encoder.output, vector) for vector in h]
    g = embedded(inputs, model.inputs.answer, model.inputs.positions)
    h = g
    for cell in model.decoder.cells:
        seen = [*[zeros] * (KERNEL - 1), *h]
        after = []
        for t in range(len(h)):
            hidden = (gated(cell.convolution.layer, seen[t : t + KERNEL]) + h[t]) * half
            query = linear(cell.query, hidden) + g[t]
            scores = np.array([math.exp(query @ key) for key in z])
            weights = scores / scores.sum()
            context = sum(a * (key + word) for a, key, word in zip(weights, z, e, strict=True))
            after.append((hidden + math.sqrt(len(z)) * context) * half)
        h = after
    return np.array([linear(model.output, vector) for vector in h])


@pytest.mark.parametrize("seed", [0, 1])
def test_the_logits_are_those_of_the_equations(seed):
    model = made(seed)
    with torch.no_grad():
        for parameter in model.parameters():  # large numbers, so that each factor counts
            parameter.add_(0.5 * torch.randn_like(parameter))
    sources, inputs = [[4, 5, 6, 3], [5, 3]], torch.tensor([[2, 7, 8, 4, 5], [2, 6, 6, 5, 8]])
    source = torch.tensor([sources[0], [*sources[1], 0, 0]])
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    logits, _ = model.decode(inputs, model.encode(source, mask))
    for row, known in enumerate(sources):
        expected = plain(model, known, inputs[row].tolist())
        assert_close(logits[row].detach(), torch.from_numpy(expected))


def test_weights_start_as_in_the_paper():
    torch.manual_seed(0)
    width, dropout = 64, 0.2
    model = ConvS2S(2000, 500, width, 2, 2, 3, dropout)
    keep = 1 - dropout
    cell = model.decoder.cells[1]
    expected = {
        model.encoder.layers[1].weight: math.sqrt(4 * keep / (3 * width)),
        cell.convolution.layer.weight: math.sqrt(4 * keep / (3 * width)),
        cell.query.weight: math.sqrt(1 / width),
        model.encoder.output.weight: math.sqrt(1 / width),
        model.output.weight: math.sqrt(keep / width),
        model.inputs.positions.weight: 0.1,
        model.inputs.source.weight * math.sqrt(width): 0.1,
        model.inputs.answer.weight * math.sqrt(width): 0.1,
    }
    for weight, deviation in expected.items():
        assert weight.std().item() == pytest.approx(deviation, rel=0.04)
    for name, bias in model.named_parameters():
        assert not name.endswith("bias") or not bias.any(), name


def test_the_gradient_to_the_encoder_is_divided_by_twice_the_attentions():
    tokens = torch.tensor([[4, 5, 6, 3]])
    batch = Batch(tokens, tokens, tokens)
    models = [made(layers=3, encoder_gradient=factor) for factor in (1.0, None)]
    for model in models:
        model.loss(batch).backward()
    whole, scaled = (model.encoder for model in models)
    for one, other in zip(whole.parameters(), scaled.parameters(), strict=True):
        assert_close(other.grad, one.grad / 6)
    # The embeddings of the source get the rest of theirs as values, in full.
    one, other = (model.inputs.source.weight.grad for model in models)
    assert not torch.allclose(other, one)
    assert not torch.allclose(other, one / 6)
    for one, other in zip(*(model.decoder.parameters() for model in models), strict=True):
        assert_close(other.grad, one.grad)


def test_a_gradient_alone_is_changed():
    values = torch.tensor([1.5, -2.0], requires_grad=True)
    changed = functional.with_gradient(values, 0.25)
    assert torch.equal(changed, values)
    assert torch.autograd.grad(changed.sum(), values)[0].tolist() == [0.25, 0.25]


def test_a_normed_layer_starts_with_its_gain():
    torch.manual_seed(0)
    layer = NormedLinear(400, 300, gain=4)
    assert layer.weight.std().item() == pytest.approx(2 / math.sqrt(400), rel=0.02)
    inputs = torch.randn(3, 400)
    with torch.no_grad():
        layer.direction.mul_(7)  # only the length counts
    expected = nn_linear(layer, inputs)
    assert_close(layer(inputs), expected)


def nn_linear(layer, inputs):
    unit = layer.direction / layer.direction.square().sum(1, keepdim=True).sqrt()
    return inputs @ (layer.length * unit).T + layer.bias


@pytest.mark.parametrize("kernel_size", [1, 2, 5])
def test_a_gated_convolution_is_that_of_torch(kernel_size):
    torch.manual_seed(0)
    cell = GatedConvolution(3, kernel_size).double()
    inputs = torch.randn(2, 6, 3, dtype=torch.double)
    outputs, state = cell.unroll(inputs, cell.initial_state(2))
    weight = cell.layer.weight.view(6, kernel_size, 3).transpose(1, 2)
    padded = torch.nn.functional.pad(inputs.mT, (kernel_size - 1, 0))
    both = torch.nn.functional.conv1d(padded, weight, cell.layer.bias)
    assert_close(outputs.mT, torch.nn.functional.glu(both, 1))
    assert_close(state, inputs[:, 6 - (kernel_size - 1) :])


def test_an_encoder_of_images_gives_keys_and_values():
    images = torch.rand(2, 6, 9, LETTERS).double()
    embedding = partial(Patches, filters=(3, 5))
    model = made(encoder=partial(Embedded, embedding=embedding))
    memory = model.encode(images).decoder[1].memory
    # There are no embeddings of words to add; of all m vectors each is sqrt(m) times as large.
    assert memory.keys.shape[2] == WIDTH
    assert_close(memory.values, memory.keys * math.sqrt(memory.keys.shape[1]))
    assert model.inputs.source is None
    assert model.longest_answer(10_000) == 512
    logits, _ = model.decode(torch.tensor([[2, 5], [2, 6]]), model.encode(images))
    assert logits.shape == (2, 2, SOUNDS)


def test_every_layer_of_the_decoder_shows_where_it_looks():
    model = made(layers=3)
    assert list(model.alignments()) == ["layer 1", "layer 2", "layer 3"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"kernel_size": 4}, "kernel_size must be odd: a step sees as many .*; got 4"),
        ({"layers": 0}, "layers must be a whole number of at least 1; got 0"),
        ({"encoder_layers": 0}, "layers must be a whole number of at least 1; got 0"),
        ({"encoder_gradient": 0.0}, "encoder_gradient must be more than 0; got 0.0"),
    ],
)
def test_sizes_out_of_range_are_named(arguments, expected):
    with pytest.raises(ValueError, match=expected):
        made(**arguments)
    if "kernel_size" in arguments:
        with pytest.raises(ValueError, match=expected):
            Convolutional(4, **arguments)


def test_an_answer_is_as_long_as_the_positions():
    model = made()
    assert model.longest_answer(512) == 512
    assert model.longest_answer(513) == 0
