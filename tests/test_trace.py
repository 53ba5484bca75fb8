"""Recording the weights of any model, and drawing them."""

from functools import partial

import pytest
import torch

from memnets import kernels, plots, trace
from memnets.controllers import FeedForward
from memnets.memories import NTM, Tape
from memnets.models import MemoryMachine


def machine(access) -> MemoryMachine:
    torch.manual_seed(0)
    return MemoryMachine(3, 2, partial(FeedForward, hidden_size=4), access)


def test_what_is_recorded_is_what_the_machine_used() -> None:
    model = machine(NTM(slots=5, width=3, read_heads=2))
    inputs = torch.randn(2, 4, 3)
    plain, state = model(inputs)
    with trace.record(model) as tape:
        outputs, _ = model(inputs)
    assert torch.allclose(outputs, plain, atol=1e-6)
    weights = tape.stacked("access.addressing")
    assert weights.shape == (2, 4, 3, 5)
    assert torch.allclose(weights[:, -1], state.access.weights, atol=1e-6)
    assert tape.heads["access.addressing"] == ["read 1", "read 2", "write 1"]


def test_after_recording_nothing_is_left_on_the_model() -> None:
    model = machine(NTM(slots=5, width=3))
    with trace.record(model) as tape:
        assert not kernels.applies(torch.zeros(1))
    assert kernels.applies(torch.zeros(1))
    model(torch.zeros(1, 2, 3))
    assert tape.weights == {}


def test_a_memory_that_grows_is_padded_with_no_weight(tmp_path) -> None:
    model = machine(Tape(width=3, read_heads=2))
    with trace.record(model) as tape:
        model(torch.randn(1, 4, 3))
    weights = tape.stacked("access.addressing")
    assert weights.shape == (1, 4, 2, 4)
    assert not weights[0, :, 0].triu(1).any()
    assert torch.allclose(weights.sum(-1), torch.ones(1, 4, 2))
    assert tape.plot(tmp_path / "new" / "tape.png", split=2).stat().st_size > 0


def test_what_is_not_there_is_named() -> None:
    with trace.record(machine(None)) as tape:
        pass
    with pytest.raises(KeyError, match="nothing was recorded for 'access'"):
        tape.stacked("access")
    with pytest.raises(ValueError, match="no weights to draw"):
        plots.weights({}, "nowhere.png")
