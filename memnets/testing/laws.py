"""The frame of all laws: their statement, their test and their report.

A law is a sentence above the method that tests it. The marked methods of a :class:`Subject` are the
laws of one kind of part; :meth:`Subject.hold` tests them on inputs drawn by Hypothesis. Each
example makes a new part from a seed. Examples are the same in every run.

Laws that compare two results are tested in evaluation mode and in double precision, laws about a
single result in training mode too.

The name of a law is that of its method; ``leave_out`` of a check takes it. A law with an exception
does not hold. The first law is that the part can be made and run once; without it, no other is
tested.
"""

from __future__ import annotations

import copy
import io
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TypeVar

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky, HypothesisException
from hypothesis.strategies import DataObject
from torch import Tensor, nn

from memnets._own import place_of
from memnets.core import map_state
from memnets.precision import called_with
from memnets.testing import strategies

__all__: list[str] = []

#: A test that fails shows its own line and the message, and not how laws are tested; pytest shows
#: all with ``--full-trace``.
__tracebackhide__ = True

Draw = Callable[..., Any]
LOW_PRECISION = (torch.float32, torch.bfloat16, torch.float16)
# The gradient of a loss at a part is small, since the loss is a mean over steps, sequences and
# entries. A projection without this factor would overflow half precision where training does not.
_GRADIENT_SCALE = 1 / 64
#: Steps of the finite differences, so small that a kink is unlikely within one. The second is for
#: functions that bend too much within the first.
_DIFFERENCES = (1e-6, 1e-7)
#: Seed of the examples of all laws. Hypothesis would make one of a law's source: any change of its
#: words would draw others.
_SEED = int(
    "3dffb5d7443752660f1fa9cbe1a4430d88eb5662b42a0e74"
    "9d6323e2c39ebc4f8f98ecec8746a532e62b108e494006bd",
    16,
)

Method = TypeVar("Method", bound=Callable[..., None])


def law(statement: str, examples: int | None = None) -> Callable[[Method], Method]:
    """Mark a method of a :class:`Subject` as the test of a law.

    Args:
        statement: the law, in words.
        examples: most examples, for a law that takes long to test.
    """

    def mark(method: Method) -> Method:
        method.statement = statement  # type: ignore[attr-defined]
        method.examples = examples  # type: ignore[attr-defined]
        return method

    return mark


# -- kinds of parts --------------------------------------------------------------------------------


class Laws(ABC):
    """Base class for the laws of an object; the laws are the marked methods.

    Args:
        factory: makes the object.
        arguments: arguments for the factory.

    Raises:
        TypeError: the factory is a finished part, or cannot be called.
    """

    #: Name of the public check that tests these laws.
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
            not_meant: names of laws that do not apply, by the settings of the check.

        Raises:
            ValueError: ``leave_out`` names an unknown law.
            AssertionError: a law does not hold; the message describes each failure.
        """
        left_out = {leave_out} if isinstance(leave_out, str) else set(leave_out)
        known = [name for name in self.laws() if name != "smoke"]
        if unknown := sorted(left_out - set(known)):
            raise ValueError(
                f"leave_out names laws of {self.check}: {', '.join(known)}; "
                f"got {', '.join(unknown)}"
            )
        hold_law(self.smoke, max_examples)
        # All laws are tested before the error: one report of everything saves many runs.
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
        """Note that a law could not be tested, for a warning to the user."""
        self._skipped[name] = reason

    def build(self) -> Any:
        """Make the object from copies of its arguments, so that the user's stay unchanged."""
        return self.make(copy.deepcopy(self.arguments))

    def make(self, arguments: dict[str, Any]) -> Any:
        """Call the factory."""
        return self.factory(**arguments)

    @abstractmethod
    def smoke(self, draw: Draw) -> None:
        """The first law: the object can be made and used once."""


