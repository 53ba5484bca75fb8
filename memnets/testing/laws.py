"""What laws are made of: how one is stated, tested and reported.

A law is a sentence above the method that tests it. The methods of a :class:`Subject` are the laws
of one kind of part; :meth:`Subject.hold` tests them on inputs drawn by Hypothesis. A part is built
anew for each example, from a seed, and examples are the same in every run.

Laws that compare two results are tested in evaluation mode and in double precision, laws about a
single result in training mode too.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky, HypothesisException
from hypothesis.strategies import DataObject
from torch import Tensor, nn

from memnets.core import map_state
from memnets.testing import strategies

__all__: list[str] = []

Draw = Callable[..., Any]
LOW_PRECISION = (torch.float32, torch.bfloat16, torch.float16)
# What reaches a part from a loss is small: a mean over steps, sequences and entries.
_GRADIENT_SCALE = 1 / 64

Method = TypeVar("Method", bound=Callable[..., None])


def law(statement: str, examples: int | None = None) -> Callable[[Method], Method]:
    """Mark a method of a :class:`Subject` as the test of a law.

    Args:
        statement: the law, in words.
        examples: the number of examples, for a law that takes long to test.
    """

    def mark(method: Method) -> Method:
        method.statement = statement  # type: ignore[attr-defined]
        method.examples = examples  # type: ignore[attr-defined]
        return method

    return mark


# -- kinds of parts --------------------------------------------------------------------------------


class Subject(ABC):
    """A kind of part under its laws, which are its marked methods.

    Args:
        factory: makes the part.
        arguments: for the factory.
    """

    def __init__(self, factory: Callable[..., Any], arguments: dict[str, Any]) -> None:
        self.factory = factory
        self.arguments = arguments

    @classmethod
    def laws(cls) -> list[str]:
        """Names of the methods that are laws, general ones first."""
        names: dict[str, None] = {}
        for kind in reversed(cls.__mro__):
            names.update(dict.fromkeys(vars(kind)))
        return [name for name in names if hasattr(getattr(cls, name), "statement")]

    def hold(self, max_examples: int | None, leave_out: tuple[str, ...] = ()) -> None:
        """Test every law, but for those named in ``leave_out``.

        Raises:
            AssertionError: laws broke; the message begins with the first and names all others.
        """
        broken: list[AssertionError] = []
        for name in self.laws():
            if name not in leave_out:
                try:
                    hold_law(getattr(self, name), max_examples)
                except AssertionError as error:
                    broken.append(error)
        if broken:
            first, *others = broken
            first.args = (
                "\n".join([str(first), *(f"also {_heading(error)}" for error in others)]),
            )
            raise first

    def build(self, dtype: torch.dtype = torch.float64, training: bool = False) -> Any:
        """The part; its arguments are copied, so that nothing of the user's is converted."""
        part = self.factory(**copy.deepcopy(self.arguments))
        return part.to(dtype).train(training)

    @abstractmethod
    def inputs(self, draw: Draw, special: bool = False) -> Any:
        """What the part is given: a structure of tensors, batch first."""

    @abstractmethod
    def run(self, part: Any, inputs: Any) -> Any:
        """What the part makes of it: a structure of tensors, batch first."""

    @law("nothing is kept on self")
    def nothing_kept(self, draw: Draw) -> None:
        part = self.build(training=draw(st.booleans()))
        inputs, others = self.inputs(draw), self.inputs(draw)
        before = attributes(part)
        first = self._seeded_run(part, inputs)
        self._seeded_run(part, others)
        again = self._seeded_run(part, inputs)
        assert_equal(again, first, "a second call on the same inputs")
        assert_unchanged(attributes(part), before)

    @law("inputs are never modified in place")
    def inputs_unmodified(self, draw: Draw) -> None:
        part = self.build()
        inputs = map_state(differentiable, self.inputs(draw))
        before = map_state(copied, inputs)
        outputs = self.run(part, inputs)
        assert_equal(inputs, before, "inputs after the call")
        kept = map_state(copied, outputs)
        self.run(part, inputs)
        assert_equal(outputs, kept, "outputs of the first call after a second one")
        gradients(outputs, differentiated(inputs))

    @law("batch neighbours never change a result")
    def batch_neighbours(self, draw: Draw) -> None:
        part = self.build()
        inputs = self.inputs(draw)
        batch = self.batch_shape(inputs)
        outputs = self.run(part, inputs)
        position = tuple(draw(st.integers(0, size - 1)) for size in batch)
        select = self.select(position)
        alone = self.run(part, map_state(select, inputs))
        assert_close(map_state(select, outputs), alone, "in the batch and alone")

    @law(
        "under autocast a part runs, forward and backward, and a state keeps its precision",
        examples=5,
    )
    def autocast(self, draw: Draw) -> None:
        part = self.build(torch.float32, training=draw(st.booleans()))
        half = draw(st.sampled_from((torch.bfloat16, torch.float16)))
        given = draw(st.sampled_from((half, torch.float32)))  # of a linear layer, or of a state

        def like_autocast(tensor: Tensor) -> Tensor:
            return differentiable(tensor.to(given) if tensor.is_floating_point() else tensor)

        inputs = map_state(like_autocast, self.inputs(draw))
        with torch.autocast("cpu", half):
            outputs, states = self.run(part, inputs), self.states(part, inputs)
        sources = [*differentiated(inputs), *part.parameters()]
        assert_finite(gradients(outputs, sources), f"gradient under autocast to {half}")
        first, *others = [[part.dtype for part in tensors_of(state)] for state in states] or [[]]
        for dtypes in others:
            assert dtypes == first, f"a state of {first} became one of {dtypes} under {half}"

    def states(self, part: Any, inputs: Any) -> list[Any]:
        """The first state, and those after some steps; none of a kind that has none."""
        return []

    def batch_shape(self, inputs: Any) -> tuple[int, ...]:
        """Leading dims ``*B`` of the inputs."""
        return (len(tensors_of(inputs)[0]),)

    def select(self, position: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
        """Takes one example of the batch, as a batch of 1."""
        return lambda tensor: tensor[position[0] : position[0] + 1]

    def _seeded_run(self, part: Any, inputs: Any) -> Any:
        torch.manual_seed(0)
        return self.run(part, map_state(copied, inputs))


def hold_law(method: Callable[[Draw], None], max_examples: int | None) -> None:
    """Test one law on inputs that Hypothesis draws."""
    statement: str = method.statement  # type: ignore[attr-defined]
    examples: int | None = method.examples or max_examples  # type: ignore[attr-defined]

    def test(data: DataObject) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(data.draw(strategies.seeds(), label="seed of the part"))
            try:
                method(data.draw)
            except HypothesisException:
                raise
            except Exception as error:
                detail = str(error) if isinstance(error, AssertionError) else repr(error)
                raise AssertionError(f"law {statement!r}: {detail}") from error

    profile = settings()
    run = settings(
        profile,
        max_examples=profile.max_examples if examples is None else examples,
        derandomize=True,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        # An explanation by the lines that ran costs much and shows the insides of torch.
        phases=[phase for phase in profile.phases if phase is not Phase.explain],
    )(given(st.data())(test))
    try:
        run()
    except Flaky as error:
        raise AssertionError(
            f"law {statement!r}: broke, and then held on the same inputs; "
            "is there something that the part keeps outside of its state?"
        ) from error


def _heading(error: AssertionError) -> str:
    """The law alone, without what was found."""
    return str(error).split("': ")[0] + "'"


class Pointwise(Subject):
    """A kind of part whose inputs have any leading dims ``*B``."""

    def batch_shape(self, inputs: Any) -> tuple[int, ...]:
        shape: tuple[int, ...] = tensors_of(inputs)[0].shape[:-2]
        return shape

    def select(self, position: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
        """Takes one example of the batch, without any leading dim."""
        return lambda tensor: tensor[position]


# -- structures of tensors, and what is asserted of them -------------------------------------------


def tensors_of(state: Any) -> list[Tensor]:
    """All tensors of a state, in order."""
    found: list[Tensor] = []

    def collect(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_state(collect, state)
    return found


def copied(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def differentiable(tensor: Tensor) -> Tensor:
    """A copy that wants a gradient; not a leaf, so that it could be modified in place."""
    if not tensor.is_floating_point():
        return tensor.clone()
    return tensor.detach().clone().requires_grad_() * 1


def differentiated(state: Any) -> list[Tensor]:
    """The tensors of a state that want a gradient."""
    return [tensor for tensor in tensors_of(state) if tensor.requires_grad]


def per_query(tensor: Tensor, count: int) -> Tensor:
    """``[*B, N, K] -> [*B, Q, N, K]``: a memory of its own for each query."""
    return tensor.unsqueeze(-3).expand(*tensor.shape[:-2], count, -1, -1)


def gradients(outputs: Any, sources: list[Any]) -> list[Tensor]:
    """Gradient of a random projection of ``outputs``; the projection is always the same."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros((), dtype=torch.float64)
    for output in tensors_of(outputs):
        if output.is_floating_point():
            random = torch.rand(output.shape, generator=generator, dtype=torch.float64)
            direction = (_GRADIENT_SCALE * (2 * random - 1)).to(output.dtype)
            # The sum is taken in double precision, so that the type's own range is not the limit.
            total = total + (output.double() * direction.double()).sum()
    if not total.requires_grad or not sources:
        return [torch.zeros_like(source) for source in sources]
    gradients = torch.autograd.grad(total, sources, retain_graph=True, allow_unused=True)
    return [
        torch.zeros_like(source) if gradient is None else gradient
        for source, gradient in zip(sources, gradients, strict=True)
    ]


def attributes(module: nn.Module) -> dict[str, Any]:
    """All that a module and its children hold; tensors are copied."""
    skipped = ("_parameters", "_buffers", "_modules")
    held: dict[str, Any] = {}
    for prefix, child in module.named_modules():
        for name, value in vars(child).items():
            if name not in skipped:
                held[f"{prefix}.{name}".lstrip(".")] = snapshot(value)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        held[name] = copied(tensor)
    return held


def snapshot(value: Any) -> Any:
    if isinstance(value, Tensor):
        return copied(value)
    if isinstance(value, dict):
        return {key: snapshot(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [snapshot(part) for part in value]
    return value


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return isinstance(one, Tensor) and isinstance(other, Tensor) and identical(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one is other or bool(one == other)


def identical(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are bit-equal; NaN has laws of its own, and is equal to itself here."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return bool(((one == other) | (one != one) & (other != other)).all())


def assert_unchanged(now: dict[str, Any], before: dict[str, Any]) -> None:
    changed = [
        name
        for name in sorted(now.keys() | before.keys())
        if name not in now or name not in before or not same(now[name], before[name])
    ]
    assert not changed, f"{', '.join(changed)} changed"


def assert_equal(result: Any, expected: Any, what: str) -> None:
    results, expectations = tensors_of(result), tensors_of(expected)
    assert len(results) == len(expectations), f"{what}: the structure is another"
    for one, other in zip(results, expectations, strict=True):
        assert identical(one, other), f"{what}: {one}\nis not {other}"


def assert_close(result: Any, expected: Any, what: str) -> None:
    results, expectations = tensors_of(result), tensors_of(expected)
    assert len(results) == len(expectations), f"{what}: the structure is another"
    for one, other in zip(results, expectations, strict=True):
        torch.testing.assert_close(
            one,
            other,
            rtol=1e-6,
            atol=1e-9,
            equal_nan=True,
            msg=lambda message: f"{what}: {message}",
        )


def assert_shape(tensor: Tensor, shape: tuple[int, ...], like: Tensor) -> None:
    assert tensor.shape == shape, f"shape {list(tensor.shape)}, expected {list(shape)}"
    assert tensor.dtype == like.dtype, f"{tensor.dtype}, expected {like.dtype}"


def assert_weights(weights: Tensor, mask: Tensor | None, whole: bool = True) -> None:
    """Rows are >= 0 and sum to 1 (at most, if not whole), or 0 where nothing may be addressed."""
    assert (weights >= 0).all(), f"weights below 0, or NaN: {weights}"
    mass = weights.double().sum(-1)
    expected = torch.ones_like(mass)
    if mask is not None:
        expected = expected.where(mask.any(-1), 0.0)
    tolerance = 2 * weights.shape[-1] * torch.finfo(weights.dtype).eps
    close = (mass - expected).abs() <= tolerance
    if not whole:
        close = mass <= expected + tolerance
    assert close.all(), f"rows sum to {mass}, expected {expected if whole else 'at most 1'}"


def assert_zero(tensor: Tensor, where: Tensor, what: str) -> None:
    inside = tensor.masked_fill(~where, 0.0)
    assert (inside == 0).all(), f"{what}: {inside}"


def assert_finite(state: Any, what: str) -> None:
    for tensor in tensors_of(state):
        assert torch.isfinite(tensor).all(), f"{what} in {tensor.dtype}: {tensor}"


def assert_reached(part: nn.Module, outputs: Any) -> None:
    named = [(name, value) for name, value in part.named_parameters() if value.requires_grad]
    reached = gradients(outputs, [value for _, value in named])
    missed = [
        name for (name, _), gradient in zip(named, reached, strict=True) if not gradient.any()
    ]
    assert not missed, f"no gradient for {', '.join(missed)}"
