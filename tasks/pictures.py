"""Images from files: the one reader of images for all tasks.

The first picture of a file is read and turned by its EXIF orientation. In grey, colours become
their brightness. Greys of 16 bits are divided by 257. Transparent parts show white paper, as in a
viewer, or black paper if nothing could be seen on white. Formats without a value for white
(floating point and 32 bits) get the least of 1, 255 and 65535 that no number exceeds, of the image
or of the data set.
"""

from __future__ import annotations

import functools
import io
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from memnets.checks import check_positive
from tasks.base import Array
from tasks.limits import advice, limit, read_at_most

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "ENDINGS",
    "decoded",
    "files_in",
    "grey",
    "location",
    "read_image",
    "read_images",
    "resized",
    "size_of",
    "white_of",
]

#: Endings of the names of images.
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


def read_image(
    path: str | Path, height: int, width: int, channels: int = 1, crop: bool = False
) -> Array:
    """Read an image of any size in the size that a task has.

    Args:
        path: a file of an image.
        height: pixels of a column of the result, at least 1.
        width: pixels of a row of the result, at least 1.
        channels: 1 = greys, 3 = red, green and blue.
        crop: whether the image keeps its proportions, and loses what is beyond the middle; else it
            is stretched, and nothing is lost.

    Returns:
        float32 ``[height, width, channels]`` in ``[0, 1]``, 1 = white.

    Raises:
        ValueError: a number is out of its range; or the file is missing, is not an image, is
            damaged or too large.
    """
    check_positive(height=height, width=width)
    path = Path(path)
    if not path.is_file():
        kind = "it is a folder" if path.is_dir() else "there is no such file"
        raise ValueError(f"{path}: expected an image; {kind}")
    pixels = decoded(_reader(path)(), str(path), channels)
    return resized(pixels, height, width, channels, crop)


def read_images(
    path: str | Path, height: int, width: int, channels: int = 1, crop: bool = False
) -> tuple[list[str], Array]:
    """Read all images in a folder or a zip file, and in the folders within, by :func:`read_image`.

    Files with the names of other kinds, and hidden files, are passed over.

    Args:
        path: a folder or a zip file.
        height: as in :func:`read_image`.
        width: as in :func:`read_image`.
        channels: as in :func:`read_image`.
        crop: as in :func:`read_image`; True also refuses an image that is smaller than asked.

    Returns:
        The names of the images within the folder, in order, and their pixels, float32
        ``[n, height, width, channels]`` in ``[0, 1]``.

    Raises:
        ValueError: there is no such folder, or no image in it; an image cannot be read or is
            smaller than asked; or the images together have more pixels than
            :func:`tasks.limits.limit`.
    """
    check_positive(height=height, width=width)
    names, images, most = [], [], limit()
    with files_in(str(path)) as files:
        for member, read in files.items():
            # macOS puts hidden files with the names of images into its zip files.
            if member.suffix.lower() not in ENDINGS or member.name.startswith("."):
                continue
            where = location(str(path), member)
            pixels = decoded(read(), where, channels)
            if crop and (pixels.shape[0] < height or pixels.shape[1] < width):
                raise ValueError(
                    f"{where}: expected an image of at least {size_of((height, width))}; "
                    f"got {size_of(pixels.shape)}"
                )
            names.append(str(member))
            images.append(resized(pixels, height, width, channels, crop))
            if len(images) * images[0].size > most:
                raise ValueError(
                    f"{where}: expected images of at most {most:,} pixels in all; got more; "
                    f"{advice()}"
                )
    if not images:
        raise ValueError(
            f"expected images in {path}, files that end in {', '.join(sorted(ENDINGS))}; got none"
        )
    return names, np.stack(images)


