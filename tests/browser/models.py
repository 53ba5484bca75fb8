"""Small models at work, their tapes, and pages of what these hold."""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from memnets import events
from memnets.addressing import Content
from memnets.cells import GRU, LSTM, FeedForward
from memnets.core import Cell
from memnets.encoders import Recurrent
from memnets.memories import DNC, NTM, DeltaNet
from memnets.models import MemoryMachine, PointerNetwork, Seq2Seq
from memnets.scores import Additive
from memnets.viewing import panels as made
from memnets.viewing import trace
from memnets.viewing.page import (
    Cells,
    Drawing,
    Example,
    Heads,
    Lines,
    Page,
    Panel,
    Plane,
    Run,
    Square,
    Strip,
)

ENCODER = partial(Recurrent, controller=partial(GRU, hidden_size=4))


class Watched(NamedTuple):
    """A page of one example, and what it must show: values of a panel at each step."""

    page: Page
    holds: dict[str, Tensor]


class Stack(Cell[Tensor]):
    """A cell of a user's own: a stack of N slots that is pushed, or popped, by its input."""

    input_size, output_size = 3, 2

    def __init__(self, slots: int = 5) -> None:
        super().__init__()
        self.register_buffer("empty", torch.zeros(slots, 2))

    def initial_state(self, batch_size: int) -> Tensor:
        return self.empty.expand(batch_size, -1, -1)

    def forward(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        push = inputs[:, :1, None]
        below = torch.cat([inputs[:, None, 1:], state[:, :-1]], 1)
        above = torch.cat([state[:, 1:], torch.zeros_like(state[:, :1])], 1)
        state = push * below + (1 - push) * above
        events.report(self, memory=state)
        return state[:, 0], state


def page(title: str, steps: list[str], panels: list[Panel], split: int = 0) -> Page:
    return Page(title, [Example(title, steps, [Run("as it ran", panels, "wrong", False)], split)])


def over_time(tape: trace.Tape, part: object, kind: str) -> Tensor:
    """Values of the first sequence at each step: ``[T, ...]``."""
    return torch.stack([value[0] for value in tape.calls(part, kind)])  # type: ignore[arg-type]


def memory_machine(access: NTM | DNC) -> Watched:
    torch.manual_seed(0)
    model = MemoryMachine(3, 2, partial(FeedForward, hidden_size=4), access)
    inputs = torch.rand(1, 6, 3)
    with torch.no_grad(), trace.record(model, None) as tape:
        outputs, _ = model(inputs)
    answer = outputs[0].sigmoid()
    read, write, memory = (over_time(tape, access, k) for k in ("read", "write", "memory"))
    erase, add = (over_time(tape, access, kind).transpose(0, 1) for kind in ("erase", "add"))
    heads = write.transpose(0, 1)
    panels: list[Panel] = [
        Strip("input", inputs[0]),
        Strip("answer", answer, wrong=answer > 0.5),
        Heads("read heads", read.transpose(0, 1), ["read head"], role="read", note="w_r"),
        Heads("write heads", heads, ["write head"], role="write"),
        Cells("memory", memory, torch.zeros_like(memory[0]), heads, erase, add, note="M_t"),
        Lines("outputs", answer, ["first", "second"], low=0, high=1),
    ]
    holds = {"input": inputs[0], "answer": answer, "read heads": read, "write heads": write}
    if isinstance(access, DNC):
        usage, link = (over_time(tape, access, kind) for kind in ("usage", "link"))
        panels += [
            Heads("usage", usage[None], ["usage"], role="other"),
            Square("links", link, "written after", "written before"),
        ]
        holds |= {"usage": usage[:, None], "links": link}
    return Watched(
        page("machine", [f"step {i}" for i in range(6)], panels), holds | {"memory": memory}
    )


def delta() -> Watched:
    torch.manual_seed(0)
    access = DeltaNet(5, 3)
    with torch.no_grad(), trace.record(access, None) as tape:
        access.unroll(torch.randn(1, 6, access.interface_size), access.initial_state(1))
    memory = over_time(tape, access, "memory")[:, 0]
    (cells,) = (panel for panel in made.panels(tape) if isinstance(panel, Cells))
    panels: list[Panel] = [replace(cells, name="memory")]
    return Watched(page("delta", [f"step {i}" for i in range(6)], panels), {"memory": memory})


def translation() -> Watched:
    torch.manual_seed(0)
    model = Seq2Seq(9, 9, ENCODER, partial(GRU, hidden_size=8), Content(Additive(8)), width=6)
    source, words = torch.tensor([[4, 5, 6, 7]]), ["das", "Haus", "ist", "grün"]
    inputs, answer = torch.tensor([[2, 4, 5, 6, 7]]), ["the", "house", "is", "green", "."]
    with torch.no_grad(), trace.record(model) as tape:
        model.logits(_batch(source, inputs))
    weights = tape.over_time(next(iter(model.alignments().values())))
    wrong = torch.tensor([False, True, False, False, False])
    panels = [
        Strip("answer", answer, wrong=wrong),
        Heads("attention", weights, ["head"], words, note="softmax(vᵀ tanh(W s + U h))"),
    ]
    steps = [f"answer {i}" for i in range(5)]
    return Watched(page("translation", steps, panels), {"attention": weights.transpose(0, 1)})


def pointer() -> Watched:
    torch.manual_seed(0)
    model = PointerNetwork(2, ENCODER, partial(LSTM, hidden_size=4), Content(Additive(6)), width=6)
    points = torch.rand(1, 7, 2)
    with torch.no_grad(), trace.record(model) as tape:
        model.logits(_batch(points, torch.tensor([[2, 4, 5, 6]])))
    weights = tape.over_time(next(iter(model.alignments().values())))
    panels = [
        Drawing("hull", points[0], [(0, 1), (1, 2), (2, 0)], [[], [(0, 1)], [(1, 2)], [(2, 0)]]),
        Heads("pointer", weights, ["pointer"], places=Plane(points[0])),
    ]
    return Watched(page("pointer", list("abcd"), panels), {"pointer": weights.transpose(0, 1)})


def stack() -> Watched:
    cell = Stack()
    inputs = torch.rand(1, 6, 3)
    inputs[0, :, 0] = torch.tensor([1.0, 1, 1, 0, 0, 1])
    with trace.record(cell, None) as tape:
        cell.unroll(inputs, cell.initial_state(1))
    memory = over_time(tape, cell, "memory")
    panels = [Strip("input", inputs[0]), Cells("stack", memory, cell.empty, stack=True)]
    return Watched(page("stack", list("abcdef"), panels), {"stack": memory})


def _batch(source: Tensor, inputs: Tensor) -> object:
    from memnets.batches import Batch

    return Batch(source, inputs, inputs)


WATCHED = {
    "NTM": lambda: memory_machine(NTM(slots=5, width=3)),
    "DNC": lambda: memory_machine(DNC(slots=5, width=3)),
    "delta rule": delta,
    "translation": translation,
    "pointer": pointer,
    "stack": stack,
}
