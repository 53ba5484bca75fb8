"""Generative adversarial networks of images, with self-attention over their feature maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import spectral_norm

from memnets.batches import Batch
from memnets.checks import check_positive
from memnets.core import Addressing, map_state
from memnets.features import FeatureAttention
from memnets.training.objectives import Examined
from memnets.training.processes import answers, joined
from memnets.training.trained import Trained, on_host

__all__ = ["GAN", "Discriminator", "Generator"]

#: Side of the smallest feature maps.
SMALLEST = 4
#: Channels of a group that is normalised together.
GROUP = 8


class Generator(nn.Module):
    """A network from noise to an image: residual blocks that double the sides of feature maps.

    The first map has sides of 4. A block is two 3 x 3 convolutions, each behind a norm and a ReLU,
    added to its input (Miyato et al. 2018, figure 10). Norms are over groups of channels of an
    image, not over the batch, so that an image does not depend on its neighbours.

    Args:
        noise: width of the noise.
        side: pixels of a side of an image, 8, 16, 32, ...
        channels: channels of an image.
        filters: channels of all feature maps.
        attend: sides of the feature maps with self-attention.
        pool: see :class:`~memnets.features.FeatureAttention`.
    """

    def __init__(
        self, noise: int, side: int, channels: int, filters: int, attend: Sequence[int], pool: int
    ) -> None:
        super().__init__()
        self.first = nn.Linear(noise, filters * SMALLEST**2)
        self.blocks = nn.ModuleList()
        for reached in _sides(side)[1:]:
            self.blocks.append(_Block(filters, nn.Upsample(scale_factor=2), norm=True))
            if reached in attend:
                self.blocks.append(FeatureAttention(filters, pool=pool))
        self.last = nn.Sequential(
            _norm(filters), nn.ReLU(), nn.Conv2d(filters, channels, 3, padding=1)
        )

    def forward(self, noise: Tensor) -> Tensor:
        """``[B, noise] -> [B, channels, side, side]`` in ``(0, 1)``."""
        maps = self.first(noise).unflatten(-1, (-1, SMALLEST, SMALLEST))
        for block in self.blocks:
            maps = block(maps)
        images: Tensor = self.last(maps).sigmoid()
        return images


class Discriminator(nn.Module):
    """A network from an image to a number, the higher the more real the image seems.

    Residual blocks halve the sides of feature maps down to 4; the verdict is a linear map of the
    sum over all places of the last map.

    Args:
        side: as in :class:`Generator`.
        channels: as in :class:`Generator`.
        filters: as in :class:`Generator`.
        attend: as in :class:`Generator`.
        pool: as in :class:`Generator`.
    """

    def __init__(
        self, side: int, channels: int, filters: int, attend: Sequence[int], pool: int
    ) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, filters, 3, padding=1)
        self.blocks = nn.ModuleList()
        for reached in reversed(_sides(side)[1:]):
            if reached in attend:
                self.blocks.append(FeatureAttention(filters, pool=pool))
            self.blocks.append(_Block(filters, nn.AvgPool2d(2)))
        self.blocks.append(_Block(filters))
        self.last = nn.Linear(filters, 1)

    def forward(self, images: Tensor) -> Tensor:
        """``[B, channels, side, side]`` in ``[0, 1]`` ``-> [B]``, real numbers."""
        maps = self.first(2 * images - 1)
        for block in self.blocks:
            maps = block(maps)
        verdicts: Tensor = self.last(maps.relu().sum((-2, -1)))
        return verdicts.squeeze(-1)


class GAN(Trained):
    """Generative adversarial network with self-attention (Zhang et al. 2019) for tasks of images.

    A generator draws images from noise; a discriminator learns to tell them from those of the task,
    and the generator to be taken for them (Goodfellow et al. 2014). The loss is the sum of the
    hinge losses of both (equation 4)::

        mean(max(0, 1 - D(x))) + mean(max(0, 1 + D(G(z)))) - mean(D(G(z)))

    of which the first two terms train the discriminator D alone, and the third the generator G
    alone. So one step of an optimizer changes both, each against the other as it was before, with
    a learning rate of its own (Heusel et al. 2017, equation 1). Each weight has its spectral norm
    divided out (Miyato et al. 2018), in both networks.

    A test draws an image for each row of noise. The score of a validation and of a test is the
    task's ``frechet``; ``hinge`` is the discriminator's loss: 0 if it tells all images, 2 if it
    gives no verdict on any.

    Args:
        input_size: width of the noise, at least 1.
        output_size: numbers of an image, ``side * side * channels`` with a side of 8, 16, 32, ...
        channels: channels of an image, at least 1.
        filters: channels of all feature maps, a multiple of 8.
        attend: sides of the feature maps with self-attention, in both networks: of 8, 16, ... up to
            that of an image; none for a GAN without.
        pool: side of the squares of places that share a slot of the attention, at least 1.
        discriminator_rate: factor on the learning rate for the discriminator, more than 0.
        settings: see :class:`~memnets.training.Trained`.

    Raises:
        ValueError: a size is out of its range.

    Example:
        ``GAN(32, 16 * 16, attend=[8], optimizer=partial(Adam, lr=1e-4, betas=(0, 0.9)))``
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        channels: int = 1,
        filters: int = 64,
        attend: Sequence[int] = (8,),
        pool: int = 2,
        discriminator_rate: float = 4.0,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_positive(
            input_size=input_size, output_size=output_size, channels=channels, filters=filters,
            pool=pool,
        )  # fmt: skip
        side = math.isqrt(output_size // channels)
        if side * side * channels != output_size or side not in _sides(side)[1:]:
            raise ValueError(
                f"an image must be a square with a side of 8, 16, 32, ... pixels, of as many "
                f"numbers each as the model has channels; got {output_size} numbers and "
                f"channels={channels}"
            )
        if filters % GROUP:
            raise ValueError(f"filters must be a multiple of {GROUP}; got {filters}")
        wrong = [each for each in attend if each not in _sides(side)[1:]]
        if wrong:
            raise ValueError(
                f"attend must name sides of feature maps, of "
                f"{', '.join(map(str, _sides(side)[1:]))}; got {wrong[0]}"
            )
        if not discriminator_rate > 0:
            raise ValueError(f"discriminator_rate must be more than 0; got {discriminator_rate}")
        self.input_size, self.output_size = input_size, output_size
        self.shape = (channels, side, side)
        self.discriminator_rate = discriminator_rate
        self.generator = _normed(Generator(input_size, side, channels, filters, attend, pool))
        self.discriminator = _normed(Discriminator(side, channels, filters, attend, pool))

    @property
    def monitor(self) -> str:
        """``frechet``, which the task measures."""
        return "frechet"

    def parameter_groups(self) -> list[tuple[float, list[nn.Parameter]]]:
        """Both networks, each with its factor on the learning rate."""
        return [
            (1.0, list(self.generator.parameters())),
            (self.discriminator_rate, list(self.discriminator.parameters())),
        ]

    def draw(self, count: int, seed: int = 0) -> Tensor:
        """Draw images from new noise; in evaluation mode, as after :func:`memnets.load`.

        Args:
            count: number of images, at least 1.
            seed: seed of the noise; with the same seed, the images are the same.

        Returns:
            ``[count, side, side, channels]`` in ``[0, 1]``, on the device of the model.
        """
        check_positive(count=count)
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(count, self.input_size, generator=generator)
        with torch.no_grad():
            images: Tensor = self.generator(noise.to(self.generator.first.weight))
        return images.movedim(1, -1)

    def answer(self, source: Tensor) -> Tensor:
        """Images for noise, in the form of the targets: ``[B, 1, noise] -> [B, 1, O]``."""
        images: Tensor = self.generator(source.squeeze(1))
        return images.movedim(1, -1).flatten(1).unsqueeze(1)

    def loss(self, batch: Batch) -> Tensor:
        """Sum of the losses of both networks, a scalar; each trains its own network alone."""
        real, drawn = self._images(batch.targets), self.generator(batch.source.squeeze(1))
        # Both in one pass, of which neither image sees the other.
        verdicts = self.discriminator(torch.cat([real, drawn.detach()])).chunk(2)
        # The generator sees the discriminator's verdict, and may not change it by its weights.
        fixed = {name: each.detach() for name, each in self.discriminator.named_parameters()}
        taken: Tensor = functional_call(self.discriminator, fixed, (drawn,))
        return _hinge(*verdicts).mean() - taken.mean()

    def score(self, batch: Batch) -> dict[str, Tensor]:
        """``hinge`` of the images of a batch and those drawn for it, ``[B]``."""
        (_, scores), *_ = self.examine(batch).values()
        return scores

    def examine(self, batch: Batch) -> dict[str, Examined]:
        """Images for the noise of a batch, and ``hinge``."""
        drawn = self.answer(batch.source)
        verdicts = [self.discriminator(self._images(each)) for each in (batch.targets, drawn)]
        return {"": (drawn, {"hinge": _hinge(*verdicts)})}

    def alignments(self) -> dict[str, Addressing]:
        """The addressings of both networks by label, the generator's first."""
        return {label: part.attention for label, part in self._attentions().items()}

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Check that the batch has noise and images.

        Raises:
            ValueError: it does not.
        """
        expected = {"source": (1, self.input_size), "targets": (1, self.output_size)}
        for name, shape in expected.items():
            steps = getattr(batch, name)
            if steps.shape[1:] != shape or not steps.is_floating_point():
                raise ValueError(
                    f"a GAN needs a task of images, such as tasks.Images, whose {name} are "
                    f"numbers [B, {shape[0]}, {shape[1]}]; got {steps.dtype} {list(steps.shape)}"
                )
        return batch

    def on_validation_epoch_start(self) -> None:
        """Forget the images of the last validation."""
        self._drawn: dict[int, Examined] = {}

    def validation_step(self, batch: Batch, index: int) -> None:
        """Keep the images for a batch and their scores, unless another process has the batch."""
        if answers(self.trainer, index):
            (examined,) = self.examine(batch).values()
            self._drawn[index] = map_state(on_host, examined)

    def on_validation_epoch_end(self) -> None:
        """Log the mean of ``hinge``, and the task's measures of all the images together."""
        drawn, scores = zip(*joined(self.trainer, self._drawn).values(), strict=True)
        self._drawn = {}
        hinge = torch.cat([each["hinge"] for each in scores]).mean()
        self.log_scores({"val/hinge": hinge})
        measured = self._task.measure("val", list(drawn))
        self.log_scores({f"val/{name}": value for name, value in measured.items()}, prog_bar=True)

    def _images(self, flat: Tensor) -> Tensor:
        """``[B, 1, O] -> [B, channels, side, side]``."""
        channels, height, width = self.shape
        return flat.view(-1, height, width, channels).movedim(-1, 1)

    def _attentions(self) -> dict[str, FeatureAttention]:
        """Blocks of attention by label."""
        return {
            f"{name}, block {number + 1}": block
            for name, network in (
                ("generator", self.generator), ("discriminator", self.discriminator),
            )
            for number, block in enumerate(network.blocks)
            if isinstance(block, FeatureAttention)
        }  # fmt: skip


class _Block(nn.Module):
    """A residual block: the input, resized, plus two convolutions of it.

    Args:
        filters: channels of the maps.
        resize: changes the sides of a map: of the input before the first convolution if it makes
            them larger, of the result of the second if it makes them smaller.
        norm: whether a norm stands before each ReLU.
    """

    def __init__(self, filters: int, resize: nn.Module | None = None, norm: bool = False) -> None:
        super().__init__()
        grows = isinstance(resize, nn.Upsample)
        self.resize = nn.Identity() if resize is None else resize
        none = nn.Identity()
        self.layers = nn.Sequential(
            _norm(filters) if norm else none,
            nn.ReLU(),
            self.resize if grows else none,
            nn.Conv2d(filters, filters, 3, padding=1),
            _norm(filters) if norm else none,
            nn.ReLU(),
            nn.Conv2d(filters, filters, 3, padding=1),
            none if grows else self.resize,
        )

    def forward(self, maps: Tensor) -> Tensor:
        """``[B, filters, height, width]`` to the same with other sides."""
        added: Tensor = self.resize(maps) + self.layers(maps)
        return added


def _norm(filters: int) -> nn.Module:
    return nn.GroupNorm(filters // GROUP, filters)


def _sides(side: int) -> list[int]:
    """Sides of feature maps, from the smallest to that of an image."""
    return [SMALLEST << power for power in range(max(1, (side // SMALLEST).bit_length()))]


def _normed(network: nn.Module) -> Any:
    """A network whose layers have weights of spectral norm 1."""
    for layer in list(network.modules()):
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            spectral_norm(layer)
    return network


def _hinge(real: Tensor, drawn: Tensor) -> Tensor:
    """The discriminator's hinge loss of its verdicts on pairs of images, ``[B]``."""
    return (1 - real).relu() + (1 + drawn).relu()
