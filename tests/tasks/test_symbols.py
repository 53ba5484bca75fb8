"""Tasks on strings of symbols, against their definitions in plain Python."""

import itertools
import math
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memnets.batches import BEGIN, END
from tasks import symbols
from tasks.symbols import SILENT, SymbolTask
from tasks.symbols.arithmetic import evaluate
from tasks.symbols.groups import elements

RANDOM = st.integers(0, 2**32).map(np.random.default_rng)
SMALL = {"batch_size": 3, "max_length": 9, "test_sets": [], "longest": 20, "longer_lengths": 2}


def stack(text: str) -> str:
    """The rest of a stack, from its top, and the end mark."""
    left = ""
    for symbol in text:
        left = left[:-1] if symbol == "p" else left + {"a": "0", "b": "1"}.get(symbol, symbol)
    return left[::-1] + "."


def modulo(text: str) -> str:
    return str(eval(text) % 5)


def x_of(text: str) -> str:
    if text in ("0", "00"):
        return "0"
    left, right = text.split("=")
    (found,) = {x for x in range(5) if (eval(left.replace("x", str(x))) - int(right)) % 5 == 0}
    return str(found)


def binary(number: int) -> str:
    """A number from its lowest bit on, and the end mark."""
    return f"{number:b}"[::-1] + "."


def two(text: str, operator: str) -> tuple[int, int]:
    left, _, right = text.partition(operator)
    # Too short for an operator, a number is its own result: with 0 added, or times 1.
    return int(left[::-1], 2), int(right[::-1], 2) if right else int(operator == "*")


def repeated(text: str) -> str:
    return text.rstrip("*") * text.count("*") + "."


def by_priority(text: str) -> str:
    pairs = [text[place : place + 2] for place in range(0, len(text), 2)]
    return "".join(pair[1] for pair in sorted(pairs, key=lambda pair: -int(pair[0])))


def missing(text: str) -> str:
    if text == "1":
        return "1"
    text = text.rstrip(".")
    half = len(text) // 2
    return next(bit for bit in "01" if (full := text.replace("_", bit))[:half] == full[half:])


#: Each task, and its rule for strings in plain Python.
RULES = {
    symbols.EvenPairs: lambda text: str(len(re.findall("(?=01|10)", text)) % 2),
    symbols.Parity: lambda text: str(text.count("1") % 2),
    symbols.CycleNavigation: lambda text: str((text.count(">") - text.count("<")) % 5),
    symbols.ModularArithmetic: modulo,
    symbols.BracketArithmetic: modulo,
    symbols.SolvingEquations: x_of,
    symbols.StackManipulation: stack,
    symbols.Repeating: lambda text: text,
    symbols.Reversal: lambda text: "".join(reversed(text)),
    symbols.Duplicating: lambda text: 2 * text,
    symbols.RepeatCopying: repeated,
    symbols.PrioritySorting: by_priority,
    symbols.MissingDuplicate: missing,
    symbols.OddsFirst: lambda text: text[1::2] + text[::2],
    symbols.BucketSorting: lambda text: "".join(sorted(text)),
    symbols.BinaryAddition: lambda text: binary(sum(two(text, "+"))),
    symbols.BinaryMultiplication: lambda text: binary(math.prod(two(text, "*"))),
    symbols.SquareRoots: lambda text: f"{math.isqrt(int(text, 2)):0{-(-len(text) // 2)}b}",
}


@pytest.mark.parametrize("task", RULES, ids=lambda task: task.__name__)
@given(random=RANDOM, length=st.integers(1, 60))
def test_answers_are_those_of_plain_python(task, random, length) -> None:
    made = task()
    question = made.question(random, max(length, made.shortest))
    text = "".join(made.alphabet[symbol] for symbol in question)
    names = made.answers or made.alphabet
    assert "".join(names[symbol] for symbol in made.answer(question)) == RULES[task](text)
    assert len(question) in (length, length - 1) or length < made.shortest


