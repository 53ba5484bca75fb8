"""Images with captions (Xu et al. 2015): scenes of digits, or a folder of images of your own."""

from __future__ import annotations

import io
import itertools
import logging
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from memnets.batches import Batch, unpadded
from memnets.checks import check_positive
from memnets.extras import check_extra
from memnets.vocabulary import Words
from tasks.base import Array, Items, Task, check_range
from tasks.fewshot.files import read_digits
from tasks.limits import check_room
from tasks.pictures import ENDINGS, decoded, files_in, location, read_image, resized
from tasks.text import lines_of
from tasks.tokens import answer_batch, answered_rows, said

__all__ = ["Captions", "Named", "caption_words", "share_within"]

#: Words for the digits, and for the nine places of a scene, row by row.
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
PLACES = (
    "at the top left", "at the top", "at the top right",
    "at the left", "in the middle", "at the right",
    "at the bottom left", "at the bottom", "at the bottom right",
)  # fmt: skip
#: Pixels of a side of a digit, and rows and columns of places in a scene.
DIGIT, GRID = 8, 3
#: Of each ten drawings of a digit in their order, the numbers of those of each split.
DRAWINGS = {"train": range(7), "val": (7,), "test": (8, 9)}
#: Of a folder, one image in this many is held out for each of validation and test, at most the
#: next number.
HELD_OUT, MOST_HELD_OUT = 10, 1000
#: The mode of Pillow in which a PNG keeps an image, of those that it has no place for.
AS_PNG = {
    **dict.fromkeys(("CMYK", "HSV", "LAB", "RGBX", "YCbCr"), "RGB"),
    **{"La": "LA", "PA": "RGBA", "RGBa": "RGBA"},
}
#: An upper bound that no useful test reaches; it catches slips of the keyboard.
MOST_SCENES = 10**7
#: A name in a checkpoint.
VOCABULARY = "vocabulary"

logger = logging.getLogger(__name__)


class Named(NamedTuple):
    """A digit of a scene, and the word of the caption that names it.

    Attributes:
        step: step of the answer, from 0, whose target is the digit's word.
        digit: 0 to 9.
        top: first row of pixels of the digit's box.
        left: first column of pixels of the digit's box; a box has 8 x 8 pixels.
    """

    step: int
    digit: int
    top: int
    left: int


class _Captioned(NamedTuple):
    """Images of a folder with their captions.

    Attributes:
        names: name of each image.
        images: uint8 ``[n, side, side, channels]``, a quarter of the memory of numbers in
            ``[0, 1]``.
        captions: the captions of each image, in words.
    """

    names: list[str]
    images: Array
    captions: list[list[list[str]]]


