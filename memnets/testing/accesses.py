"""Checks of memory accesses: a memory with its heads."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from memnets import fast, functional
from memnets.core import Addressing, MemoryAccess, Normalizer, map_state
from memnets.testing import strategies
from memnets.testing.cells import _CellSubject
from memnets.testing.laws import (
    LOW_PRECISION,
    Draw,
    assert_close,
    assert_equal,
    assert_finite,
    assert_shape,
    assert_unchanged,
    assert_weights,
    differentiable,
    differentiated,
    gradients,
    law,
    tensors_of,
)
from memnets.testing.steps import _Sequences
from memnets.viewing import trace
from memnets.viewing.interventions import Overwrite

__all__ = ["check_access"]


class _AccessSubject(_CellSubject):
    """Laws of memory accesses; a part is built to ask for the width of its interface."""

    check = "check_access"
    kind = MemoryAccess

    @functools.cached_property
    def interface_size(self) -> int:
        # Only a finished part knows it. The extra part must not move the random generator.
        with torch.random.fork_rng(devices=[]):
            size: int = self.build().interface_size
        return size

    def make(self, arguments: dict[str, Any]) -> Any:
        return self.factory(**arguments)

    def width(self) -> int:
        return self.interface_size

    def sequence(
        self,
        draw: Draw,
        batch: int,
        time: int,
        dtype: torch.dtype = torch.float64,
        special: bool = False,
    ) -> Tensor:
        # The true gradient must fit the type: a strength multiplies a sharpness, a key and a value,
        # and each of the four may be extreme.
        end = strategies.magnitude(dtype, 4)
        low, high = (-end, end) if special else (None, None)
        shape = (batch, time, self.interface_size)
        interfaces: Tensor = draw(strategies.tensors(shape, dtype, low, high, special))
        return interfaces

    @law("a step gives [B, read_size]")
    def shape(self, draw: Draw) -> None:
        self._shape(draw, "read_size")

    @law("extreme inputs give finite numbers")
    def extremes(self, draw: Draw) -> None:
        dtype = draw(st.sampled_from(self.dtypes))
        part = self.build(dtype, training=draw(st.booleans()))
        batch = draw(strategies.sizes(2, 2))
        steps = self.sequence(draw, batch, draw(strategies.sizes(2, 3)), dtype, special=True)
        state = part.initial_state(batch)
        for interface in steps.unbind(1):
            # The gradient of one step at a time: over several, even the true one may overflow.
            interface, state = map_state(differentiable, (interface, state))
            vectors, next_state = part.step(interface, state)
            assert_finite((vectors, next_state), "what is read and the state")
            sources = [*differentiated((interface, state)), *part.parameters()]
            assert_finite(gradients((vectors, next_state), sources), "gradient")
            state = next_state

    @law("the gradient reaches every part of the interface")
    def interface(self, draw: Draw) -> None:
        part = self.build()
        source, steps = map_state(differentiable, self.inputs(draw, batch=3, time=4))
        (gradient,) = gradients(self.run(part, _Sequences(source, steps)), [steps])
        reached = (gradient != 0).flatten(0, 1).any(0)
        missed = (~reached).nonzero().flatten().tolist()
        assert reached.all(), f"no gradient for entries {missed} of the interface"

    @law("an interface begins with the copies and biases that the memory names", examples=1)
    def begins(self, draw: Draw) -> None:
        part, size = self.build(), self.interface_size
        layer = part.make_interface(3)
        assert_shape(layer.weight, (size, 3), layer.weight)
        bias, copies = part.interface_bias(), part.interface_copies()
        own = layer.bias.detach()
        if bias is not None:
            assert_shape(bias, (size,), bias)
            own = own - bias
        if copies is not None:
            assert_shape(copies, (size,), copies)
            # Of a copy there are no copies, so that the originals are where they were.
            assert_equal(copies[copies], copies, "what a copy is a copy of")
            assert_equal(layer.weight[copies], layer.weight, "weights and those they copy")
            assert_close(own[copies], own, "biases and those they copy")

    @law("steps change every part of the state", examples=3)
    def writes(self, draw: Draw) -> None:
        part = self.build()
        source, steps = self.inputs(draw, batch=2, time=3)
        before = self.start(part, source)
        _, after = self.advance(part, steps, before)
        for number, (old, new) in enumerate(
            zip(tensors_of(before), tensors_of(after), strict=True)
        ):
            # A tensor of the state that no step changes is a slip: it belongs on the module.
            same = old.shape == new.shape and bool((old == new).all())
            assert not same, f"tensor {number} of the state, {list(old.shape)}, is as at the start"

    @law("a slot that is overwritten is what the step finds", examples=2)
    def overwritten(self, draw: Draw) -> None:
        part = self.build()
        source, steps = self.inputs(draw, batch=2, time=3)
        state = self.start(part, source)
        _, before = self.advance(part, steps[:, :2], state)
        names = [name for name in ("memory", "keys", "values") if hasattr(before, name)]
        if not names or not hasattr(before, "_replace"):
            self.skip("overwritten", "its state has no field `memory`, nor `keys` and `values`")
            return
        with trace.record(part, kinds=None) as tape:
            self.advance(part, steps, state)
        slot, value = draw(st.integers(0, 1)), draw(st.sampled_from((0.0, 0.5)))
        other = tape.intervene(Overwrite(part, slot, value, start=2))
        # The same by hand.
        changed = {name: getattr(before, name).clone() for name in names}
        for tensor in changed.values():
            tensor[..., slot, :] = value
        with trace.record(part, kinds=None) as by_hand:
            expected = part(steps[:, 2], before._replace(**changed))[0]
        assert_close(other.outputs[0][0][:, 2], expected, "output after a slot is overwritten")
        late = [event for event in other.events if event.step == 2]
        for event, same in zip(late, by_hand.events, strict=True):
            assert_close(event.value, same.value, f"{event.kind} after a slot is overwritten")

    @law("weights inside are rows >= 0 that sum to at most 1", examples=4)
    def weights_inside(self, draw: Draw) -> None:
        part = self.build(training=draw(st.booleans()))
        source, steps = self.inputs(draw)
        state = self.start(part, source)
        # A fast twin runs no addressing, so there would be nothing to watch.
        with fast.naive(), _weights_inside(part) as found:
            for step in range(steps.shape[1]):
                _, state = self.advance(part, steps[:, step : step + 1], state)
                fields = state._asdict() if hasattr(state, "_asdict") else {}
                found += [
                    (f"{name} of the state", tensor)
                    for name, value in fields.items()
                    if name.endswith("weights")
                    for tensor in tensors_of(value)
                ]
        for name, weights in found:
            try:
                assert_weights(weights, None, whole=False)
            except AssertionError as error:
                raise AssertionError(f"{name}: {error}") from None

    @law("no parameter depends on the number of slots")
    def slots(self, draw: Draw) -> None:
        part = self.build()
        settable = isinstance(getattr(part, "slots", None), int)
        if settable:
            self._more_slots(draw, part)
        # Without the attribute ``slots``, look for an argument that makes the state larger.
        function, named = _by_name(self.factory, self.arguments)
        numbers = [name for name, value in named.items() if type(value) is int]
        growing = [name for name in numbers if _grows_with(part, function, named, name)]
        if not settable and not growing:
            self.skip(
                "slots",
                "it has no number `slots`, and no argument was found of which the state alone "
                f"grows; looked at: {', '.join(numbers) or 'none'}",
            )

    def _more_slots(self, draw: Draw, part: Any) -> None:
        before = {name: value.clone() for name, value in part.state_dict().items()}
        shapes = [tensor.shape for tensor in tensors_of(part.initial_state(1))]
        part.slots = part.slots + draw(st.integers(1, 3))
        assert_unchanged(part.state_dict(), before)
        source, steps = self.inputs(draw)
        outputs, state = self.advance(part, steps, self.start(part, source))
        assert_shape(outputs, (*steps.shape[:2], part.read_size), steps)
        assert_finite((outputs, state), "what is read and the state")
        more = [tensor.shape for tensor in tensors_of(part.initial_state(1))]
        assert more != shapes, f"the state has the same shapes {shapes} with more slots"


def _by_name(
    factory: Callable[..., Any], arguments: dict[str, Any]
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function behind a factory, and its arguments by name; none if some have no name."""
    given: tuple[Any, ...] = ()
    if isinstance(factory, functools.partial):
        given, arguments = factory.args, {**factory.keywords, **arguments}
        factory = factory.func
    try:
        bound = inspect.signature(factory).bind(*given, **arguments)
    except (TypeError, ValueError):
        return factory, {}
    bound.apply_defaults()
    named: dict[str, Any] = {}
    for name, parameter in bound.signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            named.update(bound.arguments[name])
        elif parameter.kind in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
            if bound.arguments[name] != ():
                return factory, {}
        else:
            named[name] = bound.arguments[name]
    return factory, named