def test_every_question_of_a_length_can_come() -> None:
    """All strings that the definitions of the paper allow, and no others."""
    random = np.random.default_rng(0)
    drawn = {
        task: {tuple(task().question(random, length).tolist()) for _ in range(1500)}
        for task, length in (
            (symbols.Parity, 4),
            (symbols.StackManipulation, 3),
            (symbols.BinaryAddition, 4),
            (symbols.MissingDuplicate, 5),
        )
    }
    strings = itertools.product
    assert drawn[symbols.Parity] == set(strings(range(2), repeat=4))
    assert drawn[symbols.StackManipulation] == {
        (*below, *actions)
        for size in (1, 2)
        for below in strings(range(2), repeat=size)
        for actions in strings((2, 3, 4), repeat=3 - size)
    }
    assert drawn[symbols.BinaryAddition] == {
        question
        for question in strings(range(3), repeat=4)
        if question.count(2) == 1
        and 2 in question[1:3]
        and 1 in question[: question.index(2)]
        and 1 in question[question.index(2) :]
    }
    assert (
        len(drawn[symbols.MissingDuplicate]) == 4 * 4
    )  # two bits, one of them missing at one of four places


def test_questions_that_are_too_short_are_those_of_the_paper() -> None:
    """Its code draws lengths from 1 on for every task."""
    random = np.random.default_rng(0)

    def drawn(task: SymbolTask, length: int) -> set[tuple[str, str]]:
        questions = [task.question(random, length) for _ in range(60)]
        batch = task._batch([symbols.Example(each, task.answer(each)) for each in questions])
        texts = ["".join(task.alphabet[symbol] for symbol in each) for each in questions]
        return set(zip(texts, task.says(batch, batch.targets), strict=True))

    for task in (symbols.BinaryAddition(), symbols.BinaryMultiplication()):
        assert drawn(task, 1) == {("0", "0.")}
        assert drawn(task, 2) == {("00", "0."), ("10", "1."), ("01", "01.")}
    assert drawn(symbols.SolvingEquations(), 2) == {("00", "0")}
    assert drawn(symbols.MissingDuplicate(), 1) == {("1", "1")}
    assert {pair[0] for pair in drawn(symbols.ModularArithmetic(), 2)} == set("01234")


@pytest.mark.parametrize("repeats", [3, 12])
def test_repetitions_beyond_those_of_training_have_a_set(repeats) -> None:
    task = symbols.RepeatCopying(max_repeats=3, max_length=8, test_repeats=[(repeats, 2)])
    batch = task.batch(f"repeats_{repeats}", 0)
    assert batch.source.shape[1] == 5 + repeats
    assert batch.targets.shape == (2, 5 * repeats + 1)
    counts = {task.question(np.random.default_rng(n), 8).tolist().count(2) for n in range(60)}
    assert counts == {1, 2, 3}


@given(random=RANDOM, depth=st.integers(1, 40), modulus=st.integers(2, 10))
def test_expressions_are_evaluated_as_by_python(random, depth, modulus) -> None:
    task = symbols.BracketArithmetic(times=True, modulus=modulus)
    text = "".join(task.alphabet[symbol] for symbol in task.question(random, depth))
    assert evaluate(text, modulus) == eval(text) % modulus


def test_expressions_may_be_as_deep_as_they_are_long() -> None:
    assert evaluate("(" * 5000 + "3" + ")" * 5000, 5) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an operand at the end of the expression; got none"),
        ("1+", "an operand at the end of the expression; got none"),
        ("12", "an operator of the expression; got '2'"),
        ("1+*2", r"an operand of the expression; got '\*'"),
        ("1-+2", r"an operand of the expression; got '\+'"),
        ("(1", "a bracket that closes for each that opens; got none"),
        ("1)", "a bracket that opens before each that closes; got none"),
        ("()", r"an operand of the expression; got '\)'"),
        ("1(2)", r"an operator of the expression; got '\('"),
    ],
)
def test_what_is_no_expression_is_named(text, message) -> None:
    with pytest.raises(ValueError, match=f"expected {message}"):
        evaluate(text, 5)


@pytest.mark.parametrize("group", ["S3", "S4", "A4", "A5", "C7"])
@given(random=RANDOM, length=st.integers(1, 12))
def test_words_of_groups_are_products_of_permutations(group, random, length) -> None:
    task = symbols.GroupWords(group)
    question = task.question(random, length)
    every = [tuple(element) for element in elements(group).tolist()]
    product = tuple(range(len(every[0])))
    assert every[0] == product, "the identity comes first"
    for symbol, answer in zip(question, task.answer(question), strict=True):
        product = tuple(every[symbol][place] for place in product)
        assert every[answer] == product
    sizes = {"S3": 6, "S4": 24, "A4": 12, "A5": 60, "C7": 7}
    assert len(every) == sizes[group] == task.output_size


