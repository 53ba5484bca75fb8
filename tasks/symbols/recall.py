"""Tasks that ask for what was said before, at some distance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from memnets.checks import check_positive
from tasks.base import Array
from tasks.limits import check_room
from tasks.symbols.base import SILENT, Example, SymbolTask

__all__ = ["FlipFlop", "Induction", "MultiQueryRecall", "SelectiveCopying"]


class MultiQueryRecall(SymbolTask):
    """Multi-query associative recall: pairs of a key and a value, then keys, each asked once.

    First come ``pairs`` pairs; no key comes twice, and no value. At some of the later steps, which
    are every second one, a key is asked, and the answer at this step is its value. The steps are
    drawn without replacement by a power law of the distance to the pairs,
    ``p(d) ~ d^(power - 1)``. All other steps hold a filler (Arora et al. 2024, section 3 and its
    code). Keys are the first half of the symbols, values the second.

    Args:
        symbols: number of symbols, keys and values together, even, at least 4.
        min_pairs: fewest pairs of a question, at least 1.
        max_pairs: most pairs of a question; a shorter one has at most a pair for each four steps.
        power: of the power law, more than 0; 1 = all distances are as likely.
        filler: what stands at steps where no key is asked. ``blank`` is a symbol of its own.
            ``free`` is any symbol but the keys of this question: no answer is in doubt. ``any`` is
            any symbol, as in the published generator with ``random_non_queries``: a filler may be a
            key, and so give a new value to one that is asked later; the right answer is its first
            value all the same.
        test_pairs: test sets of ``max_length`` steps, pairs (number of pairs, number of questions),
            named ``pairs_<n>``.
        settings: see :class:`~tasks.symbols.SymbolTask`; lengths are of the whole. By default all
            have ``max_length`` steps, at least four for each pair.

    Raises:
        ValueError: a setting is out of its range.
    """

    along = True

    def __init__(
        self,
        symbols: int = 1024,
        min_pairs: int = 4,
        max_pairs: int = 16,
        power: float = 0.01,
        filler: str = "free",
        min_length: int | None = None,
        max_length: int = 64,
        test_pairs: Sequence[tuple[int, int]] = ((4, 100), (8, 100), (16, 100)),
        test_sets: Sequence[tuple[int, int]] = (),
        longest: int = 0,
        **settings: Any,
    ) -> None:
        if symbols < 4 or symbols % 2:
            raise ValueError(f"symbols must be even and at least 4; got {symbols}")
        if filler not in _FILLERS:
            raise ValueError(f"filler must be one of {', '.join(_FILLERS)}; got {filler!r}")
        if not power > 0:
            raise ValueError(f"power must be more than 0; got {power}")
        check_positive(min_pairs=min_pairs)
        most = max(max_pairs, *(pairs for pairs, _ in test_pairs), 1)
        if not min_pairs <= max_pairs:
            raise ValueError(
                f"min_pairs must be at most max_pairs; got {min_pairs} and {max_pairs}"
            )
        if most > symbols // 2 - (filler == "free"):
            raise ValueError(
                f"half of the symbols must be keys for {most} pairs, and one more for a free "
                f"filler; got {symbols} symbols"
            )
        min_length = max_length if min_length is None else min_length
        if max_length < 4 * most:
            raise ValueError(
                f"max_length must be at least four steps for each of {most} pairs; got {max_length}"
            )
        self.shortest = 4 * min_pairs
        check_room("an embedding", symbols)
        half = symbols // 2
        names = [f"k{n}" for n in range(half)], [f"v{n}" for n in range(half)]
        self.alphabet = [*names[0], *names[1], "."]
        self.answers = names[1]
        self.half = half
        self.min_pairs = min_pairs
        self.max_pairs = max_pairs
        self.power = power
        self.filler = filler
        for pairs, questions in test_pairs:
            check_positive(test_pairs=pairs, test_questions=questions)
        super().__init__(
            min_length=min_length,
            max_length=max_length,
            test_sets=test_sets,
            longest=longest,
            **settings,
        )
        self.check_room(max_length, tested=[(questions, max_length) for _, questions in test_pairs])
        self.pairs_by_name = {f"pairs_{pairs}": pairs for pairs, _ in test_pairs}
        self.test_sets.update(
            {f"pairs_{pairs}": (max_length, questions) for pairs, questions in test_pairs}
        )

    def example(self, random: np.random.Generator, length: int, split: str) -> Example:
        """Pairs, then keys among fillers."""
        pairs = self.pairs_by_name.get(split)
        if pairs is None:
            most = min(self.max_pairs, length // 4)
            pairs = int(random.integers(self.min_pairs, most + 1))
        keys = random.choice(self.half, pairs, replace=False)
        values = random.choice(self.half, pairs, replace=False)
        room = (length - 2 * pairs) // 2
        chances = np.arange(1, room + 1) ** (self.power - 1.0)
        places = random.choice(room, pairs, replace=False, p=chances / chances.sum())
        question = np.full(length, 2 * self.half)
        question[: 2 * pairs : 2], question[1 : 2 * pairs : 2] = keys, values + self.half
        if self.filler != "blank":
            question[2 * pairs :] = self._fillers(random, keys, length - 2 * pairs)
        answer = np.full(length, SILENT)
        question[2 * pairs + 2 * places] = keys
        answer[2 * pairs + 2 * places] = values
        return Example(question, answer)

    def _fillers(self, random: np.random.Generator, keys: Array, count: int) -> Array:
        """Symbols for the steps at which no key is asked."""
        if self.filler == "any":
            return random.integers(2 * self.half, size=count)
        free = np.delete(np.arange(2 * self.half), keys)
        return random.choice(free, count)

    def answer(self, question: Array) -> Array:
        """The value of each key that is asked, where fillers are blanks.

        Raises:
            ValueError: fillers are other symbols, which cannot be told from pairs and keys.
        """
        if self.filler != "blank":
            raise ValueError(
                f"answers follow from the question alone with filler 'blank'; got {self.filler!r}"
            )
        answer = np.full(len(question), SILENT)
        symbols = question.tolist()
        values: dict[int, int] = {}
        step = 0
        for key, value in zip(symbols[::2], symbols[1::2], strict=False):
            if not key < self.half <= value < 2 * self.half:
                break
            values[key] = value - self.half
            step += 2
        for later, symbol in enumerate(symbols[step:], step):
            answer[later] = values.get(symbol, SILENT)
        return answer


#: Fillers of :class:`MultiQueryRecall`.
_FILLERS = ("free", "blank", "any")


class Induction(SymbolTask):
    """Induction: at each step, the symbol that followed the last symbols when they came before.

    Where the last ``order`` symbols stood together before, the answer is the symbol that came right
    after them the last time; elsewhere nothing is asked. With order 1 it is what an induction head
    does (Olsson et al. 2022), with higher orders a lookup of n-grams in the context. Symbols are
    drawn, each as likely; the last ``order`` of them come from an earlier place, so that something
    is asked.

    Args:
        symbols: number of symbols, at least 2.
        order: number of symbols to look up, at least 1.
        settings: see :class:`~tasks.symbols.SymbolTask`.
    """

    along = True

    def __init__(self, symbols: int = 16, order: int = 1, **settings: Any) -> None:
        check_positive(order=order)
        if symbols < 2:
            raise ValueError(f"symbols must be at least 2; got {symbols}")
        check_room("an embedding", symbols)
        self.alphabet = [str(number) for number in range(symbols)]
        self.order = order
        self.shortest = 2 * order + 1
        super().__init__(**settings)

    def question(self, random: np.random.Generator, length: int) -> Array:
        """Random symbols, of which the last ones stand at an earlier place too."""
        question = super().question(random, length)
        place = int(random.integers(length - 2 * self.order))
        question[-self.order :] = question[place : place + self.order]
        return question

    def answer(self, question: Array) -> Array:
        """The symbol that followed the last time, at each step."""
        answer = np.full(len(question), SILENT)
        followed: dict[tuple[int, ...], int] = {}
        symbols = question.tolist()
        for step in range(self.order - 1, len(symbols)):
            # What came before this step is known by now, and the step itself ends the context.
            if step >= self.order:
                followed[tuple(symbols[step - self.order : step])] = symbols[step]
            context = tuple(symbols[step - self.order + 1 : step + 1])
            answer[step] = followed.get(context, SILENT)
        return answer


class SelectiveCopying(SymbolTask):
    """Selective copying: repeat the symbols of a string, without the noise among them.

    ``kept`` symbols stand at random places of the question, noise at all others; the answer is the
    symbols in their order (Gu & Dao 2023, section 3.1).

    Args:
        symbols: number of symbols, at least 2.
        kept: number of symbols of a question, at least 1; a shorter question has no noise.
        settings: see :class:`~tasks.symbols.SymbolTask`.
    """

    def __init__(self, symbols: int = 16, kept: int = 16, **settings: Any) -> None:
        check_positive(kept=kept)
        if symbols < 2:
            raise ValueError(f"symbols must be at least 2; got {symbols}")
        check_room("an embedding", symbols)
        self.answers = [str(number) for number in range(symbols)]
        self.alphabet = [*self.answers, "."]
        self.kept = kept
        super().__init__(**settings)

    def question(self, random: np.random.Generator, length: int) -> Array:
        """Symbols at random places, noise elsewhere."""
        noise = len(self.alphabet) - 1
        question = np.full(length, noise)
        kept = min(self.kept, length)
        places = random.choice(length, kept, replace=False)
        question[places] = random.integers(noise, size=kept)
        return question

    def answer(self, question: Array) -> Array:
        """The symbols that are no noise.

        Raises:
            ValueError: all is noise.
        """
        kept = question[question < len(self.alphabet) - 1]
        if not len(kept):
            raise ValueError("expected a symbol among the noise; got none")
        return kept


class FlipFlop(SymbolTask):
    """Flip-flop language: write a bit, ignore bits, read the last bit that was written.

    A question is pairs of an instruction and a bit: ``w`` writes the bit, ``i`` says to ignore it,
    and after ``r`` comes the bit that was written last, which is the answer at the step of the
    ``r``. The first instruction is ``w`` and the last one ``r``; all between are ``i`` with
    probability ``ignored``, ``w`` and ``r`` with equal shares of the rest (Liu et al. 2023,
    "Exposing attention glitches", section 3). A length that is odd is taken one less.

    Args:
        ignored: probability of ``i``, in ``[0, 1)``.
        test_ignored: further test sets of ``max_length`` steps, pairs (probability of ``i``, number
            of questions), named ``ignored_<p>``.
        settings: see :class:`~tasks.symbols.SymbolTask`.
    """

    alphabet = "wir01"
    answers = "01"
    shortest = 4
    along = True

    def __init__(
        self,
        ignored: float = 0.8,
        max_length: int = 512,
        min_length: int | None = None,
        test_ignored: Sequence[tuple[float, int]] = ((0.98, 200), (0.1, 50)),
        test_sets: Sequence[tuple[int, int]] = ((512, 50),),
        longest: int = 0,
        **settings: Any,
    ) -> None:
        for probability in (ignored, *(each for each, _ in test_ignored)):
            if not 0 <= probability < 1:
                raise ValueError(f"ignored must be in [0, 1); got {probability}")
        for _, questions in test_ignored:
            check_positive(test_questions=questions)
        super().__init__(
            min_length=max_length if min_length is None else min_length,
            max_length=max_length,
            test_sets=test_sets,
            longest=longest,
            **settings,
        )
        self.check_room(
            max_length, tested=[(questions, max_length) for _, questions in test_ignored]
        )
        self.ignored = ignored
        self.ignored_by_name = {f"ignored_{each:g}": each for each, _ in test_ignored}
        self.test_sets.update(
            {f"ignored_{each:g}": (max_length, questions) for each, questions in test_ignored}
        )

    def example(self, random: np.random.Generator, length: int, split: str) -> Example:
        """Instructions with their bits; in a set of its own, with another share to ignore."""
        ignored = self.ignored_by_name.get(split, self.ignored)
        rest = (1 - ignored) / 2
        pairs = length // 2
        instructions = random.choice(3, pairs, p=[rest, ignored, rest])
        instructions[0], instructions[-1] = 0, 2
        bits = random.integers(2, size=pairs)
        # The last step that wrote, at each step.
        wrote = np.maximum.accumulate(np.where(instructions == 0, np.arange(pairs), 0))
        bits = np.where(instructions == 2, bits[wrote], bits)
        question = np.stack([instructions, bits + 3], 1).reshape(-1)
        return Example(question, self.answer(question))

    def answer(self, question: Array) -> Array:
        """The bit that was written last, at the step of each ``r``.

        Raises:
            ValueError: the question is not pairs of an instruction and a bit, or reads before it
                writes.
        """
        symbols = question.tolist()
        answer = np.full(len(question), SILENT)
        written = SILENT
        if len(symbols) % 2 or any(symbol > 2 for symbol in symbols[::2]):
            raise ValueError("expected pairs of an instruction, w, i or r, and a bit")
        for step in range(0, len(symbols), 2):
            instruction, bit = symbols[step], symbols[step + 1] - 3
            if bit < 0:
                raise ValueError("expected pairs of an instruction, w, i or r, and a bit")
            if instruction == 0:
                written = bit
            elif instruction == 2:
                if written == SILENT:
                    raise ValueError("expected a bit to be written before one is read; got none")
                answer[step] = written
        return answer
