"""Files of images for tasks of images; and pictures that are not drawn."""

import inspect
import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import pytest
from matplotlib.figure import Figure
from PIL import Image

from memnets.viewing import plots


def png(number: int, size: tuple[int, int] = (4, 4)) -> bytes:
    """An image of one grey."""
    file = io.BytesIO()
    Image.new("L", size, number).save(file, "PNG")
    return file.getvalue()


def written(path: Path, files: Mapping[str, bytes]) -> Path:
    """A zip file, or a folder if the path has no ending."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    for name, content in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return path


def runs(count: int = 2, ways: int = 3) -> dict[str, bytes]:
    """Runs whose items are of the classes of the examples, backwards."""
    files = {}
    for run in range(1, count + 1):
        lines = []
        for c in range(1, ways + 1):
            files[f"run{run:02}/training/class{c}.png"] = png(10 * run + c)
            files[f"run{run:02}/test/item{c}.png"] = png(10 * run + ways + 1 - c)
            lines.append(
                f"run{run:02}/test/item{c}.png run{run:02}/training/class{ways + 1 - c}.png"
            )
        files[f"run{run:02}/class_labels.txt"] = "\n".join(lines).encode()
    return files


def save_blank_pictures(patch: pytest.MonkeyPatch) -> None:
    """Pictures are put together, but saved blank: to draw them takes long."""

    def blank(figure: Figure, file: BinaryIO, **options: object) -> None:
        file.write(png(255))

    patch.setattr(Figure, "savefig", blank)


def leave_pictures_blank(patch: pytest.MonkeyPatch) -> None:
    """Pictures are blank files: to put them together takes most of the time of a small run."""

    def blank(draw: Callable[..., Path]) -> Callable[..., Path]:
        taken = inspect.signature(draw)

        def left(*arguments: object, **named: object) -> Path:
            path = Path(taken.bind(*arguments, **named).arguments["path"])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(255))
            return path

        return left

    for name in plots.__all__:
        draw = getattr(plots, name)
        if inspect.isfunction(draw) and "path" in inspect.signature(draw).parameters:
            patch.setattr(plots, name, blank(draw))
