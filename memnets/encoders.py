"""Encoders: from a source to a vector for each of its steps, and one for all."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from memnets.core import Controller, Encoder, check_positive

__all__ = ["Recurrent"]


class Recurrent(Encoder):
    """A controller that runs over the source, in one direction or in both.

    With both, a vector holds what came before and what comes after its step (Bahdanau et al. 2015,
    section 3.2); the summary is what each direction ends with.

    Args:
        input_size: width of the input, at least 1.
        controller: makes a controller from the width of its input: a controller class, its other
            arguments given.
        layers: how many such passes, one on another, at least 1.
        bidirectional: whether a second controller runs backwards.
        dropout: between the passes, in ``[0, 1)``.
    """

    def __init__(
        self,
        input_size: int,
        controller: Callable[[int], Controller],
        layers: int = 1,
        bidirectional: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_positive(input_size=input_size, layers=layers)
        self.input_size = input_size
        self.dropout = nn.Dropout(dropout)
        self.forwards = nn.ModuleList()
        self.backwards = nn.ModuleList()
        size = input_size
        for _ in range(layers):
            passes = [controller(size) for _ in range(1 + bidirectional)]
            self.forwards.append(passes[0])
            self.backwards.extend(passes[1:])
            size = sum(each.hidden_size for each in passes)
        self.output_size = size
        self.summary_size = self.output_size

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``[B, S, input_size] -> [B, S, output_size], [B, summary_size]``."""
        batch, steps, _ = inputs.shape
        lengths = mask.sum(1, keepdim=True) if mask is not None else None
        order = _backwards(lengths, batch, steps, inputs.device)
        for layer, controller in enumerate(self.forwards):
            inputs = self.dropout(inputs) if layer else inputs
            outputs = [_unroll(controller, inputs)]
            ends = [_last(outputs[0], lengths)]
            if self.backwards:
                reverse = _unroll(self.backwards[layer], _reorder(inputs, order))
                ends.append(_last(reverse, lengths))
                outputs.append(_reorder(reverse, order))
            inputs = torch.cat(outputs, -1)
        return inputs, torch.cat(ends, -1)


def _unroll(controller: nn.Module, inputs: Tensor) -> Tensor:
    assert isinstance(controller, Controller)
    outputs, _ = controller.unroll(inputs, controller.initial_state(len(inputs)))
    return outputs


def _last(outputs: Tensor, lengths: Tensor | None) -> Tensor:
    """The output of the last step that is not padding, ``[B, H]``."""
    if lengths is None:
        return outputs[:, -1]
    index = (lengths - 1).clamp_min(0).unsqueeze(-1).expand(-1, -1, outputs.shape[-1])
    return outputs.gather(1, index).squeeze(1)


def _backwards(
    lengths: Tensor | None, batch: int, steps: int, device: torch.device
) -> Tensor | None:
    """Where each step of a reversed sequence comes from, padding left in its place: ``[B, S]``."""
    if lengths is None:
        return None
    forwards = torch.arange(steps, device=device).expand(batch, -1)
    return torch.where(forwards < lengths, lengths - 1 - forwards, forwards)


def _reorder(inputs: Tensor, order: Tensor | None) -> Tensor:
    if order is None:
        return inputs.flip(1)
    return inputs.gather(1, order.unsqueeze(-1).expand_as(inputs))