@given(random=RANDOM, length=st.integers(3, 30), order=st.integers(1, 3))
def test_induction_looks_up_what_followed(random, length, order) -> None:
    task = symbols.Induction(symbols=3, order=order)
    question = task.question(random, max(length, task.shortest))
    answer = task.answer(question)
    text = "".join(map(str, question))
    for step in range(len(text)):
        context = text[max(0, step + 1 - order) : step + 1]
        before = text.rfind(context, 0, step) if len(context) == order else -1
        assert answer[step] == (SILENT if before < 0 else int(text[before + order]))
    assert answer[-1] != SILENT, "something must be asked"


@given(random=RANDOM, length=st.integers(1, 40))
def test_selective_copying_leaves_out_the_noise(random, length) -> None:
    task = symbols.SelectiveCopying(symbols=4, kept=5)
    question = task.question(random, length)
    assert task.answer(question).tolist() == [symbol for symbol in question if symbol != 4]
    assert len(task.answer(question)) == min(5, length)


@given(random=RANDOM, ignored=st.sampled_from([0.0, 0.5, 0.9]), pairs=st.integers(2, 20))
def test_flip_flops_read_what_was_written_last(random, ignored, pairs) -> None:
    task = symbols.FlipFlop(ignored, test_ignored=[(0.3, 2)], max_length=40)
    question, answer = task.example(random, 2 * pairs, "train")
    text = "".join(task.alphabet[symbol] for symbol in question)
    assert re.fullmatch("(w[01]|i[01]|r[01])+", text)
    assert text[0] == "w"
    assert text[-2] == "r"
    for step, symbol in enumerate(text):
        if symbol == "r":
            last = text.rindex("w", 0, step)
            assert text[last + 1] == text[step + 1] == str(answer[step])
        else:
            assert answer[step] == SILENT


def test_the_share_of_ignored_bits_is_that_of_the_set() -> None:
    task = symbols.FlipFlop(test_ignored=[(0.98, 20), (0.1, 20)], max_length=200, test_sets=[])
    shares = {
        name: (task.batch(name, 0).inputs == END + 2).double().mean() * 2
        for name in task.test_names()
    }
    assert shares["ignored_0.98"] > 0.95
    assert 0.05 < shares["ignored_0.1"] < 0.15


@given(
    random=RANDOM,
    pairs=st.integers(1, 6),
    filler=st.sampled_from(["free", "blank", "any"]),
    power=st.sampled_from([0.01, 1.0]),
)
def test_recall_gives_the_values_of_keys(random, pairs, filler, power) -> None:
    task = symbols.MultiQueryRecall(
        symbols=20,
        min_pairs=pairs,
        max_pairs=pairs,
        filler=filler,
        power=power,
        max_length=30,
        test_pairs=[],
    )
    question, answer = task.example(random, 30, "train")
    given_pairs = [task.alphabet[symbol] for symbol in question[: 2 * pairs]]
    values = dict(zip(given_pairs[::2], given_pairs[1::2], strict=True))
    assert len(values) == len(set(values.values())) == pairs, "keys and values come once each"
    asked = {}
    for step, number in enumerate(answer):
        if number != SILENT:
            assert step >= 2 * pairs
            assert step % 2 == 0
            asked[task.alphabet[question[step]]] = f"v{number}"
    assert asked == values, "each key is asked once"
    later = [task.alphabet[symbol] for symbol in question[2 * pairs :]]
    if filler == "free":
        assert all(later.count(key) == 1 for key in values), "a filler is a key of the question"
    if filler == "blank":
        assert task.answer(question).tolist() == answer.tolist()
        assert set(later) == {".", *values}


def test_a_short_question_has_fewer_pairs() -> None:
    task = symbols.MultiQueryRecall(
        40, 1, 5, min_length=4, max_length=20, test_pairs=[(5, 3)], batch_size=64
    )

    def most(split):
        return task.batch(split, 0).target_mask.sum(1).max()

    task.training_length = 9
    assert most("train") <= 2
    assert (most("val"), most("pairs_5")) == (5, 5)


