"""Sentences with labels, and two ways to learn from them without labels (Dai & Le 2015)."""

from __future__ import annotations

import gzip
import io
import itertools
import logging
import math
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from memnets.batches import BEGIN, END, UNKNOWN, Batch, padded, unpadded
from memnets.checks import check_positive
from memnets.vocabulary import Words
from tasks.base import Array, check_texts
from tasks.language import likelihoods, words_of
from tasks.limits import read_at_most, read_file
from tasks.sets import Passes, paths_of
from tasks.text import check_labels, lines_of, read_lines, warn_of_labels
from tasks.tokens import answer_batch, said

__all__ = ["Sentence", "Sentiment", "read_archive"]

#: The archive's file of film snippets, and the archive within the archive that holds it.
SNIPPETS = "movieReviewSnippets_GroundTruth.txt"
INNER = "hutto_ICWSM_2014.tar.gz"
#: Labels of a rating below and above 0.
SIGNS = "negative", "positive"
#: Most tokens of a vocabulary; no useful one is larger.
MOST_TOKENS = 10_000_000
#: Of the sentences that are not in the test, one in this many is held out for validation.
HELD_OUT = 10

logger = logging.getLogger(__name__)


class Sentence(NamedTuple):
    """A sentence with its label.

    Attributes:
        text: the sentence as it is written in its file.
        label: name of its class; ``None`` = not known.
    """

    text: str
    label: str | None

    @property
    def key(self) -> int:
        """A number that is the same for all sentences of the same words, on every machine."""
        return zlib.crc32(" ".join(words_of(self.text)).encode())


