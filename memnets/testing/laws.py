"""What laws are made of: how one is stated, tested and reported.

A law is a sentence above the method that tests it. The methods of a :class:`Subject` are the laws
of one kind of part; :meth:`Subject.hold` tests them on inputs drawn by Hypothesis. A part is built
anew for each example, from a seed, and examples are the same in every run.

Laws that compare two results are tested in evaluation mode and in double precision, laws about a
single result in training mode too.

A law has a name, that of its method, by which ``leave_out`` of a check leaves it out. An exception
within a law breaks the law. The first thing that is tested is whether the part can be made and run
at all; where it can't be, nothing else is tested.
"""

from __future__ import annotations

import copy
import io
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TypeVar

import torch
from hypothesis import HealthCheck, Phase, given, settings
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
#: Of a finite difference: so small that no kink of a function is likely to lie within. The second
#: is for functions that bend within the first.
_DIFFERENCES = (1e-6, 1e-7)

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


class Laws(ABC):
    """A thing under its laws, which are its marked methods.

    Args:
        factory: makes the thing.
        arguments: for the factory.

    Raises:
        TypeError: the factory is a part that is made already, or nothing that can be called.
    """

    #: The check that the laws are tested by.
    check: ClassVar[str]

    def __init__(self, factory: Callable[..., Any], arguments: dict[str, Any]) -> None:
        if isinstance(factory, nn.Module) or not callable(factory):
            name = type(factory).__name__
            raise TypeError(
                f"{self.check} makes its parts itself, many of them: give the class and its "
                f"arguments, {self.check}({name}, ...), or a function that makes one, not a "
                f"{name} that is made already"
            )
        self.factory = factory
        self.arguments = arguments
        self._skipped: dict[str, str] = {}

    @classmethod
    def laws(cls) -> list[str]:
        """Names of the methods that are laws, general ones first."""
        names: dict[str, None] = {}
        for kind in reversed(cls.__mro__):
            names.update(dict.fromkeys(vars(kind)))
        return [name for name in names if hasattr(getattr(cls, name), "statement")]

    def hold(
        self,
        max_examples: int | None,
        leave_out: Iterable[str] = (),
        not_meant: Iterable[str] = (),
    ) -> None:
        """Test every law.

        Args:
            max_examples: see the checks.
            leave_out: names of laws that the user leaves out.
            not_meant: names of laws that are not meant for the thing, by its settings.

        Raises:
            ValueError: ``leave_out`` names something else.
            AssertionError: laws broke; the message says of each what was found.
        """
        left_out = {leave_out} if isinstance(leave_out, str) else set(leave_out)
        known = [name for name in self.laws() if name != "smoke"]
        if unknown := sorted(left_out - set(known)):
            raise ValueError(
                f"leave_out names laws of {self.check}: {', '.join(known)}; "
                f"got {', '.join(unknown)}"
            )
        hold_law(self.smoke, max_examples)
        broken: list[AssertionError] = []
        for name in known:
            if name not in left_out and name not in set(not_meant):
                try:
                    hold_law(getattr(self, name), max_examples)
                except AssertionError as error:
                    broken.append(error)
        if broken:
            first = broken[0]
            first.args = ("\n\n".join(str(error) for error in broken),)
            raise first
        for name, reason in self._skipped.items():
            if name in left_out:
                continue
            statement = getattr(self, name).statement
            warnings.warn(
                f"{self.check} did not test the law {statement!r}: {reason} "
                f"(leave_out=[{name!r}] says that this is meant)",
                stacklevel=3,
            )

    def skip(self, name: str, reason: str) -> None:
        """Note that a law could not be tested; the user is warned of it."""
        self._skipped[name] = reason

    def build(self) -> Any:
        """The thing; its arguments are copied, so that nothing of the user's is changed."""
        return self.make(copy.deepcopy(self.arguments))

    def make(self, arguments: dict[str, Any]) -> Any:
        """Call the factory."""
        return self.factory(**arguments)

    @abstractmethod
    def smoke(self, draw: Draw) -> None:
        """A law too, the first: without it no other can hold."""


