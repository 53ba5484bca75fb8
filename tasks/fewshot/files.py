"""Images of classes from folders and zip files.

The first picture of a file is read in grey and turned by its EXIF orientation. Colours become their
brightness; greys of 16 bits are divided by 257. Transparent parts show white paper, as in a viewer,
or black paper if nothing could be seen on white. Formats without a value for white (floating point
and 32 bits) get the least of 1, 255 and 65535 that no number of the data set exceeds.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tasks.base import Array
from tasks.limits import advice, limit, read_at_most

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["ClassImages", "read_classes", "read_digits", "read_runs"]

ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
#: The only formats that Pillow may try, whatever a file's name. Some of its others, such as
#: EPS, run programs.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
#: Candidates for the white of greys without one.
WHITES = (1.0, 255.0, 65535.0)
#: Least difference from the white paper at which ink can be seen.
FAINT = 26
#: Bytes of memory that a pixel may take while an image is read; see :mod:`tasks.limits`.
BYTES_OF_A_PIXEL = 8


class ClassImages(NamedTuple):
    """The images of a class.

    Attributes:
        name: path of the images, for messages.
        folders: the names of the folders above the images, the innermost last.
        images: n grey images, uint8 ``[height, width]``: one array, or a list if sizes differ.
    """

    name: str
    folders: tuple[str, ...]
    images: Array | list[Array]


def read_classes(paths: Sequence[str], one_size: bool = True) -> tuple[list[ClassImages], int]:
    """Read all images; the images of a folder are a class.

    An image is left out if an earlier one, of any class and file, has the same content; a class
    without images is left out too. (Omniglot's archives share some alphabets.) Links to folders are
    followed, except to a folder above the link. No folder is read twice.

    Args:
        paths: folders or zip files, at least one.
        one_size: whether all images must have the size of the first.

    Returns:
        The classes, in the order of the paths and of the names in each, and the number of images
        left out.

    Raises:
        ValueError: a path is missing, is not a zip file or has no image; an image cannot be read or
            has another size than the first; or the images have more pixels than
            :func:`tasks.limits.limit`.
    """
    classes: dict[str, list[Array]] = {}
    folders: dict[str, tuple[str, ...]] = {}
    known: set[bytes] = set()
    duplicates, first, pixels, most = 0, "", 0, limit()
    for path in paths:
        found = False
        with _files(path) as files:
            for member, read in files.items():
                # macOS puts hidden files with the names of images into its zip files.
                if member.suffix.lower() not in ENDINGS or member.name.startswith("."):
                    continue
                found = True
                image = _decoded(read(), _where(path, member))
                if not known:
                    first, shape = _where(path, member), image.shape
                if one_size and image.shape != shape:
                    raise ValueError(
                        f"{_where(path, member)}: expected an image of {_size(shape)}, as that of "
                        f"{first}; got {_size(image.shape)}"
                    )
                # With the shape: the same bytes may be images of different sides.
                content = f"{image.shape} {image.dtype}".encode() + image.tobytes()
                if (digest := hashlib.sha256(content).digest()) in known:
                    duplicates += 1
                    continue
                pixels += image.size
                if pixels > most:
                    raise ValueError(
                        f"{_where(path, member)}: expected images of at most {most:,} pixels in "
                        f"all; got more; {advice()}"
                    )
                known.add(digest)
                name = _where(path, member.parent)
                classes.setdefault(name, []).append(image)
                folders[name] = (Path(path).stem, *member.parent.parts)
        if not found:
            raise ValueError(f"expected images in folders, one for each class, in {path}; got none")
    white = _white(image for images in classes.values() for image in images)
    read_in = []
    for name, images in classes.items():
        greys = [_grey(image, white) for image in images]
        together = one_size or len({image.shape for image in greys}) == 1
        read_in.append(ClassImages(name, folders[name], np.stack(greys) if together else greys))
    return read_in, duplicates


def read_runs(path: str) -> tuple[Array, Array, Array]:
    """Read classification runs in the form of Lake et al. 2015.

    The folder of a run has a file ``class_labels.txt``. Each of its lines names the image of an
    item and the image of the example of the same class. A class has one example.

    Args:
        path: a folder or a zip file of runs.

    Returns:
        For all runs in the order of their names: the examples, uint8 ``[runs, N, height, width]``;
        the items, ``[runs, Q, height, width]``; and the number of each item's example,
        ``[runs, Q]``.

    Raises:
        ValueError: the path is missing, is not a zip file or has no run; a line names a missing
            image; or the runs differ in the number or the size of their images.
    """
    with _files(path) as members:
        return _runs(path, members)


def _runs(
    path: str, members: Mapping[PurePosixPath, Callable[[], bytes]]
) -> tuple[Array, Array, Array]:
    lists = [member for member in members if member.name == "class_labels.txt"]
    if not lists:
        raise ValueError(f"expected runs, folders with a class_labels.txt, in {path}; got none")
    runs = []
    for labels in lists:
        # Names in the lists begin with the folder of the run.
        root = labels.parent.parent
        pairs = []
        for number, line in enumerate(_text(members[labels](), _where(path, labels)), 1):
            names = line.split()
            missing = [name for name in names if root / name not in members]
            if len(names) != 2 or missing:
                raise ValueError(
                    f"{_where(path, labels)}, line {number}: expected the names of two images; "
                    f"got {line!r}" + (f", and {missing[0]} is not there" if missing else "")
                )
            pairs.append([root / name for name in names])
        if not pairs:
            raise ValueError(
                f"{_where(path, labels)}: expected the names of two images in each line; "
                f"it is empty"
            )
        known = sorted({example for _, example in pairs})
        images = {
            name: _decoded(members[name](), _where(path, name))
            for name in [*known, *(item for item, _ in pairs)]
        }
        white = _white(images.values())
        images = {name: _grey(image, white) for name, image in images.items()}
        shapes = {image.shape for image in images.values()}
        if len(shapes) != 1:
            raise ValueError(
                f"{_where(path, labels.parent)}: expected images of one size; "
                f"got {' and '.join(sorted(map(_size, shapes)))}"
            )
        runs.append(
            (
                np.stack([images[example] for example in known]),
                np.stack([images[item] for item, _ in pairs]),
                np.array([known.index(example) for _, example in pairs]),
            )
        )
    kinds = {
        f"{len(examples)} examples and {len(items)} items of {_size(items.shape[1:])}"
        for examples, items, _ in runs
    }
    if len(kinds) != 1:
        raise ValueError(
            f"expected runs of as many images each, of one size, in {path}; "
            f"got {', and '.join(sorted(kinds))}"
        )
    examples, items, answers = zip(*runs, strict=True)
    return np.stack(examples), np.stack(items), np.stack(answers)


def read_digits() -> list[ClassImages]:
    """Handwritten digits ``0`` to ``9`` of 8 x 8 pixels, from scikit-learn."""
    # Imported here: it is slow to load, and not needed with files.
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return [
        ClassImages(f"digit {digit}", (str(digit),), images[digits.target == digit])
        for digit in range(10)
    ]


@contextmanager
def _files(path: str) -> Iterator[dict[PurePosixPath, Callable[[], bytes]]]:
    """Open a folder or a zip file.

    Yields:
        For each file in the order of the names, a function that reads it, by name.

    Raises:
        ValueError: there is no such folder or zip file, or a file cannot be read.
    """
    if Path(path).is_dir():
        yield {
            PurePosixPath(file.relative_to(path).as_posix()): _reader(file)
            for file in sorted(_walk(Path(path)))
        }
        return
    if not Path(path).is_file():
        raise ValueError(f"expected a folder or a zip file at {path}; there is none")
    damaged = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError)

    def member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
        where = f"{path}/{info.filename}"
        # The size in the archive may be false, so the read below counts too.
        if info.file_size > limit():
            raise ValueError(
                f"{where}: expected at most {limit():,} bytes; got {info.file_size:,}; "
                f"{advice(info.file_size)}"
            )
        try:
            with archive.open(info) as file:
                return read_at_most(file, where)
        except damaged as error:
            raise ValueError(
                f"expected {path} to be a zip file; it cannot be read ({error})"
            ) from error

    try:
        archive = zipfile.ZipFile(path)
    except damaged as error:
        raise ValueError(
            f"expected {path} to be a zip file; it cannot be read ({error})"
        ) from error
    with archive:
        infos = {info.filename: info for info in archive.infolist() if not info.is_dir()}
        yield {
            PurePosixPath(name): functools.partial(member, archive, infos[name])
            for name in sorted(infos)
        }


def _walk(root: Path) -> Iterator[Path]:
    """Files in a folder, its subfolders and the folders linked from there, each folder once."""
    seen = {os.path.realpath(root)}
    # Real folders come before links, so that a folder is found by its own name.
    found = [root]
    while found:
        links = []
        for start in found:
            for folder, inside, names in os.walk(start, onerror=_refuse):
                yield from (file for name in names if _is_file(file := Path(folder, name)))
                for name in list(inside):
                    within = Path(folder, name)
                    if within.is_symlink():
                        links.append(within)
                    elif (place := os.path.realpath(within)) in seen:
                        inside.remove(name)
                    else:
                        seen.add(place)
        found = []
        for link in sorted(links):
            place = os.path.realpath(link)
            above = os.path.realpath(link.parent)
            if place not in seen and os.path.commonpath([place, above]) != place:
                seen.add(place)
                found.append(link)


def _is_file(file: Path) -> bool:
    """Whether a path is a file.

    Raises:
        ValueError: the path has the name of an image, but is a broken link.
    """
    if file.suffix.lower() in ENDINGS and file.is_symlink() and not file.exists():
        raise ValueError(f"{file}: expected an image; it is a link to nothing")
    return file.is_file()


def _refuse(error: OSError) -> None:
    raise ValueError(f"{error.filename}: expected a folder that can be read ({error.strerror})")


def _reader(file: Path) -> Callable[[], bytes]:
    def read() -> bytes:
        try:
            with file.open("rb") as opened:
                return read_at_most(opened, str(file))
        except OSError as error:
            raise ValueError(
                f"{file}: expected a file that can be read ({error.strerror})"
            ) from error

    return read


def _text(content: bytes, where: str) -> list[str]:
    """Lines of a text in UTF-8.

    Raises:
        ValueError: the text is not UTF-8.
    """
    try:
        return content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: expected UTF-8; got another") from error


def _decoded(content: bytes, where: str) -> Array:
    """Decode an image to greys ``[height, width]``: uint8, or float64 if its white is unknown.

    Raises:
        ValueError: the content is not an image, is damaged, or has too many pixels.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    most = limit() // BYTES_OF_A_PIXEL
    try:
        with warnings.catch_warnings():
            # Pillow raises an error at twice its bound and warns from the bound on: so the bound is
            # half of ours. It also warns of damaged metadata, which do not matter here.
            warnings.simplefilter("ignore")
            with _pillow_bound(most // 2):
                image = Image.open(io.BytesIO(content), formats=FORMATS)
                ImageOps.exif_transpose(image, in_place=True)
                return _greys(image)
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{where}: expected an image of at most {most:,} pixels; got more; {advice()}"
        ) from error
    except (
        UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, ArithmeticError,
        LookupError, struct.error, zlib.error,
    ) as error:  # fmt: skip
        # Pillow's decoders raise all of these for damaged files.
        reason = " ".join(str(error).split())
        raise ValueError(f"{where}: expected an image; it cannot be read ({reason})") from error


@contextmanager
def _pillow_bound(pixels: int) -> Iterator[None]:
    """Set Pillow's bound on pixels within this context; it is a global variable of Pillow."""
    from PIL import Image

    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, pixels
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _greys(image: Image.Image) -> Array:
    """Greys of an image, see :func:`_decoded`."""
    # Some versions of Pillow open a PNG of 16 bits in the mode of 32 bits.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        greys = np.asarray(image).astype(np.float64) / 257
        clear = image.info.get("transparency")
        seen = np.ones(greys.shape) if clear is None else (np.asarray(image) != clear)
        return _on_paper(np.round(greys), seen.astype(np.float64))
    if image.mode in ("I", "F"):
        numbers = np.asarray(image).astype(np.float64)
        least, top = numbers.min(), numbers.max()
        if not 0 <= least <= top <= WHITES[-1]:  # also catches NaN
            raise ValueError(
                f"greys must be from 0 to at most {WHITES[-1]:.0f}; got {least:g} to {top:g}: "
                "save it with 8 or 16 bits"
            )
        return numbers
    palette = "" if image.palette is None else image.palette.mode
    if not ("A" in image.getbands() or "transparency" in image.info or palette.endswith("A")):
        return np.asarray(image.convert("L"))
    whole = image.convert("RGBA")
    seen = np.asarray(whole.getchannel("A")).astype(np.float64) / 255
    return _on_paper(np.asarray(whole.convert("RGB").convert("L")).astype(np.float64), seen)


def _on_paper(greys: Array, seen: Array) -> Array:
    """Put greys on white paper, or on black paper if only that shows them.

    Args:
        greys: ``[height, width]``, in ``[0, 255]``.
        seen: opacity of each pixel, ``[height, width]``, in ``[0, 1]``.

    Returns:
        uint8 ``[height, width]``.
    """
    on_white = 255 - (255 - greys) * seen
    on_black = greys * seen
    hidden = seen.min() < 1 and on_white.min() > 255 - FAINT and on_black.max() >= FAINT
    return np.round(on_black if hidden else on_white).astype(np.uint8)


def _white(images: Iterable[Array]) -> float:
    """White of the images whose format does not define it."""
    top = max((image.max() for image in images if image.dtype != np.uint8), default=0.0)
    return next(white for white in WHITES if top <= white)


def _grey(image: Array, white: float) -> Array:
    """Scale an image to uint8 ``[height, width]``."""
    return image if image.dtype == np.uint8 else np.round(image * (255 / white)).astype(np.uint8)


def _where(path: str, member: PurePosixPath) -> str:
    return f"{path}/{member}"


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]} pixels"