def resized(pixels: Array, height: int, width: int, channels: int = 1, crop: bool = False) -> Array:
    """The pixels of an image in another size.

    Args:
        pixels: the result of :func:`decoded`.
        height: as in :func:`read_image`.
        width: as in :func:`read_image`.
        channels: as in :func:`read_image`.
        crop: as in :func:`read_image`.

    Returns:
        float32 ``[height, width, channels]`` in ``[0, 1]``.
    """
    from PIL import ImageOps
    from PIL.Image import Resampling, fromarray

    image = fromarray(grey(pixels, white_of([pixels])))
    if image.size != (width, height):
        if crop:
            image = ImageOps.fit(image, (width, height), Resampling.BILINEAR)
        else:
            image = image.resize((width, height), Resampling.BILINEAR)
    shares = np.asarray(image, np.float32).reshape(height, width, -1) / 255
    return np.broadcast_to(shares, (height, width, channels)).copy()


@contextmanager
def files_in(path: str) -> Iterator[dict[PurePosixPath, Callable[[], bytes]]]:
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


def decoded(content: bytes, where: str, channels: int = 1) -> Array:
    """Decode an image.

    Args:
        content: the bytes of a file.
        where: name of the file, for an error.
        channels: 1 = greys, 3 = red, green and blue.

    Returns:
        uint8 ``[height, width]``, or ``[height, width, 3]`` for three channels. Greys are float64
        ``[height, width]`` if their white is unknown, see :func:`white_of`; and with three
        channels, greys of more than 8 bits stay greys.

    Raises:
        ValueError: the content is not an image, is damaged, or has too many pixels.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if channels not in (1, 3):
        raise ValueError(f"channels must be 1, greys, or 3, colours; got {channels}")
    if not content:
        raise ValueError(f"{where}: expected an image; the file is empty")
    most = limit() // BYTES_OF_A_PIXEL
    try:
        with warnings.catch_warnings():
            # Pillow raises an error at twice its bound and warns from the bound on: so the bound is
            # half of ours. It also warns of damaged metadata, which do not matter here.
            warnings.simplefilter("ignore")
            with _pillow_bound(most // 2):
                image = Image.open(io.BytesIO(content), formats=FORMATS)
                ImageOps.exif_transpose(image, in_place=True)
                return _pixels(image, channels)
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
        if isinstance(error, UnidentifiedImageError):  # which names an address in memory
            reason = f"it is none of {', '.join(FORMATS)}"
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


def _pixels(image: Image.Image, channels: int) -> Array:
    """Pixels of an image, see :func:`decoded`."""
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
    colours = "L" if channels == 1 else "RGB"
    palette = "" if image.palette is None else image.palette.mode
    if not ("A" in image.getbands() or "transparency" in image.info or palette.endswith("A")):
        return np.asarray(image.convert(colours))
    whole = image.convert("RGBA")
    seen = np.asarray(whole.getchannel("A")).astype(np.float64) / 255
    drawn = np.asarray(whole.convert("RGB").convert(colours)).astype(np.float64)
    return _on_paper(drawn, seen if channels == 1 else seen[..., np.newaxis])


def _on_paper(drawn: Array, seen: Array) -> Array:
    """Put pixels on white paper, or on black paper if only that shows them.

    Args:
        drawn: greys ``[height, width]`` or colours ``[height, width, 3]``, in ``[0, 255]``.
        seen: opacity of each pixel, ``[height, width]`` or ``[height, width, 1]``, in ``[0, 1]``.

    Returns:
        uint8, the shape of ``drawn``.
    """
    on_white = 255 - (255 - drawn) * seen
    on_black = drawn * seen
    hidden = seen.min() < 1 and on_white.min() > 255 - FAINT and on_black.max() >= FAINT
    return np.round(on_black if hidden else on_white).astype(np.uint8)


def white_of(images: Iterable[Array]) -> float:
    """White of the images whose format does not define it: those that are not uint8."""
    top = max((image.max() for image in images if image.dtype != np.uint8), default=0.0)
    return next(white for white in WHITES if top <= white)


def grey(image: Array, white: float) -> Array:
    """Scale an image to uint8 ``[height, width]``."""
    return image if image.dtype == np.uint8 else np.round(image * (255 / white)).astype(np.uint8)


def location(path: str, member: PurePosixPath) -> str:
    """Name of a file in a folder or a zip file, for messages."""
    return f"{path}/{member}"


def size_of(shape: tuple[int, ...]) -> str:
    """Size of an image ``[height, width, ...]`` in words."""
    return f"{shape[1]} x {shape[0]} pixels"