class Subject(Laws):
    """A kind of part under its laws.

    Args:
        factory: makes the part.
        arguments: for the factory.
        dtypes: the types of less than double precision that the part is to know.
    """

    #: What the part must be; ``None``, if only what it does counts.
    kind: ClassVar[type | None] = None

    def __init__(
        self,
        factory: Callable[..., Any],
        arguments: dict[str, Any],
        dtypes: Iterable[torch.dtype] = LOW_PRECISION,
    ) -> None:
        super().__init__(factory, arguments)
        self.dtypes = tuple(dtypes)
        if not self.dtypes or not all(dtype.is_floating_point for dtype in self.dtypes):
            raise ValueError(f"dtypes must be floating-point types, one or more; got {dtypes}")

    def build(self, dtype: torch.dtype = torch.float64, training: bool = False) -> Any:
        """The part, of a type and in a mode."""
        return super().build().to(dtype).train(training)

    @abstractmethod
    def inputs(self, draw: Draw, special: bool = False) -> Any:
        """What the part is given: a structure of tensors, batch first."""

    @abstractmethod
    def run(self, part: Any, inputs: Any) -> Any:
        """What the part makes of it: a structure of tensors, batch first."""

    def results(self, part: Any, inputs: Any) -> Any:
        """Everything that comes back, a state too."""
        return self.run(part, inputs)

    def interrupted(self, part: Any, inputs: Any, interlude: Callable[[], None]) -> Any:
        """As :meth:`run`, with something else done before or in between."""
        interlude()
        return self.run(part, inputs)

    @law("it can be made, and run once", examples=1)
    def smoke(self, draw: Draw) -> None:
        part = self.build()
        if self.kind is not None:
            assert isinstance(part, self.kind), (
                f"got a {type(part).__name__}, which is no {self.kind.__name__}"
            )
        self.run(part, self.inputs(draw))

    @law("what a call keeps on self never changes a later one")
    def nothing_kept(self, draw: Draw) -> None:
        training = draw(st.booleans())
        seed = torch.initial_seed()
        part = self.build(training=training)
        torch.manual_seed(seed)
        fresh = self.build(training=training)
        inputs, others = self.inputs(draw), self.inputs(draw)
        saved = {name: copied(value) for name, value in fresh.state_dict().items()}

        def run(part: Any, interlude: Callable[[], None]) -> Any:
            def seeded() -> None:
                interlude()
                torch.manual_seed(0)

            return self.interrupted(part, map_state(copied, inputs), seeded)

        torch.manual_seed(0)
        expected = run(fresh, lambda: None)
        torch.manual_seed(0)
        result = run(part, lambda: self._seeded_run(part, others))
        assert_equal(result, expected, "a call after another, and the same call alone")
        assert_unchanged(part.state_dict(), saved)

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

    @law("without gradients the numbers are the same", examples=4)
    def without_gradients(self, draw: Draw) -> None:
        part = self.build(training=draw(st.booleans()))
        inputs = self.inputs(draw)
        expected = self._seeded_run(part, inputs, differentiable)
        with torch.no_grad():
            result = self._seeded_run(part, inputs)
        assert_close(result, expected, "without gradients and with them")

    @law("training gives the numbers of evaluation where nothing is drawn at random", examples=4)
    def training(self, draw: Draw) -> None:
        part = self.build(training=True)
        inputs = self.inputs(draw)
        torch.manual_seed(0)
        before = torch.get_rng_state()
        result = self.run(part, map_state(copied, inputs))
        if torch.equal(torch.get_rng_state(), before):
            expected = self.run(part.eval(), map_state(copied, inputs))
            assert_close(result, expected, "in training and in evaluation")

    @law("results have the precision of the part", examples=4)
    def precision(self, draw: Draw) -> None:
        dtype = draw(st.sampled_from(self.dtypes))
        part = self.build(dtype, training=draw(st.booleans()))

        def cast(tensor: Tensor) -> Tensor:
            return tensor.to(dtype) if tensor.is_floating_point() else tensor.clone()

        for result in tensors_of(self.results(part, map_state(cast, self.inputs(draw)))):
            if result.is_floating_point():
                assert result.dtype == dtype, f"{result.dtype}, expected {dtype}"

    @law("gradients are those of finite differences", examples=3)
    def finite_differences(self, draw: Draw) -> None:
        part = self.build()
        inputs = map_state(differentiable, self.inputs(draw))
        parameters = [value for value in part.parameters() if value.requires_grad]
        generator = torch.Generator().manual_seed(draw(strategies.seeds()))

        def random(tensor: Tensor) -> Tensor:
            return torch.randn(tensor.shape, generator=generator, dtype=torch.float64)

        def value() -> Tensor:
            torch.manual_seed(0)
            return projection(self.run(part, inputs))

        sources = {"inputs": differentiated(inputs), "parameters": parameters}
        # Inputs move by a share of themselves: they stay on their side of 0, and in their range.
        moves = {
            "inputs": [source.detach() * random(source) for source in sources["inputs"]],
            "parameters": [random(source) for source in parameters],
        }
        total = value()
        outputs = [output.detach().double() for output in tensors_of(self.run(part, inputs))]
        # What is infinite counts 0; a difference of great numbers is rounded with them.
        greatest = max(
            [output[output.isfinite()].abs().max().item() for output in outputs if output.numel()],
            default=0.0,
        )
        # All before anything moves: what was saved for the backward pass must be as it was.
        analytic = {name: _gradients(total, tensors) for name, tensors in sources.items()}
        for name, tensors in sources.items():
            along = [
                (gradient * move).sum()
                for gradient, move in zip(analytic[name], moves[name], strict=True)
            ]
            kept = [copied(tensor) for tensor in tensors]
            found = float(sum(along))
            for step in _DIFFERENCES:
                values = []
                for signed in (step, -step, 0.0):
                    with torch.no_grad():
                        for tensor, first, move in zip(tensors, kept, moves[name], strict=True):
                            tensor.copy_(first + signed * move)
                    values.append(value().item() if signed else 0.0)
                expected = (values[0] - values[1]) / (2 * step)
                close = abs(found - expected) <= 1e-8 * (1 + greatest) + 1e-4 * abs(expected)
                if close:
                    break
            assert close, (
                f"along a direction of the {name} the gradient says {found:.6g}, "
                f"finite differences {expected:.6g}"
            )

    @law("a state_dict brings the numbers back", examples=2)
    def state_dict(self, draw: Draw) -> None:
        part = self.build()
        inputs = self.inputs(draw)
        expected = self._seeded_run(part, inputs)
        file = io.BytesIO()
        torch.save(part.state_dict(), file)
        file.seek(0)
        torch.manual_seed(torch.initial_seed() + 1 + draw(strategies.seeds()) // 2)
        other = self.build()
        with torch.no_grad():
            for value in other.state_dict().values():
                value.add_(1) if value.is_floating_point() else None
        other.load_state_dict(torch.load(file, weights_only=True))
        assert_equal(self._seeded_run(other, inputs), expected, "after loading and before saving")

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

    def _seeded_run(
        self, part: Any, inputs: Any, prepare: Callable[[Tensor], Tensor] | None = None
    ) -> Any:
        torch.manual_seed(0)
        return self.run(part, map_state(prepare or copied, inputs))


def hold_law(method: Callable[[Draw], None], max_examples: int | None) -> None:
    """Test one law on inputs that Hypothesis draws."""
    statement: str = method.statement  # type: ignore[attr-defined]
    most: int | None = method.examples  # type: ignore[attr-defined]

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
    examples = profile.max_examples if max_examples is None else max_examples
    # Tensors take their time, and a busy machine takes more.
    patient = {HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example}
    run = settings(
        profile,
        max_examples=examples if most is None else min(examples, most),
        suppress_health_check=sorted(patient | set(profile.suppress_health_check), key=str),
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


def projection(outputs: Any) -> Tensor:
    """A random projection of ``outputs``, always the same, a scalar; what is infinite counts 0."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros((), dtype=torch.float64)
    for output in tensors_of(outputs):
        if output.is_floating_point():
            random = torch.rand(output.shape, generator=generator, dtype=torch.float64)
            direction = (_GRADIENT_SCALE * (2 * random - 1)).to(output.dtype)
            # The sum is taken in double precision, so that the type's own range is not the limit.
            finite = output.double().masked_fill(output.isinf(), 0.0)
            total = total + (finite * direction.double()).sum()
    return total


def gradients(outputs: Any, sources: list[Any]) -> list[Tensor]:
    """Gradient of the :func:`projection` of ``outputs``; 0 for a source that wants none."""
    return _gradients(projection(outputs), sources)


def _gradients(total: Tensor, sources: list[Any]) -> list[Tensor]:
    wanted = [source for source in sources if source.requires_grad]
    if not total.requires_grad or not wanted:
        return [torch.zeros_like(source) for source in sources]
    found = iter(torch.autograd.grad(total, wanted, retain_graph=True, allow_unused=True))
    each = [next(found) if source.requires_grad else None for source in sources]
    return [
        torch.zeros_like(source) if gradient is None else gradient
        for source, gradient in zip(sources, each, strict=True)
    ]


def identical(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are bit-equal; NaN has laws of its own, and is equal to itself here."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return bool(((one == other) | (one != one) & (other != other)).all())


def assert_unchanged(now: dict[str, Any], before: dict[str, Any]) -> None:
    changed = [
        name
        for name in sorted(now.keys() | before.keys())
        if name not in now or name not in before or not identical(now[name], before[name])
    ]
    assert not changed, f"{', '.join(changed)} changed"


def assert_equal(result: Any, expected: Any, what: str) -> None:
    results, expectations = tensors_of(result), tensors_of(expected)
    assert len(results) == len(expectations), f"{what}: the structure is another"
    for one, other in zip(results, expectations, strict=True):
        assert identical(one, other), f"{what}: {one}\nis not {other}"


def assert_close(
    result: Any, expected: Any, what: str, rtol: float = 1e-6, atol: float = 1e-9
) -> None:
    results, expectations = tensors_of(result), tensors_of(expected)
    assert len(results) == len(expectations), f"{what}: the structure is another"
    for one, other in zip(results, expectations, strict=True):
        torch.testing.assert_close(
            one,
            other,
            rtol=rtol,
            atol=atol,
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
    epsilon = torch.finfo(weights.dtype).eps
    # What is rounded once, at the end, errs less than each entry: half precision is for results.
    terms = weights.shape[-1] if weights.dtype in (torch.float32, torch.float64) else 1
    tolerance = 2 * terms * epsilon
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
