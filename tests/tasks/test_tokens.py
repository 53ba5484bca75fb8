"""Copy and sort of tokens against an oracle in plain Python, and the promises of the tasks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memnets.batches import BEGIN, END, PAD, UNKNOWN, Batch
from tasks import CopyingTokens, SortingTokens, Task

ORACLES = {CopyingTokens: list, SortingTokens: sorted}
every_task = pytest.mark.parametrize("make", ORACLES)
seeds = st.integers(0, 2**31)
indices = st.integers(0, 10_000)


def unpadded(tokens: torch.Tensor, mask: torch.Tensor | None) -> list[list[int]]:
    """Rows up to their padding; what is padding, and only that, is PAD."""
    rows = tokens.tolist()
    lengths = [len(row) for row in rows] if mask is None else [sum(row) for row in mask.tolist()]
    for row, length in zip(rows, lengths, strict=True):
        assert PAD not in row[:length]
        assert set(row[length:]) <= {PAD}
    if mask is not None:
        assert max(lengths) == tokens.shape[1]
        assert min(lengths) < tokens.shape[1]
        assert mask.tolist() == [[i < n for i in range(tokens.shape[1])] for n in lengths]
    return [row[:length] for row, length in zip(rows, lengths, strict=True)]


@every_task
def test_a_training_sequence_may_be_drawn_from_few_symbols(make) -> None:
    settings = {"symbols": 32, "min_length": 60, "max_length": 60, "batch_size": 400}
    task = make(**settings, fewest_symbols=2)
    batch = task.batch("train", 0).source[:, :-1]
    counts = torch.tensor([len(set(row)) for row in batch.tolist()])
    # From 2 to 32 symbols, as many sequences below 8 as above, by the logarithm.
    assert counts.min() == 2
    assert counts.max() > 24
    assert 0.4 < (counts < 8).float().mean() < 0.6
    # They are neighbours, anywhere among all symbols; long sequences have nearly all of them.
    few = counts < 8
    assert (batch.amax(1) - batch.amin(1) + 1 == counts)[few].all()
    assert len(batch.unique()) == 32
    # Other splits are those of a task without the setting.
    for split in ("val", "test"):
        assert torch.equal(task.batch(split, 0).source, make(**settings).batch(split, 0).source)


@every_task
@given(
    seed=seeds,
    index=indices,
    split=st.sampled_from(["train", "val", "test", "length_9"]),
    symbols=st.integers(2, 6),
    low=st.integers(1, 5),
    more=st.integers(0, 6),
)
def test_a_task_agrees_with_its_oracle(make, seed, index, split, symbols, low, more) -> None:
    task = make(
        symbols, low, low + more, [(9, 2)], 7, batch_size=4, validation_batch_size=5, seed=seed
    )
    assert task.input_size == task.output_size == symbols + 4
    batch = task.batch(split, index)
    assert len(batch.source) == {"train": 4, "val": 5, "test": 7, "length_9": 2}[split]
    assert {part.dtype for part in batch[:3]} == {torch.int64}
    assert batch.inputs.shape == batch.targets.shape
    targets = unpadded(batch.targets, batch.target_mask)
    inputs = unpadded(batch.inputs, batch.target_mask)
    sources = unpadded(batch.source, batch.source_mask)
    for source, begun, target in zip(sources, inputs, targets, strict=True):
        *said, end = source
        assert end == END
        assert len(said) == 9 if split == "length_9" else low <= len(said) <= low + more
        assert all(UNKNOWN < token < symbols + 4 and token not in (BEGIN, END) for token in said)
        answer = ORACLES[make](said)
        assert target == [*answer, END]
        assert begun == [BEGIN, *answer]


@every_task
def test_a_batch_is_a_pure_function_of_seed_split_and_index(make) -> None:
    def tokens(seed: int, split: str, index: int) -> bytes:
        batch = make(min_length=6, max_length=6, seed=seed).batch(split, index)
        return batch.source.numpy().tobytes()

    assert tokens(1, "train", 5) == tokens(1, "train", 5)
    different = {tokens(*a) for a in [(1, "train", 5), (2, "train", 5), (1, "val", 5)]}
    assert len(different | {tokens(1, "train", 6)}) == 4


def test_every_symbol_and_every_length_comes() -> None:
    batch = CopyingTokens(symbols=5, max_length=4).batch("test", 0)
    assert set(batch.source.flatten().tolist()) == {PAD, END, 4, 5, 6, 7, 8}
    assert set((batch.source == END).int().argmax(1).tolist()) == {1, 2, 3, 4}


def test_test_sets_have_their_length_and_size() -> None:
    task = SortingTokens(test_sets=[(7, 3), (9, 2)], test_sequences=5)
    assert task.test_names() == ["test", "length_7", "length_9"]
    assert task.batch("length_9", 0).targets.shape == (2, 10)
    assert [len(loader) for loader in task.test_dataloader()] == [1, 1, 1]
    assert CopyingTokens().batch("length_30", 0).target_mask is None


@every_task
@given(seed=seeds, low=st.integers(1, 4), more=st.integers(0, 11), ask=st.data())
def test_what_is_exact_is_measured_by_length(make, seed, low, more, ask) -> None:
    task = make(3, low, low + more, test_sequences=30, seed=seed)
    targets = task.batch("test", 0).targets
    wrong = ask.draw(st.lists(st.integers(0, 29), unique=True))
    answers = torch.nn.functional.pad(targets, (0, 2), value=PAD)
    # What comes after the end mark does not matter, whatever it is.
    after = targets.eq(END).int().argmax(1, keepdim=True) < torch.arange(answers.shape[1])
    answers = answers.masked_fill(after, 5)
    for row in wrong:
        place = ask.draw(st.integers(0, int((targets[row] != PAD).sum()) - 1))
        answers[row, place] = UNKNOWN
    expected: dict[str, list[bool]] = {}
    for row, target in enumerate(targets.tolist()):
        first = (target.index(END) - 1) // 5 * 5
        name = f"exact_length_{first + 1}-{min(first + 5, low + more)}"
        expected.setdefault(name, []).append(row not in wrong)
    measured = task.measure("test", [answers])
    assert measured == pytest.approx({name: sum(x) / len(x) for name, x in expected.items()})
    assert list(measured) == sorted(measured, key=lambda name: int(name.split("-")[1]))


def test_answers_that_are_short_or_without_an_end_are_not_exact() -> None:
    task = CopyingTokens(max_length=5, test_sets=[(3, 4)], test_sequences=4)
    targets = task.batch("test", 0).targets
    assert task.measure("test", [targets]) == {"exact_length_1-5": 1.0}
    assert task.measure("test", [targets.masked_fill(targets == END, PAD)]) == {
        "exact_length_1-5": 0.0
    }
    assert task.measure("test", [targets[:, :1]]) == {"exact_length_1-5": 0.0}
    assert task.measure("length_3", [task.batch("length_3", 0).targets]) == {}
    with pytest.raises(ValueError, match="each of the 4 sequences of test; got 3"):
        task.measure("test", [targets[:3]])


def test_labels_are_symbols_and_the_names_of_marks() -> None:
    task = CopyingTokens(symbols=3)
    batch = Batch(
        source=torch.tensor([[4, 6, END, PAD]]),
        inputs=torch.tensor([[BEGIN, 5, PAD]]),
        targets=torch.tensor([[5, PAD, UNKNOWN]]),
        source_mask=torch.tensor([[True, True, True, False]]),
    )
    assert task.labels(batch, 0) == (["0", "2", "end"], ["1", "pad", "unknown"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"symbols": 1}, "symbols must be at least 2; got 1"),
        ({"fewest_symbols": 0}, "fewest_symbols must be from 1 to symbols = 26; got 0"),
        ({"fewest_symbols": 27}, "from 1 to symbols = 26; got 27"),
        ({"min_length": 0}, "1 <= min_length <= max_length; got 0 and 20"),
        ({"min_length": 5, "max_length": 4}, "got 5 and 4"),
        ({"test_sets": [(0, 1)]}, "test_length must be .* got 0"),
        ({"test_sets": [(3, 0)]}, "test_sequences must be .* got 0"),
        ({"test_sequences": 0}, "test_sequences must be .* got 0"),
        ({"batch_size": 0}, "batch_size must be .* got 0"),
    ],
)
@every_task
def test_bad_settings_are_named(make: type[Task], settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**settings)
