"""Translation (Sutskever et al. 2014; Bahdanau et al. 2015)."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from memnets.batches import BEGIN, END, Batch, padded, unpadded
from memnets.checks import check_positive
from memnets.extras import check_extra
from memnets.vocabulary import Vocabulary
from tasks.base import check_texts
from tasks.limits import read_file
from tasks.lines import Mapped, Rows, sampled, taken
from tasks.pairs import PairsTask, TokenPairs
from tasks.sets import divided, paths_of
from tasks.translation.files import EMPTY_SIDES, read_columns, read_two_files

__all__ = ["Translation"]

#: Numbers of words that divide sources into groups, for BLEU by the length of the source.
LENGTHS = (5, 10, 15, 20, 30)
#: Fewest sentences of a group with a BLEU of its own.
LEAST_SENTENCES = 20
#: Most pairs of ``cldr``; it has hardly more.
MOST_PHRASES = 1_000_000
#: Most tokens of a vocabulary; no useful one is larger.
MOST_TOKENS = 10_000_000
#: Letters of languages without spaces between words: Thai to Burmese, kana, Chinese.
UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")

logger = logging.getLogger(__name__)


class Translation(PairsTask):
    """Translation of sentences.

    The source is tokens ``[B, S]``, with :data:`~memnets.batches.END` at the end of each row.
    Targets are the tokens of the translation, then the end mark, ``[B, T]``. Inputs are ``BEGIN``,
    then the targets one step late. ``PAD`` fills the rows. Both languages share a vocabulary of
    sub-words, or each has its own. Vocabularies are trained on the training pairs, or read from
    files, and kept in checkpoints: a task restored from a checkpoint needs no training data to read
    text.

    The source ``cldr`` gives localised phrases, such as dates, units and lists of countries, made
    by rules (:mod:`tasks.translation.cldr`); it is not a natural corpus. ``files`` reads sentences,
    one in each line of two files or of two columns of a file, plain or ``.gz``, in UTF-8.
    ``gettext`` reads catalogues, ``.po`` and ``.mo``. Data is read when it is first needed.

    A pass over the training data is a permutation of its pairs, cut into batches of similar length
    by a budget of tokens. Each pass has its own order of batches. Validation and test have every
    pair, of any length; :attr:`skipped` counts the pairs left out elsewhere.

    Large files are not held in memory (:mod:`tasks.lines`): their pairs are read batch by batch.
    Before the first batch, all training pairs are gone through once for their lengths in tokens;
    the order that follows is kept in the user's cache.

    Args:
        source: source of the pairs: ``cldr``, ``files`` or ``gettext``.
        languages: language to translate from and language to translate into, for ``cldr``.
        sizes: numbers of pairs of training, validation and test, for ``cldr``.
        folder: folder of all files that are not absolute paths.
        train: files of the training pairs: for ``files`` two files, or one with columns; for
            ``gettext`` any number of catalogues.
        val: files of the validation pairs. By default one in 20 of the training sources is held
            out, at least one and at most 1000, chosen by its text.
        test: files of the test pairs; the default is as for ``val``.
        columns: numbers of the columns of source and target, from 0.
        reverse: whether to translate from the second language, file, column or form into the first.
        vocabulary_size: number of tokens of both languages together, with the marks; or a pair of
            numbers, for a vocabulary of the source and one of the target. With equal numbers,
            ``tied`` models share the embeddings.
        vocabulary_files: sentencepiece models to use instead of training: one for both languages,
            or one for the source and one for the target. Their own sizes count, not
            ``vocabulary_size``; their marks may have any numbers.
        vocabulary_kind: ``bpe``, ``unigram`` or ``char``, see
            :meth:`~memnets.vocabulary.Vocabulary.train`.
        vocabulary_sample: most training pairs that a vocabulary is trained on; of more, so many are
            drawn, always the same ones.
        batch_tokens: most tokens of a batch, source and targets with padding. A longer pair of
            validation or test is a batch of its own.
        max_tokens: most tokens of each side of a training pair, with the end mark; longer pairs are
            left out and counted.
        epoch_batches: number of training batches between two validations; by default those of a
            pass over the data.
        validation_batches: number of batches of a validation; all by default.
        bleu_tokenizer: sacrebleu's way to split text into words for BLEU: ``13a`` for languages
            with spaces between words, ``zh`` for Chinese, ``char`` for single characters, ``intl``
            for more kinds of punctuation, ``none`` for text that is split already; and
            ``ja-mecab``, ``ko-mecab``, ``spm``, ``flores101``, ``flores200``, which need packages
            or a model that sacrebleu downloads.
        workers: number of processes that make batches ahead of time, see :class:`~tasks.Task`.
        seed: seed of the phrases of ``cldr`` and of the order of the training data; on the command
            line it follows ``seed_everything``.

    Attributes:
        skipped: number of pairs left out so far, by reason.
        signatures: sacrebleu's settings of each score, by its name, after :meth:`measure`.

    Raises:
        ValueError: a setting is out of its range, or does not go with another one.
    """

    budgeted = True
    kept = ("vocabulary", "target_vocabulary")
    #: It is there if the target has its own.
    optional = ("target_vocabulary",)
    about = "a translation"
    items_are = "pairs"

    def __init__(
        self,
        source: Literal["cldr", "files", "gettext"] = "cldr",
        languages: tuple[str, str] = ("en", "fr"),
        sizes: tuple[int, int, int] = (20_000, 500, 1000),
        folder: str = ".",
        train: list[str] | str | None = None,
        val: list[str] | str | None = None,
        test: list[str] | str | None = None,
        columns: tuple[int, int] = (0, 1),
        reverse: bool = False,
        vocabulary_size: int | tuple[int, int] = 2000,
        vocabulary_kind: Literal["bpe", "unigram", "char"] = "bpe",
        batch_tokens: int = 4096,
        max_tokens: int = 256,
        epoch_batches: int | None = None,
        validation_batches: int | None = None,
        workers: int | None = None,
        seed: int = 0,
        vocabulary_files: list[str] | str | None = None,
        bleu_tokenizer: str = "13a",
        vocabulary_sample: int = 200_000,
    ) -> None:
        super().__init__(
            batch_tokens=batch_tokens,
            epoch_batches=epoch_batches,
            validation_batches=validation_batches,
            workers=workers,
            seed=seed,
        )
        check_positive(
            batch_tokens=batch_tokens, max_tokens=max_tokens, vocabulary_sample=vocabulary_sample
        )
        sizes_of_both = (
            [vocabulary_size] if isinstance(vocabulary_size, int) else list(vocabulary_size)
        )
        for size in sizes_of_both:
            check_positive(vocabulary_size=size)
            if size > MOST_TOKENS:
                raise ValueError(f"vocabulary_size must be at most {MOST_TOKENS:,}; got {size:,}")
        if len(sizes_of_both) not in (1, 2):
            raise ValueError(
                "vocabulary_size must be a number, or two: of the source and of the target; "
                f"got {len(sizes_of_both)}"
            )
        if source not in ("cldr", "files", "gettext"):
            raise ValueError(f"source must be 'cldr', 'files' or 'gettext'; got {source!r}")
        if batch_tokens < 2 * max_tokens:
            raise ValueError(
                "batch_tokens must be at least twice max_tokens, so that a batch holds the longest "
                f"pair; got {batch_tokens} and {max_tokens}"
            )
        self.source = source
        self.languages = languages
        self.columns = columns
        self.reverse = reverse
        self.vocabulary_kind = vocabulary_kind
        self.vocabulary_sample = vocabulary_sample
        self.max_tokens = max_tokens
        self.bleu_tokenizer = bleu_tokenizer
        # An error should come now, not after the training; but sacrebleu is slow to load, and the
        # usual tokenizer is always there.
        if bleu_tokenizer != "13a":
            self._bleu()
        #: A vocabulary for both languages, or one for the source and one for the target.
        self._vocabularies: list[Vocabulary] | None = None
        if vocabulary_files:
            files = [vocabulary_files] if isinstance(vocabulary_files, str) else vocabulary_files
            if len(files) > 2:
                raise ValueError(
                    "vocabulary_files must be one file, or two: of the source and of the target; "
                    f"got {len(files)}"
                )
            paths = [str(Path(folder, file)) for file in files]
            self._vocabularies = [Vocabulary.load(read_file(path), path) for path in paths]
            sizes_of_both = [len(vocabulary) for vocabulary in self._vocabularies]
        self.vocabulary_sizes = sizes_of_both
        self.input_size, self.output_size = sizes_of_both[0], sizes_of_both[-1]
        self.sizes = dict(zip(("train", "val", "test"), sizes, strict=True))
        self.paths = paths_of(folder, train=train, val=val, test=test)
        self.signatures: dict[str, str] = {}
        self._check_source()
        self._pairs: dict[str, Sequence[tuple[str, str]]] = {}

    def _check_source(self) -> None:
        # Before hours of training, not at the test that ends it.
        modules = ["sentencepiece", "sacrebleu", *([] if self.source == "files" else ["babel"])]
        check_extra("translation", "tasks.Translation", *modules)
        if self.source == "cldr":
            check_positive(**{f"sizes_{split}": size for split, size in self.sizes.items()})
            if max(self.sizes.values()) > MOST_PHRASES:
                raise ValueError(
                    f"sizes must be at most {MOST_PHRASES:,}: CLDR has hardly more phrases; "
                    f"got {max(self.sizes.values()):,}"
                )
            if any(self.paths.values()):
                raise ValueError("source=cldr reads no files; got train, val or test")
            from tasks.translation.cldr import locale_of

            if locale_of(self.languages[0]) == locale_of(self.languages[1]):
                raise ValueError(f"languages must be two different ones; got {self.languages}")
            return
        if not self.paths["train"]:
            raise ValueError(f"source={self.source} needs train, the files to train on; got none")
        if self.source == "files":
            for split, paths in self.paths.items():
                if len(paths) > 2:
                    raise ValueError(
                        f"{split} must be two files or one with columns; got {', '.join(paths)}"
                    )
            if min(self.columns) < 0 or self.columns[0] == self.columns[1]:
                raise ValueError(
                    "columns must be two different whole numbers of at least 0; "
                    f"got {self.columns[0]} and {self.columns[1]}"
                )

    def pairs(self, split: str) -> Sequence[tuple[str, str]]:
        """Sentences and translations of ``train``, ``val`` or ``test``, in their order.

        Raises:
            ValueError: a file is missing, damaged, or of another kind.
        """
        if split not in self._pairs:
            self._pairs.update(self._load(split))
        return self._pairs[split]

    def _load(self, split: str) -> dict[str, Sequence[tuple[str, str]]]:
        if self.source == "cldr":
            from tasks.translation.cldr import phrases

            drawn = phrases(*self.languages, self.sizes, self.seed)
            return {name: self._directed(pairs) for name, pairs in drawn.items()}
        missing: list[str] = []
        if split == "train" or not self.paths[split]:
            split = "train"
            missing = [name for name in ("val", "test") if not self.paths[name]]
        # By the source, so that all its pairs are held out together.
        sets, skipped = divided(self._read(split), missing, itemgetter(0), EMPTY_SIDES)
        for reason, count in skipped.items():
            self.skip(reason, count)
        return {name if missing else split: pairs for name, pairs in sets.items()}

    def _read(self, split: str) -> list[tuple[str, Sequence[tuple[str, str]]]]:
        """The pairs of each file, and its name."""
        paths = self.paths[split]
        if self.source == "gettext":
            return [(path, self._directed(self._catalogue(path))) for path in paths]
        if len(paths) == 2:
            read = read_two_files(paths[0], paths[1])
        else:
            read = read_columns(paths[0], self.columns)
        return [(" and ".join(paths), self._directed(read))]

    def _catalogue(self, path: str) -> list[tuple[str, str]]:
        from tasks.translation.catalogues import read_catalogue

        pairs, skipped = read_catalogue(path)
        for reason, count in skipped.items():
            self.skip(reason, count)
        return pairs

    def _directed(self, pairs: Sequence[tuple[str, str]]) -> Sequence[tuple[str, str]]:
        if not self.reverse:
            return pairs
        if isinstance(pairs, Rows):
            return Mapped(pairs, _reversed, "reversed")
        return [(target, source) for source, target in pairs]

    @property
    def vocabulary(self) -> Vocabulary:
        """Vocabulary of the source, and of the target too if they share one.

        It comes from a checkpoint or a file, or is trained on the training pairs.

        Raises:
            ValueError: the training text is too small or too large for ``vocabulary_size``.
        """
        return self.vocabularies()[0]

    @property
    def target_vocabulary(self) -> Vocabulary:
        """Vocabulary of the target; see :attr:`vocabulary`."""
        return self.vocabularies()[-1]

    def vocabularies(self) -> list[Vocabulary]:
        """A vocabulary for both languages, or one for the source and one for the target."""
        if self._vocabularies is None:
            pairs = sampled(self.pairs("train"), self.vocabulary_sample)
            texts: list[list[str]]
            if len(self.vocabulary_sizes) == 1:
                texts = [[sentence for pair in pairs for sentence in pair]]
            else:
                texts = [list(side) for side in zip(*pairs, strict=True)]
            self._vocabularies = [
                Vocabulary.train(text, size, self.vocabulary_kind)
                for text, size in zip(texts, self.vocabulary_sizes, strict=True)
            ]
        return self._vocabularies

    def restore(self, tensors: list[Tensor]) -> None:
        """See :meth:`~tasks.sets.FixedSets.restore`."""
        vocabularies = [Vocabulary.from_tensor(tensor) for tensor in tensors]
        sizes = [len(vocabulary) for vocabulary in vocabularies]
        if sizes != self.vocabulary_sizes:
            expected, got = (
                " and ".join(map(str, each)) for each in (self.vocabulary_sizes, sizes)
            )
            raise ValueError(
                f"expected a checkpoint with a vocabulary of vocabulary_size={expected} "
                f"tokens; got {got}"
            )
        self._vocabularies = vocabularies
        self._encoded.clear()

    def asked(self, items: Sequence[str], first: int = 1) -> Batch:
        """A batch of sentences to translate, see :meth:`tasks.Task.asked`.

        Raises:
            ValueError: a sentence has no words.
        """
        check_texts(items, first, "a sentence")
        for number, sentence in enumerate(items, first):
            if not sentence.strip():
                raise ValueError(f"item {number}: expected a sentence; got one without words")
        source, mask = padded([self.vocabulary.encode(sentence) for sentence in items], last=END)
        inputs = torch.full((len(items), 1), BEGIN)
        return Batch(source, inputs, torch.full_like(inputs, END), mask)

    def says(self, batch: Batch, answers: Tensor) -> list[str]:
        """The text of each answer."""
        return [self.text(row) for row in answers]

    def rows(self, split: str, index: int) -> list[int]:
        """Numbers of a batch's pairs in :meth:`pairs`.

        Raises:
            IndexError: validation or test has no such batch.
        """
        rows: list[int] = self.token_pairs(split).rows(self, split, index).tolist()
        return rows

    def sources(self, split: str, batches: int | None = None) -> list[str]:
        """Sentences to translate, in the order of the batches.

        Args:
            split: ``train``, ``val`` or ``test``.
            batches: number of first batches; ``None`` = all.
        """
        return self._texts(split, 0, batches)

    def references(self, split: str, batches: int | None = None) -> list[str]:
        """Translations of the :meth:`sources`, unchanged, in the same order."""
        return self._texts(split, 1, batches)

    def _texts(self, split: str, side: int, batches: int | None) -> list[str]:
        pairs = self.pairs(split)
        return [
            pair[side]
            for index in range(self.batches(split) if batches is None else batches)
            for pair in taken(pairs, self.rows(split, index))
        ]

    def encoded(self, split: str) -> TokenPairs:
        """See :meth:`~tasks.pairs.PairsTask.encoded`."""
        limit = self.max_tokens if split == "train" else None
        told = hashlib.sha256(b"".join(each.model for each in self.vocabularies()))
        encode = partial(_tokens, self.vocabulary, self.target_vocabulary)
        pairs = self.cut(self.pairs(split), encode, told.hexdigest(), limit)
        self.skip(f"more than {limit} tokens in {split}", pairs.skipped)
        if not pairs.cuts[-1]:
            raise ValueError(
                f"expected pairs of at most max_tokens={limit} tokens a side to train on; "
                f"all {pairs.skipped} have more"
            )
        return pairs

    def source_batch(self, sentences: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """Turn a user's sentences into the source of a batch.

        Args:
            sentences: at least one; a sentence without words becomes the end mark alone.

        Returns:
            Tokens ``[B, S]``, and a mask, bool ``[B, S]``, or ``None`` without padding.

        Raises:
            ValueError: there is no sentence.
        """
        if not sentences:
            raise ValueError("expected sentences to translate; got none")
        return padded([[*self.vocabulary.encode(sentence), END] for sentence in sentences])

    def text(self, tokens: Tensor | Iterable[int]) -> str:
        """Sentence of tokens, up to their first end mark."""
        return self.target_vocabulary.decode(
            tokens.tolist() if isinstance(tokens, Tensor) else tokens
        )

    def labels(self, batch: Batch, row: int) -> tuple[list[str], list[str]]:
        """Sub-words of the source and of the targets, with end marks."""
        sides = (
            (self.vocabulary, batch.source, batch.source_mask),
            (self.target_vocabulary, batch.targets, batch.target_mask),
        )
        source, targets = (
            vocabulary.pieces(unpadded(side, mask, row).tolist())
            for vocabulary, side, mask in sides
        )
        return source, targets

    def texts(self, split: str, answers: list[Tensor]) -> list[tuple[str, str, str]]:
        """Sentences, references and translations, in the order of the batches."""
        texts = [self.text(row) for answer in answers for row in answer]
        sources, references = (
            side(split, len(answers)) for side in (self.sources, self.references)
        )
        return list(zip(sources, references, texts, strict=True))

    def notes(self) -> list[str]:
        """Signatures of the scores, after :meth:`measure`, and a warning if BLEU does not fit."""
        notes = [f"{name}: {signature}" for name, signature in self.signatures.items()]
        if self.signatures and self.bleu_tokenizer == "13a":
            text = "".join(self.references("test")).replace(" ", "")
            if 2 * len(UNSPACED.findall(text)) > len(text):
                notes.append(
                    "bleu: 13a cuts text at its spaces, and this has few; "
                    "see --data.bleu_tokenizer, such as zh or char"
                )
        return notes

    def _bleu(self) -> Any:
        """The metric BLEU.

        Raises:
            ValueError: sacrebleu has no such tokenizer, or lacks a package or model for it.
        """
        # Imported here: it is slow to load, and needed in tests alone.
        from sacrebleu.metrics.bleu import BLEU

        if self.bleu_tokenizer not in BLEU.TOKENIZERS:
            raise ValueError(
                f"bleu_tokenizer must be one of {', '.join(BLEU.TOKENIZERS)}; "
                f"got {self.bleu_tokenizer!r}"
            )
        try:
            return BLEU(tokenize=self.bleu_tokenizer)
        except (Exception, SystemExit) as error:  # it may want a package, or the network
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ValueError(
                f"bleu_tokenizer={self.bleu_tokenizer} cannot be used: {reason}"
            ) from error

    def measure(self, split: str, answers: list[Tensor]) -> dict[str, float]:
        """Score translations of a split against the unchanged references.

        Args:
            split: ``val`` or ``test``.
            answers: tokens ``[B, T]`` for each batch, or for the first batches, in order; tokens
                behind an end mark do not count, and an answer need not have one.

        Returns:
            ``bleu`` (Papineni et al. 2002; cased, with ``bleu_tokenizer``) and ``chrf`` (Popović
            2015) of all sentences by sacrebleu, in ``[0, 100]``; ``exact``, the share of sentences
            equal to the reference except for spaces; and ``bleu_words_1-5`` and so on, BLEU by the
            number of words of the source, for groups of at least 20 sentences.

        Raises:
            ValueError: the number of answers is not the number of sentences.
        """
        # Imported here: it is slow to load, and needed in tests alone.
        from sacrebleu.metrics.chrf import CHRF

        batches = min(len(answers), self.batches(split))
        sources, references = self.sources(split, batches), self.references(split, batches)
        expected = [len(self.rows(split, index)) for index in range(batches)]
        got = [len(answer) for answer in answers]
        if got != expected or not got:
            raise ValueError(
                f"expected an answer to each sentence of {split}, {sum(expected)} in "
                f"{len(expected)} batches; got {sum(got)} in {len(got)}"
            )
        texts = [self.text(row) for answer in answers for row in answer]
        bleu, chrf = self._bleu(), CHRF()
        exact = [a.split() == b.split() for a, b in zip(texts, references, strict=True)]
        scores = {
            "bleu": bleu.corpus_score(texts, [references]).score,
            "chrf": chrf.corpus_score(texts, [references]).score,
            "exact": sum(exact) / len(exact),
        }
        self.signatures = {
            "bleu": str(bleu.get_signature()),
            "chrf": str(chrf.get_signature()),
        }
        for name, signature in self.signatures.items():
            logger.info("%s of %s is %s", name, split, signature)
        words = [len(source.split()) for source in sources]
        for low, high in zip((0, *LENGTHS), (*LENGTHS, max(words)), strict=True):
            rows = [row for row, length in enumerate(words) if low < length <= high]
            if len(rows) >= LEAST_SENTENCES:
                label = f"{low + 1}-{high}" if high in LENGTHS else f"over_{low}"
                scores[f"bleu_words_{label}"] = bleu.corpus_score(
                    [texts[row] for row in rows], [[references[row] for row in rows]]
                ).score
        return scores


def _reversed(_: int, pair: tuple[str, str]) -> tuple[str, str]:
    return pair[1], pair[0]


def _tokens(
    source: Vocabulary, target: Vocabulary, pairs: Sequence[tuple[str, str]]
) -> Iterator[tuple[list[int], list[int]]]:
    """Tokens of both sides of some pairs, with end marks."""
    for one, other in pairs:
        yield [*source.encode(one), END], [*target.encode(other), END]
