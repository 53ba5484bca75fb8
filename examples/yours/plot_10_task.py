"""
A task in ten lines
===================

A task gives batches. With that it has all the rest: training, tests, pictures, the
command line. Here is one in ten lines: to say a sequence *backwards*. (The library has
it too, as ``tasks.Reversing``; we write it again to see how.) A Neural Turing Machine
learns it, and its read head turns around.
"""

# %%
# Ten lines
# ---------
#
# It is the task of copying with the answers turned around. A batch is a function of a
# split and a number, and it holds ``source``, ``inputs`` and ``targets``, with masks
# where sequences have several lengths.

import torch

from memnets.batches import Batch
from tasks import Copying


class Reversing(Copying):
    """See vectors, say the last one first."""

    def batch(self, split: str, index: int) -> Batch:
        batch = super().batch(split, index)
        size, steps, _ = batch.targets.shape
        mask = torch.ones(size, steps)
        lengths = (mask if batch.target_mask is None else batch.target_mask).sum(1)
        order = (lengths[:, None].long() - 1 - torch.arange(steps)) % steps
        return batch._replace(targets=batch.targets.take_along_dim(order[..., None], 1))


# %%
# The laws of a task check it in one line: the same number gives the same batch,
# training and test are not the same, shapes and masks fit. It needs the extra
# ``testing``.

from memnets import testing

torch.set_num_threads(1)
testing.check_task(Reversing, width=4, max_length=8, max_examples=3)

task = Reversing(
    width=4,
    max_length=8,
    batch_size=16,
    validation_batches=1,
    test_sets=[(8, 50)],
    seed=1,
)
batch = task.batch("length_8", 0)

import matplotlib.pyplot as plt

plt.style.use("memnets.viewing.style")

figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.2), layout="constrained")
left.imshow(batch.source[0].T, cmap="Blues", vmin=0)
left.set(title="source: vectors, then the flag", xlabel="step", ylabel="channel")
right.imshow(batch.targets[0].T, cmap="Blues", vmin=0)
right.set(title="what is to be answered", xlabel="step")
for panel, steps in ((left, batch.source.shape[1]), (right, batch.targets.shape[1])):
    panel.set(xticks=range(0, steps, 2), yticks=[])
plt.show()

# %%
# A machine learns it
# -------------------
#
# A model is a Lightning module and a task a data module, so Lightning's trainer knows
# what to do. Every 100 batches it validates, and it stops at less than a fiftieth of a
# bit a sequence.

from functools import partial

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import EarlyStopping

import memnets as mn

torch.manual_seed(1)
machine = mn.MemoryMachine(
    task.input_size,
    task.output_size,
    controller=partial(mn.LSTM, hidden_size=48),
    access=mn.NTM(slots=24, width=8, least_sharpness=1.5),
    optimizer=partial(torch.optim.Adam, lr=0.01),
    schedule="constant",
)
trainer = Trainer(
    max_steps=4000,
    max_epochs=-1,
    gradient_clip_val=1.0,
    callbacks=[EarlyStopping("val/bits", stopping_threshold=0.02, patience=4000)],
    accelerator="cpu",
    num_sanity_val_steps=0,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(machine, task)
machine.eval()

with torch.no_grad():
    right = (machine.logits(batch) > 0) == (batch.targets > 0.5)
share = right.float().mean().item()
print(f"right bits after {trainer.global_step} batches: {share:.1%}")
assert share > 0.95

# %%
# The head turns around
# ---------------------
#
# While the sequence comes, the write head walks along the slots. While the machine
# answers, the read head walks back.

with torch.no_grad(), mn.record(machine) as tape:
    machine.logits(batch)
tape.plot("backwards.png", split=batch.source.shape[1])

# sphinx_gallery_thumbnail_number = 2

read, write = tape.over_time("body.access.addressing")
written, found = write[:8].argmax(-1), read[9:].argmax(-1)
print("written:", written.tolist())
print("read:   ", found.tolist())
assert (written.flip(0) == found).float().mean() > 0.6

# %%
# Watch it
# --------
#
# *Look at* the heads: when the answer begins, the read head is at the end of the walk.
# *Look at* its shift, which turns its direction.

page = mn.view(
    machine, task, examples=2, what_if="none", title="A sequence said backwards"
)
page.save("backwards.html")

# %%
# From the command line
# ---------------------
#
# With ``Reversing`` in a file ``my_parts.py`` in the folder where you are, every option
# of the command line works for it:
#
# .. code-block:: sh
#
#    memnets fit --config copying/ntm --name=reversing/ntm --data=my_parts.Reversing
#
# The checkpoint then names a class of yours, and opening it runs your file: so
# ``memnets test``, ``view`` and ``predict`` ask for ``--trust``, and ``mn.load`` for
# ``trust=True``.
#
# A task from scratch is a subclass of :class:`tasks.Task`; texts, images and points
# give their words, pictures and drawings to the page by methods such as ``labels``,
# ``images`` and ``drawing``.