def test_a_published_filler_may_clash() -> None:
    """Fillers of any symbols do overwrite pairs: that is why there is another kind."""
    task = symbols.MultiQueryRecall(8, 2, 2, filler="any", max_length=40, test_pairs=[])
    question, _ = task.example(np.random.default_rng(0), 40, "train")
    later = question[4:].tolist()
    assert any(later.count(key) > 1 for key in question[:4:2])


def test_a_task_of_ones_own_is_a_rule() -> None:
    class Complement(SymbolTask):
        """Complement: each bit becomes the other one."""

        def answer(self, question):
            return 1 - question

    task = Complement(**SMALL, validation_batch_size=4)
    batch = task.batch("val", 0)
    assert (task.input_size, task.output_size) == (END + 3, 2)
    assert batch.source_mask is not None, "lengths of a validation differ"
    assert (batch.inputs == BEGIN).all()
    asked = batch.target_mask
    assert asked is not None
    assert (batch.targets == 1 - (batch.source - END - 1))[asked].all()
    assert task.says(task.asked(["0110", "1"]), task.asked(["0110", "1"]).targets) == ["1001", "0"]
    assert task.test_names() == ["longer"]
    assert [task.batch("longer", index).source.shape[1] for index in range(2)] == [10, 20]


@pytest.mark.parametrize(
    ("along", "rule", "message"),
    [
        (False, lambda question: int(question.sum()), "answer must give a list, a tuple or an arr"),
        (False, lambda question: "01", "or an array of whole numbers; got 01 for the question [0"),
        (False, lambda question: None, "or an array of whole numbers; got None for the question"),
        (False, lambda question: question / 2, "or an array of whole numbers; got [0.0"),
        (False, lambda question: [question], "or an array of whole numbers; got [array("),
        (False, lambda question: [0, 2], "numbers of symbols from 0 to 1; got [0, 2] for the ques"),
        (False, lambda question: [-1], "numbers of symbols from 0 to 1; got [-1] for the question"),
        (False, lambda question: [], "answer must give at least one number; got [] for the questi"),
        (True, lambda question: [0], "answer must give one number for each of 3 steps; got [0] fo"),
        (True, lambda question: [0, 1, -2], "numbers of symbols from -1 to 1; got [0, 1, -2] for"),
    ],
)
def test_what_a_rule_may_not_give_is_named(along, rule, message) -> None:
    class Mine(SymbolTask):
        """Mine: one rule of several."""

        def question(self, random, length):
            return [0, 1, 0]

        def answer(self, question):
            return rule(np.array(question))

    Mine.along = along
    with pytest.raises((ValueError, TypeError), match=re.escape(message)) as error:
        Mine().batch("train", 0)
    assert str(error.value).startswith("Mine.answer must give ")
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        Mine().asked(["010"])


def test_a_rule_may_give_lists_tuples_and_arrays_of_any_whole_numbers() -> None:
    kinds = [
        list,
        tuple,
        torch.tensor,
        partial(np.array, dtype=np.uint8),
        lambda n: np.array(n) > 0,
    ]
    batches = []
    for kind in kinds:

        class Mine(SymbolTask):
            """Mine: the string from its end to its start."""

            def question(self, random, length, kind=kind):
                return kind(SymbolTask.question(self, random, length).tolist())

            def answer(self, question, kind=kind):
                return kind([int(number) for number in question][::-1])

        batches.append(Mine(**SMALL).batch("train", 0))
    for batch in batches[1:]:
        for part, first in zip(batch, batches[0], strict=True):
            assert (part is None and first is None) or torch.equal(part, first)


def test_a_rule_has_an_array_of_its_own() -> None:
    """One that is sorted where it is leaves the question as it was asked."""

    class Sorted(SymbolTask):
        """Sorted: the symbols in their order."""

        alphabet = "abc"

        def question(self, random, length):
            return super().question(random, length).tolist()

        def answer(self, question):
            question.sort()  # of a list too; an array has ``dtype``
            assert question.dtype == np.int64
            return question

    task = Sorted(min_length=20, max_length=20, longest=0)
    batch = task.batch("train", 0)
    asked = batch.source - END - 1
    assert (asked != batch.targets).any()
    assert torch.equal(asked.sort(1).values, batch.targets)
    own = task.asked(["cab"])
    assert [*task.says(own, own.source - END - 1), *task.says(own, own.targets)] == ["cab", "abc"]


