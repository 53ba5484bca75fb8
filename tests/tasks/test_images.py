"""Images as people have them: kinds of pixels, sizes, turns, links; each is read as it is seen."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tasks import FewShot
from tasks.fewshot.files import read_classes, read_runs
from tasks.fewshot.images import _moved, _squared
from tests.images import png, runs, written

SIZE = (9, 7)


def encoded(image: Image.Image, kind: str = "PNG", **settings) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def read(tmp_path: Path, *contents: bytes, ending: str = "png") -> list[np.ndarray]:
    """What is read of images in one folder."""
    files = {f"a/{i}.{ending}": content for i, content in enumerate(contents)}
    ((one,), duplicates) = read_classes([str(written(tmp_path / "classes", files))])
    assert duplicates == 0
    return list(one.images)


def random_greys(seed: int = 0, top: int = 255) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, top + 1, SIZE)


# Transparency


#: Mode -> an image of it with a grey and how much it hides the paper, each [h, w].
def with_alpha(mode: str, grey: np.ndarray, alpha: np.ndarray) -> Image.Image:
    grey, alpha = grey.astype(np.uint8), alpha.astype(np.uint8)
    bands = {"LA": [grey, alpha], "RGBA": [grey, grey, grey, alpha]}
    if mode in bands:
        return Image.fromarray(np.stack(bands[mode], -1), mode)
    # All greys but one are opaque: that one is the number that is named as transparent.
    assert set(np.unique(alpha)) <= {0, 255}
    image = Image.fromarray(np.where(alpha == 0, 77, np.where(grey == 77, 78, grey)).astype("u1"))
    if mode == "P":
        image = image.convert("P")
        image.putpalette([value for i in range(256) for value in (i, i, i)])
    image = image.convert("RGB") if mode == "RGB" else image
    image.info["transparency"] = (77, 77, 77) if mode == "RGB" else 77
    return image


@pytest.mark.parametrize("mode", ["LA", "RGBA", "L", "RGB", "P"])
@pytest.mark.parametrize("ink", [0, 255])
def test_ink_on_transparent_ground_is_told_from_it(tmp_path, mode: str, ink: int) -> None:
    there = [np.random.default_rng(i).random(SIZE) < 0.3 for i in range(3)]
    images = [with_alpha(mode, np.full(SIZE, ink), 255 * mask) for mask in there]
    contents = [encoded(image, transparency=image.info.get("transparency")) for image in images]
    for mask, image in zip(there, read(tmp_path, *contents), strict=True):
        # Black on white as any viewer shows it; white on white would not be seen.
        assert set(image[mask].tolist()) == {ink}
        assert set(image[~mask].tolist()) == {255 - ink}


def test_half_transparent_ink_is_half_as_dark(tmp_path) -> None:
    alpha = random_greys()
    (image,) = read(tmp_path, encoded(with_alpha("LA", np.zeros(SIZE), alpha)))
    assert abs(image.astype(int) - (255 - alpha)).max() <= 1


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_what_is_opaque_is_as_without_transparency(tmp_path, mode: str) -> None:
    grey = random_greys()
    (image,) = read(tmp_path, encoded(with_alpha(mode, grey, np.full(SIZE, 255))))
    assert np.array_equal(image, grey)


def test_a_palette_with_degrees_of_transparency(tmp_path) -> None:
    image = Image.fromarray(np.arange(63, dtype=np.uint8).reshape(SIZE)).convert("P")
    image.putpalette([0] * 768)
    content = encoded(image, transparency=bytes(range(0, 252, 4)) + bytes(193))
    (read_in,) = read(tmp_path, content)
    assert np.array_equal(read_in.flatten(), 255 - np.arange(0, 252, 4))


# Greys of other kinds


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_greys_of_16_bits_keep_their_order(tmp_path, kind: str) -> None:
    greys = [random_greys(seed, 65535) for seed in range(3)]
    contents = [encoded(Image.fromarray(grey.astype(np.uint16)), kind) for grey in greys]
    for grey, image in zip(greys, read(tmp_path, *contents), strict=True):
        assert abs(image - grey / 257).max() <= 0.5


def test_a_grey_of_16_bits_may_be_named_as_transparent(tmp_path) -> None:
    grey = random_greys(top=65535).astype(np.uint16)
    grey[2, 3] = 700
    content = encoded(Image.fromarray(grey), transparency=700)
    (image,) = read(tmp_path, content)
    assert image[2, 3] == 255
    assert abs(image - grey / 257)[grey != 700].max() <= 0.5


@pytest.mark.parametrize(("mode", "white"), [("I", 255), ("I", 65535), ("F", 1), ("F", 255)])
def test_numbers_without_a_white_are_shares_of_one_for_all(tmp_path, mode: str, white) -> None:
    kind = np.int32 if mode == "I" else np.float32
    shares = [
        np.random.default_rng(seed).random(SIZE) * scale for seed, scale in ((0, 1), (1, 0.01))
    ]
    shares[0][0, 0] = 1.0
    values = [(share * white).astype(kind) for share in shares]
    contents = [encoded(Image.fromarray(value, mode), "TIFF") for value in values]
    # The second alone would seem to be brighter.
    for value, image in zip(values, read(tmp_path, *contents, ending="tif"), strict=True):
        assert abs(image - value * (255 / white)).max() <= 0.5


@pytest.mark.parametrize(
    ("value", "message"), [(-1.0, "got -1 to 0"), (70000.0, "got 0 to 70000"), (np.nan, "got nan")]
)
def test_numbers_that_are_no_greys_are_named(tmp_path, value: float, message: str) -> None:
    image = Image.new("F", SIZE)
    image.putpixel((1, 1), value)
    with pytest.raises(ValueError, match=rf"0\.tif: expected an image; .*{message}"):
        read(tmp_path, encoded(image, "TIFF"), ending="tif")


@pytest.mark.parametrize("mode", ["1", "P", "RGB", "CMYK"])
def test_other_modes_are_read_by_their_brightness(tmp_path, mode: str) -> None:
    grey = np.where(random_greys() > 127, 255, 0).astype(np.uint8)
    content = encoded(Image.fromarray(grey).convert(mode), "PNG" if mode in "1PRGB" else "TIFF")
    (image,) = read(tmp_path, content)
    assert abs(image.astype(int) - grey).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_orientation_says(tmp_path, orientation: int) -> None:
    grey = random_greys().astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    (image,) = read(tmp_path, encoded(Image.fromarray(grey), exif=exif))
    turned = {
        1: grey, 2: grey[:, ::-1], 3: grey[::-1, ::-1], 4: grey[::-1],
        5: grey.T, 6: np.rot90(grey, -1), 7: grey[::-1, ::-1].T, 8: np.rot90(grey),
    }[orientation]  # fmt: skip
    assert np.array_equal(image, turned)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_of_an_animation_the_first_picture_is_read(tmp_path, kind: str) -> None:
    first, second = (Image.new("L", SIZE, grey) for grey in (0, 255))
    content = encoded(first, kind, save_all=True, append_images=[second])
    (image,) = read(tmp_path, content)
    assert not image.any()


def test_what_is_no_image_format_is_not_run(tmp_path) -> None:
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 7\nshowpage\n"
    with pytest.raises(ValueError, match="expected an image; it cannot be read"):
        read(tmp_path, script)


@given(
    cut=st.integers(0, 10**6), kind=st.sampled_from(["PNG", "GIF", "TIFF", "JPEG", "BMP", "WEBP"])
)
def test_a_truncated_image_is_named_or_whole(tmp_path_factory, cut: int, kind: str) -> None:
    whole = encoded(Image.fromarray(random_greys().astype(np.uint8)), kind)
    content = whole[: cut % len(whole)]
    try:
        read(tmp_path_factory.mktemp("cut"), content)
        return
    except ValueError as error:
        message = str(error)
    assert "0.png: expected an image" in message
    assert "\n" not in message


# Sizes


def test_images_of_many_sizes_keep_their_proportions_on_paper(tmp_path) -> None:
    """A square of ink in pictures of any shape stays a square."""
    files = {}
    for c in range(6):
        for i in range(3):
            pixels = np.full((40 + 20 * i, 40 + 10 * c), 255, np.uint8)
            pixels[10:30, 10:30] = 3 * c + i
            files[f"{c}/{i}.png"] = encoded(Image.fromarray(pixels))
    path = str(written(tmp_path / "classes", files))
    task = FewShot([path], side=20, ways=2, shots=[1], dark_ink=True, batch_size=20)
    for image in task.batch("train", 0).source[..., :400].reshape(-1, 20, 20).numpy():
        assert image[[0, -1]].max() == image[:, [0, -1]].max() == 0
        height, width = (image.max(axis).astype(bool).sum() for axis in (1, 0))
        assert abs(int(height) - int(width)) <= 1
    with pytest.raises(ValueError, match="expected an image of 40 x 40 pixels"):
        FewShot([path], ways=2, shots=[1])


@given(height=st.integers(1, 9), width=st.integers(1, 9))
def test_paper_is_added_around_the_middle(height: int, width: int) -> None:
    square = _squared(np.ones((height, width), np.uint8))
    side = max(height, width)
    assert square.shape == (side, side)
    assert square.sum() == height * width
    rows, columns = np.nonzero(square)
    for places, length in ((rows, height), (columns, width)):
        assert 0 <= (side - 1 - places.max()) - places.min() <= 1
        assert places.max() - places.min() == length - 1


def test_a_variant_is_turned_about_the_middle_and_moved_a_little() -> None:
    side, most = 100, 0.07 * 100
    image = Image.fromarray(np.full((side, side), 0, np.uint8))
    image.paste(255, (48, 48, 52, 52))
    random = np.random.default_rng(0)
    moves = []
    for _ in range(200):
        ink = np.asarray(_moved(image, random)).astype(float)
        moves.append(
            [(ink.sum(axis) @ (np.arange(side) + 0.5)) / ink.sum() - 50 for axis in (0, 1)]
        )
    # From the least to the greatest move in both directions, and no further: the map is inverse.
    assert abs(np.array(moves)).max() < 1.25 * most + 0.5
    for axis in (0, 1):
        along = np.array(moves)[:, axis]
        assert along.min() < -0.7 * most
        assert along.max() > 0.7 * most
        assert abs(along.mean()) < 0.15 * most


# Links


def test_a_linked_folder_is_a_class_and_loops_end(tmp_path) -> None:
    outside = written(tmp_path / "outside", {f"{i}.png": png(100 + i) for i in range(3)})
    root = written(tmp_path / "classes", {f"a/{i}.png": png(i) for i in range(3)})
    targets = {"linked": outside, "other": outside, "again": root / "a", "further": tmp_path}
    for link, target in {**targets, "a/up": root, "a/self": root / "a"}.items():
        os.symlink(target, root / link)
    os.symlink(root / "a" / "0.png", root / "a" / "9.png")
    classes, duplicates = read_classes([str(root)])
    assert [(one.folders, len(one.images)) for one in classes] == [
        (("classes", "a"), 3), (("classes", "linked"), 3),
    ]  # fmt: skip
    assert duplicates == 1
    os.symlink(tmp_path / "nowhere.png", root / "a" / "8.png")
    with pytest.raises(ValueError, match=r"a/8\.png: expected an image; it is a link to nothing"):
        read_classes([str(root)])


def test_two_folders_that_link_to_each_other_are_read_once(tmp_path) -> None:
    files = {f"{c}/{i}.png": png(10 * ord(c) % 256 + i) for c in "ab" for i in range(2)}
    root = written(tmp_path / "classes", files)
    os.symlink(root / "a", root / "b" / "a")
    os.symlink(root / "b", root / "a" / "b")
    classes, duplicates = read_classes([str(root)])
    assert [one.folders[1:] for one in classes] == [("a",), ("b",)]
    assert duplicates == 0


def test_labels_of_runs_that_are_no_text_are_named(tmp_path) -> None:
    files = {**runs(count=1), "run01/class_labels.txt": b"\xff\xfe"}
    with pytest.raises(ValueError, match=r"class_labels\.txt: expected UTF-8; got another"):
        read_runs(str(written(tmp_path / "runs", files)))
