"""Checks of memories that are data structures, such as stacks: programs against plain Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from memnets.checks import check_positive
from memnets.core import MemoryAccess
from memnets.testing import strategies
from memnets.testing.laws import Draw, Laws, assert_close, assert_shape, law

__all__ = ["CERTAIN", "check_program"]

Instruction = TypeVar("Instruction")

#: In an interface, an action that is certain: a softmax of this number beside zeros is exactly
#: one-hot, a sigmoid of it exactly 1, and of its negative exactly 0.
CERTAIN = 1e3


class _ProgramSubject(Laws):
    check = "check_program"

    def __init__(
        self,
        factory: Callable[..., MemoryAccess],
        arguments: dict[str, Any],
        instructions: SearchStrategy[Any],
        interface: Callable[[Any, Any], Sequence[float]],
        machine: Callable[[list[Any]], Sequence[Sequence[float]]],
        longest: int,
    ) -> None:
        super().__init__(factory, arguments)
        check_positive(longest=longest)
        # Most faults show late in a program, and all steps are looked at.
        self.programs = st.lists(instructions, min_size=longest, max_size=longest)
        self.short_programs = st.lists(instructions, min_size=1, max_size=longest)
        self.interface = interface
        self.machine = machine

    def steps(self, part: Any, program: list[Any]) -> Tensor:
        """The interfaces of a program, ``[1, T, interface_size]``."""
        rows = [list(self.interface(part, instruction)) for instruction in program]
        for instruction, row in zip(program, rows, strict=True):
            assert len(row) == part.interface_size, (
                f"`interface` gives {len(row)} numbers for {instruction!r}; "
                f"the memory takes {part.interface_size}"
            )
        return torch.tensor(rows, dtype=torch.float64).unsqueeze(0)

    def right(self, part: Any, program: list[Any]) -> Tensor:
        """The vectors that the machine reads, ``[1, T, read_size]``."""
        vectors = torch.tensor([list(row) for row in self.machine(program)], dtype=torch.float64)
        assert vectors.shape == (len(program), part.read_size), (
            f"`machine` reads {list(vectors.shape)} numbers in {len(program)} steps; "
            f"the memory reads {part.read_size} in each"
        )
        return vectors.unsqueeze(0)

    @law("it can be made, and run once", examples=1)
    def smoke(self, draw: Draw) -> None:
        part = self.build().double().eval()
        steps = self.steps(part, draw(self.programs))
        outputs, _ = part.unroll(steps, part.initial_state(1))
        assert_shape(outputs, (1, steps.shape[1], part.read_size), steps)

    @law("a program reads what the machine of plain Python reads, at every step")
    def program(self, draw: Draw) -> None:
        part = self.build().double().eval()
        programs = [draw(self.programs) for _ in range(3)]
        steps = torch.cat([self.steps(part, program) for program in programs])
        outputs, _ = part.unroll(steps, part.initial_state(len(steps)))
        for program, found in zip(programs, outputs.unsqueeze(1), strict=True):
            assert_close(found, self.right(part, program), f"what {program} reads")

    @law("programs side by side, with steps left out, read what each alone would read")
    def side_by_side(self, draw: Draw) -> None:
        part = self.build().double().eval()
        batch = draw(strategies.sizes(2, 3))
        programs = [draw(self.short_programs) for _ in range(batch)]
        time = 1 + max(map(len, programs))
        # Each program takes its steps at places of its own, and skips the others.
        places = [
            sorted(draw(st.permutations(range(time)))[: len(program)]) for program in programs
        ]
        steps = torch.zeros(batch, time, part.interface_size, dtype=torch.float64)
        mask = torch.zeros(batch, time, dtype=torch.bool)
        for row, (program, taken) in enumerate(zip(programs, places, strict=True)):
            steps[row, taken] = self.steps(part, program)[0]
            mask[row, taken] = True
        outputs, _ = part.unroll(steps, part.initial_state(batch), mask)
        for row, (program, taken) in enumerate(zip(programs, places, strict=True)):
            what = f"what {program} reads in steps {taken} of {time}, beside other programs"
            assert_close(outputs[row, taken], self.right(part, program)[0], what)


def check_program(
    memory: Callable[..., MemoryAccess],
    *,
    instructions: SearchStrategy[Instruction],
    interface: Callable[[Any, Instruction], Sequence[float]],
    machine: Callable[[list[Instruction]], Sequence[Sequence[float]]],
    longest: int = 12,
    leave_out: Iterable[str] = (),
    max_examples: int | None = None,
    **arguments: Any,
) -> None:
    """Check that a memory, told exactly what to do, is a data structure of plain Python.

    A memory such as a stack takes actions by degrees. With degrees of 0 and 1 alone it must read
    what a list, a ``collections.deque`` or the like would give, after each step of any program.
    These laws come beside those of :func:`check_access`.

    Args:
        memory: class of the memory, or a function that makes it.
        instructions: strategy for an instruction of a program, of any form: ``machine`` and
            ``interface`` take it.
        interface: gives the interface of a step from the memory and an instruction,
            ``interface_size`` numbers; :data:`CERTAIN` makes an action certain.
        machine: runs a program, a list of instructions: the vector read after each of them,
            ``read_size`` numbers, in plain Python.
        longest: number of instructions of a program, at least 1.
        leave_out: names of laws to leave out; the error for an unknown name lists them all.
        max_examples: number of examples for each law; that of the Hypothesis profile by default.
        **arguments: arguments for ``memory``.

    Raises:
        AssertionError: a law does not hold; the message shows a program.
        TypeError: the first argument is a finished part, not a class or function that makes one.
        ValueError: ``leave_out`` names an unknown law.

    Example:
        A stack of bits, of which a step reads the top::

            def interface(stack, instruction):  # push 0 or 1, or pop
                logits = [0.0] * 3
                logits[1 if instruction == "pop" else 0] = CERTAIN
                return [*logits, CERTAIN if instruction == 1 else -CERTAIN]

            def machine(program):
                stack, read = [], []
                for instruction in program:
                    if instruction == "pop":
                        del stack[-1:]
                    else:
                        stack.append(instruction)
                    read.append([stack[-1] if stack else 0])
                return read

            check_program(
                Stack, slots=12, width=1,
                instructions=st.sampled_from([0, 1, "pop"]), interface=interface, machine=machine,
            )
    """
    subject = _ProgramSubject(memory, arguments, instructions, interface, machine, longest)
    subject.hold(max_examples, leave_out)
