"""
DNC: a memory that knows what is free and what came after what
==============================================================

The memory of a Differentiable Neural Computer (Graves et al. 2016) keeps a usage for
each slot and links between slots that were written one after the other. A write head
can ask for a free slot, and a read head for "what was written after what I read
last". Here one learns to copy; then we look at what its heads asked for.
"""

from functools import partial

import torch
from torch import nn

from memnets.cells import LSTM
from memnets.memories import DNC
from memnets.models import MemoryMachine
from tasks import Copying

task = Copying(width=4, max_length=8, test_sets=[(8, 100)])

torch.manual_seed(0)
model = MemoryMachine(
    task.input_size,
    task.output_size,
    controller=partial(LSTM, hidden_size=48),
    access=DNC(slots=16, width=8),
)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)


@torch.no_grad()
def wrong_bits(split):
    """Wrong bits a sequence."""
    batch = task.batch(split, 0)
    wrong = (model.logits(batch) > 0) != (batch.targets > 0.5)
    return wrong.float().flatten(1).sum(1).mean().item()


for step in range(3000):
    loss = model.loss(task.batch("train", step))
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    if step % 100 == 99 and wrong_bits("length_8") < 0.1:
        break

print(f"after {step + 1} steps, wrong bits of {8 * 4}: {wrong_bits('length_8'):.2f}")
assert wrong_bits("length_8") < 1

# %%
# Watch it work
# -------------
#
# State is explicit: a step takes one and returns the next. So a memory can be watched
# by taking the steps one by one, with no hook and no setting.

import matplotlib.pyplot as plt

batch = task.batch("length_8", 0)
steps = torch.cat([batch.source, batch.inputs], 1)[:1]
body = model.body
state = body.initial_state(1)
usage, written, read, modes, allocated = [], [], [], [], []
with torch.no_grad():
    for vector in steps.unbind(1):
        output, state = body.step(vector, state)
        hidden = output[:, : body.controller.output_size]
        asked = body.access.queries(body.interface(hidden))
        usage.append(state.access.usage[0])
        written.append(state.access.written[0])
        read.append(state.access.weights[0, 0])
        modes.append(asked.reading.modes[0, 0])
        allocated.append(asked.writing.allocation_gate.flatten())

figure, panels = plt.subplots(4, 1, figsize=(8, 8), layout="constrained", sharex=True)
for panel, (name, rows) in zip(
    panels, {"usage": usage, "write head": written, "read head": read}.items()
):
    panel.imshow(
        torch.stack(rows).T, origin="lower", cmap="magma", vmin=0, vmax=1, aspect="auto"
    )
    panel.set_ylabel(f"{name}\nslot")
for name, weights in zip(
    ("what came before", "by content", "what came after"), torch.stack(modes).T
):
    panels[3].plot(weights, "o-", label=name)
panels[3].plot(torch.cat(allocated), "k:", label="write: a free slot")
panels[3].set(
    ylabel="share", ylim=(-0.05, 1.05), xlabel="step (dashed: the answer begins)"
)
panels[3].legend(ncols=2, fontsize=8)
for panel in panels:
    panel.axvline(8.5, color="0.6", linestyle="--")
plt.show()

# %%
# Bright is much. While the sequence comes, each vector goes to a free slot. While the
# machine answers, the read head meets the same slots in the same order. The lowest
# panel says what it asks for: first something by content, then "what came after".

places = torch.stack(written)[:8].argmax(-1), torch.stack(read)[9:17].argmax(-1)
print("written:", places[0].tolist())
print("read:   ", places[1].tolist())
assert len(set(places[0].tolist())) == 8
assert (places[0] == places[1]).float().mean() > 0.8
assert torch.stack(modes)[10:, 2].mean() > 0.5

# %%
# Other memories, the same machine
# --------------------------------
#
# The memory is one argument: :class:`~memnets.memories.NTM`,
# :class:`~memnets.memories.DNC`, :class:`~memnets.memories.LRUA`,
# :class:`~memnets.memories.Tape`, or yours.
#
# .. code-block:: sh
#
#    memnets fit --config copying/dnc
#    memnets fit --config copying/ntm --name=copying/my_dnc \
#        --model.access=memnets.memories.DNC