def _grows_with(
    part: MemoryAccess, function: Callable[..., Any], named: dict[str, Any], name: str
) -> bool:
    """Whether an argument is a number of slots: the state grows with it, and no width does.

    Raises:
        AssertionError: a parameter grows too.
    """
    try:
        other = function(**copy.deepcopy({**named, name: named[name] + 1}))
        widths = (other.interface_size, other.read_size)
        state = [tensor.shape for tensor in tensors_of(other.initial_state(1))]
    except Exception:  # such a part may not exist
        return False
    first = [tensor.shape for tensor in tensors_of(part.initial_state(1))]
    if widths != (part.interface_size, part.read_size) or state == first:
        return False
    shapes, more = (
        {key: value.shape for key, value in each.state_dict().items()} for each in (part, other)
    )
    grown = sorted(key for key in {*shapes, *more} if shapes.get(key) != more.get(key))
    assert not grown, f"{', '.join(grown)} grows with {name}, as the slots of the state do"
    return True


@contextmanager
def _weights_inside(part: nn.Module) -> Iterator[list[tuple[str, Tensor]]]:
    """Collect all weights that a part makes within the context, with their places."""
    found: list[tuple[str, Tensor]] = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, arguments: Any, outputs: Any) -> None:
            weights = outputs[0] if isinstance(module, Addressing) else outputs
            found.append((f"weights of {name}", weights.detach()))

        return hook

    def watched(name: str, place: int) -> Callable[..., Tensor]:
        function = getattr(functional, name)

        def call(*arguments: Any, **named: Any) -> Any:
            weights = named["weights"] if "weights" in named else arguments[place]
            found.append((f"weights of functional.{name}", weights.detach()))
            return function(*arguments, **named)

        return call

    # Addressings and normalizers are seen by hooks; other weights where they read or write.
    with ExitStack() as stack:
        for name, module in part.named_modules():
            if isinstance(module, (Addressing, Normalizer)):
                stack.callback(module.register_forward_hook(watch(name)).remove)
        for name, place in (("read", 0), ("erase_add", 1)):
            stack.enter_context(mock.patch.object(functional, name, watched(name, place)))
        yield found


