"""A twin follows every change that a user makes to a part, or leaves the part to its definition.

A twin reads weights and settings. Whatever is changed in a part after it was made (a layer, a size,
a parameter, a method, a hook), the twins must give the definition's result or its error. The tests
go over all twins, and over all that can be changed in the parts of their examples.
"""

import copy
from contextlib import contextmanager, nullcontext
from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from memnets import fast, functional
from memnets.cells import LSTM, EncoderLayer, FeedForward, Loop, TransformerLayer
from memnets.core import Normalizer, Score, map_state
from memnets.kernels import additive, known, native
from memnets.kernels.native import build
from memnets.memories import NTM, SAM, DeltaNet
from memnets.models import SNAIL, Seq2Seq
from memnets.normalizers import Sparsemax
from memnets.scores import Dot
from memnets.testing.laws import tensors_of
from tests.laws.test_twins import (
    EXTREME,
    alone,
    asked,
    by_name,
    defined,
    examples_of,
    is_found,
    mapped,
    placed,
    recording,
    skip_what_is_missing,
    that_counts,
    title,
)

once = settings(
    suppress_health_check=list(HealthCheck), deadline=None, max_examples=1, database=None,
    phases=[Phase.generate],
)  # fmt: skip


# -- what may be changed --------------------------------------------------------------------------


def recurrent_layers(layer):
    """Networks of PyTorch in the place of one of a controller."""
    width, size = layer.input_size, layer.hidden_size
    same, other = (nn.LSTM, nn.GRU) if layer.mode == "LSTM" else (nn.GRU, nn.LSTM)
    yield "the same of PyTorch", same(width, size)
    yield "no biases", same(width, size, bias=False)
    yield "less wide", same(width, size - 1)
    yield "wider", same(width, size + 1)
    yield "wider inputs", same(width + 2, size)
    yield "less wide inputs", same(width - 1, size)
    yield "two layers", same(width, size, num_layers=2)
    yield "two directions", same(width, size, bidirectional=True)
    yield "another kind", other(width, size)
    yield "a plain network", nn.RNN(width, size)
    if same is nn.LSTM:
        yield "a projection", nn.LSTM(width, size, proj_size=size - 1)


def layers(module):
    """Layers of PyTorch, or parts of this library, that may stand in a module's place."""
    if isinstance(module, nn.RNNBase):
        yield from recurrent_layers(module)
    elif isinstance(module, nn.Linear):
        rows, columns = module.weight.shape
        yield "the bias", nn.Linear(columns, rows, bias=module.bias is None)
        yield "more rows", nn.Linear(columns, rows + 3)
        yield "fewer rows", nn.Linear(columns, max(1, rows - 3))
        yield "more columns", nn.Linear(columns + 1, rows)
        yield "fewer columns", nn.Linear(max(1, columns - 1), rows)
        yield "a row of layers", nn.Sequential(module)
        yield "no layer", nn.Identity()
    elif isinstance(module, nn.LayerNorm):
        width = module.normalized_shape[0]
        yield "another norm", nn.RMSNorm(width)
        yield "no bias", nn.LayerNorm(width, bias=False)
        yield "no scale", nn.LayerNorm(width, elementwise_affine=False)
        yield "another width", nn.LayerNorm(width + 1)
        yield "another epsilon", nn.LayerNorm(width, eps=0.3)
        yield "no layer", nn.Identity()
    elif isinstance(module, (nn.ReLU, nn.Tanh)):
        yield "another curve", nn.GELU()
        yield "no layer", nn.Identity()
    elif isinstance(module, nn.Dropout):
        yield "a curve", nn.GELU()
        yield "no layer", nn.Identity()
        yield "that drops", nn.Dropout(0.5).train()
    elif isinstance(module, nn.Identity):
        yield "a curve", nn.Tanh()
    elif isinstance(module, nn.Sequential):
        yield "one more", nn.Sequential(*module, nn.GELU())
        yield "one less", module[:-1]
    elif isinstance(module, Score):
        yield "another score", Dot()
    elif isinstance(module, Normalizer):
        yield "another normalizer", Sparsemax()


