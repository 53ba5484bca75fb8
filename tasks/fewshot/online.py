"""Few-shot classification one image after the other, labels one step late (Santoro et al. 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memnets.batches import Batch
from tasks.base import Array
from tasks.fewshot.images import FewShot

__all__ = ["OnlineFewShot"]


class OnlineFewShot(FewShot):
    """Few-shot classification one image after the other; a label comes one step late.

    The task of Santoro et al. 2016 (section 2): an episode is one sequence with the images of N
    classes in random order, K of each. Each step is an answer: it shows an image with the label of
    the image before, and asks for the label of its own. So a model has to bind each image to a
    label that comes with the next image. It can only guess the label of the first image of a class.

    The inputs are ``[B, N K, side * side + N]``: the ink of each pixel in ``[0, 1]``, row by row,
    then the label of the image before, one-hot; zeros at the first step. The targets are the labels
    of the images, ``[B, N K]``. The source is one step of zeros. Each episode draws its classes,
    and a label for each of them. The images, and which classes are for training, are those of
    :class:`~tasks.FewShot`.

    The test set is named ``test``. Besides the model's scores of all steps, it gives the share of
    right answers to the k-th images of their classes, ``instance_<k>``.

    Args:
        paths: see :class:`~tasks.FewShot`.
        folder: see :class:`~tasks.FewShot`.
        held_out: see :class:`~tasks.FewShot`.
        validation: see :class:`~tasks.FewShot`.
        ways: N, the number of classes of an episode, at least 2.
        instances: K, the number of images of each class in an episode, at least 2.
        side: see :class:`~tasks.FewShot`.
        dark_ink: see :class:`~tasks.FewShot`.
        rotations: see :class:`~tasks.FewShot`.
        variants: see :class:`~tasks.FewShot`.
        test_episodes: number of episodes of the test set, at least 1.
        settings: see :class:`~tasks.Task`; a sequence is an episode.

    Raises:
        ValueError: as :class:`~tasks.FewShot`.
        MissingExtra: as :class:`~tasks.FewShot`.
    """

    def __init__(
        self,
        paths: Sequence[str] | None = None,
        folder: str = "",
        held_out: Sequence[str] | None = None,
        validation: Sequence[str] = (),
        ways: int = 5,
        instances: int = 10,
        side: int | None = None,
        dark_ink: bool = False,
        rotations: bool = False,
        variants: int = 0,
        test_episodes: int = 1000,
        **settings: Any,
    ) -> None:
        if instances < 2:
            raise ValueError(
                f"instances must be at least 2, or there is nothing to know again; got {instances}"
            )
        # As in any episode, K - 1 examples come before the last image of a class.
        super().__init__(
            paths, folder, held_out, validation, None, ways, [instances - 1], None, 1, side,
            dark_ink, rotations, variants, test_episodes, **settings,
        )  # fmt: skip
        self.ways = ways
        self.instances = instances
        self.test_sets = {"test": (ways, instances - 1)}

    def batch(self, split: str, index: int) -> Batch:
        """Batch ``index`` of ``train``, ``val`` or ``test``."""
        random = self.random(split, index)
        size = self.validation_batch_size
        if split == "train":
            size = self.batch_size
        elif split == "test":
            # The last batch of a test set may be smaller.
            size = min(size, self.test_episodes - index * size)
        images = self.pool(split).draw(random, size, self.ways, self.instances)
        order = random.random((size, self.ways)).argsort(-1)
        labels = np.broadcast_to(order[..., np.newaxis], images.shape[:3]).reshape(size, -1)
        mixed = random.random(labels.shape).argsort(-1)
        rows = np.arange(size)[:, np.newaxis]
        shown, labels = (
            images.reshape(size, -1, *images.shape[3:])[rows, mixed],
            labels[rows, mixed],
        )
        ink = shown.reshape(*labels.shape, -1).astype(np.float32) / 255
        late = np.zeros((*labels.shape, self.ways), np.float32)
        late[:, 1:] = np.eye(self.ways, dtype=np.float32)[labels[:, :-1]]
        return Batch(
            torch.zeros(size, 1, self.input_size),
            torch.from_numpy(np.concatenate([ink, late], -1)),
            torch.from_numpy(labels.astype(np.int64)),
        )

    def measure(self, split: str, answers: list[Tensor]) -> dict[str, float]:
        """Share of right answers to the k-th images of their classes, by k.

        Args:
            split: ``test``.
            answers: labels ``[B, N K]`` for each batch of the set, or for its first batches.

        Returns:
            ``instance_<k>`` for each k from 1 to K, in ``[0, 1]``; empty without answers.
        """
        if not answers:
            return {}
        targets = np.concatenate(
            [self.batch(split, index).targets.numpy() for index in range(len(answers))]
        )
        right = torch.cat(list(answers)).cpu().numpy() == targets
        place = instance(targets, self.ways)
        return {
            f"instance_{k}": float(right[place == k].mean()) for k in range(1, self.instances + 1)
        }

    def labels(self, batch: Batch, row: int) -> tuple[list[str], list[str]]:
        """Labels of the images, as numbers; the source is a step before the first image."""
        return ["start"], list(map(str, batch.targets[row].tolist()))


def instance(labels: Array, classes: int) -> Array:
    """For each step, how often its class has come so far, itself included, ``[B, T]``.

    Args:
        labels: of the steps, from 0 to ``classes`` - 1, ``[B, T]``.
        classes: the number of classes.
    """
    seen = (labels[..., np.newaxis] == np.arange(classes)).cumsum(1)
    place: Array = np.take_along_axis(seen, labels[..., np.newaxis], -1)[..., 0]
    return place