def check_access(
    access: Callable[..., MemoryAccess],
    *,
    dtypes: Iterable[torch.dtype] = LOW_PRECISION,
    leave_out: Iterable[str] = (),
    max_examples: int | None = None,
    **arguments: Any,
) -> None:
    """Check that a memory access keeps every law of accesses.

    The laws of :func:`check_cell` hold, and the output has the width ``read_size``. Results and
    gradients are finite for extreme interfaces in float32, bfloat16 and float16. The gradient
    reaches every entry of the interface. Steps change every part of the state. No parameter depends
    on the number of slots (the attribute ``slots``, or an argument with which the state grows). The
    layer that makes the interface begins with the biases and copies that the access names.

    Args:
        access: class of the access, or a function that makes it.
        dtypes: floating-point types besides float64 that the access must support.
        leave_out: names of laws to leave out; the error for an unknown name lists them all.
        max_examples: number of examples for each law; that of the Hypothesis profile by default.
        **arguments: arguments for ``access``.

    Raises:
        AssertionError: a law does not hold; the message describes each failure.
        TypeError: the first argument is a finished part, not a class or function that makes one.
        ValueError: ``leave_out`` names an unknown law.

    Example:
        ``check_access(NTM, slots=8, width=4)``
    """
    _AccessSubject(access, arguments, dtypes).hold(max_examples, leave_out, ["source_padding"])
