"""The checks as a product: what a stranger's part meets that is no fault of it."""

import logging
import re
import time
from functools import partial

import pytest
import torch
from hypothesis import find, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from memnets import testing
from memnets.addressing import NTMAddressing
from memnets.cells import RotaryPositions
from memnets.core import Memory, MemoryAccess
from memnets.encoders import Process
from memnets.memories import NTM, DeltaNet, Tape
from memnets.normalizers import Softmax
from memnets.scores import Dot, General
from memnets.testing.compiled import in_one_graph
from memnets.testing.laws import Draw, Laws, hold_law, law
from memnets.training.objectives import Bits
from tasks import Copying
from tests.laws.test_planted_faults import DotContent, Machine, Recurrent

CHECKS = {
    testing.check_score: Dot,
    testing.check_normalizer: Softmax,
    testing.check_addressing: DotContent,
    testing.check_cell: Recurrent,
    testing.check_controller: Recurrent,
    testing.check_access: partial(NTM, slots=4, width=2),
    testing.check_linear: partial(DeltaNet, 4, 2),
    testing.check_positions: RotaryPositions,
    testing.check_model: Machine,
    testing.check_pointer: Machine,
    testing.check_encoder: Process,
    partial(testing.check_decoding, source=testing.tokens(3)): Machine,
    testing.check_objective: Bits,
    testing.check_task: Copying,
}
every_check = pytest.mark.parametrize(
    "check", CHECKS, ids=lambda check: getattr(check, "func", check).__name__
)


@every_check
def test_a_part_that_cannot_be_made_breaks_one_law(check):
    def broken(*arguments, **named):
        raise RuntimeError("no such thing")

    with pytest.raises(AssertionError) as error:
        check(broken)
    message = str(error.value)
    assert message.count("law '") == 1
    assert message.startswith("law 'it can be made")
    assert "no such thing" in message


@every_check
def test_a_law_that_there_is_not_is_named_with_those_that_there_are(check):
    with pytest.raises(ValueError, match=r"leave_out names laws of check_\w+: .*; got no_such_law"):
        check(CHECKS[check], leave_out=["no_such_law"])


@every_check
def test_a_part_that_is_made_already_is_said_to_be_one(check):
    with pytest.raises(TypeError, match=r"give the class and its arguments, check_\w+\(Linear, "):
        check(nn.Linear(3, 4))


class Asking(Recurrent):
    """Asks the device for a number."""

    def forward(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        output, state = super().forward(inputs, state)
        return output + 0 * output.detach().sum().item(), state


def test_a_law_that_breaks_within_a_part_names_the_line_of_it():
    with pytest.raises(AssertionError) as error:
        testing.check_cell(Asking, max_examples=1)
    place = r"law 'the host never waits for a device': .*test_kit\.py:\d+, in Asking\.forward: "
    assert re.search(place, str(error.value))


def test_a_law_that_breaks_hides_how_laws_are_tested():
    with pytest.raises(AssertionError) as error:
        testing.check_cell(lambda: 1 / 0)
    shown = {frame.name for frame in error.traceback.filter(error)}
    assert "check_cell" in shown
    assert not {"hold", "hold_law", "_hold_in_example"} & shown


def test_a_graph_leaves_no_records_of_the_compiler(caplog):
    """Pytest would print them below each law that breaks."""
    records = logging.getLogger("torch.__trace")
    records.addHandler(caplog.handler)
    try:
        in_one_graph(torch.sin, torch.ones(2))
    finally:
        records.removeHandler(caplog.handler)
    assert [each.name for each in caplog.records if each.name == records.name] == []


def test_a_part_of_another_kind_is_named():
    expected = "expected a MemoryAccess; got a Dot: write one around it"
    with pytest.raises(AssertionError, match=expected):
        testing.check_access(Dot)


class Theirs(nn.Module):
    """A memory as others write one: it keeps its matrix on itself."""

    def __init__(self, slots, width):
        super().__init__()
        self.matrix = torch.zeros(1, slots, width)

    def write(self, weights, vector):
        self.matrix = self.matrix + weights.unsqueeze(2) * vector.unsqueeze(1)

    def read(self, weights):
        return (weights.unsqueeze(1) @ self.matrix).squeeze(1)


class Around(MemoryAccess[Tensor]):
    """That of ``docs/concepts.md``."""

    def __init__(self, slots, width):
        super().__init__()
        self.theirs = Theirs(slots, width)
        self.sizes = [slots, slots, width]
        self.interface_size, self.read_size = sum(self.sizes), width
        self.register_buffer("empty", torch.zeros(slots, width), persistent=False)

    def initial_state(self, batch_size):
        return self.empty.repeat(batch_size, 1, 1)

    def forward(self, interface, state):
        read, write, vector = interface.split(self.sizes, -1)
        self.theirs.matrix = state
        self.theirs.write(write.softmax(-1), vector)
        return self.theirs.read(read.softmax(-1)), self.theirs.matrix


class Beside(Around):
    """Leaves the state where it was, on the module."""

    def forward(self, interface, state):
        kept = self.theirs.matrix
        if len(kept) != len(state):
            kept = state
        return super().forward(interface, kept)


def test_a_module_of_somebody_elses_is_checked_by_a_part_around_it():
    check = partial(testing.check_access, slots=5, width=3, max_examples=3)
    check(Around, leave_out=["compiled", "overwritten", "slots"])
    with pytest.raises(AssertionError, match="what a call keeps on self never changes a later"):
        check(Beside, leave_out=["compiled"])


class Frozen(General):
    """A score that is not trained, but for a factor."""

    def __init__(self):
        super().__init__(4)
        self.requires_grad_(False)
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, query, keys):
        return super().forward(query, keys) * self.factor