class Subject(Laws):
    """Base class for the laws of a kind of part.

    Args:
        factory: makes the part.
        arguments: arguments for the factory.
        dtypes: floating-point types besides float64 that the part must support.
    """

    #: Class that the part must have; ``None`` if only its behaviour counts.
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
        """Make the part, in a floating-point type and a mode."""
        return super().build().to(dtype).train(training)

    @abstractmethod
    def inputs(self, draw: Draw, special: bool = False) -> Any:
        """Draw inputs of the part: a structure of tensors, batch first."""

    @abstractmethod
    def run(self, part: Any, inputs: Any) -> Any:
        """Outputs of the part: a structure of tensors, batch first."""

    def results(self, part: Any, inputs: Any) -> Any:
        """All results of the part, states too; the default is the outputs."""
        return self.run(part, inputs)

    def interrupted(self, part: Any, inputs: Any, interlude: Callable[[], None]) -> Any:
        """Outputs as in :meth:`run`, with an interlude before the run or within it."""
        interlude()
        return self.run(part, inputs)

    @law("it can be made, and run once", examples=1)
    def smoke(self, draw: Draw) -> None:
        part = self.build()
        if self.kind is not None:
            assert isinstance(part, self.kind), (
                f"expected a {self.kind.__name__}; got a {type(part).__name__}: write one around it"
            )
        self.run(part, self.inputs(draw))

    @law("what a call keeps on self never changes a later one")
    def nothing_kept(self, draw: Draw) -> None:
        # Two parts of the same seed: one of them runs other inputs in between.
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
        # Autograd itself finds tensors that were saved for it and changed afterwards.
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
        # Only a part that drew nothing must agree.
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
            assert not result.is_complex(), (
                f"{result.dtype}, expected real numbers, which have 16 bits too: keep the real and "
                "the imaginary part, as two tensors"
            )
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
        # Inputs move in proportion to their size, so that they keep their sign and their range.
        moves = {
            "inputs": [source.detach() * random(source) for source in sources["inputs"]],
            "parameters": [random(source) for source in parameters],
        }
        total = value()
        outputs = [output.detach().double() for output in tensors_of(self.run(part, inputs))]
        # Large outputs have large rounding errors, and so have their differences: the tolerance
        # grows with them. Infinite outputs count as 0.
        greatest = max(
            [output[output.isfinite()].abs().max().item() for output in outputs if output.numel()],
            default=0.0,
        )
        # The backward pass comes before any tensor moves, since it needs the saved ones unchanged.
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
        # Another seed, and then other numbers, so that nothing agrees by chance.
        torch.manual_seed(torch.initial_seed() + 1 + draw(strategies.seeds()) // 2)
        other = self.build()
        with torch.no_grad():
            for value in other.state_dict().values():
                value.add_(1) if value.is_floating_point() else None
        other.load_state_dict(torch.load(file, weights_only=True))
        assert_equal(self._seeded_run(other, inputs), expected, "after loading and before saving")

    @law("weights that are given for one call alone are those that count", examples=2)
    def weights_given(self, draw: Draw) -> None:
        part = self.build()
        inputs = self.inputs(draw)
        other = copy.deepcopy(part)
        given = {}
        for name, weight in other.named_parameters():
            with torch.no_grad():
                weight.mul_(1 + 0.5 * torch.rand_like(weight)).add_(0.1 * torch.rand_like(weight))
            given[name] = differentiable(weight)
        # By ``torch.func.functional_call``; a parametrization puts weights in place as well.
        result = called_with(part, given, lambda: self._seeded_run(part, inputs))
        expected = self._seeded_run(other, inputs)
        assert_close(result, expected, "with weights for one call, and with weights of its own")
        learned = {
            name: weight for name, weight in other.named_parameters() if weight.requires_grad
        }
        found = gradients(result, [given[name] for name in learned])
        assert_close(found, gradients(expected, [*learned.values()]), "gradient of the weights")

    @law(
        "under autocast a part runs, forward and backward, and a state keeps its precision",
        examples=5,
    )
    def autocast(self, draw: Draw) -> None:
        part = self.build(torch.float32, training=draw(st.booleans()))
        half = draw(st.sampled_from((torch.bfloat16, torch.float16)))
        # Under autocast, inputs from a linear layer have 16 bits, states have 32.
        given = draw(st.sampled_from((half, torch.float32)))

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
        """States before and after some steps; empty for parts without a state."""
        return []

    def batch_shape(self, inputs: Any) -> tuple[int, ...]:
        """Leading dims ``*B`` of the inputs."""
        return (len(tensors_of(inputs)[0]),)

    def select(self, position: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
        """A function that takes one example of the batch, as a batch of 1."""
        return lambda tensor: tensor[position[0] : position[0] + 1]

    def _seeded_run(
        self, part: Any, inputs: Any, prepare: Callable[[Tensor], Tensor] | None = None
    ) -> Any:
        torch.manual_seed(0)
        return self.run(part, map_state(prepare or copied, inputs))


def hold_law(method: Callable[[Draw], None], max_examples: int | None) -> None:
    """Test one law on inputs that Hypothesis draws."""
    most: int | None = method.examples  # type: ignore[attr-defined]

    # Short, since Hypothesis reads and takes apart its source for each law.
    def test(data: DataObject) -> None:
        _hold_in_example(method, data)

    profile = settings()
    examples = profile.max_examples if max_examples is None else max_examples
    # Hypothesis raises errors for slow draws; tensors are slow, more so on a busy machine.
    patient = {HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example}
    run = settings(
        profile,
        max_examples=examples if most is None else min(examples, most),
        suppress_health_check=sorted(patient | set(profile.suppress_health_check), key=str),
        derandomize=True,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        # The phase ``explain`` traces all lines, also those of torch, and takes long.
        phases=[phase for phase in profile.phases if phase is not Phase.explain],
    )(seed(_SEED)(given(st.data())(test)))
    try:
        run()
    except Flaky as error:
        raise AssertionError(
            f"law {_statement(method)!r}: broke, and then held on the same inputs; "
            "is there something that the part keeps outside of its state?"
        ) from error


def _hold_in_example(method: Callable[[Draw], None], data: DataObject) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(data.draw(strategies.seeds(), label="seed of the part"))
        try:
            method(data.draw)
        except HypothesisException:
            raise
        except Exception as error:
            detail = str(error) if isinstance(error, AssertionError) else repr(error)
            if place := place_of(error):  # else the part ran, and a law compares what came of it
                detail = f"{place}: {detail}"
            raise AssertionError(f"law {_statement(method)!r}: {detail}") from error


def _statement(method: Callable[[Draw], None]) -> str:
    statement: str = method.statement  # type: ignore[attr-defined]
    return statement


class Pointwise(Subject):
    """A kind of part whose inputs have any leading dims ``*B``."""

    def batch_shape(self, inputs: Any) -> tuple[int, ...]:
        shape: tuple[int, ...] = tensors_of(inputs)[0].shape[:-2]
        return shape

    def select(self, position: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
        """A function that takes one example of the batch, without leading dims."""
        return lambda tensor: tensor[position]


# -- structures of tensors, and assertions about them ----------------------------------------------


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
    """A copy that requires a gradient; not a leaf, so that a part could modify it in place."""
    if not tensor.is_floating_point():
        return tensor.clone()
    return tensor.detach().clone().requires_grad_() * 1


def differentiated(state: Any) -> list[Tensor]:
    """Tensors of a state that require a gradient."""
    return [tensor for tensor in tensors_of(state) if tensor.requires_grad]


def per_query(tensor: Tensor, count: int) -> Tensor:
    """Repeat a memory for each query: ``[*B, N, K] -> [*B, Q, N, K]``."""
    return tensor.unsqueeze(-3).expand(*tensor.shape[:-2], count, -1, -1)


def projection(outputs: Any) -> Tensor:
    """A fixed random projection of outputs to a scalar; infinite numbers count as 0."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros((), dtype=torch.float64)
    for output in tensors_of(outputs):
        if output.is_floating_point():
            random = torch.rand(output.shape, generator=generator, dtype=torch.float64)
            # Drawn on the CPU: the same numbers for outputs on any device.
            direction = (_GRADIENT_SCALE * (2 * random - 1)).to(output)
            # The sum is taken in double precision, so that the type's own range is not the limit.
            finite = output.double().masked_fill(output.isinf(), 0.0)
            total = total + (finite * direction.double()).sum()
    return total


def gradients(outputs: Any, sources: list[Any]) -> list[Tensor]:
    """Gradients of the :func:`projection` of outputs; 0 for sources that require none."""
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
    """Whether two tensors have equal bits; NaN counts as equal to NaN."""
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
    """Assert that rows are >= 0 and sum to 1, or to 0 without an open slot.

    Args:
        weights: ``[*B, Q, N]``.
        mask: bool, True = may be addressed; ``None`` = every slot may.
        whole: False = rows sum to at most 1.
    """
    assert (weights >= 0).all(), f"weights below 0, or NaN: {weights}"
    mass = weights.double().sum(-1)
    expected = torch.ones_like(mass)
    if mask is not None:
        expected = expected.where(mask.any(-1), 0.0)
    epsilon = torch.finfo(weights.dtype).eps
    # 16-bit weights are computed in float32 and rounded once, so their errors do not add up.
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
