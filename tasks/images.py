"""Images to draw: from noise, a model makes images like those of a set."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memnets.batches import Batch
from memnets.checks import check_positive
from memnets.extras import check_extra
from tasks.base import Array, Task
from tasks.limits import check_room
from tasks.pictures import read_images, resized

__all__ = ["Images", "frechet_distance"]

#: Upper bound that no useful test reaches; it catches slips of the keyboard.
MOST_IMAGES = 10**7
#: Width of the features of digits: the hidden layer of the classifier.
HIDDEN = 64
#: Most features of other images, their principal components, and the images that those are of.
COMPONENTS, COMPONENTS_OF = 32, 2000


class Images(Task):
    """Images to draw: from noise, a model makes images like those of a set.

    The source is noise from the standard normal distribution, ``[B, 1, noise]``. The answer is one
    step, all pixels of an image in ``[0, 1]``, row by row, the channels of a pixel together,
    ``[B, 1, side * side * channels]``. The inputs are zeros, ``[B, 1, noise]``. A target is an
    image of the set; it has nothing to do with the noise of its row. What counts is how near the
    images that a model draws are to the set as a whole, :meth:`measure`.

    A share of the images, the same for each seed, is held out for tests. The images of the
    validation are those of training: it only tells how well these are met.

    Args:
        path: a folder or a zip file of images (:func:`tasks.pictures.read_images`); ``None`` = the
            1797 handwritten digits of scikit-learn, 8 x 8 pixels.
        side: pixels of a side of the squares to draw, at least 2. Images of a folder are cropped to
            squares, from their middle, and scaled down; none may be smaller. Digits are scaled up.
        channels: 1 = greys, 3 = red, green and blue.
        noise: width of the noise, at least 1.
        held_out: share of the images for tests, in ``(0, 1)``.
        test_images: number of images to draw in a test, at least 2; as many as are held out by
            default.
        settings: see :class:`~tasks.Task`; a sequence is an image.

    Raises:
        ValueError: a number is out of its range, or the images cannot be used.
        MissingExtra: Pillow, or for the digits scikit-learn, is not installed.
    """

    def __init__(
        self,
        path: str | None = None,
        side: int = 8,
        channels: int = 1,
        noise: int = 32,
        held_out: float = 0.5,
        test_images: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_positive(side=side, noise=noise)
        if channels not in (1, 3):
            raise ValueError(f"channels must be 1, greys, or 3, colours; got {channels}")
        if side < 2:
            raise ValueError(f"side must be at least 2; got {side}")
        if not 0 < held_out < 1:
            raise ValueError(f"held_out must be a share in (0, 1); got {held_out}")
        if test_images is not None and not 2 <= test_images <= MOST_IMAGES:
            raise ValueError(f"test_images must be from 2 to {MOST_IMAGES:,}; got {test_images}")
        self.check_room(side, side, channels)
        self.side, self.channels = side, channels
        check_extra("images", "tasks.Images", "PIL", *(["sklearn"] if path is None else []))
        self._digits: Array | None = None
        if path is None:
            images, self._digits = _digits(side, channels)
        else:
            _, images = read_images(path, side, side, channels, crop=True)
        # Pixels are kept as bytes, which is what files have.
        pixels = np.round(images * 255).astype(np.uint8).reshape(len(images), -1)
        # Not by the seed of the run: all runs are to have the same images held out.
        self._order = np.random.default_rng(0).permutation(len(pixels))
        tested = round(held_out * len(pixels))
        if tested < 2 or len(pixels) - tested < 2:
            raise ValueError(
                f"expected at least 2 images to train on, and 2 to test with; got {len(pixels)} "
                f"images, of which {tested} are held out"
            )
        ordered = pixels[self._order]
        self._pools = {"train": ordered[tested:], "test": ordered[:tested]}
        self.test_images = tested if test_images is None else test_images
        check_room("the images of a test", self.test_images, side, side, channels)
        self.input_size = noise
        self.output_size = side * side * channels

    def test_names(self) -> list[str]:
        """``test`` alone."""
        return ["test"]

    def batches(self, split: str) -> int:
        """See :meth:`~tasks.Task.batches`; the test has as many as its images need."""
        if split == "test":
            return -(-self.test_images // self.validation_batch_size)
        return super().batches(split)

    def batch(self, split: str, index: int) -> Batch:
        """Batch ``index`` of ``train``, ``val`` or ``test``.

        The targets are drawn from the images; those of the test are the images held out, in turn.
        """
        random = self.random(split, index)
        size = self.sequences(split, self.validation_batch_size)
        pool = self._pools["test" if split == "test" else "train"]
        if split == "test":
            start = index * size
            # The last batch of the test may be smaller.
            size = min(size, self.test_images - start)
            chosen: Array = np.arange(start, start + size) % len(pool)
        else:
            chosen = random.integers(len(pool), size=size)
        noise = random.standard_normal((size, 1, self.input_size), np.float32)
        return Batch(
            torch.from_numpy(noise),
            torch.zeros(size, 1, self.input_size),
            torch.from_numpy(_shares(pool[chosen])).unsqueeze(1),
        )

    def measure(self, split: str, answers: list[Tensor]) -> dict[str, float]:
        """Distance of the images drawn from those of the set.

        ``frechet`` is the Fréchet distance of their features (Heusel et al. 2017, equation 6): in
        validation from the images of training, in a test from those held out. Its floor for a test,
        ``frechet_floor``, is the distance of the images of training from those held out.

        The features of digits are the hidden layer of a classifier, a network with one layer of 64
        units that is trained on the labels of the images of training, always with the same seed.
        Images of a folder have no labels: their features are their first 32 principal components,
        so that a distance says something beside others of the same folder alone.

        Args:
            split: ``val`` or ``test``.
            answers: a model's answers to each batch of the set, ``[B, 1, O]`` in ``[0, 1]``.
        """
        drawn = torch.cat(answers).float().squeeze(1).numpy()
        real = self._features(_shares(self._pools["test" if split == "test" else "train"]))
        scores = {"frechet": frechet_distance(self._features(drawn), real)}
        if split == "test":
            trained = self._features(_shares(self._pools["train"]))
            scores["frechet_floor"] = frechet_distance(trained, real)
        return scores

    def notes(self) -> list[str]:
        """A line on the features of the Fréchet distance."""
        if self._digits is None:
            return ["Fréchet distances are of principal components of the pixels"]
        return [f"Fréchet distances are of features of a digits classifier of {HIDDEN} units"]

    def as_images(self, answers: Tensor) -> Tensor:
        """See :meth:`~tasks.Task.as_images`."""
        return answers.reshape(-1, self.side, self.side, self.channels)

    @cached_property
    def _features(self) -> Callable[[Array], Array]:
        """A function from pixels ``[n, O]`` to features ``[n, F]``; made when first asked for."""
        pixels = _shares(self._pools["train"])
        if self._digits is None:
            return _components(pixels)
        return _classifier(pixels, self._digits[self._order][-len(pixels) :])

    def __getstate__(self) -> dict[str, Any]:
        """State for a copy or a pickle, without the features, which are made anew."""
        return {name: value for name, value in vars(self).items() if name != "_features"}


def frechet_distance(one: Array, other: Array) -> float:
    """Fréchet distance of two sets of vectors, each taken as a normal distribution.

    ``|m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2))`` with the means and the covariances of the
    sets (Heusel et al. 2017, equation 6). It has a bias of the order of 1 / n: compare sets of like
    numbers.

    Args:
        one: n vectors, ``[n, F]``, n at least 2.
        other: m vectors, ``[m, F]``, m at least 2.

    Returns:
        The distance, at least 0; infinity if a number of a set is not finite.

    Raises:
        ValueError: a set has less than 2 vectors, or their widths differ.
    """
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1]:
        raise ValueError(
            f"expected two sets of vectors, [n, F] and [m, F]; "
            f"got {list(one.shape)} and {list(other.shape)}"
        )
    if min(len(one), len(other)) < 2:
        raise ValueError(
            f"expected sets of at least 2 vectors, which have a covariance; "
            f"got {len(one)} and {len(other)}"
        )
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return float("inf")
    means = [vectors.mean(0, dtype=np.float64) for vectors in (one, other)]
    spreads = [np.atleast_2d(np.cov(v.astype(np.float64), rowvar=False)) for v in (one, other)]
    # The eigenvalues of C_1 C_2 are those of the symmetric C_1^(1/2) C_2 C_1^(1/2), whose roots
    # need no complex numbers. Rounding may make some that are 0 a little less.
    values, vectors = np.linalg.eigh(spreads[0])
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ spreads[1] @ root).clip(0)).sum()
    apart = np.square(means[0] - means[1]).sum()
    return max(0.0, float(apart + np.trace(spreads[0]) + np.trace(spreads[1]) - 2 * shared))


def _shares(pixels: Array) -> Array:
    """Bytes as float32 in ``[0, 1]``."""
    return pixels.astype(np.float32) / 255


def _digits(side: int, channels: int) -> tuple[Array, Array]:
    """The digits of scikit-learn, float32 ``[n, side, side, channels]``, and their labels ``[n]``.

    Raises:
        ValueError: the side is smaller than that of the digits.
    """
    # Imported here: it is slow to load, and not needed with files.
    from sklearn.datasets import load_digits

    digits = load_digits()
    own = digits.images.shape[1]
    if side < own:
        raise ValueError(
            f"digits have sides of {own} pixels: side must be at least that; got {side}"
        )
    greys = np.round(digits.images * (255 / 16)).astype(np.uint8)
    if side > own:
        images = np.stack([resized(image, side, side) for image in greys])
    else:
        images = _shares(greys)[..., np.newaxis]
    return images.repeat(channels, -1), digits.target


def _classifier(pixels: Array, labels: Array) -> Callable[[Array], Array]:
    """The hidden layer of a classifier, as a function of pixels."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    network = MLPClassifier((HIDDEN,), solver="lbfgs", alpha=1.0, max_iter=300, random_state=0)
    with warnings.catch_warnings():
        # Where it stops does not matter, as long as it is always the same place.
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(pixels, labels)
    weights, bias = network.coefs_[0], network.intercepts_[0]
    return lambda images: np.maximum(images @ weights + bias, 0)


def _components(pixels: Array) -> Callable[[Array], Array]:
    """The first principal components of images, as a function of pixels."""
    few = pixels[:COMPONENTS_OF].astype(np.float64)
    middle = few.mean(0)
    # The images are fewer than their pixels, mostly: so by the products of images, not of pixels.
    values, vectors = np.linalg.eigh((few - middle) @ (few - middle).T)
    kept = [place for place in values.argsort()[::-1][:COMPONENTS] if values[place] > 1e-9]
    directions = (few - middle).T @ vectors[:, kept] / np.sqrt(values[kept])
    return lambda images: (images - middle) @ directions