def test_a_question_that_is_none_is_named_before_its_answer() -> None:
    class Mine(SymbolTask):
        """Mine: questions are texts, which is wrong."""

        def question(self, random, length):
            return "01"

        def answer(self, question):
            return 1 - question

    with pytest.raises(TypeError, match=r"^Mine.question must give a list, .*; got 01$"):
        Mine().batch("train", 0)


def test_along_its_question_a_task_asks_at_some_steps() -> None:
    task = symbols.FlipFlop(max_length=8, test_sets=[], test_ignored=[])
    batch = task.asked(["w1 i0 r1", "w0 r0 w1 r1"])
    assert batch.source.tolist() == [[BEGIN], [BEGIN]]
    assert batch.target_mask is not None
    assert batch.target_mask.int().tolist() == [[0, 0, 0, 0, 1, 0, 0, 0], [0, 0, 1, 0, 0, 0, 1, 0]]
    assert task.labels(batch, 0)[1] == ["", "", "", "", "1"]
    assert task.says(batch, batch.targets) == ["1", "01"]


def test_scores_of_longer_questions_are_by_length() -> None:
    task = symbols.Reversal(**SMALL, longer_questions=4)
    answers = [task.batch("longer", index).targets.clone() for index in range(2)]
    right = {"accuracy": 1.0, "accuracy_10": 1.0, "accuracy_20": 1.0}
    assert task.measure("longer", answers) == right
    answers[1][:, 0] = 1 - answers[1][:, 0]
    wrong = {"accuracy": 0.975, "accuracy_10": 1.0, "accuracy_20": 0.95}
    assert task.measure("longer", answers) == pytest.approx(wrong)
    assert task.measure("val", answers) == {}


def test_long_answers_count_more_than_short_ones_at_a_length() -> None:
    """As in the code of Deletang et al.: of a stack, all symbols of a length are one share."""
    task = symbols.StackManipulation(**SMALL, longer_questions=8)
    batch = task.batch("longer", 0)
    wrong = batch.targets.clone()
    wrong[0] = (wrong[0] + 1) % 3
    assert batch.target_mask is not None
    lengths = batch.target_mask.sum(1)
    assert len(set(lengths.tolist())) > 1
    found = task.measure("longer", [wrong])
    share = 1 - float(lengths[0] / lengths.sum())
    assert found == {"accuracy": pytest.approx(share), "accuracy_10": pytest.approx(share)}


