"""
What a few-shot query looks at
==============================

In learning from few examples a model never learns the classes themselves. It is shown
one image of each of five classes, with labels, and then asked about others. SNAIL
(Mishra et al. 2018) reads the examples as a sequence, with convolutions and
attention. Here it is trained on the digits 0 to 4 and their quarter turns, and tested
on 5 to 9, which it has never seen. Which of the examples does a query look at?
"""

from functools import partial

import torch
from torch import nn

import memnets as mn
from memnets.features import ImageFeatures
from memnets.models import SNAIL, MetaLearner
from memnets.training import Labels
from tasks import FewShot

task = FewShot(
    ways=5, shots=[1, 5], rotations=True, variants=4, batch_size=16, test_episodes=100
)

# %%
# An episode
# ----------
#
# Five examples with their labels, then a query of each class. Which class has which
# label is drawn anew for every episode, so nothing can be learnt by heart.

import matplotlib.pyplot as plt

plt.style.use("memnets.viewing.style")

batch = task.batch("shot_1", 0)
examples, queries = task.images(batch, 0)
labels, answers = task.labels(batch, 0)
figure, rows = plt.subplots(2, 5, figsize=(5, 2.4), layout="constrained")
for panels, images, words in ((rows[0], examples, labels), (rows[1], queries, "?????")):
    for panel, image, word in zip(panels, images, words):
        panel.imshow(image, cmap="gray_r")
        panel.set_title(word, fontsize=9)
        panel.set(xticks=[], yticks=[])
rows[0][0].set_ylabel("examples")
rows[1][0].set_ylabel("queries")
plt.show()

# %%
# The model
# ---------
#
# ``MetaLearner`` makes any model of sequences a learner of episodes; convolutions see
# the images.

torch.set_num_threads(1)
torch.manual_seed(0)
model = MetaLearner(
    task.input_size,
    task.output_size,
    learner=partial(
        SNAIL, max_length=26, attentions=[(64, 32), (64, 32)], filters=16, likeness=2.5
    ),
    features=partial(ImageFeatures, filters=[16, 32, 32]),
    prototypical=1.0,
    objective=Labels(),
)
steps = 400
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps, pct_start=0.1)
for step in range(steps):
    loss = model.loss(task.batch("train", step))
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
model.eval()

# %%
# The test
# --------
#
# Digits that it has never seen, from one example and from five. Chance is 20 %.

accuracy = {}
for shots in (1, 5):
    batch = task.batch(f"shot_{shots}", 0)
    with torch.no_grad():
        answers = model.logits(batch).argmax(-1)
    accuracy[shots] = (answers == batch.targets).float().mean().item()
    print(f"{shots} example(s) of each class: {accuracy[shots]:.1%} right")
assert accuracy[1] > 0.4
assert accuracy[5] > accuracy[1]

# %%
# What a query looks at
# ---------------------
#
# The weights of the first attention block, for the queries of one episode: dark is
# much. A query should look at the examples of its own class, which are put side by side
# here.

with torch.no_grad(), mn.record(model) as tape:
    model.logits(batch)
names = model.alignments()
label, name = next(iter(names.items()))
row = 1
# A query is a sequence of its own: the examples, then itself.
weights = tape.weights[name][-1].view(len(batch.targets), batch.targets.shape[1], -1)[
    row
]
shown = batch.source[row, :, -task.output_size :].argmax(-1)
order = shown.argsort(stable=True)
examples, queries = task.images(batch, row)

figure, panel = plt.subplots(figsize=(9, 3), layout="constrained")
panel.imshow(weights[:, order], cmap="Blues", vmin=0)
for column, place in enumerate(order):
    panel.imshow(
        1 - examples[place],
        cmap="gray",
        extent=(column - 0.5, column + 0.5, -0.6, -1.6),
    )
for line, image in enumerate(queries):
    panel.imshow(1 - image, cmap="gray", extent=(-1.6, -0.6, line + 0.5, line - 0.5))
panel.set(xlim=(-1.7, len(order) - 0.4), ylim=(len(queries) - 0.4, -1.7), yticks=[])
panel.set_xticks(range(2, len(order), 5), [f"label {label}" for label in range(5)])
panel.tick_params(length=0)
for spine in panel.spines.values():
    spine.set_visible(False)
plt.show()

# sphinx_gallery_thumbnail_number = 2

own = (shown[None] == batch.targets[row][:, None]).float()
share = (weights[:, : len(shown)] * own).sum() / weights[:, : len(shown)].sum()
print(f"{share:.0%} of the weight on examples goes to those of the query's own class")
assert share > 0.25

# %%
# Watch it
# --------
#
# Each step is an image: first the examples, with their labels, then a query. *Look at*
# the images under the weights, where the border is as dark as the weight: a good answer
# has looked at an example of its own class. The first episodes are those with the most
# mistakes, and there you see what was taken for what.

page = mn.view(
    model,
    task,
    sets=["shot_1"],
    examples=3,
    what_if="none",
    title="Digits from one example of each",
)
page.save("fewshot.html")

# %%
# On images of your own
# ---------------------
#
# .. code-block:: sh
#
#    memnets fit --config fewshot/snail
#    memnets fit --config fewshot/prototypical --data.paths='[my_images.zip]' \
#        --data.ways=2 --data.side=28
#
# A folder or zip file with a folder of images for each class is all that is needed: see
# :doc:`/data`.
