"""The reader of images for all tasks: sizes, channels, folders, and what is no image."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.pictures import read_image, read_images
from tests.images import png, written

COLOURS = np.random.default_rng(0).integers(0, 256, (6, 4, 3)).astype(np.uint8)


def saved(path: Path, image: Image.Image) -> Path:
    image.save(path)
    return path


def test_colours_and_greys_in_zero_to_one(tmp_path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(COLOURS))
    read = read_image(path, 6, 4, 3)
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, COLOURS / 255, atol=1e-6)
    # ITU-R 601, as Pillow says.
    greys = COLOURS @ np.array([0.299, 0.587, 0.114]) / 255
    np.testing.assert_allclose(read_image(path, 6, 4)[..., 0], greys, atol=1.5 / 255)


@pytest.mark.parametrize("mode", ["L", "I;16"])
def test_a_grey_image_has_three_equal_channels(tmp_path, mode) -> None:
    grey = COLOURS[..., 0].astype(np.uint16 if mode == "I;16" else np.uint8)
    image = Image.fromarray(grey * 257 if mode == "I;16" else grey)
    read = read_image(saved(tmp_path / "a.png", image), 6, 4, 3)
    np.testing.assert_allclose(read, np.repeat(COLOURS[..., :1], 3, -1) / 255, atol=1e-6)


def test_transparent_colours_lie_on_white_paper(tmp_path) -> None:
    alpha = np.where(np.arange(24).reshape(6, 4) % 2, 255, 0).astype(np.uint8)
    image = Image.fromarray(np.dstack([COLOURS, alpha]))
    read = read_image(saved(tmp_path / "a.png", image), 6, 4, 3)
    np.testing.assert_allclose(read[alpha == 255], COLOURS[alpha == 255] / 255, atol=1e-6)
    assert (read[alpha == 0] == 1).all()


def test_a_wide_image_is_stretched_or_cropped(tmp_path) -> None:
    # Black, white, white, black: the middle is white.
    wide = np.repeat(np.array([0, 255, 255, 0], np.uint8), 4)[None].repeat(8, 0)
    path = saved(tmp_path / "a.png", Image.fromarray(wide))
    assert (read_image(path, 8, 8, crop=True) == 1).all()
    stretched = read_image(path, 8, 8)[0, :, 0]
    np.testing.assert_allclose(stretched, stretched[::-1], atol=1e-6)
    assert stretched[0] == 0
    assert stretched[4] == 1


def test_what_is_no_image_is_named(tmp_path) -> None:
    (tmp_path / "a.png").write_text("none")
    with pytest.raises(ValueError, match=r"a\.png: expected an image; it cannot be read"):
        read_image(tmp_path / "a.png", 4, 4)
    with pytest.raises(ValueError, match=r"b\.png: expected an image; there is no such file"):
        read_image(tmp_path / "b.png", 4, 4)
    with pytest.raises(ValueError, match="expected an image; it is a folder"):
        read_image(tmp_path, 4, 4)
    with pytest.raises(ValueError, match=r"channels must be 1, greys, or 3, colours; got 2"):
        read_image(saved(tmp_path / "c.png", Image.new("L", (4, 4))), 4, 4, 2)


@pytest.mark.parametrize("name", ["folder", "images.zip"])
def test_a_folder_is_read_in_order_with_all_that_is_within(tmp_path, name) -> None:
    files = {
        "b/2.png": png(20),
        "a.png": png(10),
        "b/1.PNG": png(30),
        "notes.txt": b"",
        ".x.png": b"",
    }
    names, images = read_images(written(tmp_path / name, files), 4, 4)
    assert names == ["a.png", "b/1.PNG", "b/2.png"]
    assert images.shape == (3, 4, 4, 1)
    np.testing.assert_allclose(images[:, 0, 0, 0] * 255, [10, 30, 20], atol=1e-4)


def test_a_folder_that_cannot_be_used_is_named(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"expected a folder or a zip file at .*; there is none"):
        read_images(tmp_path / "none", 4, 4)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match=r"expected images in .*, files that end in .*; got none"):
        read_images(tmp_path, 4, 4)
    (tmp_path / "small.png").write_bytes(png(0, (3, 8)))
    message = r"small\.png: expected an image of at least 4 x 4 pixels; got 3 x 8 pixels"
    with pytest.raises(ValueError, match=message):
        read_images(tmp_path, 4, 4, crop=True)
    assert read_images(tmp_path, 4, 4)[1].shape == (1, 4, 4, 1)
    (tmp_path / "none.png").write_bytes(io.BytesIO(b"none").read())
    with pytest.raises(ValueError, match=r"none\.png: expected an image"):
        read_images(tmp_path, 4, 4)


def test_a_folder_of_too_many_pixels_is_refused(tmp_path, monkeypatch) -> None:
    written(tmp_path / "folder", {f"{i}.png": png(i) for i in range(20)})
    monkeypatch.setenv("MEMNETS_LIMIT", "256")
    with pytest.raises(ValueError, match=r"expected images of at most 256 pixels in all"):
        read_images(tmp_path / "folder", 4, 4)
