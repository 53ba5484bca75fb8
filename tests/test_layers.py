"""Embeddings, positions and Transformer layers, against torch's own and the papers' formulas."""

import copy
import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune

from memnets import testing
from memnets.cells import (
    GRU,
    LSTM,
    LSTMN,
    AttentionBlock,
    ConvolutionalLayer,
    CrossAttention,
    Dropout,
    Embedding,
    EncoderLayer,
    EncoderStack,
    Inputs,
    LearnedPositions,
    MultiHead,
    OneHot,
    Output,
    SinusoidalPositions,
    TransformerLayer,
    causal_mask,
    transformer_stack,
)
from memnets.core import map_state
from memnets.memories import DNC, NTM, Tape
from memnets.models import SNAIL, CausalTransformer, MemoryMachine, Transformer

BATCH, STEPS, SLOTS, WIDTH, HEADS = 3, 4, 5, 6, 2
close = {"rtol": 0, "atol": 1e-12}


def randomised(module):
    """In double precision, with every parameter random: none is 0 or 1."""
    torch.manual_seed(0)
    for parameter in module.double().parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def give_attention(ours: MultiHead, theirs: nn.MultiheadAttention) -> None:
    theirs.in_proj_weight, theirs.in_proj_bias = ours.weight, ours.bias
    theirs.out_proj.weight, theirs.out_proj.bias = ours.output.weight, ours.output.bias


def random(*shape):
    return torch.randn(*shape, dtype=torch.double, requires_grad=True)


@pytest.mark.parametrize("masked", ["nothing", "padding", "each pair"])
def test_many_heads_are_those_of_torch(masked):
    ours = randomised(MultiHead(WIDTH, HEADS))
    theirs = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, dtype=torch.double)
    give_attention(ours, theirs)
    inputs, slots = random(BATCH, STEPS, WIDTH), random(BATCH, SLOTS, WIDTH)
    padding = torch.arange(SLOTS) < torch.tensor([5, 2, 1]).unsqueeze(1)
    pairs = torch.tensor([[1, 0, 0, 1, 0]] * 2 + [[1, 1, 1, 1, 1], [0, 0, 1, 0, 0]]).bool()
    memory, arguments = {
        "nothing": (ours.memory(slots), {}),
        "padding": (ours.memory(slots, padding), {"key_padding_mask": ~padding}),
        "each pair": (ours.memory(slots)._replace(mask=pairs), {"attn_mask": ~pairs}),
    }[masked]
    result = ours(inputs, memory)
    expected, _ = theirs(inputs, slots, slots, need_weights=False, **arguments)
    torch.testing.assert_close(result, expected, **close)
    sources = [inputs, slots, ours.weight, ours.bias]
    gradients, others = (torch.autograd.grad(x.square().sum(), sources) for x in (result, expected))
    torch.testing.assert_close(gradients, others, **close)


def give_rest(norms: list[nn.Module], feed_forward: nn.Sequential, theirs: nn.Module) -> None:
    for number, norm in enumerate(norms):
        setattr(theirs, f"norm{number + 1}", norm)
    theirs.linear1, theirs.linear2 = feed_forward[0], feed_forward[3]


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_an_encoder_layer_is_that_of_torch(norm):
    ours = randomised(EncoderLayer(WIDTH, HEADS, 8, dropout=0.0, norm=norm))
    theirs = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 8, 0.0, batch_first=True, norm_first=norm == "pre"
    )
    give_attention(ours.attention, theirs.self_attn)
    norms = [ours.attention_connection.norm, ours.thinking_connection.norm]
    give_rest(norms, ours.thinking, theirs)
    inputs = random(BATCH, SLOTS, WIDTH)
    padding = torch.arange(SLOTS) < torch.tensor([5, 2, 1]).unsqueeze(1)
    result = ours(inputs, padding)
    expected = theirs(inputs, src_key_padding_mask=~padding)
    torch.testing.assert_close(result, expected, **close)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_decoder_layer_is_that_of_torch(norm):
    ours = randomised(TransformerLayer(WIDTH, HEADS, 8, dropout=0.0, norm=norm, cross=True))
    theirs = nn.TransformerDecoderLayer(
        WIDTH, HEADS, 8, 0.0, batch_first=True, norm_first=norm == "pre"
    )
    attend, look, think = ours.cells
    give_attention(attend.cell.attention, theirs.self_attn)
    give_attention(look.cell.attention, theirs.multihead_attn)
    give_rest([part.connection.norm for part in ours.cells], think.cell.network, theirs)
    inputs, source = random(BATCH, STEPS, WIDTH), random(BATCH, SLOTS, WIDTH)
    padding = torch.arange(SLOTS) < torch.tensor([5, 2, 1]).unsqueeze(1)
    mask = causal_mask(STEPS, STEPS, torch.device("cpu"))
    start = ours.start(source, padding)
    result, last = ours.unroll(inputs, start)
    expected = theirs(inputs, source, tgt_mask=~mask, memory_key_padding_mask=~padding)
    torch.testing.assert_close(result, expected, **close)
    # With what it remembers of the first step, it goes on where it was.
    _, past = ours.step(inputs[:, 0], start)
    rest, later = ours.unroll(inputs[:, 1:], past)
    torch.testing.assert_close(rest, expected[:, 1:], **close)
    map_state(lambda one, other: torch.testing.assert_close(one, other, **close), later, last)


