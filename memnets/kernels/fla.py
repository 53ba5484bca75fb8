"""Linear memories on a GPU, by the kernels of flash-linear-attention.

The twin of :meth:`memnets.memories.Linear.unroll` and of the named models' where the optional
package ``flash-linear-attention`` is installed and numbers are of 16 bits: in a module of bfloat16
or float16, or under autocast. Its kernels take 16-bit queries, keys and values, and keep sums,
gates and the memory in float32. In float32 the library's own chunks run.

It knows a write without an erase and the delta rule, each with any decay; one write a step;
memories that read no mean of values.

On Hopper GPUs, Triton from 3.4 up to 3.7.1 makes wrong gradients of the kernels with a decay of one
number for each head, and the package refuses the backward pass; its versions that do not know of
Triton 3.7.1 refuse later ones too. The library's own chunks run there. They do so even where the
package has other kernels for this, in TileLang, which take some of these memories alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from memnets import fast
from memnets.memories.gates import Decay
from memnets.memories.linear import (
    GLA,
    KDA,
    DeltaNet,
    GatedDeltaNet,
    Linear,
    LinearState,
    Mamba2,
    RetNet,
)
from memnets.precision import full_precision

__all__ = ["unroll", "why_no_scalar_decay", "why_not"]

#: Name of the twin, that of the package.
NAME = "flash-linear-attention"

#: Largest width of a key that all kernels take.
MOST_WIDTH = 256

#: Memories that it stands for; a subclass may compute something else.
MEMORIES = (Linear, RetNet, GLA, Mamba2, DeltaNet, GatedDeltaNet, KDA)

#: Those whose decay is always one number for each head.
SCALAR = (RetNet, Mamba2, GatedDeltaNet)

#: First version of Triton that makes these kernels wrong on Hopper GPUs, and first one that does
#: not. The package has a flag for the second.
BROKEN, MENDED, FLAG = "3.4.0", "3.7.1", "TRITON_ABOVE_3_7_1"


@cache
def why_not() -> str | None:
    """Why this twin cannot run in this process; ``None`` if it can."""
    package = find_spec("fla")
    if package is None:
        return "flash-linear-attention is not installed"
    # The kernels are a package of their own, fla-core, which may be missing.
    if PathFinder.find_spec("ops", package.submodule_search_locations) is None:
        return "fla-core, the part of flash-linear-attention with its kernels, is not installed"
    return None if torch.cuda.is_available() else "no GPU"


@cache
def why_no_scalar_decay() -> str | None:
    """Why it cannot run here with a decay of one number for each head; ``None`` if it can."""
    if why_not() is not None:
        return why_not()
    counted = range(torch.cuda.device_count())
    if all(torch.cuda.get_device_capability(each)[0] != 9 for each in counted):
        return None  # Hopper is 9.0
    version = TorchVersion(import_module("triton").__version__)
    if version < BROKEN:
        return None
    if version < MENDED:
        return f"wrong gradients of Triton {version} on Hopper GPUs, mended in Triton {MENDED}"
    if hasattr(import_module("fla.utils"), FLAG):
        return None
    return f"this version refuses Triton {version} on Hopper GPUs, a newer one does not"


def _scalar(decay: Decay | None) -> bool:
    """Whether a decay is one number for each head."""
    return decay is not None and decay.interface_size <= decay.heads


def fits(part: Linear, inputs: Tensor, state: LinearState, mask: Tensor | None) -> bool:
    """Whether the twin computes this memory, here."""
    if inputs.device.type != "cuda" or why_not() is not None or _half(inputs) is None:
        return False
    if _scalar(part.decay) and why_no_scalar_decay() is not None:
        return False
    if part.writes > 1 or part.normalized or part.features.size(part.key_size) > MOST_WIDTH:
        return False
    if part.erase is None:
        return True
    # The delta rule has one strength for each head, which erases and writes.
    return part.shares and part.erase.interface_size == part.read_heads


def _half(inputs: Tensor) -> torch.dtype | None:
    """The 16-bit type of the products; ``None`` in single or double precision."""
    if inputs.dtype in (torch.bfloat16, torch.float16):
        return inputs.dtype
    kind = inputs.device.type
    if not torch.is_autocast_enabled(kind):
        return None
    given = torch.get_autocast_dtype(kind)
    return given if given in (torch.bfloat16, torch.float16) else None


def unroll(
    part: Linear, inputs: Tensor, state: LinearState, mask: Tensor | None
) -> tuple[Tensor, LinearState]:
    """All steps at once: see :meth:`memnets.memories.Linear.unroll`."""
    half = _half(inputs)
    assert half is not None
    return _through_kernels(part, inputs, state, mask, half)


@full_precision
def _through_kernels(
    part: Linear, inputs: Tensor, state: LinearState, mask: Tensor | None, half: torch.dtype
) -> tuple[Tensor, LinearState]:
    step = part.over_time(inputs, mask)

    def ordered(tensor: Tensor) -> Tensor:
        """``[B, H, T, ...]`` as the kernels want it, ``[B, T, H, ...]``."""
        return tensor.transpose(1, 2).contiguous()

    decay = step.log_decay
    named: dict[str, Any] = {
        "scale": 1.0,  # the queries have it already
        "initial_state": state.memory.float().contiguous(),
        "output_final_state": True,
    }
    if decay is not None:
        named["g"] = ordered(decay.squeeze(-1) if decay.shape[-1] == 1 else decay)
    values = step.written
    if step.erase is not None:
        # The strength of both is an argument of its own.
        values = step.values
        named["beta"] = ordered(step.erase[..., 0, 0])
    arguments = (step.query, step.keys.squeeze(-2), values.squeeze(-2))
    kernel = _kernel(step.erase is not None, None if decay is None else decay.shape[-1])
    read, memory = kernel(*(ordered(each.to(half)) for each in arguments), **named)
    return read.to(step.query.dtype).flatten(2), LinearState(memory.to(state.memory.dtype))


def _kernel(erases: bool, decays: int | None) -> Callable[..., tuple[Tensor, Tensor]]:
    """The kernel of a write.

    Args:
        erases: whether it erases, by the delta rule.
        decays: numbers of a decay for each head; ``None`` = nothing decays.
    """
    if erases:
        place, name = {
            None: ("delta_rule", "chunk_delta_rule"),
            1: ("gated_delta_rule", "chunk_gated_delta_rule"),
        }.get(decays, ("kda", "chunk_kda"))
    elif decays is None or decays == 1:
        place, name = "simple_gla", "chunk_simple_gla"
    else:
        place, name = "gla", "chunk_gla"
    found: Callable[..., tuple[Tensor, Tensor]] = getattr(import_module(f"fla.ops.{place}"), name)
    return found


for _memory in MEMORIES:
    _why = why_no_scalar_decay if _memory in SCALAR else why_not
    fast.twin(_memory, "unroll", fits=fits, any_precision=True, name=NAME, why_not=_why)(unroll)