def test_a_curriculum_sets_the_longest_question_of_the_training() -> None:
    task = symbols.Parity(**SMALL, mixed_lengths=True)
    task.training_length = 2
    assert max(task.batch("train", index).source.shape[1] for index in range(20)) == 2
    with pytest.raises(
        ValueError, match=r"training_length must be from 1 to max_length = 9; got 10"
    ):
        task.training_length = 10
    task = symbols.FlipFlop(max_length=9, test_sets=[], test_ignored=[])
    task.training_length = 2
    assert task.batch("train", 0).inputs.shape[1] == 8, "the shortest that there is"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: symbols.Parity(max_length=0), r"1 <= min_length <= max_length; got 1 and 0"),
        (lambda: symbols.FlipFlop(min_length=2), "4 <= min_length"),
        (lambda: symbols.Parity(longest=40), "longest must be above max_length = 40"),
        (lambda: symbols.Induction(test_sets=[(2, 5)]), "at least 3 symbols; got a test set"),
        (lambda: symbols.RepeatCopying(max_repeats=0), "max_repeats must be .* at least 1; got 0"),
        (lambda: symbols.RepeatCopying(symbols=37), "symbols must be from 2 to 36; got 37"),
        (
            lambda: symbols.RepeatCopying(max_length=5, test_repeats=[(3, 2)]),
            "max_length must be above max_repeats, .*; got 5 and 5",
        ),
        (lambda: symbols.PrioritySorting(symbols=1), "symbols must be from 2 to 26; got 1"),
        (lambda: symbols.PrioritySorting(priorities=11), "priorities must be from 2 to 10"),
        (lambda: symbols.ModularArithmetic(modulus=11), "modulus must be from 2 to 10"),
        (lambda: symbols.CycleNavigation(places=1), "places must be from 2 to 10"),
        (lambda: symbols.Reversal(symbols=1), "symbols must be from 2 to 36; got 1"),
        (lambda: symbols.GroupWords("S7"), "group must be S2 to S6, .*; got 'S7'"),
        (lambda: symbols.GroupWords("B5"), "group must be S2 to S6, .*; got 'B5'"),
        (lambda: symbols.FlipFlop(1.0), r"ignored must be in \[0, 1\); got 1.0"),
        (lambda: symbols.Induction(order=0), "order must be .* at least 1; got 0"),
        (lambda: symbols.SelectiveCopying(kept=0), "kept must be .* at least 1; got 0"),
        (lambda: symbols.MultiQueryRecall(5), "symbols must be even and at least 4; got 5"),
        (lambda: symbols.MultiQueryRecall(filler="none"), "free, blank, any; got 'none'"),
        (lambda: symbols.MultiQueryRecall(power=0), "power must be more than 0; got 0"),
        (lambda: symbols.MultiQueryRecall(max_length=60), "max_length .* each of 16 pairs; got 60"),
        (lambda: symbols.MultiQueryRecall(min_length=15), "16 <= min_length <= max_length; got 15"),
        (lambda: symbols.MultiQueryRecall(test_sets=[(15, 5)]), "at least 16 symbols; got a test"),
        (lambda: symbols.MultiQueryRecall(16), "keys for 16 pairs, .*; got 16 symbols"),
        (lambda: symbols.MultiQueryRecall(min_pairs=9, max_pairs=8), "at most max_pairs"),
    ],
)
def test_settings_out_of_range_are_named(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("task", "item", "message"),
    [
        (symbols.Parity, "012", "item 3: expected symbols of 0, 1; got '2'"),
        (symbols.Parity, " ", "item 3: expected symbols of 0, 1; got none"),
        (symbols.BracketArithmetic, "(1+", "item 3: expected an operand at the end"),
        (symbols.SolvingEquations, "1+2", "item 3: expected an equation with one x"),
        (symbols.SolvingEquations, "x-x=0", "item 3: expected an equation with one x"),
        (symbols.BinaryAddition, "0+1+1", "item 3: expected two numbers with one +"),
        (symbols.BinaryAddition, "+1", "item 3: expected two numbers with one +"),
        (symbols.MissingDuplicate, "0_1", "item 3: expected a string twice"),
        (symbols.MissingDuplicate, "0_11", "item 3: expected a string twice"),
        (symbols.MissingDuplicate, "0", "item 3: expected a string twice"),
        (symbols.RepeatCopying, "01", "item 3: expected a string, then one * or more"),
        (symbols.RepeatCopying, "0*1*", "item 3: expected a string, then one * or more"),
        (symbols.RepeatCopying, "**", "item 3: expected a string, then one * or more"),
        (symbols.PrioritySorting, "1a2", "item 3: expected pairs of a priority, a digit, and"),
        (symbols.PrioritySorting, "a1", "item 3: expected pairs of a priority, a digit, and"),
        (symbols.FlipFlop, "r0", "item 3: expected a bit to be written before one is read"),
        (symbols.FlipFlop, "w", "item 3: expected pairs of an instruction"),
        (symbols.FlipFlop, "wr", "item 3: expected pairs of an instruction"),
        (symbols.SelectiveCopying, "..", "item 3: expected symbols of 0, 1, 2, 3, 4, 5, 6, 7, ..."),
        (symbols.SelectiveCopying, ". .", "item 3: expected a symbol among the noise; got none"),
        (symbols.MultiQueryRecall, "k1 v1 k1", "item 3: answers follow from the question alone"),
        (symbols.GroupWords, "012345", "item 3: expected symbols of 01234, "),
    ],
)
def test_a_question_of_another_form_is_named(task, item, message) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        task().asked([item], first=3)


def test_the_examples_of_the_docs_are_right() -> None:
    page = (Path(__file__).parents[2] / "docs" / "symbols.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `(.+?)` \| `(.+?)` \|", page, re.MULTILINE)
    examples = {name: (question, answer) for name, question, answer in rows}
    for task in RULES:
        question, answer = examples[task.__name__]
        made = task()
        batch = made.asked([question])
        assert made.says(batch, batch.targets) == [answer]
