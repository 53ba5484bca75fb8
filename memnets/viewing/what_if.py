"""Standard interventions for a recorded run: what would have happened without a memory, a gate?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from memnets.core import EncoderDecoder, MemoryAccess
from memnets.viewing.interventions import Freeze, Hide, Intervention, Overwrite
from memnets.viewing.panels import around
from memnets.viewing.trace import Tape

__all__ = ["standard"]

#: Fields of queries that hold a head where it is or let it go, in the order of preference.
_GATES = ("gate", "modes")


def standard(tape: Tape, begin: int) -> list[Sequence[Intervention]]:
    """A few changes that show what a model depends on, each for a run of its own.

    With a memory: the slot that was read most while the model answered is wiped before the answer;
    and the gate of the first read head, or its modes in a DNC, stay as they were before it. With
    attention alone: the slot that got most weight cannot be seen.

    Args:
        tape: a recorded run of one sequence, of all kinds of events.
        begin: step of the memory at which the answer begins.

    Returns:
        Lists of interventions; empty for a run in which nothing can be changed.
    """
    for part in dict.fromkeys(event.part for event in tape.events):
        if isinstance(part, MemoryAccess):
            found = _of_memory(tape, part, begin)
            if found:
                return found
    return _of_attention(tape)


def _of_memory(tape: Tape, memory: MemoryAccess, begin: int) -> list[Sequence[Intervention]]:
    read = [
        event.value[0] for event in tape.events if event.part is memory and event.kind == "read"
    ]
    if len(read) <= begin:
        return []
    name = tape.names[memory]
    total = torch.stack(read[begin:]).sum((0, 1))
    slot = int(total.argmax())
    found: list[Sequence[Intervention]] = []
    found.append([Overwrite(name, slot, start=begin)])
    for part, heads in tape.heads.items():
        reading = next((head for head in heads if head.startswith("read")), None)
        if reading is None or not begin or memory not in around(tape, part):
            continue
        for field in _GATES:
            told = [e.value for e in tape.events if (e.part, e.kind) == (part, f"query.{field}")]
            if len(told) > begin:
                numbers = told[begin - 1][0, heads.index(reading)].tolist()
                held = numbers[0] if len(numbers) == 1 else numbers
                found.append([Freeze(tape.names[part], field, held, head=reading, start=begin)])
                return found
    return found


def _of_attention(tape: Tape) -> list[Sequence[Intervention]]:
    if not isinstance(tape.model, EncoderDecoder):
        return []
    parts = [
        part
        for part in tape.model.alignments().values()
        if any(event.part is part for event in tape.events)
    ]
    if not parts:
        return []
    part = parts[0]
    weights: list[Tensor] = [
        event.value.float().flatten(0, -2)
        for event in tape.events
        if event.part is part and event.kind == "weights"
    ]
    sizes = {each.shape[-1] for each in weights}
    if len(sizes) > 1 or max(sizes) < 2:
        return []  # a memory that grows: its slots are not there from the start
    slot = int(torch.cat(weights).sum(0).argmax())
    return [[Hide(tape.names[part], slot)]]