class Sentiment(Passes):
    """Sentences with labels: their classification, and pre-training for it.

    Dai & Le 2015 first train a network on the sentences without their labels, as a language model
    or as an autoencoder, and then let it start the classification from these weights. The three
    are settings of this task, over the same sentences, splits and vocabulary:

    ==================  ==================  =====================  =========================
    ``kind``            source ``[B, S]``   inputs ``[B, T]``      targets ``[B, T]``
    ==================  ==================  =====================  =========================
    ``classification``  the words           ``BEGIN``              number of the label
    ``language_model``  ``BEGIN``           ``BEGIN``, the words   the words, ``END``
    ``autoencoder``     the words           ``BEGIN``, the words   the words, ``END``
    ==================  ==================  =====================  =========================

    Their objectives are :class:`~memnets.training.Labels`, :class:`~memnets.training.NextToken` and
    :class:`~memnets.training.Tokens`. All sentences of a batch have the same number of words, so
    there is no padding. A pass over the training data has each sentence once, in an order of its
    own.

    The sentences come from the film snippets in the source archive of the Python package
    ``vaderSentiment`` 0.5 (Hutto & Gilbert 2014), or from text files. A snippet's label is the
    sign of the mean of its ratings by people; snippets whose mean is 0 are left out.

    Without ``test``, sentences are divided into ``folds`` by a checksum of their words, the same
    for each seed and each order of the file; fold number ``fold`` is the test. Without ``val``, one
    in 10 of the others is held out in the same way. The vocabulary is that of the training part,
    and kept in checkpoints. Data is read when it is first needed.

    Args:
        kind: what is learned: ``classification``, ``language_model`` or ``autoencoder``.
        archive: the archive of vaderSentiment 0.5, zip or tar.gz, or the folder of its files.
        train: in place of the archive, two files or more, one for each label, with a sentence in
            each line; the name of a file is its label. Or one file, whose lines have a label, a
            tab and a sentence. Files are UTF-8, plain or ``.gz``.
        val: files of the validation, in the same form.
        test: files of the test, in the same form; there are no folds then.
        unlabelled: files of more sentences, one in each line, without labels, to train a language
            model or an autoencoder on. They count for the vocabulary of each kind.
        folds: number of folds, at least 2.
        fold: number of the fold that is the test, from 0.
        vocabulary_size: most tokens of the vocabulary, with the four marks; the rarest words beyond
            it are unknown.
        least: fewest times that a word must come in the training part to be known.
        max_words: longer sentences are cut after this number of words.
        word_dropout: share of the words in sources and inputs that are replaced by the unknown
            word in training, drawn anew for each batch, in ``[0, 1)``.
        batch_size: most sentences of a training batch; a batch may have fewer, since its sentences
            have the same number of words.
        epoch_batches: number of training batches between two validations; by default those of a
            pass over the data.
        validation_batches: number of batches of a validation; all by default.
        validation_batch_size: most sentences of a batch of validation or test.
        settings: see :class:`~tasks.Task`.

    Raises:
        ValueError: a setting is out of its range, or does not go with another one.
    """

    def __init__(
        self,
        kind: Literal["classification", "language_model", "autoencoder"] = "classification",
        archive: str | None = None,
        train: list[str] | str | None = None,
        val: list[str] | str | None = None,
        test: list[str] | str | None = None,
        unlabelled: list[str] | str | None = None,
        folds: int = 10,
        fold: int = 0,
        vocabulary_size: int = 8000,
        least: int = 1,
        max_words: int = 400,
        word_dropout: float = 0.0,
        batch_size: int = 32,
        epoch_batches: int | None = None,
        validation_batches: int | None = None,
        validation_batch_size: int = 100,
        **settings: Any,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            epoch_batches=epoch_batches,
            validation_batches=validation_batches,
            validation_batch_size=validation_batch_size,
            **settings,
        )
        if kind not in ("classification", "language_model", "autoencoder"):
            raise ValueError(
                f"kind must be 'classification', 'language_model' or 'autoencoder'; got {kind!r}"
            )
        check_positive(least=least, max_words=max_words)
        if not END + 1 < vocabulary_size <= MOST_TOKENS:
            raise ValueError(
                f"vocabulary_size must be above {END + 1}, the number of its marks, and at "
                f"most {MOST_TOKENS:,}; got {vocabulary_size:,}"
            )
        if folds < 2 or not 0 <= fold < folds:
            raise ValueError(
                f"folds must be at least 2, and fold from 0 to folds - 1; got {folds} and {fold}"
            )
        if not 0 <= word_dropout < 1:
            raise ValueError(f"word_dropout must be in [0, 1); got {word_dropout}")
        self.check_room(max_words, tested=[(validation_batch_size, max_words)])
        self.kind = kind
        self.archive = archive
        self.paths = paths_of("", train=train, val=val, test=test)
        self.unlabelled = [unlabelled] if isinstance(unlabelled, str) else list(unlabelled or ())
        self.folds, self.fold = folds, fold
        self.least = least
        self.max_words = max_words
        self.word_dropout = word_dropout
        self.input_size = vocabulary_size
        self._check_sources()
        self._sentences: dict[str, list[Sentence]] | None = None
        self._words: Words | None = None
        self._classes: list[str] | None = None
        #: A checksum of the labelled sentences that have folds, once they are read; 0 = none has.
        self._corpus = 0
        #: The same, the number of folds and the fold of a checkpoint.
        self._pretrained: tuple[int, int, int] | None = None
        self._sorted: dict[str, _Sorted] = {}
        self._pass: tuple[int, _Sorted] | None = None

    def _check_sources(self) -> None:
        archive, train = self.archive, self.paths["train"]
        if archive is not None and (train or self.paths["val"] or self.paths["test"]):
            raise ValueError("archive has folds of its own: it goes without train, val and test")
        if archive is None and not train and (self.kind == "classification" or not self.unlabelled):
            raise ValueError(
                "Sentiment needs archive, the path of vaderSentiment-0.5.zip (.tar.gz, or its "
                "folder), or train, files of your own; got neither"
            )

    @property
    def output_size(self) -> int:  # type: ignore[override]
        """Number of labels; number of tokens for an answer in words."""
        return len(self.classes) if self.kind == "classification" else self.input_size

    @property
    def classes(self) -> list[str]:
        """Names of the labels, in the order of their numbers.

        Raises:
            ValueError: the files cannot be read, or have a single label.
        """
        if self._classes is None:
            found = {each.label for each in self.sentences("train") if each.label is not None}
            self._classes = sorted(found)
        return self._classes

    @property
    def vocabulary(self) -> Words:
        """The vocabulary: from a checkpoint, or the words of the training part."""
        if self._words is None:
            words = [words_of(each.text) for each in self.sentences("train")]
            self._words = Words.of(words, self.least, self.input_size)
        return self._words

    def sentences(self, split: str) -> list[Sentence]:
        """Sentences of ``train``, ``val`` or ``test``, in the order of their files.

        Those of ``train`` include the unlabelled ones.

        Raises:
            ValueError: a file is missing, damaged or of another form; or a split has no sentence.
        """
        if self._sentences is None:
            self._sentences = self._split()
            self._check_fold()
        return self._sentences[split]

    def _split(self) -> dict[str, list[Sentence]]:
        if self.archive is not None:
            read = [
                Sentence(text, SIGNS[rating > 0])
                for text, rating in read_archive(self.archive)
                if rating != 0
            ]
        else:
            read = _read(self.paths["train"])
        if self.kind == "classification":
            where = ", ".join(self.paths["train"]) or str(self.archive)
            check_labels([str(each.label) for each in read], "sentences", where)
        if not self.paths["test"]:
            keys = sorted({each.key for each in read})
            self._corpus = zlib.crc32(np.array(keys, np.int64).tobytes())
        for path in self.unlabelled:
            read += [Sentence(text, None) for text in _full_lines(path)]
        given = {split: _read(self.paths[split]) for split in ("val", "test") if self.paths[split]}
        if self.kind == "classification":
            everything = itertools.chain(read, *given.values())
            warn_of_labels(
                (
                    (" ".join(words_of(each.text)), each.label)
                    for each in everything
                    if each.label is not None
                ),
                "sentences",
            )
        splits: dict[str, list[Sentence]] = {"train": [], "val": [], "test": [], **given}
        # By the words, so that a sentence that comes twice is in one part alone.
        elsewhere = {each.key for sentences in given.values() for each in sentences}
        for each in read:
            turn, fold = divmod(each.key, self.folds)
            if each.key in elsewhere:
                continue
            if "test" not in given and fold == self.fold:
                splits["test"].append(each)
            elif "val" not in given and turn % HELD_OUT == 0:
                splits["val"].append(each)
            else:
                splits["train"].append(each)
        if self.kind == "classification":
            splits.update(
                (split, [each for each in splits[split] if each.label is not None])
                for split in ("val", "test")
            )
        for split, sentences in splits.items():
            if not sentences:
                different = len({each.key for each in read})
                raise ValueError(
                    f"expected enough different sentences to hold out some for validation and "
                    f"test; got {different} in {len(read)} lines, and none is left for {split}: "
                    "give files for val and test"
                )
        return splits

    def _check_fold(self) -> None:
        """Check that the weights of a checkpoint were not trained on the test.

        Raises:
            ValueError: they were.
        """
        if self._pretrained is None or self._sentences is None:
            return
        corpus, folds, fold = self._pretrained
        if self._corpus and corpus == self._corpus and (folds, fold) != (self.folds, self.fold):
            raise ValueError(
                f"the checkpoint is of fold {fold} of {folds}: its training has seen the test of "
                f"fold {self.fold} of {self.folds}; give the same fold"
            )

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint: the vocabulary, the labels, and which fold was held out."""
        if self._sentences is None and self._pretrained is not None:
            split = self._pretrained
        else:
            self.sentences("train")
            split = self._corpus, self.folds, self.fold
        state = {"vocabulary": self.vocabulary.to_tensor(), "fold": torch.tensor(split)}
        if self.kind == "classification":
            state["classes"] = Words(self.classes).to_tensor()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of a checkpoint; a classification may start from another kind.

        Raises:
            ValueError: the state is missing or damaged, of a larger vocabulary, or of another fold
                of the same sentences.
        """
        if not {"vocabulary", "fold"} <= state_dict.keys():
            raise ValueError("expected a checkpoint with a vocabulary of words; got none")
        words = Words.from_tensor(state_dict["vocabulary"])
        if len(words) > self.input_size:
            raise ValueError(
                f"expected a checkpoint with a vocabulary of at most vocabulary_size="
                f"{self.input_size} tokens; got {len(words)}"
            )
        if self.kind == "classification" and "classes" in state_dict:
            classes = Words.from_tensor(state_dict["classes"]).words
            if self._sentences is not None and classes != self.classes:
                raise ValueError(
                    f"expected a checkpoint of the labels {', '.join(self.classes)}; got those of "
                    f"{', '.join(classes)}"
                )
            self._classes = classes
        corpus, folds, fold = state_dict["fold"].tolist()
        self._pretrained = corpus, folds, fold
        self._words = words
        # Tokens of another vocabulary would not be those of the checkpoint's model.
        self._sorted.clear()
        self._pass = None
        self._check_fold()

    def all_batches(self, split: str) -> int:
        """See :meth:`~tasks.sets.Passes.all_batches`."""
        return len(self._parts(split).cuts) - 1

    def batch(self, split: str, index: int) -> Batch:
        """Batch ``index`` of ``train``, ``val`` or ``test``; validation begins anew after its last.

        Raises:
            IndexError: the test has no such batch.
        """
        part, rows = self._rows(split, index)
        tokens = [part.tokens[row] for row in rows]
        labels = [part.labels[row] for row in rows]
        batch = self._batch(tokens, labels)
        if split != "train" or not self.word_dropout:
            return batch
        random = self.random("words", index)
        return batch._replace(
            source=self._dropped(batch.source, random), inputs=self._dropped(batch.inputs, random)
        )

    def _batch(self, tokens: Sequence[Sequence[int]], labels: Sequence[int]) -> Batch:
        begin = torch.full((len(tokens), 1), BEGIN)
        if self.kind == "language_model":
            return answer_batch(begin, None, tokens)
        source, mask = padded(tokens)
        if self.kind == "autoencoder":
            return answer_batch(source, mask, tokens)
        return Batch(source, begin, torch.tensor(labels).unsqueeze(1), mask)

    def _dropped(self, tokens: Tensor, random: np.random.Generator) -> Tensor:
        """Tokens with some of the words replaced by ``UNKNOWN``."""
        drawn = torch.from_numpy(random.random(tuple(tokens.shape)) < self.word_dropout)
        return tokens.masked_fill(drawn & (tokens > BEGIN), UNKNOWN)

    def _parts(self, split: str) -> _Sorted:
        """Sentences of a split as tokens, made at the first call."""
        if split not in self._sorted:
            sentences = self.sentences(split)
            classify = self.kind == "classification"
            if classify:
                sentences = [each for each in sentences if each.label is not None]
            number = {name: place for place, name in enumerate(self.classes)} if classify else {}
            strange = Counter(str(each.label) for each in sentences if each.label not in number)
            if classify and strange:
                raise ValueError(
                    f"expected the labels {', '.join(number)} in {split}; got "
                    f"{', '.join(sorted(strange))}"
                )
            size = self.batch_size if split == "train" else self.validation_batch_size
            words = [words_of(each.text) for each in sentences]
            long = sum(len(each) > self.max_words for each in words)
            if long:
                logger.warning("sentences of %s cut at %d words: %d", split, self.max_words, long)
            tokens = [self.vocabulary.encode(each[: self.max_words]) for each in words]
            labels = [number.get(str(each.label), -1) for each in sentences]
            # In random order, so that the first batches stand for all of them.
            self._sorted[split] = _Sorted(tokens, labels, size, self.random(split, 0))
        return self._sorted[split]

    def _rows(self, split: str, index: int) -> tuple[_Sorted, Array]:
        """Sentences of a split, and the numbers of those of a batch."""
        part = self._parts(split)
        epoch, number = divmod(index, len(part.cuts) - 1)
        if split != "train":
            if epoch and split == "test":
                raise IndexError(f"test has {len(part.cuts) - 1} batches, numbered from 0")
            return part, part.rows(number)
        # The order of a pass depends on its number alone, so only the present one is kept.
        if self._pass is None or self._pass[0] != epoch:
            self._pass = epoch, part.mixed(self.random("order", epoch))
        return part, self._pass[1].rows(number)

    def sentence(self, tokens: Tensor) -> str:
        """Words of tokens ``[T]`` up to their end mark, with spaces between them."""
        return " ".join(self.vocabulary.decode(map(self._known, said(tokens))))

    def _known(self, token: int) -> int:
        """A token of the vocabulary: a model has outputs for ``vocabulary_size`` of them."""
        return token if token < len(self.vocabulary) else UNKNOWN

    def asked(self, items: Sequence[Any], first: int = 1) -> Batch:
        """A batch of sentences to classify, to say again, or to say how likely they are.

        Args:
            items: the sentences, at least one.
            first: number of the first, for an error.

        Raises:
            ValueError: an item is not a text, or has no words.
        """
        check_texts(items, first, "a sentence")
        words = []
        for number, item in enumerate(items, first):
            found = words_of(item)
            if not found:
                raise ValueError(f"item {number}: expected a sentence; got one without words")
            words.append(found[: self.max_words])
        return self._batch([self.vocabulary.encode(each) for each in words], [0] * len(words))

    def says(self, batch: Batch, answers: Tensor) -> list[str]:
        """The label of each sentence, or the sentence that was said again.

        Of a model with the objective :class:`~memnets.training.NextToken`, whose answers are log
        probabilities ``[B, T]``, the perplexity of each sentence by words.
        """
        if answers.is_floating_point():
            return likelihoods(batch, answers)
        if self.kind == "classification":
            return [self.classes[answer] for answer in answers[:, 0].tolist()]
        return [self.sentence(row) for row in answers]

    def texts(self, split: str, answers: list[Tensor]) -> list[tuple[str, str, str]]:
        """Sentences, labels and answers; of an autoencoder, sentences and what was said again."""
        if self.kind == "language_model":
            return []
        sentences = self.sentences(split)
        found: list[tuple[str, str, str]] = []
        for index, answer in enumerate(answers):
            batch, (_, rows) = self.batch(split, index), self._rows(split, index)
            said_again = self.says(batch, answer)
            right = self.says(batch, batch.targets)
            texts = [sentences[row].text for row in rows]
            found += zip(texts, right, said_again, strict=True)
        return found

    def labels(self, batch: Batch, row: int) -> tuple[list[str], list[str]]:
        """Words of the source, and of the targets or the label."""
        source = unpadded(batch.source, batch.source_mask, row).tolist()
        targets = unpadded(batch.targets, batch.target_mask, row).tolist()

        def words(token: int) -> str:
            return self.vocabulary.name(self._known(token))

        if self.kind == "classification":
            return [words(token) for token in source], [self.classes[each] for each in targets]
        return [words(token) for token in source], [words(token) for token in targets]


