"""Several processes of one training: what each has found becomes what all have found.

Each function here that exchanges something must be called by all processes at the same place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["answers", "gathered", "joined", "splits_weights", "summed"]

Key = TypeVar("Key", bound=Any)
Value = TypeVar("Value")


def splits_weights(trainer: Any) -> bool:
    """Whether each process holds a part of the weights alone, as with FSDP.

    Args:
        trainer: a trainer of Lightning.
    """
    # Such strategies load a checkpoint after they have split the weights, all others before.
    return bool(trainer.strategy.restore_checkpoint_after_setup)


def answers(trainer: Any, index: int) -> bool:
    """Whether this process answers a batch of a validation or a test.

    The processes share out the batches by number, so that each is answered once. Where they split
    the weights all answer each batch: none can do so without the others.

    Args:
        trainer: a trainer of Lightning.
        index: number of the batch in its set.
    """
    return splits_weights(trainer) or index % trainer.world_size == trainer.global_rank


def gathered(trainer: Any, own: Value) -> list[Value]:
    """The values of all processes, in the order of their numbers.

    Args:
        trainer: a trainer of Lightning.
        own: the value of this process, which can be pickled; its tensors are on the CPU.
    """
    if trainer.world_size == 1:
        return [own]
    found: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(found, own)
    return found


def joined(trainer: Any, own: Mapping[Key, Value]) -> dict[Key, Value]:
    """The entries of all processes, in the order of their keys.

    Args:
        trainer: a trainer of Lightning.
        own: the entries of this process; of several with the same key, the first counts.
    """
    found = [own] if splits_weights(trainer) else gathered(trainer, own)
    merged = {key: value for each in reversed(found) for key, value in each.items()}
    return {key: merged[key] for key in sorted(merged)}


def summed(trainer: Any, own: Tensor) -> Tensor:
    """The sum of a tensor over all processes, without a gradient.

    Args:
        trainer: a trainer of Lightning.
        own: the tensor of this process, on its device.
    """
    total = own.detach().clone()
    if trainer.world_size > 1:
        torch.distributed.all_reduce(total)
    return total
