"""
A caption, word by word
=======================

Show, attend and tell (Xu et al. 2015) says in words what is to be seen in an image. For
each word it looks at another part. Here the images are scenes with a handwritten
digit, and a caption is "seven in the middle": the first word needs the shape of the
digit, the others its place.
"""

# %%
# Scenes
# ------
#
# The digits of the test are drawings that the training does not have.

import matplotlib.pyplot as plt
import torch

from tasks import Captions

plt.style.use("memnets.viewing.style")

torch.set_num_threads(1)
task = Captions(
    side=24, max_digits=1, batch_size=32, test_scenes=200, validation_batch_size=200
)
batch = task.batch("test", 0)
captions = task.says(batch, batch.targets)

figure, panels = plt.subplots(1, 4, figsize=(8, 2.2), layout="constrained")
for panel, image, caption in zip(panels, batch.source, captions):
    panel.imshow(image[..., 0], cmap="gray")
    panel.set_title(caption, fontsize=9)
    panel.set(xticks=[], yticks=[])
plt.show()

# %%
# The model
# ---------
#
# Three layers of convolutions turn an image into 6 x 6 patches, each a vector that also
# knows its row and column. These are the slots of the memory. The decoder addresses
# them by content at each word.

from functools import partial

import memnets as mn
from memnets.addressing import Content
from memnets.embedders import Patches
from memnets.encoders import Embedded
from memnets.scores import Additive
from memnets.training import Tokens

torch.manual_seed(0)
patches = partial(Patches, filters=(16, 32, 32), coordinates=True)
model = mn.Seq2Seq(
    task.input_size,
    task.output_size,
    encoder=partial(Embedded, embedding=patches),
    decoder=partial(mn.LSTM, hidden_size=64),
    attention=Content(Additive(32)),
    width=32,
    key_size=32,
    objective=Tokens(),
)


def trained(loss, parameters, steps):
    """Fit the parameters to as many batches; the last loss."""
    optimizer = torch.optim.Adam(parameters)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 5e-3, steps, pct_start=0.2
    )
    for step in range(steps):
        error = loss(step)
        optimizer.zero_grad()
        error.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
    return error.item()


# %%
# First it learns to see
# ----------------------
#
# In the paper the patches come from a network that was trained to classify images, and
# then stay as they are. So here: for a few seconds the patches learn which digit a
# scene has. The digit is the best one of all patches.

classifier = torch.nn.Linear(model.encoder.output_size, 10)


def seeing(step):
    """Loss of a classification of the digits."""
    vectors = model.encoder(task.batch("train", step).source, None)[0]
    digits = torch.tensor([scene[0].digit for scene in task.named("train", step)])
    return torch.nn.functional.cross_entropy(classifier(vectors).amax(1), digits)


last = trained(seeing, [*model.encoder.parameters(), *classifier.parameters()], 200)
model.encoder.requires_grad_(False)
print(f"loss of the last batch: {last:.2f} nats a digit; a guess has 2.30")

# %%
# Then it learns to tell
# ----------------------
#
# The decoder learns which patches to look at from the captions alone.

telling = [each for each in model.parameters() if each.requires_grad]
trained(lambda step: model.loss(task.batch("train", step)), telling, 400)
model.eval()

answers = model.generate(batch.source)
exact = sum(map(str.__eq__, task.says(batch, answers), captions)) / len(captions)
print(f"{exact:.0%} of the captions are exact; a guess would be right once in 90 times")
assert exact > 0.6

# %%
# What each word looks at
# -----------------------
#
# The weights over the patches, on the image: bright is much.

with torch.no_grad(), mn.record(model) as tape:
    model.logits(batch)
row = next(row for row, caption in enumerate(captions) if len(caption.split()) == 5)
words = captions[row].split()
weights = tape.over_time("attention", row)[0].view(-1, 6, 6)

figure, grid = plt.subplots(2, 3, figsize=(6, 4.3), layout="constrained")
panels = grid.flatten()
panels[0].imshow(batch.source[row, ..., 0], cmap="gray")
for panel, word, patch in zip(panels[1:], words, weights):
    panel.imshow(batch.source[row, ..., 0], cmap="gray")
    panel.imshow(
        patch, cmap="inferno", alpha=0.6, extent=(-0.5, 23.5, 23.5, -0.5), vmin=0
    )
    panel.set_title(word, fontsize=10)
for panel in panels:
    panel.set(xticks=[], yticks=[])
plt.show()

# sphinx_gallery_thumbnail_number = 2

# %%
# How much of the weight is on the digit while it is named? The patches that overlap the
# digit are 4 to 9 of 36, so weights spread evenly would have about 0.2 there.

shares = []
for row, (digit,) in enumerate(task.named("test", 0)):
    first_row, last_row = digit.top // 4, (digit.top + 7) // 4
    first, last = digit.left // 4, (digit.left + 7) // 4
    weights = tape.over_time("attention", row)[0, digit.step].view(6, 6)
    shares.append(weights[first_row : last_row + 1, first : last + 1].sum().item())
share = sum(shares) / len(shares)
print(f"mean weight on the digit that is being named: {share:.2f}")
assert share > 0.5

# %%
# Watch it
# --------
#
# *Look at* the image: for each word it shows where the model looks. *Look at* wrong
# captions first: they mostly name a digit that is drawn in a similar way.

page = mn.view(model, task, examples=4, what_if="none", title="Captions, word by word")
page.save("caption.html")

# %%
# More digits, and images of your own
# -----------------------------------
#
# .. code-block:: sh
#
#    memnets fit --config captions/soft
#    memnets fit --config captions/soft --data.folder=my_images.zip
#
# How well it learns scenes of four digits is on the page of :doc:`/results/captions`; a
# file of captions beside images is all that it needs of yours: see :doc:`/data`.
