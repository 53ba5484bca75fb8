"""Images to draw: the digits and folders, their halves, and how far drawings are from them."""

import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from tasks import Images
from tasks.images import frechet_distance
from tests.images import png, written

FEW = {"held_out": 0.95, "validation_batch_size": 50, "batch_size": 8}


def keys(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in np.round(images * 255).astype(np.uint8)}


def test_the_digits_of_both_halves_are_all_there_are() -> None:
    task = Images(validation_batch_size=300)
    digits = keys(np.round(load_digits().data * (255 / 16)) / 255)
    tested = torch.cat([task.batch("test", index).targets for index in range(3)])
    held_out = keys(tested.squeeze(1).numpy())
    trained = keys(task.batch("train", 0).targets.squeeze(1).numpy())
    for index in range(1, 30):
        trained |= keys(task.batch("train", index).targets.squeeze(1).numpy())
    assert task.batches("test") == 3
    assert len(tested) == task.test_images == 898
    assert len(held_out) == 898
    assert held_out < digits
    assert trained < digits
    assert not held_out & trained
    # Validation is of the images of training.
    assert not keys(task.batch("val", 0).targets.squeeze(1).numpy()) & held_out
    # All runs hold the same images out, with other noise.
    other = Images(seed=1, validation_batch_size=300)
    assert torch.equal(other.batch("test", 0).targets, tested[:300])
    assert not torch.equal(other.batch("test", 0).source, task.batch("test", 0).source)


def test_noise_is_normal_and_inputs_are_none() -> None:
    batch = Images(batch_size=500, noise=7).batch("train", 0)
    assert batch.source.shape == batch.inputs.shape == (500, 1, 7)
    assert not batch.inputs.any()
    assert abs(batch.source.mean()) < 0.1
    assert batch.source.std() == pytest.approx(1, abs=0.1)


def test_digits_of_more_pixels_and_colours() -> None:
    task = Images(side=16, channels=3, **FEW)
    images = task.as_images(task.batch("test", 0).targets)
    assert images.shape == (50, 16, 16, 3)
    assert torch.equal(images[..., 0], images[..., 2])
    small = Images(**FEW)
    shrunk = torch.nn.functional.avg_pool2d(images[..., 0], 2)
    theirs = small.as_images(small.batch("test", 0).targets)[..., 0]
    assert (shrunk - theirs).abs().mean() < 0.1


def test_images_of_a_folder(tmp_path) -> None:
    files = {f"{kind}/{i}.png": png(10 * i, (12, 9)) for kind in "ab" for i in range(5)}
    task = Images(str(written(tmp_path / "images", files)), held_out=0.4, batch_size=50)
    assert task.test_images == 4
    images = task.as_images(task.batch("train", 0).targets)
    assert images.shape == (50, 8, 8, 1)
    # Each image is of one grey.
    assert (images == images[:, :1, :1]).all()
    scores = task.measure("test", [task.batch("test", 0).targets])
    assert scores["frechet"] == pytest.approx(0, abs=1e-6)
    assert scores["frechet_floor"] > 0.01
    assert "principal components" in task.notes()[0]


def test_what_is_like_the_set_is_nearer_to_it() -> None:
    task = Images(**FEW)
    real = [task.batch("test", index).targets for index in range(4)]
    random = np.random.default_rng(0)
    noisy, mixed = [], []
    for each in real:
        noise = torch.from_numpy(random.normal(0, 0.1, each.shape).astype(np.float32))
        noisy.append((each + noise).clamp(0, 1))
        mixed.append(each[..., torch.from_numpy(random.permutation(64))])
    found = [task.measure("test", each)["frechet"] for each in (real, noisy, mixed)]
    assert found == sorted(found)
    assert found[2] > 5 * found[1]
    # The features are the same for a task that was sent to another process.
    there = pickle.loads(pickle.dumps(task))
    assert there.measure("test", noisy)["frechet"] == pytest.approx(found[1])
    assert "digits classifier" in task.notes()[0]
    broken = [real[0].index_fill(0, torch.tensor([3]), math.nan)]
    assert task.measure("val", broken) == {"frechet": math.inf}


