"""
Break a machine, and mend it
============================

A picture shows where a head looked. It does not show that the answer *depends* on it.
To know that, one has to change something and see what happens. Here a Neural Turing
Machine has learnt to copy. We wipe a slot of its memory, give it the memory of another
sequence, and at last jam one of its heads; then we mend it from outside.
"""

# %%
# A machine that copies
# ---------------------
#
# It is the one of the :doc:`first page </gallery/inside/plot_01_copy>`: it sees eight
# vectors of four bits, then a flag, and has to say them again.

from functools import partial

import torch

import memnets as mn
from tasks import Copying

torch.set_num_threads(1)
torch.manual_seed(0)
task = Copying(width=4, max_length=8, test_sets=[(8, 50)])
machine = mn.MemoryMachine(
    task.input_size,
    task.output_size,
    controller=partial(mn.LSTM, hidden_size=48),
    access=mn.NTM(slots=24, width=8, least_sharpness=1.5),
)
batch = task.batch("length_8", 0)


def mistakes(logits):
    """Mean number of wrong bits in each of the eight vectors of an answer."""
    return ((logits > 0) != (batch.targets > 0.5)).float().sum(-1).mean(0)


optimizer = torch.optim.Adam(machine.parameters(), lr=0.01)
for step in range(4000):
    loss = machine.loss(task.batch("train", step))
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(machine.parameters(), 0.1)
    optimizer.step()
    if step % 100 == 99:
        with torch.no_grad():
            if mistakes(machine.logits(batch)).sum() < 0.02:
                break
print(f"it copies after {step + 1} batches")

# %%
# Record a run
# ------------
#
# ``mn.record`` writes down what the parts do; ``kinds=None`` means all of it. A tape
# also remembers the call, so that it can be made again with a change.

with torch.no_grad(), mn.record(machine, kinds=None) as tape:
    machine.logits(batch)
read, write = tape.over_time("body.access.addressing")
places = write[:8].argmax(-1).tolist()
print("the vectors were written to the slots", places)

# %%
# Wipe a slot
# -----------
#
# Steps count from 0: the vectors come at steps 0 to 7, the flag at step 8, and the
# answer begins at step 9. Just before it we set the slot of the fourth vector to zero,
# in all 50 sequences.

from memnets.viewing.interventions import Freeze, Overwrite, Swap, Weights

wiped = tape.intervene(Overwrite("body.access", slot=places[3], start=9))
print(wiped.interventions[0].describe())

before, after = (mistakes(each.outputs[0]) for each in (tape, wiped))

import matplotlib.pyplot as plt

plt.style.use("memnets.viewing.style")

figure, panel = plt.subplots(figsize=(6, 2.6), layout="constrained")
panel.bar(range(1, 9), after, color="C1")
panel.axhline(2, color="0.6", linestyle=":")
panel.text(0.6, 2.06, "a guess", color="0.4")
panel.set(
    xlabel="vector of the answer",
    ylabel="wrong bits of 4",
    ylim=(0, 2.6),
    xticks=range(1, 9),
)
plt.show()

# %%
# The fourth vector is lost, and becomes a guess; the others are untouched. So a slot
# holds one vector, and it is nowhere else, not even in the controller.

print("wrong bits by vector:", [round(number, 2) for number in after.tolist()])
assert after.argmax() == 3
assert after[3] > 2 * (after.sum() - after[3])

# %%
# Swap two memories
# -----------------
#
# Now the first two sequences, 0 and 1, exchange their memories when the answer begins.
# Each then says the vectors of the other one.

swapped = tape.intervene(Swap("body.access", first=0, second=1, start=9))
said = swapped.outputs[0] > 0
for name, target in (("its own", 0), ("the other's", 1)):
    same = (said[0] == (batch.targets[target] > 0.5)).float().mean()
    print(f"bits of sequence 0 that are {name}: {same:.0%}")
assert same > 0.9

# %%
# Break the steering
# ------------------
#
# Each step a read head moves: one slot back, none, or one on, by shares that the
# controller gives, the *shift*. We jam it at "none" from the second vector on.

reader, memory = "body.access.addressing", "body.access"
jam = Freeze(reader, field="shift", value=[0, 1, 0], head=0, start=10)
broken = tape.intervene(jam)
print(f"wrong bits of 32: {mistakes(broken.outputs[0]).sum():.1f}")
assert mistakes(broken.outputs[0]).sum() > 6

# %%
# Mend it
# -------
#
# The steering stays broken. But we know where the vectors are, and lead the head there
# by hand, one slot at each step. An intervention on top of an intervention:

by_hand = [
    Weights(reader, slot=slot, head=0, start=9 + number, stop=10 + number)
    for number, slot in enumerate(places)
]
mended = broken.intervene(*by_hand)
print(f"wrong bits of 32: {mistakes(mended.outputs[0]).sum():.2f}")
assert mistakes(mended.outputs[0]).sum() < 1

# %%
# Where the read head was, and how many bits of each vector are wrong:

figure, panels = plt.subplots(
    2, 3, figsize=(9, 4), layout="constrained", sharex="col", height_ratios=(2, 1)
)
for (top, bottom), (name, each) in zip(
    panels.T, {"as it ran": tape, "jammed": broken, "mended": mended}.items()
):
    head = each.over_time(reader)[0, 9:]
    top.imshow(
        head.T,
        origin="lower",
        cmap="Blues",
        vmin=0,
        vmax=1,
        aspect="auto",
        extent=(0.5, 8.5, -0.5, 23.5),
    )
    top.set_title(name)
    bottom.bar(range(1, 9), mistakes(each.outputs[0]), color="C1")
    bottom.set(ylim=(0, 2.6), xlabel="vector of the answer", xticks=range(1, 9))
panels[0, 0].set_ylabel("read head: slot")
panels[1, 0].set_ylabel("wrong bits of 4")
plt.show()

# sphinx_gallery_thumbnail_number = 2

# %%
# Watch it
# --------
#
# All runs of one sequence. *Look at* the step where a run begins to differ: before it,
# everything is the same, bit for bit. With the wiped slot, one column of the answer is
# wrong. Jammed, the read head stays where it is, and the machine says the same vector
# again and again. The field "runs" puts them one below the other, or shows one alone.

from dataclasses import replace

from memnets.viewing.page import Page

(example,) = mn.view(
    machine,
    task,
    batch=mn.map_state(lambda part: part[:1], batch),
    what_if="none",
    changes=[
        [Overwrite(memory, slot=places[3], start=9)],
        [jam],
        [jam, *by_hand],
    ],
).examples
names = ["as it ran", "a slot wiped", "jammed", "jammed and mended"]
runs = [replace(run, name=name) for run, name in zip(example.runs, names)]
page = Page("A copying machine, broken and mended", [replace(example, runs=runs)])
page.save("mending.html")