class _Sorted:
    """Sentences as tokens, cut into batches of sentences with the same number of words.

    Args:
        tokens: the sentences, at least one, each of at least one token.
        labels: a number for each.
        size: most sentences of a batch.
        random: mixes the batches.
        mixed: whether the sentences of the same number of words are mixed too; else they keep their
            order.

    Attributes:
        cuts: place of the first sentence of each batch among the sorted ones, then their number.
    """

    def __init__(
        self,
        tokens: Sequence[Sequence[int]],
        labels: Sequence[int],
        size: int,
        random: np.random.Generator,
        mixed: bool = False,
    ) -> None:
        self.tokens, self.labels, self.size = tokens, labels, size
        lengths = np.array([len(each) for each in tokens])
        ties = random.permutation(len(tokens)) if mixed else np.arange(len(tokens))
        self.order: Array = np.lexsort((ties, lengths))
        ends = np.flatnonzero(np.diff(lengths[self.order], append=-1)) + 1
        starts = [0, *ends[:-1].tolist()]
        self.cuts = [
            cut
            for start, end in zip(starts, ends.tolist(), strict=True)
            for cut in range(start, end, size)
        ] + [len(tokens)]
        self.places = random.permutation(len(self.cuts) - 1)

    def mixed(self, random: np.random.Generator) -> _Sorted:
        """The same sentences, mixed within each number of words, in a new order of batches."""
        return _Sorted(self.tokens, self.labels, self.size, random, mixed=True)

    def rows(self, index: int) -> Array:
        """Numbers of the sentences of a batch."""
        place = self.places[index]
        rows: Array = self.order[self.cuts[place] : self.cuts[place + 1]]
        return rows