def others(value):
    """Other values of a setting."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1]
    if isinstance(value, float):
        return [0.5 * value + 0.1]
    if isinstance(value, (tuple, list)) and value and all(isinstance(one, int) for one in value):
        kind = type(value)._make if hasattr(value, "_make") else type(value)
        return [
            kind([one + (place == number) for number, one in enumerate(value)])
            for place in range(len(value))
        ]
    return []


def scaled(result):
    return map_state(lambda each: 3 * each if each.is_floating_point() else each, result)


def overridden(module, method):
    """A method of one object alone, as some libraries write it."""
    old = getattr(module, method)
    setattr(module, method, lambda *given: scaled(old(*given)))


#: Widths that a part announces: nothing is computed from them. Definitions refuse others, and they
#: have a test of their own.
ANNOUNCED = {"input_size", "hidden_size", "output_size", "interface_size", "read_size"}


def changes(part):
    """All changes to a part: what each is, and a function that makes it in a copy of the part."""

    def within(path, do):
        return lambda whole: do(whole.get_submodule(path))

    for path, module in part.named_modules():
        name = f"{path or 'itself'}, a {type(module).__name__}"
        if path:
            above, _, own = path.rpartition(".")
            for what, other in layers(module):
                other = other.double()
                if what != "that drops":
                    other.train(module.training)
                yield (
                    f"{what} of {name}",
                    lambda whole, above=above, own=own, other=other: whole.get_submodule(
                        above
                    ).register_module(own, other),
                )
        for setting, value in vars(module).items():
            if setting.startswith("_") or setting == "training" or setting in ANNOUNCED:
                continue
            for other in others(value):
                yield (
                    f"{setting} = {other} of {name}",
                    within(path, lambda one, setting=setting, other=other: setattr(
                        one, setting, other
                    )),
                )  # fmt: skip
        for parameter, tensor in module.named_parameters(recurse=False):
            smaller = {f"{axis}": tensor.detach().narrow(axis, 0, size - 1)
                       for axis, size in enumerate(tensor.shape) if size > 1}  # fmt: skip
            for what, other in {**smaller, "type": tensor.detach().float()}.items():
                yield (
                    f"another {what} of {parameter} of {name}",
                    within(path, lambda one, parameter=parameter, other=other: setattr(
                        one, parameter, nn.Parameter(other)
                    )),
                )  # fmt: skip
        for method in ("forward", "step"):
            if hasattr(module, method):
                yield (
                    f"{method} of {name}",
                    within(path, lambda one, method=method: overridden(one, method)),
                )


def announcements(part):
    """Other widths that a part, or one within it, announces: what each is, and the part."""
    for path, module in part.named_modules():
        for setting, value in vars(module).items():
            for other in others(value) if setting in ANNOUNCED else ():
                changed = copy.deepcopy(part)
                setattr(changed.get_submodule(path), setting, other)
                yield (
                    f"{setting} = {other} of {path or 'itself'}, a {type(module).__name__}",
                    changed,
                )


# -- what must be the same ------------------------------------------------------------------------


def outcome(twin, run, part, arguments, seed):
    """The tensors of a result, or the error in their place."""
    torch.manual_seed(seed)
    try:
        with recording(twin):
            result = that_counts(twin, arguments, run(part, twin.method, arguments))
        return tensors_of(result)
    except Exception as error:
        return error


def check_same(twin, part, arguments, what, seed=0):
    """The door gives what the definition gives.

    Raises:
        AssertionError: it gives another result, another error, or one of them for the other.
    """
    found, expected = (outcome(twin, run, part, arguments, seed) for run in (asked, defined))
    where = f"the twin of {title(twin)} with a change: {what}"
    if isinstance(expected, Exception) or isinstance(found, Exception):
        same = type(found) is type(expected) and str(found) == str(expected)
        assert same, f"{where}: {found!r}, not {expected!r}"
        return
    torch.testing.assert_close(
        found, expected, rtol=1e-6, atol=1e-8, equal_nan=True, msg=lambda told: f"{where}: {told}"
    )


def examples(twin):
    """Examples of a twin, of each kind of memory and controller one."""
    found = {}

    def kind(part):
        parts = part.modules() if isinstance(part, nn.Module) else [part]
        return frozenset(type(one) for one in parts)

    @once
    @given(data=st.data())
    def draw(data):
        for example in examples_of(twin):
            if example not in EXTREME:
                part, arguments = placed(twin, example(data.draw))
                found.setdefault(kind(part), (part, arguments))

    draw()
    return list(found.values())


def takes(twin, part, arguments):
    """Whether a twin, alone, is taken."""
    with alone(twin), recording(twin):
        return is_found(twin, part, arguments)


def check_all(twin, part, changed):
    """A twin follows what was changed, or leaves it to the definition.

    Args:
        twin: the twin.
        part: the part as it was, or the function.
        changed: for each change what it is, the part, and the arguments.

    Raises:
        AssertionError: it gives something else than the definition.
    """
    count = 0
    for what, other, arguments in changed:
        count += 1
        with fails_of(f"the twin of {title(twin)} is not its definition with {what}"):
            # What the definition runs is right in any case.
            if takes(twin, other, arguments):
                with alone(twin):
                    check_same(twin, other, arguments, what)
    assert count, f"nothing is changed in {part}"


@contextmanager
def fails_of(name):
    """All errors within this context are failures of this name."""
    try:
        yield
    except Exception as error:
        raise AssertionError(f"{name}: {error}") from error


def changed_parts(part, arguments):
    for what, change in changes(part):
        other = copy.deepcopy(part)
        try:
            change(other)
        except (ValueError, TypeError, RuntimeError):
            continue  # the part itself refuses it
        yield what, other, arguments


def check_changes(twin):
    """Every change to the parts of a twin's examples."""
    for part, arguments in examples(twin):
        assert takes(twin, part, arguments)
        check_all(twin, part, changed_parts(part, arguments))