def test_a_frozen_parameter_is_no_fault():
    testing.check_score(Frozen, max_examples=3)


class Scratch(Dot):
    """Keeps a counter, a list and what it gave, none of which it looks at."""

    def __init__(self):
        super().__init__()
        self.calls, self.seen = 0, {}

    def forward(self, query, keys):
        self.calls += 1
        self.seen[query.shape] = self.last = super().forward(query, keys).detach()
        return super().forward(query, keys)


def test_scratch_on_self_is_no_fault():
    testing.check_score(Scratch, max_examples=3)


class OnlySingle(Dot):
    def __call__(self, query, keys):
        assert query.dtype != torch.float16, "no half precision"
        return super().__call__(query, keys)


def test_types_may_be_named():
    testing.check_score(OnlySingle, dtypes=[torch.float32, torch.bfloat16], max_examples=5)
    with pytest.raises(AssertionError, match="no half precision"):
        testing.check_score(OnlySingle, dtypes=[torch.float16], max_examples=5)
    with pytest.raises(ValueError, match="dtypes must be floating-point types"):
        testing.check_score(OnlySingle, dtypes=[torch.int64])


class WithoutMasks(Softmax):
    def forward(self, scores, mask=None):
        assert mask is None, "no masks"
        return scores.softmax(-1)


def test_masks_may_be_unknown():
    testing.check_normalizer(WithoutMasks, masked=False, max_examples=2)
    with pytest.raises(AssertionError, match="no masks"):
        testing.check_normalizer(WithoutMasks, max_examples=2)


def test_an_encoder_and_a_model_may_know_no_padding():
    class NoMask(Process):
        def forward(self, inputs, mask=None):
            assert mask is None, "no masks"
            return super().forward(inputs)

    testing.check_encoder(NoMask, masked=False, max_examples=2, steps=2)

    class NoSourceMask(Machine):
        def encode(self, source, mask=None):
            assert mask is None, "no masks"
            return super().encode(source)

    testing.check_model(
        NoSourceMask, masked=False, max_examples=2, overfit_steps=0, leave_out=["compiled"]
    )


def test_a_law_that_is_left_out_breaks_nothing():
    class ByPlace(Dot):
        def forward(self, query, keys):
            return super().forward(query, keys) + torch.arange(keys.shape[-2])

    testing.check_score(ByPlace, leave_out=["permutation"], max_examples=3)
    testing.check_score(ByPlace, leave_out="permutation", max_examples=3)


def test_what_was_not_tested_is_said():
    with pytest.warns(UserWarning, match="did not test the law 'no parameter depends on the nu.*"):
        testing.check_access(Tape, width=3, max_examples=1, leave_out=["compiled"])
    testing.check_access(Tape, width=3, max_examples=1, leave_out=["compiled", "slots"])


def test_a_kernel_of_one_size_needs_slots():
    class Three(NTMAddressing):
        def forward(self, query, memory, state):
            assert query.shift.shape[-1] == 3, "a kernel of 3"
            return super().forward(query, memory, state)

    queries = partial(testing.ntm_queries, kernel=3)
    testing.check_addressing(
        Three, query=queries, symmetry="rotation", least_slots=3, max_examples=5
    )
    rows = torch.zeros(3, 4)
    with pytest.raises(ValueError, match="check_addressing takes least_slots=5"):
        find(testing.ntm_queries(Memory(rows, rows), kernel=5), lambda query: True)
    with pytest.raises(ValueError, match="least_slots must be 1 to 6; got 7"):
        testing.check_addressing(Three, query=queries, least_slots=7)


def test_a_slow_machine_breaks_no_law():
    class Slow(Laws):
        check = "check_slow"

        def smoke(self, draw: Draw) -> None:
            pass

        @law("it takes its time")
        def slow(self, draw: Draw) -> None:
            draw(st.integers().map(lambda number: time.sleep(0.15)))

    before = settings()
    settings.register_profile("strict", max_examples=10, suppress_health_check=[], deadline=100)
    settings.load_profile("strict")
    try:
        hold_law(Slow(dict, {}).slow, None)
    finally:
        settings.register_profile("before strict", before)
        settings.load_profile("before strict")
