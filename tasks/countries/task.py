"""Questions about facts, answered from a memory of keys and values (Miller et al. 2016)."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from memnets.batches import PAD, UNKNOWN, Batch
from memnets.core import check_positive
from memnets.extras import check_extra
from memnets.vocabulary import Words
from tasks.base import Array, Task
from tasks.countries.facts import Fact, KeyHashing, inverse, plain, read_facts, with_inverses
from tasks.countries.locations import SETTINGS, Locations
from tasks.countries.questions import Question, one_hop, shares, two_hops, wording
from tasks.countries.records import aliases_of_countries, country_facts, location_facts
from tasks.translation.files import read_lines

__all__ = ["Countries"]

#: Rounds of key hashing for each setting: the number of facts on the way to an answer.
ROUNDS = {"one_hop": 1, "two_hops": 2, "S1": 2, "S2": 2, "S3": 3}
#: Sequences of a batch of the test set.
TESTED = 100
#: Most names that an error message lists.
LISTED = 10


class Countries(Task):
    """Questions about facts; the source is the facts that may help.

    The source ``[B, N, 2, 2]`` is N facts by key and value, as tokens: the key is subject and
    relation, the value the object and ``PAD``. They are found by :class:`~tasks.countries.KeyHashing`
    and may be any facts, in both directions, such as (Paris, ``!capital``) and France. Inputs
    ``[B, 1, L]`` are the words of the question; a name is one word. Targets ``[B, 1, O]`` are 1 for
    each right answer among all O words, else 0, for the objective
    :class:`~memnets.training.Candidates`.

    Of ``one_hop`` and ``two_hops``, one question in ten is in the test and one in ten in the
    validation, in no wording in the training; their facts stay in the memory. In the Countries tasks
    ``S1``, ``S2`` and ``S3`` (Bouchard et al. 2015) the question is in which region a country is.
    The memory lacks the facts that would tell it at once, see :class:`Locations`: of the countries
    of validation and test those are never seen, and a training question hides those of its own
    country.

    Args:
        setting: ``one_hop``, ``two_hops``, ``S1``, ``S2`` or ``S3``.
        facts: file of facts to ask about: subject, relation and object in each line, with tabs
            between them. Without it, the facts are about countries, from the package countryinfo.
        most_facts: N, most facts of a question, at least 1.
        frequent: a word in more keys than this finds no facts, at least 1.
        noise: share of the facts that each training question leaves out, in ``[0, 1)``.
        batch_size: number of questions in a training batch.
        settings: see :class:`~tasks.Task`.

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
        noise: float = 0.0,
        batch_size: int = 32,
        **settings: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, **settings)
        check_positive(most_facts=most_facts, frequent=frequent)
        if setting not in ROUNDS:
            raise ValueError(f"setting must be one of {', '.join(ROUNDS)}; got {setting!r}")
        if not 0 <= noise < 1:
            raise ValueError(f"noise must be in [0, 1); got {noise}")
        self.of_countries = facts is None
        if self.of_countries:
            check_extra("knowledge", "tasks.Countries", "countryinfo", "babel")
        if setting in SETTINGS:
            check_extra("knowledge", f"setting={setting}", "sklearn")
            if facts is not None:
                raise ValueError(
                    f"setting={setting} is about countries; facts of your own need one_hop or "
                    f"two_hops; got facts={facts}"
                )
        self.setting = setting
        self.most_facts = most_facts
        self.frequent = frequent
        self.noise = noise
        if facts is not None:
            known = read_facts(facts)
        else:
            known = list(location_facts() if setting in SETTINGS else country_facts())
        self._learn(known)
        self.check_room(max(most_facts * 4, self.output_size), tested=[(TESTED, self.output_size)])

    def _learn(self, facts: list[Fact]) -> None:
        """Take facts: make the vocabulary, the memory and the questions of all splits."""
        self.facts = facts
        self.locations: Locations | None = None
        if self.setting in SETTINGS:
            self.locations = Locations(facts, self.setting)
            self._questions = self.locations.questions()
            # The answers are not to be found by way of the other countries of a region.
            memory = self.locations.facts
        else:
            make = one_hop if self.setting == "one_hop" else two_hops
            self._questions = shares(make(facts))
            memory = with_inverses(facts)
        self._hashing = KeyHashing(memory, self.frequent)
        self.relations = sorted({path for each in self._questions["train"] for path in each.path})
        names = dict.fromkeys(name for fact in facts for name in (fact.subject, fact.object))
        rest = sorted(
            {fact.relation for fact in with_inverses(facts)}
            | {word for split in self._questions.values() for each in split for word in each.words}
        )
        #: Tokens of all names, relations and words of questions; all of them may be answers.
        self.words = Words(dict.fromkeys([*names, *rest]))
        self.input_size = self.output_size = len(self.words)
        # Names that a question may have, by their plain text, with the number of its words.
        self._names = {plain(name): name for name in names}
        if self.of_countries:
            others = aliases_of_countries().items()
            self._names = {**{k: v for k, v in others if v in self.words}, **self._names}
        self._longest = max(len(name.split()) for name in self._names)
        self._passes: dict[int, Array] = {}

    def test_names(self) -> list[str]:
        """``test``."""
        return ["test"]

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

    def batches(self, split: str) -> int:
        """See :meth:`~tasks.Task.batches`; the test has every question."""
        if split == "test":
            return -(-len(self.questions("test")) // TESTED)
        return super().batches(split)

    def batch(self, split: str, index: int) -> Batch:
        """Batch ``index`` of ``train``, ``val`` or ``test``.

        Training and validation go through their questions again and again, in the training in
        another order each time.
        """
        chosen = [self.questions(split)[row] for row in self._rows(split, index)]
        memories = [self.memories(question, split) for question in chosen]
        if split == "train" and self.noise:
            random = self.random("noise", index)
            memories = [
                [fact for fact in facts if random.random() >= self.noise] for facts in memories
            ]
        answers = [question.answers for question in chosen]
        return self._batch([question.words for question in chosen], memories, answers)

    def _rows(self, split: str, index: int) -> list[int]:
        """Numbers of a batch's questions."""
        count = len(self.questions(split))
        size = self.sequences(split, TESTED)
        places = range(index * size, (index + 1) * size)
        if split == "test":
            return list(places)[: max(0, count - index * size)]
        if split == "val":
            order = self._order("val", 0, count)
            return [int(order[place % count]) for place in places]
        return [int(self._order("train", place // count, count)[place % count]) for place in places]

    def _order(self, split: str, number: int, count: int) -> Array:
        """Order of the questions in a pass; the last passes are kept."""
        key = zlib.crc32(f"{split} {number}".encode())
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

    def items(self, path: str) -> list[str]:
        """Questions of a file, one a line; empty lines count for nothing.

        Raises:
            ValueError: the file is missing, has no question, or is not UTF-8.
        """
        lines = [line.strip() for line in read_lines(str(path))]
        return [line for line in lines if line]

    def read(self, question: str) -> list[str]:
        """Words of a question: the longest names that the facts have, and the words between them.

        Capitals, accents and punctuation do not matter.
        """
        words, place, text = [], 0, plain(question).split()
        while place < len(text):
            for length in range(min(self._longest, len(text) - place), 0, -1):
                name = " ".join(text[place : place + length])
                if name in self._names:
                    words.append(self._names[name])
                    break
            else:
                length = 1
                words.append(text[place])
            place += length
        return words

    def asked(self, items: Sequence[str]) -> Batch:
        """Batch of a user's questions.

        Args:
            items: questions in English, at least one.

        Raises:
            ValueError: there is no question, or one has no name that the facts know, or no word of
                a relation that is asked for.
        """
        if not items:
            raise ValueError("expected questions; got none")
        questions = [self.read(item) for item in items]
        for number, (item, words) in enumerate(zip(items, questions, strict=True), start=1):
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
        relations = {*self.relations, *map(inverse, self.relations)}
        cues = set().union(*(wording(relation).cues() for relation in relations))
        if not cues.intersection(words):
            shown = sorted({relation.removeprefix("!") for relation in self.relations})
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
        """Facts of the source as text, and the right answers of each question."""
        facts = batch.source[row]
        if batch.source_mask is not None:
            facts = facts[batch.source_mask[row]]
        source = [
            " ".join(
                self.words.name(token) for token in fact.flatten().tolist() if token != PAD
            )
            for fact in facts
        ]
        answers = [
            " | ".join(self.words.name(token) for token in step.nonzero().flatten().tolist())
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
            ValueError: they are missing, damaged, or of another number of words.
        """
        if not {"words", "facts"} <= state_dict.keys():
            raise ValueError("expected a checkpoint with facts; got one without")
        words = Words.from_tensor(state_dict["words"])
        facts = [Fact(*map(words.name, fact)) for fact in state_dict["facts"].tolist()]
        if len(words) != self.output_size:
            raise ValueError(
                f"expected a checkpoint with the {self.output_size} words of these facts; got one "
                f"with {len(words)}"
            )
        self._learn(facts)
        # The order of the words is that of the checkpoint's model.
        self.words = words
