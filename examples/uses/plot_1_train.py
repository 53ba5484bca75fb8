"""
Train: a Neural Turing Machine learns to copy
=============================================

A Neural Turing Machine is a network with a memory beside it, a table of numbers that
it reads and writes with *heads*. Here a small one learns to repeat a sequence of
bits. Then we make the sequences four times as long as those of the training, and look
at where its heads were.
"""

# %%
# The task
# --------
#
# The machine sees a few vectors of random bits, then a flag. From then on it sees
# nothing but zeros, and has to say the vectors again. A batch is a function of the
# seed, of the split and of a number, so there is no data set to download.

import matplotlib.pyplot as plt

from tasks import Copying

task = Copying(
    width=4,
    max_length=8,
    test_sets=[(8, 50), (16, 50), (32, 50)],
    validation_batches=1,
)
batch = task.batch("train", index=3)

figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.2), layout="constrained")
left.imshow(batch.source[0].T, cmap="Blues", vmin=0)
left.set(title="source: vectors, then the flag", xlabel="step", ylabel="channel")
right.imshow(batch.targets[0].T, cmap="Blues", vmin=0)
right.set(title="what is to be answered", xlabel="step")
for panel, steps in ((left, batch.source.shape[1]), (right, batch.targets.shape[1])):
    panel.set(xticks=range(0, steps, 2), yticks=[])
plt.show()

# %%
# The model
# ---------
#
# A memory machine is a *controller*, here an LSTM, and a *memory*, here that of the
# Neural Turing Machine: 40 slots of 8 numbers, with one head that reads and one that
# writes. Either part can be any other that the library has, or one of your own.

from functools import partial

import torch

from memnets.cells import LSTM
from memnets.memories import NTM
from memnets.models import MemoryMachine

torch.manual_seed(0)
machine = MemoryMachine(
    input_size=task.input_size,
    output_size=task.output_size,
    controller=partial(LSTM, hidden_size=48),
    access=NTM(slots=40, width=8, least_sharpness=1.5),
    optimizer=partial(torch.optim.Adam, lr=0.01),
)

# %%
# The training
# ------------
#
# A model is a Lightning module and a task a data module, so Lightning's trainer knows
# what to do. Every 100 steps it validates, and it stops at less than a hundredth of a
# bit a sequence.

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import EarlyStopping

torch.set_num_threads(1)  # small models are fastest with one


def trainer(steps):
    solved = EarlyStopping("val/bits", stopping_threshold=0.01, patience=steps)
    return Trainer(
        max_steps=steps,
        max_epochs=-1,
        gradient_clip_val=0.1,
        callbacks=[solved],
        accelerator="cpu",
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


training = trainer(steps=3000)
training.fit(machine, task)
print(f"solved after {training.global_step} steps of {task.batch_size} sequences")

# %%
# The test
# --------
#
# The training had sequences of 1 to 8 vectors. The test has 8, 16 and 32. Beside the
# machine we train, for as many steps, what it is without a memory: an LSTM that has to
# keep everything in its cells.

lstm = MemoryMachine(
    input_size=task.input_size,
    output_size=task.output_size,
    controller=partial(LSTM, hidden_size=96),
    optimizer=partial(torch.optim.Adam, lr=0.01),
)
trainer(steps=training.global_step).fit(lstm, task)


def wrong_bits(model):
    """Wrong bits a sequence, by length."""
    tester = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    scores = {}
    for of_one_set in tester.test(model, task, verbose=False):
        scores.update(of_one_set)
    return [scores[f"test/length_{length}/wrong_bits"] for length in (8, 16, 32)]


wrong = {"NTM": wrong_bits(machine), "LSTM": wrong_bits(lstm)}
for name, numbers in wrong.items():
    shown = ", ".join(f"{number:.1f}" for number in numbers)
    print(f"{name}: {shown} of 32, 64, 128 bits are wrong")

# %%
# The memory has learnt a *procedure*: write a vector, step on; go back; read a vector,
# step on. So it goes on at lengths that it has never seen. The LSTM has learnt to hold
# eight vectors, and fails.

figure, panel = plt.subplots(figsize=(5, 2.6), layout="constrained")
for name, numbers in wrong.items():
    shares = [
        100 * number / (4 * length) for number, length in zip(numbers, (8, 16, 32))
    ]
    panel.plot((8, 16, 32), shares, "o-", label=name)
panel.axvspan(0, 8, color="0.93")
panel.text(0.6, 40, "lengths of\nthe training", color="0.35")
panel.set(
    xlim=(0, 33),
    ylim=(-2, 52),
    xlabel="vectors in the sequence",
    ylabel="wrong bits, %",
)
panel.legend()
plt.show()

assert wrong["NTM"][0] < 1
assert wrong["NTM"][2] < wrong["LSTM"][2] / 2

# %%
# Where the heads were
# --------------------
#
# ``memnets.record`` writes down the weights of every addressing in a model. Time goes
# from left to right, slots go upwards, and bright is where a head looks.

from memnets import record

batch = task.batch("length_16", 0)
with torch.no_grad(), record(machine) as tape:
    machine.logits(batch)
tape.plot("heads.png", split=batch.source.shape[1])

# sphinx_gallery_thumbnail_number = 3

# %%
# Left of the dashed line the machine sees the sequence: the write head walks along the
# slots. Right of it the machine answers: the read head walks along the same slots in
# the same order.
#
# A claim about a picture can be checked. Here is the slot that each head weighs most,
# step by step:

reading, writing = tape.over_time("body.access.addressing")
seen = slice(0, 16)
answered = slice(17, 33)
places = writing[seen].argmax(-1), reading[answered].argmax(-1)
print("written:", places[0].tolist())
print("read:   ", places[1].tolist())
assert (places[0] == places[1]).float().mean() > 0.8

# %%
# The same, larger, from the command line
# ---------------------------------------
#
# .. code-block:: sh
#
#    memnets fit --config copying/ntm
#
# trains the machine of the paper, 128 slots of 20 numbers, on sequences of up to 20
# vectors for four minutes, tests it at up to fifty times that length, and leaves
# checkpoints, scores and pictures in ``runs/copying/ntm/version_0``.