def inputs_of(arguments):
    """All changes to the tensors that a function is given."""
    given = list(arguments)
    for place, each in enumerate(given):
        if not isinstance(each, torch.Tensor):
            continue
        others = {"another type": each.float() if each.is_floating_point() else each.int()}
        for axis, size in enumerate(each.shape):
            if size > 1:
                others[f"fewer of axis {axis}"] = each.narrow(axis, 0, size - 1)
        if each.dim():
            others["one dimension more"] = each.unsqueeze(0)
            others["one dimension less"] = each[0] if len(each) else each
            others["with gaps"] = torch.stack([each, each], -1)[..., 0]
        for what, other in others.items():
            yield f"{what} of argument {place}", (*given[:place], other, *given[place + 1 :])


def check_twin_of_changed(twin):
    """A twin of a method with every change to its part, or of a function with other arguments."""
    if twin.method:
        check_changes(twin)
        return
    for function, arguments in examples(twin):
        changed = ((what, function, other) for what, other in inputs_of(arguments))
        check_all(twin, function, changed)


def check_announced(twin):
    """Every other width that the parts of a twin's examples announce.

    Raises:
        AssertionError: the twin gives other numbers with it, or an error where the definition has
            none.
    """
    for part, arguments in examples(twin):
        before = outcome(twin, defined, part, arguments, 0)
        for what, changed in announcements(part):
            with alone(twin):
                if not takes(twin, changed, arguments):
                    continue
                found = outcome(twin, asked, changed, arguments, 0)
            where = f"the twin of {title(twin)} is not its definition with {what}"
            if isinstance(found, Exception):
                expected = outcome(twin, defined, changed, arguments, 0)
                assert type(found) is type(expected), f"{where}: {found!r}, not {expected!r}"
                continue
            with fails_of(where):
                torch.testing.assert_close(found, before, rtol=1e-6, atol=1e-8, equal_nan=True)


@pytest.mark.parametrize("twin", [twin for twin in fast.twins() if twin.method], ids=title)
def test_a_twin_computes_nothing_from_a_width_that_a_part_announces(twin):
    skip_what_is_missing(twin)
    check_announced(twin)


def up_to(size, twin):
    """A twin that gives as many numbers as a part announces, and no more."""

    def run(part, *given, **read):
        outputs, state = twin.run(part, *given, **read)
        return outputs[..., : getattr(part, size)], state

    return twin._replace(run=run)


@pytest.mark.parametrize(
    ("part", "name", "size"),
    [(NTM, "kernels.ntm", "read_size"), (Loop, "C++", "output_size")],
)
def test_a_twin_that_computes_from_an_announced_width_is_found(part, name, size):
    twin = next(one for one in fast.twins() if (one.part, one.name) == (part, name))
    skip_what_is_missing(twin)
    with pytest.raises(AssertionError, match="is not its definition with"):
        check_announced(up_to(size, twin))


# The definition of the loss checks the numbers of its targets, not shapes alone.
@pytest.mark.parametrize(
    "twin", [twin for twin in fast.twins() if twin.name != "kernels.loss"], ids=title
)
def test_a_twin_follows_a_change_or_leaves_it_to_the_definition(twin):
    skip_what_is_missing(twin)
    check_twin_of_changed(twin)


# -- the tests can fail ---------------------------------------------------------------------------


def any_tensors(module, kind, dtype, **shapes):
    """What a layer holds under these names, whatever it is."""
    return tuple(getattr(module, name) for name in shapes)


def any_weights(controller, dtype):
    if isinstance(controller, FeedForward):
        return [tensor for layer in controller.layers[::2] for tensor in layer.parameters()]
    return next(controller.children()).all_weights[0]


def any_loop(cell, dtype):
    return (*any_weights(cell.controller, dtype), cell.interface.weight, cell.interface.bias)


