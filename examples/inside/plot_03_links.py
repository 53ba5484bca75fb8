"""
What the links of a DNC hold
============================

The memory of a Differentiable Neural Computer (Graves et al. 2016) keeps more than its
slots. It keeps how much each slot is in use, and a *link* from each slot to the one
that was written after it. So a write head can ask for a free slot, and a read head for
"what was written after what I read last". Here a DNC learns to copy, and we look at
what its links hold.
"""

# %%
# A machine with a DNC
# --------------------

from functools import partial

import torch

import memnets as mn
from tasks import Copying

torch.set_num_threads(1)
torch.manual_seed(0)
task = Copying(width=4, max_length=8, test_sets=[(8, 100)])
machine = mn.MemoryMachine(
    task.input_size,
    task.output_size,
    controller=partial(mn.LSTM, hidden_size=48),
    access=mn.DNC(slots=16, width=8),
)
batch = task.batch("length_8", 0)


@torch.no_grad()
def wrong_bits():
    """Wrong bits a sequence."""
    wrong = (machine.logits(batch) > 0) != (batch.targets > 0.5)
    return wrong.float().flatten(1).sum(1).mean().item()


optimizer = torch.optim.Adam(machine.parameters(), lr=0.01)
for step in range(3000):
    loss = machine.loss(task.batch("train", step))
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(machine.parameters(), 1.0)
    optimizer.step()
    if step % 100 == 99 and wrong_bits() < 0.1:
        break

print(f"after {step + 1} batches, wrong bits of {8 * 4}: {wrong_bits():.2f}")
assert wrong_bits() < 1

# %%
# Record everything
# -----------------
#
# With ``kinds=None`` a tape keeps all that the parts report: weights, slots, usage,
# links, and what the heads ask for.

with torch.no_grad(), mn.record(machine, kinds=None) as tape:
    machine.logits(batch)

usage, links, write, read = (
    torch.stack(tape.calls("body.access", kind))[:, 0]
    for kind in ("usage", "link", "write", "read")
)
write, read = write[:, 0], read[:, 0]  # one head each
modes = torch.stack(tape.calls("body.access.reading", "query.modes"))[:, 0, 0]

# %%
# The links
# ---------
#
# Row i, column j says how far slot i was written right after slot j; here they are when
# the sequence is over. By the numbers of the slots it looks like noise. In the order in
# which the slots were written it is a line beside the diagonal: each slot leads to the
# next one. The links are a list, with its elements anywhere in the memory.

import matplotlib.pyplot as plt

plt.style.use("memnets.viewing.style")

written = write[:8].argmax(-1)
in_order = links[8][written][:, written]

figure, (left, right) = plt.subplots(1, 2, figsize=(7.5, 3.4), layout="constrained")
left.imshow(links[8], cmap="Blues", vmin=0, vmax=1)
left.set(
    title="links, by number of the slot",
    xlabel="slot j",
    ylabel="slot i",
)
right.imshow(in_order, cmap="Blues", vmin=0, vmax=1)
right.set(title="slots in the order of writing", xlabel="slot j")
right.set_xticks(range(8), written.tolist())
right.set_yticks(range(8), written.tolist())
plt.show()

assert len(set(written.tolist())) == 8
strength = in_order.diagonal(-1).mean().item()
print(f"mean link from a slot to the next one: {strength:.2f}")
assert strength > 0.5

# %%
# How they are used
# -----------------
#
# While the sequence comes, each vector goes to a free slot, and usage grows. While the
# machine answers, the read head meets the same slots in the same order. The lowest
# panel says what it asks for.

figure, panels = plt.subplots(4, 1, figsize=(8, 8), layout="constrained", sharex=True)
for panel, (name, rows) in zip(
    panels, {"usage": usage, "write head": write, "read head": read}.items()
):
    panel.imshow(rows.T, origin="lower", cmap="Blues", vmin=0, vmax=1, aspect="auto")
    panel.set_ylabel(f"{name}\nslot")
for name, share in zip(("what came before", "by content", "what came after"), modes.T):
    panels[3].plot(share, "o-", label=name)
panels[3].set(
    ylabel="share", ylim=(-0.05, 1.05), xlabel="step (dashed: the answer begins)"
)
panels[3].legend(ncols=3, fontsize=8)
for panel in panels:
    panel.axvline(8.5, color="0.4", linestyle="--")
plt.show()

found = read[9:17].argmax(-1)
print("written:", written.tolist())
print("read:   ", found.tolist())
assert (written == found).float().mean() > 0.8

# %%
# Does it need them?
# ------------------
#
# A DNC can also find a slot by content, so the links may be idle. An intervention
# tells: forbid "what came after" and "what came before", and let the read head go by
# content alone.

from memnets.viewing.interventions import Freeze

by_content = Freeze("body.access.reading", field="modes", value=[0, 1, 0], start=9)
alone = tape.intervene(by_content)
wrong = (alone.outputs[0] > 0) != (batch.targets > 0.5)
without = wrong.float().flatten(1).sum(1).mean().item()
print(
    f"wrong bits of 32 by content alone: {without:.1f}; with links {wrong_bits():.1f}"
)
assert without > 3

# %%
# Watch it
# --------
#
# *Look at* the square of links while the sequence comes: with each vector one cell
# lights up. Then *look at* the read head: at each step of the answer it goes to the row
# that is linked to the slot before. The second run is the one by content alone.

page = mn.view(
    machine,
    task,
    batch=mn.map_state(lambda part: part[:2], batch),
    what_if="none",
    changes=[[by_content]],
    title="The links of a DNC that copies",
)
page.save("links.html")

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
#        --model.access=memnets.memories.DNC --trainer.callbacks='[]'
#
# The schedule of that config is for the memory of an NTM; the last flag leaves it out.
