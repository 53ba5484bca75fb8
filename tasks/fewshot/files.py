"""Images in class folders: in a folder, or in a zip file."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from tasks.base import Array

__all__ = ["ClassImages", "read_classes", "read_digits", "read_runs"]

ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}


class ClassImages(NamedTuple):
    """The images of a class.

    Attributes:
        name: where they are, for messages.
        folders: the folder that they are in and those that it is in, the innermost last.
        images: uint8 ``[n, height, width]``, of grey.
    """

    name: str
    folders: tuple[str, ...]
    images: Array


def read_classes(paths: Sequence[str]) -> tuple[list[ClassImages], int]:
    """Read all images; those of a folder are a class.

    An image whose content came before, in whatever class and file, is left out, and so is a class
    of which no image is left: Omniglot's archives share some alphabets.

    Args:
        paths: folders or zip files, at least one.

    Returns:
        The classes, in the order of the paths and of the names in each, and how many images were
        left out.

    Raises:
        ValueError: a path is missing, is no zip file or has no image, or an image cannot be read or
            has another size than the first.
    """
    classes: dict[str, list[Array]] = {}
    folders: dict[str, tuple[str, ...]] = {}
    known: set[bytes] = set()
    duplicates, first = 0, ""
    for path in paths:
        found = False
        for member, content in _members(path):
            # Hidden files are no images: a Mac leaves some in the zip files that it makes.
            if member.suffix.lower() not in ENDINGS or member.name.startswith("."):
                continue
            found = True
            image = _decoded(content, _where(path, member))
            if not known:
                first, shape = _where(path, member), image.shape
            if image.shape != shape:
                raise ValueError(
                    f"{_where(path, member)}: expected an image of {_size(shape)}, as that of "
                    f"{first}; got {_size(image.shape)}"
                )
            if (pixels := image.tobytes()) in known:
                duplicates += 1
                continue
            known.add(pixels)
            name = _where(path, member.parent)
            classes.setdefault(name, []).append(image)
            folders[name] = (Path(path).stem, *member.parent.parts)
        if not found:
            raise ValueError(f"expected images in folders, one for each class, in {path}; got none")
    return [
        ClassImages(name, folders[name], np.stack(images)) for name, images in classes.items()
    ], duplicates


def read_runs(path: str) -> tuple[Array, Array, Array]:
    """Read classification runs as those of Lake et al. 2015.

    Each folder has a file ``class_labels.txt``; a line of it names the image of an item and that of
    the example of the same class. There is one example of each class.

    Args:
        path: a folder or a zip file of runs.

    Returns:
        For all runs in the order of their names, the examples, uint8 ``[runs, N, height, width]``,
        the items, ``[runs, Q, height, width]``, and which example is of the class of each,
        ``[runs, Q]``.

    Raises:
        ValueError: the path is missing, is no zip file or has no run; a line names no image that is
            there; the runs have different numbers of images, or images of different sizes.
    """
    members = dict(_members(path))
    lists = [member for member in members if member.name == "class_labels.txt"]
    if not lists:
        raise ValueError(f"expected runs, folders with a class_labels.txt, in {path}; got none")
    runs = []
    for labels in lists:
        # Names in the lists begin with the folder of the run.
        root = labels.parent.parent
        pairs = []
        for number, line in enumerate(members[labels].decode().splitlines(), 1):
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
            name: _decoded(members[name], _where(path, name))
            for name in [*known, *(item for item, _ in pairs)]
        }
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
    """Handwritten digits of 8 x 8 pixels, which scikit-learn brings along: ``0`` to ``9``."""
    # Slow to load, and of no use where there are files.
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return [
        ClassImages(f"digit {digit}", (str(digit),), images[digits.target == digit])
        for digit in range(10)
    ]


def _members(path: str) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Names and contents of the files in a folder or a zip file, in the order of their names."""
    if Path(path).is_dir():
        for file in sorted(Path(path).rglob("*")):
            if file.is_file():
                yield PurePosixPath(file.relative_to(path).as_posix()), file.read_bytes()
        return
    if not Path(path).is_file():
        raise ValueError(f"expected a folder or a zip file at {path}; there is none")
    try:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                if not name.endswith("/"):
                    yield PurePosixPath(name), archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise ValueError(
            f"expected {path} to be a zip file; it cannot be read ({error})"
        ) from error


def _decoded(content: bytes, where: str) -> Array:
    """Grey, uint8 ``[height, width]``."""
    try:
        return np.asarray(Image.open(io.BytesIO(content)).convert("L"))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{where}: expected an image; it cannot be read ({error})") from error


def _where(path: str, member: PurePosixPath) -> str:
    return f"{path}/{member}"


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]} pixels"