def any_network(network, width, dtype):
    return tuple(network[0].parameters()) + tuple(network[3].parameters())


def any_connection(part, width, dtype):
    return part.norm.weight, part.norm.bias, part.norm.eps


def any_size(*_):
    return ALL


def always(*_):
    return True


#: What twins must ask, a twin that is wrong without, and what asks less: faults that were there.
FAULTS = {
    "the weights of a loop, in C++": (known, "loop", any_loop, (Loop, "C++")),
    "the widths that settings say": (native, "_sizes", any_size, (Loop, "C++")),
    "the weights of a loop": (known, "weights", any_weights, (Loop, "kernels.loop")),
    "the network of a layer": (known, "position_wise", any_network, (EncoderLayer, "C++")),
    "that of a decoder": (known, "position_wise", any_network, (TransformerLayer, "C++")),
    "the norm of a layer": (known, "connection", any_connection, (EncoderLayer, "C++")),
    "the norm of a decoder": (known, "connection", any_connection, (TransformerLayer, "C++")),
    "the norm, in Python": (
        known, "connection", any_connection, (TransformerLayer, "kernels.transformer"),
    ),
    "the weights of an attention": (known, "tensors", any_tensors, (EncoderLayer, "C++")),
    "the layers of a decoder": (known, "tensors", any_tensors, (Seq2Seq, "kernels.seq2seq")),
    "the layer of a block": (known, "block", always, (SNAIL, "kernels.snail")),
    "a method of one object": (
        fast, "_looked_at", lambda part: (True, False), (NTM, "kernels.ntm"),
    ),
    "the types of vectors": (
        additive, "_fits", always, (functional.additive_scores, "kernels.additive"),
    ),
}  # fmt: skip


class Anything:
    """Equal to all."""

    __hash__ = None

    def __eq__(self, other):
        return True


ALL = Anything()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_twin_that_does_not_ask_is_found(fault, monkeypatch):
    where, name, less, (part, twin_name) = FAULTS[fault]
    twin = next(one for one in fast.twins() if (one.part, one.name) == (part, twin_name))
    skip_what_is_missing(twin)
    if name == "_fits":
        twin = twin._replace(fits=less)
    else:
        monkeypatch.setattr(where, name, less)
    with pytest.raises(AssertionError, match="is not its definition with"):
        check_twin_of_changed(twin)


# -- modes and hooks of PyTorch -------------------------------------------------------------------


class Operations(TorchDispatchMode):
    """Sees each operation, and changes none."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class Functions(TorchFunctionMode):
    """Sees each function, and changes none."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class WithTwins(Operations):
    sees_twins = True


class Marked(torch.Tensor):
    """A class of tensors of a user."""


@contextmanager
def hooked():
    handle = nn.modules.module.register_module_forward_hook(lambda module, given, result: None)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("twin", fast.twins(), ids=title)
def test_no_twin_runs_where_each_operation_or_module_is_seen(twin):
    skip_what_is_missing(twin)
    part, arguments = examples(twin)[0]
    for context in (nullcontext, WithTwins, partial(torch.device, "cpu")):
        with context():
            assert takes(twin, part, arguments), context
    seeing = [Operations, Functions, FakeTensorMode, partial(FlopCounterMode, display=False)]
    for context in (*seeing, *([hooked] if twin.method else [])):
        with context():
            assert not takes(twin, part, arguments), context


@pytest.mark.parametrize("twin", fast.twins(), ids=title)
def test_no_operator_of_ours_runs_on_a_class_of_tensors_of_a_user(twin):
    skip_what_is_missing(twin)
    if twin.any_precision and twin.name != "kernels.append":
        pytest.skip("it consists of PyTorch's own operations")
    part, arguments = examples(twin)[0]
    marked = mapped(lambda each: each.as_subclass(Marked), arguments)
    assert not takes(twin, part, marked)


def test_all_operations_of_a_run_are_counted():
    part = Loop(3, partial(LSTM, hidden_size=8), NTM(6, 4))
    inputs, state = torch.randn(2, 5, 3), part.initial_state(2)
    found = []
    for context in (nullcontext, fast.naive):
        with FlopCounterMode(display=False) as count, context():
            part.unroll(inputs, state)
        found.append(count.get_total_flops())
    assert found[0] == found[1] > 0


@pytest.mark.parametrize("memory", [partial(DeltaNet, 4, 4, 2), partial(SAM, 12, 4, 2, 3)])
def test_a_fake_run_has_the_shapes_of_a_real_one(memory):
    part = memory()
    shape = part.unroll(torch.randn(2, 5, part.input_size), part.initial_state(2))[0].shape
    with FakeTensorMode():
        part = memory()
        fake = torch.randn(2, 5, part.input_size)
        assert part.unroll(fake, part.initial_state(2))[0].shape == shape


