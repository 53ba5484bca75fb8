"""
Check: a memory of your own, and the fault that a law finds
===========================================================

A part of a network can be wrong and still learn, only worse. The usual faults are
silent: a softmax over the wrong dimension, a state that is changed in place, a
gradient that is cut. ``memnets.testing`` has *laws* that every part must keep, and
tries them on inputs that Hypothesis draws. Here we write a memory, check it in one
line, and then break it on purpose.
"""

# %%
# A memory in twenty lines
# ------------------------
#
# A matrix S that holds values under keys, as the *delta rule* writes it (Widrow & Hoff
# 1960; Schlag et al. 2021): look up what the key holds now, and store the difference to
# the new value.
#
# ::
#
#     S_t = S_{t-1} + b_t k_t (v_t - k_t S_{t-1})        r_t = q_t S_t
#
# A memory is a :class:`memnets.core.MemoryAccess`. It says how wide its input is, the
# *interface* that a controller gives it, and how wide the vector that it reads;
# ``forward`` is one step. The state comes in and goes out: nothing is kept on ``self``.

import re

import torch
from torch import Tensor

from memnets.core import MemoryAccess


class DeltaRule(MemoryAccess[Tensor]):
    """Values under keys, corrected by the delta rule. The state is ``[B, K, V]``."""

    def __init__(self, key_size: int = 8, value_size: int = 8) -> None:
        super().__init__()
        self.sizes = [key_size, key_size, value_size, 1]  # key, query, value, strength
        self.interface_size, self.read_size = sum(self.sizes), value_size
        self.register_buffer(
            "empty", torch.zeros(key_size, value_size), persistent=False
        )

    def initial_state(self, batch_size: int) -> Tensor:
        return self.empty.repeat(batch_size, 1, 1)

    def forward(self, interface: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        key, query, value, strength = interface.split(self.sizes, dim=-1)
        key, query = key.softmax(-1), query.softmax(-1)
        held = (key.unsqueeze(1) @ state).squeeze(1)
        change = strength.sigmoid() * (value.tanh() - held)
        state = state + key.unsqueeze(2) * change.unsqueeze(1)
        return (query.unsqueeze(1) @ state).squeeze(1), state


# %%
# One line checks it; it needs the extra ``testing``. In a file of tests it is the body
# of a test, and without ``max_examples`` it looks harder.

from memnets import testing

testing.check_access(DeltaRule, key_size=4, value_size=3, max_examples=5)
print("DeltaRule keeps every law")

# %%
# A fault
# -------
#
# The same memory, but the softmax of the keys is over dimension 0. That is the *batch*:
# each sequence now depends on the others beside it. The shapes are right, the loss
# falls, and nothing crashes.


class WrongSoftmax(DeltaRule):
    def forward(self, interface: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        key, query, value, strength = interface.split(self.sizes, dim=-1)
        key, query = key.softmax(0), query.softmax(-1)
        held = (key.unsqueeze(1) @ state).squeeze(1)
        change = strength.sigmoid() * (value.tanh() - held)
        state = state + key.unsqueeze(2) * change.unsqueeze(1)
        return (query.unsqueeze(1) @ state).squeeze(1), state


def broken_laws(memory):
    """The laws that a memory breaks."""
    try:
        testing.check_access(memory, key_size=4, value_size=3, max_examples=5)
    except AssertionError as error:
        return re.findall("law '(.*?)'", str(error))
    return []


found = broken_laws(WrongSoftmax)
print("\n".join(found))
assert "batch neighbours never change a result" in found

# %%
# More faults that people make
# ----------------------------
#
# Each is one line, and each is found by the law that it breaks.


class InPlace(DeltaRule):
    """Changes the state that it was given."""

    def forward(self, interface, state):
        read, new = super().forward(interface, state)
        return read, state.copy_(new)


class Remembers(DeltaRule):
    """Keeps the last read on ``self``, for a picture, and uses it."""

    last = 0.0

    def forward(self, interface, state):
        read, state = super().forward(interface, state)
        read, self.last = read + 0.1 * self.last, read.detach().mean()
        return read, state


class InSinglePrecision(DeltaRule):
    """Makes its first state in float32, whatever the model is in."""

    def initial_state(self, batch_size):
        return torch.zeros(batch_size, *self.empty.shape)


laws = {
    InPlace: "a state is never modified in place",
    Remembers: "what a call keeps on self never changes a later one",
    InSinglePrecision: "it can be made, and run once",  # the laws also run in float64
}
for memory, law in laws.items():
    assert law in broken_laws(memory)
    print(f"{memory.__name__} breaks the law: {law}")

# %%
# What it holds
# -------------
#
# Four keys, one value each: the value of key i is 1 at place i. After each write we
# read all four keys. Then key 0 gets another value, and the rest stay as they are.

import matplotlib.pyplot as plt

memory = DeltaRule(key_size=4, value_size=4)
sharp, yes = 20 * torch.eye(4), torch.full((1,), 20.0)
state = memory.initial_state(1)
figure, panels = plt.subplots(1, 5, figsize=(9, 2.3), layout="constrained", sharey=True)
writes = [(0, 0), (1, 1), (2, 2), (3, 3), (0, 2)]
for panel, (key, value) in zip(panels, writes):
    # A value is read as tanh of what is written: 20 is nearly 1.
    interface = torch.cat([sharp[key], sharp[key], 20 * torch.eye(4)[value], yes])
    _, state = memory.step(interface.unsqueeze(0), state)
    panel.imshow(state[0], cmap="Blues", vmin=0, vmax=1)
    panel.set(
        title=f"key {key} := {value}", xlabel="value", xticks=range(4), yticks=range(4)
    )
panels[0].set_ylabel("key")
plt.show()

assert torch.allclose(state[0].argmax(-1), torch.tensor([2, 1, 2, 3]))

# %%
# There is such a check for every kind of part: ``check_score``, ``check_normalizer``,
# ``check_addressing``, ``check_cell``, ``check_controller``, ``check_access``,
# ``check_encoder``, ``check_model``, ``check_pointer``, ``check_decoding``,
# ``check_objective``, ``check_task``, ``check_kernel``. See :mod:`memnets.testing`.
