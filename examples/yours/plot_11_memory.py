"""
A memory and a score of your own
================================

A part of your own is a class in a file of yours, about as long as its equation. Here we
write a memory, check it in one line, break it on purpose, and look into it; then a
score for attention, in a few lines.
"""

# %%
# A memory in about twenty lines
# ------------------------------
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
# The line with ``report`` is for whoever watches; usually nobody does, and it costs
# nothing.

import re

import torch
from torch import Tensor

from memnets import events
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
        events.report(self, memory=state)
        return (query.unsqueeze(1) @ state).squeeze(1), state


# %%
# One line checks it; it needs the extra ``testing``. In a file of tests it is the body
# of a test, and without ``max_examples`` it looks harder.

from memnets import testing

torch.set_num_threads(1)
testing.check_access(DeltaRule, key_size=4, value_size=3, max_examples=3)
print("DeltaRule keeps every law")

# %%
# A fault
# -------
#
# The same memory, but the softmax of the keys is over dimension 0. That is the *batch*:
# each sequence now depends on the others beside it. The shapes are right and nothing
# crashes.


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
        testing.check_access(memory, key_size=4, value_size=3, max_examples=3)
    except AssertionError as error:
        return re.findall("law '(.*?)'", str(error))
    return []


found = broken_laws(WrongSoftmax)
print("\n".join(found))
assert "batch neighbours never change a result" in found

# %%
# What it holds
# -------------
#
# Four keys, one value each: the value of key i is 1 at place i. After each write we
# read all four keys. Then key 0 gets another value, and the rest stay as they are.

import matplotlib.pyplot as plt

import memnets as mn

plt.style.use("memnets.viewing.style")

memory = DeltaRule(key_size=4, value_size=4)
sharp, yes = 20 * torch.eye(4), torch.full((1,), 20.0)
state = memory.initial_state(1)
writes = [(0, 0), (1, 1), (2, 2), (3, 3), (0, 2)]
with mn.record(memory, kinds=None) as tape:
    for key, value in writes:
        # A value is read as tanh of what is written: 20 is nearly 1.
        interface = torch.cat([sharp[key], sharp[key], 20 * torch.eye(4)[value], yes])
        _, state = memory.step(interface.unsqueeze(0), state)

figure, panels = plt.subplots(1, 5, figsize=(9, 2.3), layout="constrained", sharey=True)
for panel, (key, value), held in zip(panels, writes, tape.calls(memory, "memory")):
    panel.imshow(held[0], cmap="Blues", vmin=0, vmax=1)
    panel.set(
        title=f"key {key} := {value}", xlabel="value", xticks=range(4), yticks=range(4)
    )
panels[0].set_ylabel("key")
plt.show()

assert torch.allclose(state[0].argmax(-1), torch.tensor([2, 1, 2, 3]))

# %%
# Watch it
# --------
#
# A tape of any part can be watched, also without a task. *Look at* the last step: the
# row of key 0 changes, and no other.

page = tape.view(title="A memory that writes by the delta rule")
page.save("delta_rule.html")

# %%
# A score
# -------
#
# How well a key answers a query. Attention then is :class:`memnets.addressing.Content`
# with that score.

from memnets.addressing import Content
from memnets.core import Memory, Score


class Laplace(Score):
    """Minus the mean distance between the numbers of query and key."""

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        return -(query.unsqueeze(-2) - keys.unsqueeze(-3)).abs().mean(-1)


testing.check_score(Laplace, max_examples=3)

attention = Content(Laplace())
keys = 20 * torch.eye(4)
values = torch.arange(4.0).unsqueeze(1)
weights, _ = attention(keys[2:3], Memory(keys=keys, values=values))
print(
    "weights of a query that is key 2:",
    [round(each, 3) for each in weights[0].tolist()],
)
assert weights.argmax() == 2

# %%
# From the command line
# ---------------------
#
# With ``DeltaRule`` and ``Laplace`` in a file ``my_parts.py`` in the folder where you
# are:
#
# .. code-block:: sh
#
#    memnets fit --config copying/ntm --name=copying/delta_rule \
#        --model.access=my_parts.DeltaRule --trainer.callbacks='[]'
#    memnets fit --config copying/ntm --name=copying/laplace \
#        --model.access.score=my_parts.Laplace
#    memnets fit --config translation/bahdanau --name=translation/laplace \
#        --model.attention.score=my_parts.Laplace
#
# The checkpoint then names a class of yours, and opening it runs your file: so
# ``memnets test``, ``view`` and ``predict`` ask for ``--trust``, and ``mn.load`` for
# ``trust=True``.