def read_archive(path: str) -> list[tuple[str, float]]:
    """Read the film snippets in the source archive of vaderSentiment 0.5.

    Args:
        path: the archive, zip or tar.gz, or the folder of its files; the archive of the data that
            lies within is looked into as well.

    Returns:
        Text and mean rating, from -4 to 4, of each snippet, in the order of the file.

    Raises:
        ValueError: the path is missing or damaged, has no file of snippets, or a line is not a
            number, a rating and a text with tabs between them.
    """
    name, content = _find_snippets(path)
    snippets = []
    for number, line in enumerate(lines_of(content, name), start=1):
        fields = line.split("\t", 2)
        if len(fields) < 3 or not words_of(fields[2]):
            raise ValueError(
                f"{name}, line {number}: expected a number, a rating and a sentence, with tabs "
                f"between them; got {line[:60]!r}"
            )
        try:
            rating = float(fields[1])
        except ValueError:
            rating = math.nan
        if not math.isfinite(rating):
            raise ValueError(
                f"{name}, line {number}: expected a rating, a number; got {fields[1][:40]!r}"
            )
        snippets.append((fields[2].strip(), rating))
    return snippets


def _find_snippets(path: str) -> tuple[str, bytes]:
    """Name and content of the file of snippets."""
    if Path(path).is_dir():
        files = {file.as_posix(): file for file in sorted(Path(path).rglob("*")) if file.is_file()}
        for wanted in (SNIPPETS, INNER):
            for name, file in files.items():
                if file.name == wanted:
                    content = read_file(str(file))
                    return (name, content) if wanted == SNIPPETS else _in_tar(name, content)
    elif zipfile.is_zipfile(path):
        return _in_zip(path)
    elif Path(path).name == SNIPPETS:
        return path, read_file(path)
    elif path.endswith((".tar.gz", ".tgz", ".tar")):
        return _in_tar(path, read_file(path))
    raise _none_in(path)