class Captions(Task):
    """Images with captions: the answer says in words what is to be seen.

    The source is images ``[B, height, width, channels]``, in ``[0, 1]``. Targets are the words of
    the caption, then :data:`~memnets.batches.END`, ``[B, T]``; inputs are ``BEGIN``, then the
    targets one step late.

    Without a folder the images are scenes: some digits of scikit-learn's 1797 drawings, 8 x 8
    pixels each, white on black. A scene has three rows of three places. A place has at most one
    digit, anywhere within it, so that digits do not overlap. The caption names the digits row by
    row, from left to right: ``three at the top left , seven in the middle``. Of each ten drawings
    of a digit, seven are for training, one for validation and two for the test, so that the digits
    of a test are drawings that training has not seen.

    With a folder the images are those that its file of captions names. A line of the file is the
    name of an image, a tab and a caption; an image may have several captions, each on a line of its
    own. Captions are split into words and signs, in small letters. The vocabulary is that of the
    training captions. One image in ten is held out for validation, and one for the test, chosen by
    its name. A pass over the training data has every caption once, in an order of its own. The test
    has every image once; an answer is exact if it is any caption of the image.

    Args:
        folder: folder or zip file of the images and their captions; ``None`` = scenes of digits.
        captions: name of the file of captions in there, in UTF-8.
        side: number of pixels of a side of all images, at least 24 for scenes. Images of another
            size are stretched to it.
        colour: whether images of a folder have three channels; scenes and grey images have one.
        least: fewest times that a word must come in the training captions, at least 1; rarer words
            are ``UNKNOWN``.
        min_digits: fewest digits of a scene, at least 1.
        max_digits: most digits of a scene, at most 9.
        training_digits: most digits of a scene of the training at present, as a curriculum sets it;
            ``max_digits`` by default.
        training_places: whether the captions of the training say at present where each digit is, as
            a curriculum sets it; without the places they are ``three , seven``. Validation and test
            always have the places, and the captions of a folder stay as they are.
        test_scenes: number of scenes of the test, at least 1.
        max_words: most words of a caption of a folder, at least 1; ``None`` = 2 ``side`` + 9, the
            most that a model says by default (``max_length`` of :class:`~memnets.training.Tokens`).
        settings: see :class:`~tasks.Task`; a sequence is an image with a caption. With a folder,
            validation has all images held out for it.

    Raises:
        ValueError: a number is out of its range, or a file cannot be used.
        MissingExtra: Pillow, or for the scenes scikit-learn, is not installed.
    """

    def __init__(
        self,
        folder: str | None = None,
        captions: str = "captions.txt",
        side: int = 32,
        colour: bool = True,
        least: int = 1,
        min_digits: int = 1,
        max_digits: int = 4,
        training_digits: int | None = None,
        training_places: bool = True,
        test_scenes: int = 1000,
        max_words: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        max_words = 2 * side + 9 if max_words is None else max_words
        check_positive(side=side, least=least, test_scenes=test_scenes, max_words=max_words)
        check_range("digits", min_digits, max_digits, least=1)
        if max_digits > len(PLACES):
            raise ValueError(
                f"max_digits must be at most {len(PLACES)}, the places of a scene; got {max_digits}"
            )
        if test_scenes > MOST_SCENES:
            raise ValueError(f"test_scenes must be at most {MOST_SCENES:,}; got {test_scenes:,}")
        if folder is None and side < GRID * DIGIT:
            raise ValueError(
                f"side must be at least {GRID * DIGIT}, three digits of {DIGIT} pixels; got {side}"
            )
        check_extra("images", "tasks.Captions", "PIL", *(["sklearn"] if folder is None else []))
        self.folder = folder
        self.file = captions
        self.side = side
        self.least = least
        self.max_words = max_words
        self.digits = min_digits, max_digits
        self.training_digits = training_digits
        self.training_places = training_places
        self.test_scenes = test_scenes
        self.input_size = 3 if colour and folder is not None else 1
        self.check_room(side, side, self.input_size)
        # Borders of the rows and columns of places, as even as whole pixels allow.
        self._borders = [line * side // GRID for line in range(GRID + 1)]
        self._words: Words | None = None
        # What is read when it is first needed: a task restored from a checkpoint knows its words,
        # and captions images without the folder.
        self._drawings: dict[str, list[Array]] = {}
        self._splits: dict[str, _Captioned] = {}

    @property
    def training_digits(self) -> int | None:
        """Most digits of a scene of the training at present; ``None`` = ``max_digits``."""
        return self._training_digits

    @training_digits.setter
    def training_digits(self, most: int | None) -> None:
        least, limit = self.digits
        if most is not None and not least <= most <= limit:
            raise ValueError(
                f"training_digits must be from min_digits = {least} to max_digits = {limit}; "
                f"got {most}"
            )
        self._training_digits = most

    @property
    def words(self) -> Words:
        """Vocabulary of the captions: that of a checkpoint, or of the training captions.

        Raises:
            ValueError: the folder cannot be used.
        """
        if self._words is None:
            if self.folder is None:
                self._words = Words.of([DIGITS, [","], *(place.split() for place in PLACES)])
            else:
                captions = self._captioned("train").captions
                self._words = Words.of(
                    [words for each in captions for words in each], least=self.least
                )
        return self._words

    @property
    def output_size(self) -> int:  # type: ignore[override]
        """Number of words, with the marks."""
        return len(self.words)

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint: the vocabulary."""
        return {VOCABULARY: self.words.to_tensor()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the vocabulary of a checkpoint."""
        self._words = Words.from_tensor(state_dict[VOCABULARY])

    def test_names(self) -> list[str]:
        """``test``."""
        return ["test"]

    def batches(self, split: str) -> int:
        """See :meth:`~tasks.Task.batches`; a set has as many as its images need."""
        if self.folder is not None and split != "train":
            images = len(self._captioned(split).names)
        elif split == "test":
            images = self.test_scenes
        else:
            return super().batches(split)
        return -(-images // self.validation_batch_size)

    def batch(self, split: str, index: int) -> Batch:
        """Batch ``index`` of ``train``, ``val`` or ``test``."""
        if self.folder is None:
            scenes = self._scenes(split, index)
            images: Array = np.zeros((len(scenes), self.side, self.side, 1), np.float32)
            for image, scene in zip(images, scenes, strict=True):
                for (_, _, top, left), drawing in scene:
                    image[top : top + DIGIT, left : left + DIGIT, 0] = drawing / 255
            captions = [self._caption(split, [digit for digit, _ in scene]) for scene in scenes]
        else:
            of_split = self._captioned(split)
            chosen = self._rows(split, index)
            images = of_split.images[[row for row, _ in chosen]].astype(np.float32) / 255
            captions = [of_split.captions[row][place] for row, place in chosen]
        tokens = [self.words.encode(words) for words in captions]
        return answer_batch(torch.from_numpy(images), None, tokens)

    def named(self, split: str, index: int) -> list[list[Named]]:
        """The digits of each scene of a batch, in the order of the caption; empty for a folder."""
        if self.folder is not None:
            return []
        return [[digit for digit, _ in scene] for scene in self._scenes(split, index)]

    def measure(self, split: str, answers: list[Tensor]) -> dict[str, float]:
        """``exact``: the share of answers that are a caption of their image, for a folder."""
        if self.folder is None:
            return {}
        of_split = self._captioned(split)
        rows = answered_rows(self, split, answers)
        said = [self.words.decode(tokens) for *_, tokens in rows]
        # Captions of the test as the vocabulary has them: a rare word is unknown there too.
        known = [
            [self.words.decode(self.words.encode(words)) for words in captions]
            for captions in of_split.captions[: len(said)]
        ]
        right = [one in captions for one, captions in zip(said, known, strict=True)]
        return {"exact": float(np.mean(right))}

    def texts(self, split: str, answers: list[Tensor]) -> list[tuple[str, str, str]]:
        """Name of the image or number of the scene, its caption and the answer."""
        names = None if self.folder is None else self._captioned(split).names
        return [
            (
                f"scene {number + 1}" if names is None else names[number],
                self._said(batch.targets[row].tolist()),
                self._said(tokens),
            )
            for number, (batch, row, tokens) in enumerate(answered_rows(self, split, answers))
        ]

    def labels(self, batch: Batch, row: int) -> tuple[list[str], list[str]]:
        """No names for the source, an image; the words of the targets."""
        # A word for each token, whatever it is: a picture has a panel for each.
        tokens = said(unpadded(batch.targets, batch.target_mask, row))
        return [], [self.words.name(token) for token in tokens]

    def items(self, path: str) -> list[Any]:
        """Images to caption: a single image, or all images of a folder in the order of their names.

        The images in the folders within are read too, as in training.

        Raises:
            ValueError: there is no such file, the folder has no image, or an image cannot be read.
        """
        if not Path(path).is_dir():
            return Items([path], [path])
        with files_in(path) as files:
            found = [str(Path(path, member)) for member in files if _is_image(member)]
        if not found:
            raise ValueError(f"expected images in the folder {path}; got none")
        return Items(found, found)

    def asked(self, items: Sequence[Any], first: int = 1) -> Batch:
        """A batch of images to caption, see :meth:`tasks.Task.asked`.

        Args:
            items: paths of images, images of Pillow, or arrays ``[height, width]`` or
                ``[height, width, 3]``, uint8; of any size.
            first: number of the first item, for an error.

        Raises:
            ValueError: an item is no image.
        """
        images = []
        for number, item in enumerate(items, first):
            try:
                images.append(self._read(item))
            except ValueError as error:
                raise ValueError(f"item {number}: {error}") from error
        source = torch.from_numpy(np.stack(images))
        return answer_batch(source, None, [[] for _ in items])

    def says(self, batch: Batch, answers: Tensor) -> list[str]:
        """Captions for answers ``[B, T]``."""
        return [self._said(tokens) for tokens in answers.tolist()]

    def _said(self, tokens: Iterable[int]) -> str:
        return " ".join(self.words.decode(tokens))

    # Scenes

    def _scenes(self, split: str, index: int) -> list[list[tuple[Named, Array]]]:
        """Digits and drawings, uint8 ``[8, 8]``, of each scene of a batch."""
        random = self.random(split, index)
        size = self.sequences(split, self.validation_batch_size)
        if split == "test":  # the last batch may be smaller
            size = min(size, self.test_scenes - index * size)
        least, most = self.digits
        # A curriculum changes the training alone: validation stays comparable throughout.
        if split == "train" and self.training_digits is not None:
            most = self.training_digits
        counts = random.integers(least, most + 1, size)
        pools = self._pools(split)
        borders = self._borders
        room = [end - start - DIGIT + 1 for start, end in itertools.pairwise(borders)]
        scenes = []
        for count in counts:
            places = np.sort(random.permutation(len(PLACES))[:count])
            scene, step = [], 0
            for place in places:
                digit = int(random.integers(len(pools)))
                drawing = pools[digit][random.integers(len(pools[digit]))]
                row, column = divmod(int(place), GRID)
                top, left = (
                    borders[line] + int(random.integers(room[line])) for line in (row, column)
                )
                scene.append((Named(step, digit, top, left), drawing))
                # The digit's word, those of the place, and a comma.
                step += 2 + len(self._place_words(split, place))
            scenes.append(scene)
        return scenes

    def _caption(self, split: str, digits: Sequence[Named]) -> list[str]:
        """Words for the digits of a scene of a split, which come row by row."""
        phrases = [
            [DIGITS[each.digit], *self._place_words(split, self._place(each))] for each in digits
        ]
        return [word for phrase in phrases for word in (",", *phrase)][1:]

    def _place_words(self, split: str, place: int) -> list[str]:
        """Words for a place in the captions of a split; none while the training leaves them out."""
        return PLACES[place].split() if self.training_places or split != "train" else []

    def _place(self, digit: Named) -> int:
        """Number of a digit's place."""
        row, column = (
            int(np.searchsorted(self._borders, start, "right")) - 1
            for start in (digit.top, digit.left)
        )
        return row * GRID + column

    def _pools(self, split: str) -> list[Array]:
        """Drawings of each digit for a split, uint8 ``[n, 8, 8]``."""
        if not self._drawings:
            classes = [np.asarray(one.images) for one in read_digits()]
            for name, numbers in DRAWINGS.items():
                self._drawings[name] = [
                    images[np.isin(np.arange(len(images)) % 10, list(numbers))]
                    for images in classes
                ]
        return self._drawings[split]

    # A folder

    def _rows(self, split: str, index: int) -> list[tuple[int, int]]:
        """Number of the image and of its caption, for each row of a batch of a folder."""
        of_split = self._captioned(split)
        if split != "train":
            first = index * self.validation_batch_size
            images = range(len(of_split.names))[first : first + self.validation_batch_size]
            return [(image, 0) for image in images]
        pairs = [
            (image, place)
            for image, captions in enumerate(of_split.captions)
            for place in range(len(captions))
        ]
        places = index * self.batch_size + np.arange(self.batch_size)
        passes = {
            number: self.random("pass", number).permutation(len(pairs))
            for number in set((places // len(pairs)).tolist())
        }
        return [pairs[passes[place // len(pairs)][place % len(pairs)]] for place in places.tolist()]

    def _captioned(self, split: str) -> _Captioned:
        """Images and captions of a split of the folder, read when they are first needed."""
        if not self._splits:
            assert self.folder is not None
            with files_in(self.folder) as files:
                captions = _read_captions(self.folder, self.file, files, self.max_words)
                if len(captions) < 3:
                    raise ValueError(
                        f"expected at least 3 images with captions in {self.folder}, for training, "
                        f"validation and test; got {len(captions)}"
                    )
                size = self.side, self.side, self.input_size
                check_room("the images of the folder", len(captions), *size)
                images, other = {}, 0
                for name in captions:
                    where = location(self.folder, name)
                    pixels = decoded(files[name](), where, self.input_size)
                    other += pixels.shape[:2] != size[:2]
                    images[name] = np.round(255 * resized(pixels, *size)).astype(np.uint8)
            if other:
                logger.warning(
                    "images resized to %d x %d pixels: %d of %d", *size[:2], other, len(images)
                )
            # By the name, so that the same images are held out for every order of the file and
            # every seed.
            names = sorted(images, key=lambda name: (zlib.crc32(str(name).encode()), name))
            held = min(MOST_HELD_OUT, max(1, len(names) // HELD_OUT))
            shares = {"val": names[:held], "test": names[held : 2 * held]}
            shares["train"] = names[2 * held :]
            self._splits = {
                split: _Captioned(
                    [str(name) for name in share],
                    np.stack([images[name] for name in share]),
                    [captions[name] for name in share],
                )
                for split, share in shares.items()
            }
        return self._splits[split]

    def _read(self, item: Any) -> Array:
        """An image to caption, float32 ``[side, side, channels]``.

        Raises:
            ValueError: the item is no image.
        """
        from PIL import Image

        size = self.side, self.side, self.input_size
        if isinstance(item, str | Path):
            return read_image(item, *size)
        image, kind = item, type(item).__name__
        if isinstance(item, np.ndarray):
            kind = f"an array {list(item.shape)} of {item.dtype}"
            if item.dtype == np.uint8 and item.size and item.shape[2:] in ((), (3,)):
                image = Image.fromarray(item) if item.ndim > 1 else item
        if not isinstance(image, Image.Image):
            raise ValueError(
                "expected the path of an image, an image of Pillow, or an array [height, width] or "
                f"[height, width, 3] of uint8; got {kind}"
            )
        # As a file, so that every kind of image is read by the one reader of images.
        file = io.BytesIO()
        if image.mode in AS_PNG:
            image = image.convert(AS_PNG[image.mode])
        elif image.mode == "I" and image.format == "PNG":
            # Some versions of Pillow open a PNG of 16 bits in the mode of 32 bits.
            image = image.convert("I;16")
        try:
            image.save(file, "TIFF" if image.mode in ("F", "I") else "PNG")
        except OSError as error:
            raise ValueError(f"expected an image in a mode such as RGB; {error}") from error
        return resized(decoded(file.getvalue(), "an image of Pillow", self.input_size), *size)


def caption_words(caption: str) -> list[str]:
    """Words and signs of a caption, in small letters: ``It's a dog.`` is ``it's a dog .``."""
    return re.findall(r"\w+(?:['\u2019-]\w+)*|[^\w\s]", caption.lower())


def share_within(
    weights: Tensor, named: Sequence[Sequence[Named]], grid: tuple[int, int], side: int
) -> float:
    """Share of the attention that lies on the digit being named, a mean over all digits.

    At the step of a digit's word, it is the sum of the weights of all patches that overlap the
    digit's box. A patch is a cell of the grid that divides the image evenly.

    Args:
        weights: weights of each step over the patches, row by row, ``[B, T, S]``.
        named: the digits of each scene, see :meth:`Captions.named`.
        grid: rows and columns of the patches; their product is S.
        side: number of pixels of a side of the images.

    Raises:
        ValueError: the weights do not fit the grid, or there is no digit.
    """
    rows, columns = grid
    if weights.shape[-1] != rows * columns:
        raise ValueError(
            f"weights must be [B, T, {rows * columns}], for {rows} x {columns} patches; "
            f"got {list(weights.shape)}"
        )

    def overlap(cells: int, start: int) -> Tensor:
        """Whether each of a number of cells overlaps the 8 pixels from ``start`` on."""
        edges = torch.arange(cells + 1) * (side / cells)
        return (edges[:-1] < start + DIGIT) & (edges[1:] > start)

    shares = []
    for of_image, digits in zip(weights, named, strict=True):
        for digit in digits:
            inside = overlap(rows, digit.top)[:, None] & overlap(columns, digit.left)
            shares.append(of_image[digit.step, inside.flatten()].sum())
    if not shares:
        raise ValueError("expected scenes with digits; got none")
    return float(torch.stack(shares).mean())


def _is_image(file: PurePosixPath) -> bool:
    """Whether a file in a folder has the name of an image, and is not hidden."""
    return file.suffix.lower() in ENDINGS and not file.name.startswith(".")


def _read_captions(
    folder: str, name: str, files: Mapping[PurePosixPath, Callable[[], bytes]], most: int
) -> dict[PurePosixPath, list[list[str]]]:
    """Captions of each image of a folder, in words, in the order of the file.

    Args:
        folder: path of the folder or zip file, for errors.
        name: name of the file of captions in there.
        files: reads each file of the folder, by its name in there.
        most: most words of a caption.

    Raises:
        ValueError: the file is missing, a line is no name with a caption, a caption is too long, or
            an image or its caption is missing.
    """
    path = location(folder, PurePosixPath(name))
    if PurePosixPath(name) not in files:
        raise ValueError(f"expected captions in a file {path}; there is none")
    found: dict[PurePosixPath, list[list[str]]] = {}
    for number, line in enumerate(lines_of(files[PurePosixPath(name)](), path), 1):
        if not line.strip():
            continue
        image, tab, caption = line.partition("\t")
        where = f"{path}, line {number}"
        if not tab:
            raise ValueError(
                f"{where}: expected the name of an image, a tab and a caption; got {line[:80]!r}"
            )
        if not (words := caption_words(caption)):
            raise ValueError(f"{where}: expected a caption of {image!r}; it is empty")
        if len(words) > most:
            raise ValueError(
                f"{where}: expected a caption of at most {most} words, as max_words says; "
                f"got {len(words)}"
            )
        if (member := PurePosixPath(image.strip())) not in files:
            raise ValueError(f"{where}: expected an image {image!r} in {folder}; there is none")
        found.setdefault(member, []).append(words)
    missing = [file for file in files if _is_image(file) and file not in found]
    if missing:
        more = f", nor for {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(
            f"expected a caption for {str(missing[0])!r} in {path}; there is none{more}"
        )
    return found
