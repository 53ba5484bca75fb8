"""Images of classes from folders and zip files; :mod:`tasks.pictures` says how they are read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from tasks.base import Array
from tasks.limits import advice, limit
from tasks.pictures import ENDINGS, decoded, files_in, grey, location, size_of, white_of

__all__ = ["ClassImages", "read_classes", "read_digits", "read_runs"]


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
        with files_in(path) as files:
            for member, read in files.items():
                # macOS puts hidden files with the names of images into its zip files.
                if member.suffix.lower() not in ENDINGS or member.name.startswith("."):
                    continue
                found = True
                image = decoded(read(), location(path, member))
                if not known:
                    first, shape = location(path, member), image.shape
                if one_size and image.shape != shape:
                    raise ValueError(
                        f"{location(path, member)}: expected an image of {size_of(shape)}, as "
                        f"that of {first}; got {size_of(image.shape)}"
                    )
                # With the shape: the same bytes may be images of different sides.
                content = f"{image.shape} {image.dtype}".encode() + image.tobytes()
                if (digest := hashlib.sha256(content).digest()) in known:
                    duplicates += 1
                    continue
                pixels += image.size
                if pixels > most:
                    raise ValueError(
                        f"{location(path, member)}: expected images of at most {most:,} pixels in "
                        f"all; got more; {advice()}"
                    )
                known.add(digest)
                name = location(path, member.parent)
                classes.setdefault(name, []).append(image)
                folders[name] = (Path(path).stem, *member.parent.parts)
        if not found:
            raise ValueError(f"expected images in folders, one for each class, in {path}; got none")
    white = white_of(image for images in classes.values() for image in images)
    read_in = []
    for name, images in classes.items():
        greys = [grey(image, white) for image in images]
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
    with files_in(path) as members:
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
        for number, line in enumerate(_text(members[labels](), location(path, labels)), 1):
            names = line.split()
            missing = [name for name in names if root / name not in members]
            if len(names) != 2 or missing:
                raise ValueError(
                    f"{location(path, labels)}, line {number}: expected the names of two images; "
                    f"got {line!r}" + (f", and {missing[0]} is not there" if missing else "")
                )
            pairs.append([root / name for name in names])
        if not pairs:
            raise ValueError(
                f"{location(path, labels)}: expected the names of two images in each line; "
                f"it is empty"
            )
        known = sorted({example for _, example in pairs})
        images = {
            name: decoded(members[name](), location(path, name))
            for name in [*known, *(item for item, _ in pairs)]
        }
        white = white_of(images.values())
        images = {name: grey(image, white) for name, image in images.items()}
        shapes = {image.shape for image in images.values()}
        if len(shapes) != 1:
            raise ValueError(
                f"{location(path, labels.parent)}: expected images of one size; "
                f"got {' and '.join(sorted(map(size_of, shapes)))}"
            )
        runs.append(
            (
                np.stack([images[example] for example in known]),
                np.stack([images[item] for item, _ in pairs]),
                np.array([known.index(example) for _, example in pairs]),
            )
        )
    kinds = {
        f"{len(examples)} examples and {len(items)} items of {size_of(items.shape[1:])}"
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


def _text(content: bytes, where: str) -> list[str]:
    """Lines of a text in UTF-8.

    Raises:
        ValueError: the text is not UTF-8.
    """
    try:
        return content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: expected UTF-8; got another") from error
