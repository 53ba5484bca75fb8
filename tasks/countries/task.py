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
from tasks.countries.facts import (
    BACKWARDS,
    Fact,
    KeyHashing,
    bare,
    plain,
    read_facts,
    with_inverses,
)
from tasks.countries.locations import SETTINGS, Locations
from tasks.countries.questions import Question, cues, one_hop, shares, two_hops
from tasks.countries.records import aliases_of_countries, country_facts, location_facts
from tasks.limits import check_room
from tasks.sets import Passes

__all__ = ["Countries"]

#: Rounds of key hashing for each setting: the number of facts on the way to an answer.
ROUNDS = {"one_hop": 1, "two_hops": 2, "S1": 2, "S2": 2, "S3": 3}
#: Sequences of a batch of the test set.
TESTED = 100
#: Most names that an error message lists.
LISTED = 10

#: Attributes that follow from the facts.
OF_FACTS = {
    *("facts", "locations", "relations", "words", "input_size", "output_size"),
    *("_hashing", "_questions", "_names", "_codes", "_longest"),
}


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
        if facts is None:
            check_extra("knowledge", "tasks.Countries", "countryinfo", "babel")

    def __getattr__(self, name: str) -> Any:
        """What follows from the facts, at first need: a checkpoint brings facts of its own.

        Raises:
            AttributeError: the task has no such attribute.
            ValueError: the file is not one of facts.
        """
        if name not in OF_FACTS or "facts" in vars(self):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        if self._file is not None:
            known = read_facts(self._file)
        else:
            known = list(location_facts() if self.setting in SETTINGS else country_facts())
        try:
            self._learn(known)
            largest = max(self.most_facts * 4, len(self.words))
            check_room("facts and words of a batch", TESTED, largest)
            self.check_room(largest)
        except ValueError as error:
            self._forget()
            raise ValueError(f"{self._file}: {error}" if self._file else str(error)) from error
        return getattr(self, name)

    def _forget(self) -> None:
        """Undo :meth:`_learn`, so that the facts are read when they are needed again."""
        for name in OF_FACTS:
            vars(self).pop(name, None)

    def _learn(self, facts: list[Fact]) -> None:
        """Take facts: make the vocabulary, the memory and the questions of all splits."""
        self._forget()
        self.facts = facts
        self.locations: Locations | None = None
        if self.setting in SETTINGS:
            self.locations = Locations(facts, self.setting)
            # In one direction alone: a region does not bring up all its countries.
            self._hashing = KeyHashing(self.locations.facts, self.frequent)
            self._questions = self.locations.questions()
            self._questions["train"] = [
                question
                for question in self._questions["train"]
                if any(fact.object in question.answers for fact in self.memories(question, "train"))
            ]
        else:
            self._hashing = KeyHashing(with_inverses(facts), self.frequent)
            self._questions = shares((one_hop if self.setting == "one_hop" else two_hops)(facts))
        self.relations = sorted({each.path[-1] for each in self._questions["train"]})
        names = dict.fromkeys(name for fact in facts for name in (fact.subject, fact.object))
        rest = {fact.relation for fact in self._hashing.facts}
        for questions in self._questions.values():
            rest.update(word for question in questions for word in question.words)
        #: Tokens of all names, relations and words of questions; all of them may be answers.
        self.words = Words(dict.fromkeys([*names, *sorted(rest)]))
        self.input_size = self.output_size = len(self.words)
        # Names by the plain text in which a question may have them.
        self._names = {plain(name): name for name in names}
        self._codes: dict[str, str] = {}
        if self.of_countries:
            for other, name in aliases_of_countries().items():
                if name in self.words:
                    (self._codes if other.isupper() else self._names).setdefault(other, name)
        self._longest = max(len(name.split()) for name in self._names)
        self._passes: dict[tuple[str, int], Array] = {}
        # No larger than the set itself, in which questions would come twice.
        count = len(self.questions("val"))
        self.validation_batch_size = min(self.validation_batch_size, count)

    def questions(self, split: str) -> list[Question]:
        """All questions of ``train``, ``val`` or ``test``."""
        return self._questions[split]

    def memories(self, question: Question, split: str = "test") -> list[Fact]:
        """Facts that a question brings up.

        Args:
            question: the question.
            split: ``train`` hides what would tell the answer at once; in other splits it is not
                there.
        """
        hidden: set[Fact] = set()
        if split == "train" and self.locations is not None:
            hidden = self.locations.hidden([question.about])
        return self._hashing.find(question.words, ROUNDS[self.setting], self.most_facts, hidden)

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
        text = plain(question).split()
        # Which words are in capitals; if all are, that tells nothing.
        written = bare(question).split()
        capitals = [] if question.isupper() else written
        words, place = [], 0
        while place < len(text):
            for length in range(min(self._longest, len(text) - place), 0, -1):
                name = " ".join(text[place : place + length])
                if name in self._names:
                    words.append(self._names[name])
                    break
            else:
                length = 1
                code = capitals[place] if capitals else ""
                words.append(self._codes.get(code, text[place]))
            place += length
        return words

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
        memories = [
            self._hashing.find(words, ROUNDS[self.setting], self.most_facts) for words in questions
        ]
        return self._batch(questions, memories, [()] * len(items))

    def _check(self, number: int, item: str, words: Sequence[str]) -> None:
        names = set(self._names.values())
        if not names.intersection(words):
            kind = "a country or another name" if self.of_countries else "a name"
            raise ValueError(
                f"item {number}: expected a question about {kind} that the facts have; got {item!r}"
            )
        if not set().union(*map(cues, self.relations)).intersection(words):
            shown = sorted({relation.removeprefix(BACKWARDS) for relation in self.relations})
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
        facts = torch.tensor([self.words.encode(fact) for fact in self.facts], dtype=torch.int64)
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
            self._learn(facts)
        except (TypeError, ValueError) as error:
            self._forget()
            raise ValueError("expected a checkpoint with facts; its facts are damaged") from error
        # The tokens are those of the checkpoint's model.
        self.words = words
        self.input_size = self.output_size = len(words)
