"""Questions about facts, answered from a memory of keys and values (Miller et al. 2016)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from memnets.batches import PAD, Batch, unpadded
from memnets.checks import check_positive
from memnets.extras import check_extra
from memnets.vocabulary import Words
from tasks.base import Array, Items, check_texts
from tasks.countries.facts import BACKWARDS, Fact, read_facts
from tasks.countries.knowledge import ROUNDS, Knowledge
from tasks.countries.locations import SETTINGS, Locations
from tasks.countries.questions import Question, cues
from tasks.countries.records import country_facts, location_facts
from tasks.limits import check_room
from tasks.sets import Passes

__all__ = ["Countries"]

#: Sequences of a batch of the test set.
TESTED = 100
#: Most names that an error message lists.
LISTED = 10


class Countries(Passes):
    """Questions about facts; the source is the facts that may help.

    The source ``[B, N, 2, 2]`` is N facts by key and value, as tokens: the key is subject and
    relation, the value the object and ``PAD``. They are those that the words of the question find
    (:class:`~tasks.countries.KeyHashing`), and may be read backwards: (Paris, ``!capital``) and
    France. Inputs ``[B, 1, L]`` are the words of the question; a name is one word. Targets
    ``[B, 1, O]`` are 1 for each right answer among all O words, else 0, for the objective
    :class:`~memnets.training.Candidates`.

    Of ``one_hop`` and ``two_hops``, one question in ten is in the test and one in ten in the
    validation, in no wording in the training; their facts stay in the memory. In the Countries
    tasks ``S1``, ``S2`` and ``S3`` (Bouchard et al. 2015) the question is in which region a country
    is, and the facts that tell it at once are taken away (:class:`~tasks.countries.Locations`): for
    the countries of validation and test altogether, for a country of the training while it is asked
    about. Countries of the training that no facts lead to an answer from are not asked about.

    Args:
        setting: ``one_hop``, ``two_hops``, ``S1``, ``S2`` or ``S3``.
        facts: file of facts to ask about: subject, relation and object in each line, with tabs
            between them. Without it, the facts are about countries, from the package countryinfo.
        most_facts: N, most facts of a question, at least 1.
        frequent: a word in more keys than this finds no facts, at least 1.
        batch_size: number of questions in a training batch, at least 1.
        epoch_batches: number of training batches between two validations; by default those of a
            pass over the questions.
        validation_batches: number of batches of a validation; by default those of a pass.
        validation_batch_size: most questions in a validation batch, at least 1.
        workers: number of processes that make batches ahead of time, see :class:`~tasks.Task`.
        seed: seed of the order of the training questions; on the command line it follows
            ``seed_everything``.

    Raises:
        MissingExtra: a package is missing.
        ValueError: a setting is out of its range, or the file is not one of facts.
    """

    def __init__(
        self,
        setting: Literal["one_hop", "two_hops", "S1", "S2", "S3"] = "one_hop",
        facts: str | None = None,
        most_facts: int = 100,
        frequent: int = 100,
        batch_size: int = 32,
        epoch_batches: int | None = None,
        validation_batches: int | None = None,
        validation_batch_size: int = 100,
        workers: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            epoch_batches=epoch_batches,
            validation_batches=validation_batches,
            validation_batch_size=validation_batch_size,
            workers=workers,
            seed=seed,
        )
        check_positive(most_facts=most_facts, frequent=frequent)
        if setting not in ROUNDS:
            raise ValueError(f"setting must be one of {', '.join(ROUNDS)}; got {setting!r}")
        if setting in SETTINGS:
            if facts is not None:
                raise ValueError(
                    f"setting={setting} is about countries; facts of your own need one_hop or "
                    f"two_hops; got facts={facts}"
                )
            check_extra("knowledge", f"setting={setting}", "sklearn")
        self.setting = setting
        self.most_facts = most_facts
        self.frequent = frequent
        self.of_countries = facts is None
        self._file = facts
        self._known: Knowledge | None = None
        self._passes: dict[tuple[str, int], Array] = {}
        if facts is None:
            check_extra("knowledge", "tasks.Countries", "countryinfo", "babel")

    @property
    def known(self) -> Knowledge:
        """What follows from the facts, read when first needed: a checkpoint brings its own.

        Raises:
            ValueError: the file is not one of facts.
        """
        if self._known is None:
            if self._file is not None:
                facts = read_facts(self._file)
            else:
                facts = list(location_facts() if self.setting in SETTINGS else country_facts())
            try:
                known = self._learned(facts)
            except ValueError as error:
                raise ValueError(f"{self._file}: {error}" if self._file else str(error)) from error
            self._take(known)
        assert self._known is not None
        return self._known

    def _learned(self, facts: list[Fact], words: Words | None = None) -> Knowledge:
        """What follows from facts, with the words of a checkpoint if they are from one."""
        return Knowledge(
            facts, self.setting, self.most_facts, self.frequent, self.of_countries, words
        )

    def _take(self, known: Knowledge) -> None:
        """Take what is known, if there is room for its batches."""
        # No larger than the set itself, in which questions would come twice.
        self.validation_batch_size = min(self.validation_batch_size, len(known.questions["val"]))
        largest = max(self.most_facts * 4, len(known.words))
        check_room("facts and words of a batch", TESTED, largest)
        self.check_room(largest)
        self._known = known
        self._passes.clear()

    @property
    def words(self) -> Words:
        """Tokens of all names, relations and words of questions; all of them may be answers."""
        return self.known.words

    @property
    def locations(self) -> Locations | None:
        """What a question of the Countries tasks hides; ``None`` in other settings."""
        return self.known.locations

    @property
    def input_size(self) -> int:  # type: ignore[override]
        """Number of words."""
        return len(self.words)

    @property
    def output_size(self) -> int:  # type: ignore[override]
        """Number of words."""
        return len(self.words)

    def questions(self, split: str) -> list[Question]:
        """All questions of ``train``, ``val`` or ``test``."""
        return self.known.questions[split]

    def memories(self, question: Question, split: str = "test") -> list[Fact]:
        """Facts that a question brings up.

        Args:
            question: the question.
            split: ``train`` hides what would tell the answer at once; in other splits it is not
                there.
        """
        return self.known.memories(question, split)

    def all_batches(self, split: str) -> int:
        """See :meth:`~tasks.sets.Passes.all_batches`."""
        return -(-len(self.questions(split)) // self.sequences(split, TESTED))

    def batch(self, split: str, index: int) -> Batch:
        """Batch ``index`` of ``train``, ``val`` or ``test``.

        Training and validation go through their questions again and again, in the training in
        another order each time.

        Raises:
            IndexError: the test has no such batch.
        """
        chosen = [self.questions(split)[row] for row in self._rows(split, index)]
        memories = [self.memories(question, split) for question in chosen]
        answers = [question.answers for question in chosen]
        return self._batch([question.words for question in chosen], memories, answers)

    def _rows(self, split: str, index: int) -> list[int]:
        """Numbers of a batch's questions."""
        count = len(self.questions(split))
        size = self.sequences(split, TESTED)
        places = range(index * size, (index + 1) * size)
        if split == "test":
            if places.start >= count:
                raise IndexError(f"test has {self.batches('test')} batches, numbered from 0")
            return list(places)[: count - places.start]
        if split == "val":
            order = self._order("val", 0, count)
            return [int(order[place % count]) for place in places]
        return [int(self._order("train", place // count, count)[place % count]) for place in places]

    def _order(self, split: str, number: int, count: int) -> Array:
        """Order of the questions in a pass; the last passes are kept."""
        key = split, number
        if key not in self._passes:
            if len(self._passes) > 8:
                self._passes.clear()
            self._passes[key] = self.random(split, number).permutation(count)
        return self._passes[key]

    def _batch(
        self,
        questions: Sequence[Sequence[str]],
        memories: Sequence[Sequence[Fact]],
        answers: Sequence[Iterable[str]],
    ) -> Batch:
        rows = len(questions)
        most = max(1, *map(len, memories))
        source = np.full((rows, most, 2, 2), PAD, np.int64)
        mask = np.arange(most) < np.array([max(1, len(facts)) for facts in memories])[:, None]
        inputs = np.full((rows, 1, max(map(len, questions))), PAD, np.int64)
        targets = np.zeros((rows, 1, len(self.words)), np.float32)
        for row, (words, facts, right) in enumerate(zip(questions, memories, answers, strict=True)):
            inputs[row, 0, : len(words)] = self.words.encode(words)
            for place, (subject, relation, thing) in enumerate(facts):
                key, value = self.words.encode([subject, relation]), self.words.encode([thing])
                source[row, place] = key, [*value, PAD]
            targets[row, 0, self.words.encode(right)] = 1
        return Batch(
            torch.from_numpy(source),
            torch.from_numpy(inputs),
            torch.from_numpy(targets),
            None if mask.all() else torch.from_numpy(mask),
        )

    # -- questions of a user --------------------------------------------------------------------

    def items(self, path: str) -> list[Any]:
        """Questions of a file, one a line; empty lines count for nothing.

        Raises:
            ValueError: the file is missing, empty or damaged.
        """
        lines = enumerate(super().items(path), start=1)
        full = [(number, line.strip()) for number, line in lines if line.strip()]
        return Items((line for _, line in full), (f"{path}, line {number}" for number, _ in full))

    def read(self, question: str) -> list[str]:
        """Words of a question: the longest names that the facts have, and the words between them.

        Capitals, accents and punctuation do not matter, except for names of countries such as UK
        and USA, which count in capitals alone.
        """
        return self.known.read(question)

    def asked(self, items: Sequence[str], first: int = 1) -> Batch:
        """A batch of a user's questions, see :meth:`tasks.Task.asked`.

        Args:
            items: questions in English, at least one. Words that no question of the training has
                are ``UNKNOWN``.
            first: number of the first question, for an error.

        Raises:
            ValueError: a question has no name that the facts know, or no word of a relation that is
                asked for.
        """
        check_texts(items, first, "a question")
        questions = [self.read(item) for item in items]
        for number, (item, words) in enumerate(zip(items, questions, strict=True), first):
            self._check(number, item, words)
        memories = [self.known.found(words) for words in questions]
        return self._batch(questions, memories, [()] * len(items))

    def _check(self, number: int, item: str, words: Sequence[str]) -> None:
        names = set(self.known.names.values())
        if not names.intersection(words):
            kind = "a country or another name" if self.of_countries else "a name"
            raise ValueError(
                f"item {number}: expected a question about {kind} that the facts have; got {item!r}"
            )
        if not set().union(*map(cues, self.known.relations)).intersection(words):
            shown = sorted({relation.removeprefix(BACKWARDS) for relation in self.known.relations})
            more = ", ..." if len(shown) > LISTED else ""
            raise ValueError(
                f"item {number}: expected a question about one of the relations "
                f"{', '.join(shown[:LISTED])}{more}; got {item!r}"
            )

    def says(self, batch: Batch, answers: Tensor) -> list[str]:
        """The likeliest answer to each question, in words.

        Args:
            batch: of this task.
            answers: probabilities ``[B, 1, O]``.
        """
        return [self.words.name(token) for token in answers[:, 0].argmax(-1).tolist()]

    # -- scores ---------------------------------------------------------------------------------

    def measure(self, split: str, answers: list[Tensor]) -> dict[str, float]:
        """Scores of a whole test set.

        Args:
            split: ``test``.
            answers: probabilities ``[B, 1, O]`` for each batch of the set, or for the first ones.

        Returns:
            For ``one_hop`` and ``two_hops``, ``hits_<relation>``: the share of questions for that
            relation, last in the chain, whose likeliest answer is right. For ``S1`` to ``S3``,
            ``auc_pr``: the area under the curve of precision and recall over all pairs of a country
            and a region, as the average precision of scikit-learn.

        Raises:
            ValueError: the number of answers is not the number of questions.
        """
        questions = self.questions(split)
        likely = torch.cat([answer[:, 0] for answer in answers]).float().cpu()
        if len(likely) != min(len(questions), TESTED * len(answers)):
            raise ValueError(
                f"expected an answer to each of the {len(questions)} questions of {split}; "
                f"got {len(likely)}"
            )
        if self.locations is not None:
            from sklearn.metrics import average_precision_score

            regions = self.words.encode(self.locations.regions)
            right = [
                [region in question.answers for region in self.locations.regions]
                for question in questions[: len(likely)]
            ]
            score = average_precision_score(np.ravel(right), likely[:, regions].ravel().numpy())
            return {"auc_pr": float(score)}
        hits: dict[str, list[bool]] = {}
        for question, token in zip(questions, likely.argmax(-1).tolist(), strict=False):
            relation = question.path[-1].replace("!", "of_").replace(" ", "_")
            hits.setdefault(f"hits_{relation}", []).append(
                self.words.name(token) in question.answers
            )
        return {name: sum(each) / len(each) for name, each in sorted(hits.items())}

    def asked_words(self, batch: Batch, row: int) -> list[list[str]]:
        """The words of the question."""
        return [self._names_of(question) for question in batch.inputs[row]]

    def _names_of(self, tokens: Tensor) -> list[str]:
        return [self.words.name(token) for token in tokens.tolist() if token != PAD]

    def texts(self, split: str, answers: list[Tensor]) -> list[tuple[str, str, str]]:
        """Questions, right answers with bars between them, and the model's answers."""
        questions = self.questions(split)
        said = [
            text
            for index, answer in enumerate(answers)
            for text in self.says(self.batch(split, index), answer)
        ]
        return [
            (" ".join(question.words), " | ".join(sorted(question.answers)), text)
            for question, text in zip(questions, said, strict=False)
        ]

    def labels(self, batch: Batch, row: int) -> tuple[list[str], list[str]]:
        """Facts of the source as text, and the right answers to the question."""
        facts = unpadded(batch.source, batch.source_mask, row)
        source = [": ".join(" ".join(self._names_of(side)) for side in fact) for fact in facts]
        # Targets mark all right answers; of probabilities, the likeliest counts.
        answers = [
            " | ".join(self.words.name(int(token)) for token in (step == step.max()).nonzero())
            for step in batch.targets[row]
        ]
        return source, answers

    # -- checkpoints ----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The vocabulary and the facts, for a checkpoint."""
        facts = torch.tensor(
            [self.words.encode(fact) for fact in self.known.facts], dtype=torch.int64
        )
        return {"words": self.words.to_tensor(), "facts": facts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the vocabulary and the facts of a checkpoint.

        Raises:
            ValueError: they are missing or damaged.
        """
        if not {"words", "facts"} <= state_dict.keys():
            raise ValueError("expected a checkpoint with facts; got one without")
        words = Words.from_tensor(state_dict["words"])
        try:
            facts = [Fact(*map(words.name, fact)) for fact in state_dict["facts"].tolist()]
            known = self._learned(facts, words)  # the tokens are those of the checkpoint's model
        except (TypeError, ValueError) as error:
            raise ValueError("expected a checkpoint with facts; its facts are damaged") from error
        self._take(known)