def test_the_causal_mask_is_aligned_to_the_end():
    device = torch.device("cpu")
    assert causal_mask(1, 7, device) is None
    expected = [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert causal_mask(2, 4, device).tolist() == [[bool(x) for x in row] for row in expected]


def test_a_stack_normalises_its_output_where_its_layers_do_not():
    inputs = random(BATCH, STEPS, WIDTH)
    for norm in ("pre", "post"):
        stack = transformer_stack(2, WIDTH, HEADS, 8, 0.0, norm).double()
        outputs, _ = stack.unroll(inputs, stack.initial_state(BATCH))
        encoded = EncoderStack(2, WIDTH, HEADS, 8, 0.0, norm).double()(inputs)
        for result in (outputs, encoded):
            torch.testing.assert_close(result.mean(-1), torch.zeros_like(result[..., 0]), **close)


@pytest.mark.parametrize("width", [2, 8])
def test_sinusoidal_positions_are_the_formula(width):
    positions = torch.tensor([[0, 1, 5], [7, 100, 2]])
    vectors = SinusoidalPositions(width).double()(positions)
    assert vectors.shape == (2, 3, width)
    for place in range(6):
        t, vector = positions.flatten()[place].item(), vectors.flatten(0, 1)[place]
        for i in range(width // 2):
            angle = t / 10000 ** (2 * i / width)
            assert vector[2 * i].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert vector[2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)


def test_a_token_is_a_one_hot_vector():
    embedding = Embedding(7, 3)
    tokens = torch.tensor([[0, 6, 2], [5, 5, 1]])
    vectors = nn.functional.one_hot(tokens, 7).float()
    assert torch.equal(embedding(tokens), embedding.weight[tokens])
    torch.testing.assert_close(embedding(vectors), embedding(tokens))


def test_learned_positions_are_rows():
    positions = LearnedPositions(3, 5)
    assert torch.equal(positions(torch.tensor([[4, 0]])), positions.weight[[4, 0]].unsqueeze(0))
    assert positions(torch.zeros(2, 0, dtype=torch.long)).shape == (2, 0, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Embedding(4, 2)(torch.tensor([0, 4])), r"tokens must be in \[0, 4\); got 0 to 4"),
        (lambda: Embedding(4, 2)(torch.tensor([-1, 3])), r"got -1 to 3"),
        (lambda: Embedding(4, 2)(torch.zeros(1, 5)), r"width 4; got \[1, 5\]"),
        (lambda: Embedding(0, 2), "size must be .* got 0"),
        (lambda: MultiHead(6, 4), "heads must divide the width 6; got 4"),
        (lambda: SinusoidalPositions(5), "width must be even and at least 2; got 5"),
        (lambda: SinusoidalPositions(0), "got 0"),
        (
            lambda: LearnedPositions(2, 3)(torch.arange(4)),
            "end at max_length = 3; got a sequence of length 4",
        ),
        (lambda: TransformerLayer(4, 2, 8, norm="none"), "'pre' or 'post'; got 'none'"),
        (lambda: transformer_stack(0, 4, 2, 8), "layers must be .* got 0"),
        (lambda: EncoderStack(0, 4, 2, 8), "layers must be .* got 0"),
    ],
)
def test_errors_say_what_was_expected_and_what_came(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_decoder_starts_with_nothing_but_the_source():
    torch.manual_seed(0)
    model = Transformer(7, 7, width=4, heads=2, layers=2, hidden_size=8, dropout=0.0).eval()
    tokens = torch.tensor([[3, 4, 5]])
    state = model.encode(torch.tensor([[6, 3, 4, 5]]))
    own = [layer[0] for layer in state.decoder[:2]]
    assert all(part.shape[2] == 0 for slots in own for part in slots[:2])
    assert state.steps.tolist() == [0]
    hidden = model.inputs(tokens, state.steps)
    hidden, _ = model.decoder.unroll(hidden, state.decoder)
    torch.testing.assert_close(model.decode(tokens, state)[0], model.output(hidden))


@given(p=st.floats(0.001, 0.999), seed=testing.seeds(), count=st.integers(1, 9))
def test_dropout_drops_its_share_and_keeps_the_mean(p, seed, count) -> None:
    torch.manual_seed(seed)
    inputs = torch.ones(count, 4001, requires_grad=True)
    outputs = Dropout(p)(inputs)
    kept = outputs != 0
    # Numbers that stay are divided by the share that stays.
    assert outputs[kept].tolist() == pytest.approx([1 / (1 - p)] * int(kept.sum()), rel=0.01)
    spread = math.sqrt(p * (1 - p) / inputs.numel())
    assert abs(kept.float().mean().item() - (1 - p)) < 6 * spread + 2**-16
    # The gradient takes the same way.
    outputs.sum().backward()
    assert torch.equal(inputs.grad, outputs)


def test_dropout_draws_each_number_by_itself() -> None:
    torch.manual_seed(0)
    dropout = Dropout(0.5)
    first, second = (dropout(torch.ones(1 << 18)) != 0 for _ in range(2))
    # Four numbers share a draw of 64 bits: none of them may tell of the others, nor of the next.
    for distance in range(1, 9):
        same = (first[distance:] == first[:-distance]).float().mean().item()
        assert abs(same - 0.5) < 6 * 0.5 / math.sqrt(len(first))
    assert abs((first == second).float().mean().item() - 0.5) < 6 * 0.5 / math.sqrt(len(first))
    torch.manual_seed(0)
    assert torch.equal(dropout(torch.ones(1 << 18)) != 0, first)


@pytest.mark.parametrize("p", [0.0, 1e-9, 1 - 1e-9, 1.0])
def test_dropout_at_the_ends_of_its_range(p) -> None:
    inputs = torch.ones(1000)
    assert torch.equal(Dropout(p)(inputs), inputs * round(1 - p))
    assert torch.equal(Dropout(p).eval()(inputs), inputs)
    assert Dropout(0.5)(inputs.bfloat16()).dtype == torch.bfloat16
    assert Dropout(0.5)(torch.ones(0, 3)).shape == (0, 3)


def test_a_forget_bias_keeps_the_cell() -> None:
    controllers = []
    for bias in (0.0, 1.5):
        torch.manual_seed(0)
        controllers.append(LSTM(3, hidden_size=4, layers=2, forget_bias=bias).double())
    plain = controllers[0]
    inputs = torch.zeros(1, 3).double()
    state = map_state(torch.ones_like, plain.initial_state(1))
    for controller, bias in zip(controllers, (0.0, 1.5), strict=True):
        # Without weights a gate is the logistic function of its biases, by the definition.
        for name, weights in controller.lstm.named_parameters():
            if "weight" in name:
                nn.init.zeros_(weights)
        _, after = controller(inputs, state)
        gates = plain.lstm.bias_ih_l0 + plain.lstm.bias_hh_l0
        enter, forget, candidate, _ = gates.view(4, 4).tolist()
        for place in range(4):
            kept = 1 / (1 + math.exp(-forget[place] - bias))
            new = math.tanh(candidate[place]) / (1 + math.exp(-enter[place]))
            assert after.cell[0][0, place].item() == pytest.approx(kept + new)


@pytest.mark.parametrize("make", [LSTM, GRU])
def test_weights_of_a_network_may_be_computed_from_others(make) -> None:
    cell = make(5, 4, 2)
    network = getattr(cell, make.__name__.lower())
    parametrizations.weight_norm(network, "weight_hh_l0")
    prune.l1_unstructured(network, "weight_ih_l1", 0.5)
    inputs, state = torch.randn(3, 5), cell.initial_state(3)
    outputs, _ = cell.step(inputs, state)
    torch.testing.assert_close(outputs, cell.unroll(inputs.unsqueeze(1), state)[0].squeeze(1))
    outputs.sum().backward()
    assert network.weight_ih_l1_orig.grad is not None


@pytest.mark.parametrize("positions", [None, SinusoidalPositions(4)], ids=["no places", "places"])
def test_inputs_are_dropped_with_and_without_positions(positions):
    embedding = Embedding(5, 4)
    torch.manual_seed(0)
    inputs = Inputs(embedding, embedding, positions, dropout=0.5)
    tokens, taken = torch.arange(5).repeat(40, 1), torch.zeros(40, dtype=torch.long)
    whole = inputs.eval()(tokens, taken)
    some = inputs.train()(tokens, taken)
    kept = some != 0
    torch.testing.assert_close(some[kept], 2 * whole[kept])
    assert 0.4 < kept.float().mean() < 0.6


class Instead(nn.Module):
    """A network in the place of a layer, as those that fine-tune put there: it has no weight."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(layer)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.layers(inputs)


def put_in(part: nn.Module) -> list[str]:
    """Put another network in the place of each linear layer that is called; their names."""
    layers = [(name, layer) for name, layer in part.named_modules() if isinstance(layer, nn.Linear)]
    for name, layer in layers:
        owner, _, last = name.rpartition(".")
        setattr(part.get_submodule(owner), last, Instead(layer))
    return [name for name, _ in layers]


@pytest.mark.parametrize(
    "cell",
    [
        partial(LSTMN, 4, 5),
        partial(AttentionBlock, 4, 3, 5),
        partial(CrossAttention, 4, 2),
        partial(TransformerLayer, 4, 2, 8),
        partial(ConvolutionalLayer, 2),
        *(partial(MemoryMachine, 4, 3, LSTM, access) for access in (NTM(), DNC(), Tape())),
        partial(MemoryMachine, 4, 3, LSTM),
    ],
    ids=lambda cell: cell.func.__name__,
)
def test_a_network_takes_the_place_of_any_layer(cell) -> None:
    part = cell().double().eval()
    inputs = torch.randn(2, 3, 4, dtype=torch.double)

    def run(part: nn.Module):
        steps = part if isinstance(part, MemoryMachine) else part.unroll
        return steps(inputs, part.initial_state(2))

    expected = run(part)
    names = put_in(part)
    assert names or isinstance(part, ConvolutionalLayer)
    if isinstance(part, ConvolutionalLayer):
        part.query = Instead(part.query)
    result = run(part)
    torch.testing.assert_close(result[0], expected[0])
    map_state(lambda one, other: torch.testing.assert_close(one, other), result[1], expected[1])


def test_a_machine_may_have_an_interface_without_a_single_weight() -> None:
    machine = MemoryMachine(4, 3, partial(LSTM, hidden_size=5), Tape(2)).double()
    size = machine.access.interface_size
    machine.body.interface = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, size)).double()
    machine(torch.randn(2, 3, 4, dtype=torch.double))[0].sum().backward()
    assert all(layer.grad is not None for layer in machine.body.interface.parameters())
    machine.body.interface = nn.Identity()
    assert machine.initial_state(2).body.read.dtype == torch.double


def test_a_layer_of_logits_may_be_another_network() -> None:
    hidden, output = torch.randn(2, 3, 4), Output(4, 6)
    expected = output(hidden)
    layer, output.own = output.own, Instead(output.own)
    torch.testing.assert_close(output(hidden), expected)
    output.own = Instead(nn.Sequential(layer, nn.ReLU()))
    torch.testing.assert_close(output(hidden), expected.relu())


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (torch.zeros(2, 5, 9, dtype=torch.long), ValueError, r"torch.int64 \[2, 5, 9\]"),
        (torch.zeros(2, 5, 9, dtype=torch.bool), TypeError, r"torch.bool \[2, 5, 9\]"),
        (torch.zeros(2, 5, dtype=torch.uint8), TypeError, r"torch.uint8 \[2, 5\]"),
        (torch.full((2, 5), 9), ValueError, r"tokens must be in \[0, 9\); got 9 to 9"),
        (torch.full((2, 5), -1), ValueError, r"tokens must be in \[0, 9\); got -1 to -1"),
        (torch.zeros(2, 9), ValueError, r"\[2, 9\]"),
        (torch.zeros(2, 5, 8), ValueError, r"\[2, 5, 8\]"),
    ],
)
@pytest.mark.parametrize(
    "model",
    [
        partial(MemoryMachine, 9, 8, LSTM),
        partial(SNAIL, 9, 8, max_length=20, width=4),
        partial(CausalTransformer, 9, 8, width=4, layers=1, heads=1),
        partial(Transformer, 9, 8, width=4, layers=1, heads=1),
    ],
    ids=lambda model: model.func.__name__ if isinstance(model, partial) else "",
)
def test_inputs_of_another_type_are_named(model, inputs, error, message) -> None:
    with pytest.raises(error, match=f"got.*{message}|{message}"):
        model().encode(inputs)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_tokens_are_whole_numbers_of_two_types(dtype) -> None:
    tokens = torch.tensor([[0, 2, 1]], dtype=dtype)
    expected = torch.eye(3)[tokens.long()]
    assert OneHot(3)(tokens).equal(expected)
    assert Embedding(3, 3)(tokens).shape == (1, 3, 3)


class Sub(Embedding):
    """A class of one's own that changes nothing."""


@pytest.mark.parametrize("size", [5, 7])
def test_an_output_shares_the_matrix_of_any_embedding(size):
    embedding, hidden = Embedding(size, 5), torch.randn(2, 5)
    expected = hidden @ embedding.weight.t()
    other = Sub(size, 5)
    other.load_state_dict(embedding.state_dict())
    normed = nn.utils.parametrizations.weight_norm(copy.deepcopy(embedding))
    for each in (embedding, other, normed):
        torch.testing.assert_close(Output(5, size, each)(hidden), expected)