@given(
    means=st.tuples(st.floats(-3, 3), st.floats(-3, 3)),
    spreads=st.tuples(st.floats(0.1, 3), st.floats(0.1, 3)),
)
def test_the_frechet_distance_of_two_normal_distributions_on_a_line(means, spreads) -> None:
    # Two points each, with exactly these means and standard deviations: (m1 - m2)^2 + (s1 - s2)^2.
    sets = [
        np.array([[mean - spread / math.sqrt(2)], [mean + spread / math.sqrt(2)]])
        for mean, spread in zip(means, spreads, strict=True)
    ]
    expected = (means[0] - means[1]) ** 2 + (spreads[0] - spreads[1]) ** 2
    assert frechet_distance(*sets) == pytest.approx(expected, abs=1e-9)


@given(seed=st.integers(0, 1000), turned=st.booleans())
def test_the_frechet_distance_of_vectors(seed: int, turned: bool) -> None:
    random = np.random.default_rng(seed)
    one, other = random.normal(size=(50, 3)), random.normal(size=(40, 3)) @ np.diag([1, 2, 3]) + 1
    # The matrix root of the definition, which may come out complex.
    values, vectors = np.linalg.eig(np.cov(one.T) @ np.cov(other.T))
    root = vectors @ np.diag(np.sqrt(values.astype(complex))) @ np.linalg.inv(vectors)
    apart = one.mean(0) - other.mean(0)
    expected = apart @ apart + np.trace(np.cov(one.T) + np.cov(other.T) - 2 * root.real)
    if turned:
        turn, _ = np.linalg.qr(random.normal(size=(3, 3)))
        one, other = one @ turn, other @ turn
    assert frechet_distance(one, other) == pytest.approx(expected)
    assert frechet_distance(other, one) == pytest.approx(expected)
    assert frechet_distance(one, one[::-1]) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"side": 7}, "sides of 8 pixels: side must be at least that; got 7"),
        ({"channels": 2}, "channels must be 1, greys, or 3, colours; got 2"),
        ({"noise": 0}, "noise must be .* got 0"),
        ({"held_out": 1.0}, r"held_out must be a share in \(0, 1\); got 1.0"),
        ({"held_out": 0.0005}, "and 2 to test with; got 1797 images, of which 1 are"),
        ({"test_images": 1}, "test_images must be from 2 to 10,000,000; got 1"),
        ({"side": 10**5}, "a training batch would have"),
    ],
)
def test_wrong_settings(settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Images(**settings)


def test_a_folder_that_cannot_be_used_is_named(tmp_path) -> None:
    with pytest.raises(ValueError, match="there is none"):
        Images(str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"expected images in .*; got none"):
        Images(str(tmp_path))
    folder = written(tmp_path / "images", {f"{i}.png": png(i, (9, 9)) for i in range(3)})
    with pytest.raises(ValueError, match=r"and 2 to test with; got 3 images, of which 1 are"):
        Images(str(folder), held_out=0.2)
    message = r"0\.png: expected an image of at least 16 x 16 pixels; got 9 x 9 pixels"
    with pytest.raises(ValueError, match=message):
        Images(str(folder), side=16)
    (folder / "4.png").write_text("none")
    with pytest.raises(ValueError, match=r"4\.png: expected an image; it cannot be read"):
        Images(str(folder))


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (np.zeros((3, 2)), np.zeros((3, 3)), r"got \[3, 2\] and \[3, 3\]"),
        (np.zeros((1, 2)), np.zeros((3, 2)), "at least 2 vectors.* got 1 and 3"),
    ],
)
def test_sets_that_have_no_distance(one, other, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frechet_distance(one, other)