def test_hooks_of_all_modules_are_called_at_every_step():
    part = Loop(3, partial(LSTM, hidden_size=8), NTM(6, 4))
    inputs, state = torch.randn(2, 5, 3), part.initial_state(2)
    seen = []
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, given, result: seen.append(type(module))
    )
    try:
        part.unroll(inputs, state)
    finally:
        handle.remove()
    assert seen.count(nn.Linear) == 5


# -- rows of a buffer -----------------------------------------------------------------------------


@pytest.mark.parametrize("loaded", [False, True])
def test_rows_of_any_part_of_a_buffer(loaded, monkeypatch):
    if loaded and not build.loaded():
        pytest.skip("no operators")
    monkeypatch.setattr(build, "at_hand", lambda: loaded)
    index = torch.tensor([2, 0, 1])
    with torch.no_grad():
        whole = torch.randn(3, 4, 2000, 8)
        for _ in range(2):
            whole = functional.append(whole, torch.randn(3, 4, 1, 8))
        parts = {
            "all": whole,
            "heads": whole[:, 1:3],
            "one head": whole[:, 1],
            "heads apart": whole[:, ::2],
            "slots": whole[:, :, 5:40],
            "columns": whole[..., 2:4],
            "rows": whole[torch.tensor([0, 1, 2])][:3],
            "turned": whole.transpose(1, 2),
            "heads as rows": whole.flatten(0, 1),
        }
        for name, part in parts.items():
            for places in (index, index.int()):
                found = functional.rows(part, places)
                assert torch.equal(found, part.index_select(0, places)), name
                longer = functional.append(found, found[..., :1, :])
                assert torch.equal(longer[..., :-1, :], found), name


# -- the operators themselves ---------------------------------------------------------------------


def given_to(operator, monkeypatch):
    """What a run with gradients gives to an operator."""
    part = Loop(3, partial(LSTM, hidden_size=8), NTM(6, 4, noise=0.5))
    inputs, state = torch.randn(2, 5, 3), part.initial_state(2)
    taken = []
    real = getattr(torch.ops.memnets, operator)

    def noting(*arguments):
        taken.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(torch.ops.memnets, operator, noting)
    outputs, last = part.unroll(inputs, state, torch.ones(2, 5, dtype=torch.bool))
    (outputs.sum() + last.access.memory.sum()).backward()
    monkeypatch.setattr(torch.ops.memnets, operator, real)
    return real, taken[0]


def smaller(argument):
    """An argument with one tensor, or one number, less or of another type."""
    if isinstance(argument, torch.Tensor):
        yield from (
            argument.narrow(axis, 0, size - 1).contiguous()
            for axis, size in enumerate(argument.shape)
            if size
        )
        yield argument.double() if argument.is_floating_point() else argument.int()
        yield argument.unsqueeze(0)
        yield torch.stack([argument, argument], -1)[..., 0]
    elif isinstance(argument, (tuple, list)) and len(argument):
        kind = list
        yield kind(argument[:-1])
        yield kind([*argument, argument[-1]])
        for place, each in enumerate(argument):
            for other in smaller(each):
                yield kind([*argument[:place], other, *argument[place + 1 :]])
    elif isinstance(argument, int) and not isinstance(argument, bool):
        yield from (argument - 1, argument + 1, -1, 0)


def numbers_in(argument):
    """How many numbers there are in each tensor, and their types."""
    given = argument if isinstance(argument, (tuple, list)) else [argument]
    return [(each.numel(), each.dtype) for each in given if isinstance(each, torch.Tensor)]


@pytest.mark.parametrize("operator", ["run", "run_backward"])
def test_the_operators_of_a_run_refuse_what_they_would_read_or_write_beyond(operator, monkeypatch):
    by_name("C++")
    run, arguments = given_to(operator, monkeypatch)
    run(*arguments)
    refused = 0
    for place, argument in enumerate(arguments):
        for other in smaller(argument):
            try:
                run(*arguments[:place], other, *arguments[place + 1 :])
            except (RuntimeError, TypeError):
                refused += 1
                continue
            # As many numbers of the same types may lie otherwise; the sixth number says yes or no.
            same = numbers_in(argument) and numbers_in(other) == numbers_in(argument)
            hard = argument is arguments[2] and other[:5] == list(argument)[:5]
            assert same or hard, f"argument {place}, of {len(arguments)}"
    assert refused > 40