def _none_in(path: str) -> ValueError:
    return ValueError(
        f"expected the source archive of vaderSentiment 0.5 at {path}, zip, tar.gz or its folder, "
        f"with {SNIPPETS} in it; there is no such file"
    )


def _in_zip(path: str) -> tuple[str, bytes]:
    try:
        with zipfile.ZipFile(path) as archive:
            for wanted in (SNIPPETS, INNER):
                for info in archive.infolist():
                    if info.filename.rpartition("/")[2] != wanted:
                        continue
                    where = f"{path}/{info.filename}"
                    with archive.open(info) as file:
                        content = read_at_most(file, where)
                    return (where, content) if wanted == SNIPPETS else _in_tar(where, content)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError) as error:
        raise ValueError(f"expected {path} to be a zip file; it is damaged ({error})") from error
    raise _none_in(path)


def _in_tar(path: str, content: bytes) -> tuple[str, bytes]:
    """The file of snippets in a tar file, perhaps in a tar.gz file within it."""
    try:
        if content[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as packed:
                content = read_at_most(packed, path)
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            members = {
                member.name: member
                for member in archive
                if member.isfile() and member.name.rpartition("/")[2] in (SNIPPETS, INNER)
            }
            for wanted in (SNIPPETS, INNER):
                for name, member in members.items():
                    file = archive.extractfile(member)
                    if file is not None and name.rpartition("/")[2] == wanted:
                        where, found = f"{path}/{name}", read_at_most(file, path)
                        return (where, found) if wanted == SNIPPETS else _in_tar(where, found)
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise ValueError(f"expected {path} to be a tar.gz file; it is damaged ({error})") from error
    raise _none_in(path)


def _read(paths: Sequence[str]) -> list[Sentence]:
    """Sentences of a file for each label, or of one file with labels; empty without a path.

    Raises:
        ValueError: a file cannot be read, two have the same name, or a line has another form.
    """
    if len(paths) == 1:
        return list(_labelled(paths[0]))
    found = []
    names = [Path(path.removesuffix(".gz")).stem for path in paths]
    for name, path in zip(names, paths, strict=True):
        if names.count(name) > 1:
            raise ValueError(
                f"each label has one file, and its name: expected different names; got "
                f"{name} in {' and '.join(paths)}"
            )
        found += [Sentence(text, name) for text in _full_lines(path)]
    return found


def _labelled(path: str) -> Iterator[Sentence]:
    for number, line in enumerate(read_lines(path), start=1):
        label, tab, text = line.partition("\t")
        if not line.strip():
            continue
        if not tab or not label.strip() or not words_of(text):
            raise ValueError(
                f"{path}, line {number}: expected a label, a tab and a sentence; got {line[:60]!r}"
            )
        yield Sentence(text.strip(), label.strip())


def _full_lines(path: str) -> list[str]:
    """Lines of a file that have words; others are left out and counted."""
    lines = read_lines(path)
    full = [line.strip() for line in lines if words_of(line)]
    if len(full) < len(lines):
        logger.warning("lines without words left out: %d of %s", len(lines) - len(full), path)
    return full
