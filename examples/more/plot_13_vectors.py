"""
Vectors: a sentence to a vector and back
========================================

An autoencoder without attention says a sentence again from nothing but one vector. So
the vector holds the sentence, sentences that mean alike lie close together, and a
point between two of them is a sentence too. Here are all sentences of a small grammar,
a model that learns them in seconds, and a walk from one to another.
"""

# %%
# Sentences of your own
# ---------------------
#
# A file with a sentence in each line is all that :class:`tasks.Sentiment` needs to
# train an autoencoder.

import itertools
import tempfile
from functools import partial
from pathlib import Path

import torch

import memnets as mn
from memnets.encoders import Recurrent
from memnets.training import Tokens
from tasks import Sentiment

subjects = ["the cat", "the old dog", "a bird", "my small horse"]
verbs = ["sees", "likes", "follows", "never hears"]
objects = ["the tree", "a red house", "the sea", "two small fish"]
sentences = [" ".join(parts) for parts in itertools.product(subjects, verbs, objects)]
path = Path(tempfile.mkdtemp()) / "sentences.txt"
path.write_text("\n".join(sentences))

task = Sentiment(kind="autoencoder", unlabelled=[str(path)], vocabulary_size=40)
print(len(task.sentences("train")), "sentences to learn, such as:", sentences[0])

# %%
# Learn to say them again
# -----------------------

torch.manual_seed(0)
model = mn.Seq2Seq(
    task.input_size,
    task.output_size,
    partial(Recurrent, controller=partial(mn.GRU, hidden_size=16)),
    partial(mn.GRU, hidden_size=64),
    width=32,
    objective=Tokens(),
)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for step in range(400):
    loss = model.loss(task.batch("train", step))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"loss of the last batch: {loss.item():.4f} nats a word")

# %%
# There and back
# --------------
#
# ``encode`` gives a vector for each sentence, ``decode`` a sentence for each vector. A
# model that ``memnets fit`` has trained is opened by ``mn.SentenceVectors.load(path)``.

vectors = mn.SentenceVectors(model, task)
held_out = [each.text for each in task.sentences("test")]
again = vectors.decode(vectors.encode(held_out))
for before, after in zip(held_out, again):
    print(f"{before:40} {after}")

# %%
# Neighbours
# ----------
#
# Which sentences are most like one?

known = vectors.encode(sentences)
asked = "the cat likes the sea"
distances = torch.cdist(vectors.encode([asked]), known)[0]
for place in distances.argsort()[:5].tolist():
    print(f"{distances[place]:.2f}  {sentences[place]}")
assert sentences[distances.argmin()] == asked

# %%
# Between two sentences
# ---------------------
#
# Each point on the line from one vector to another is decoded. The words change one
# after the other.

one, other = vectors.encode(["the cat sees the tree", "my small horse follows the sea"])
share = torch.linspace(0, 1, 7).unsqueeze(1)
for part, sentence in zip(share, vectors.decode(one + share * (other - one))):
    print(f"{part.item():.2f}  {sentence}")

# %%
# A map
# -----
#
# The vectors of all sentences, seen from the side on which they differ most, and the
# way that we went.

import matplotlib.pyplot as plt

line = one + share * (other - one)
centre = known.mean(0)
_, _, sides = torch.pca_lowrank(known, q=2, center=True)
places, way = (known - centre) @ sides, (line - centre) @ sides
figure, panel = plt.subplots(figsize=(5.6, 4), layout="constrained")
for subject in subjects:
    rows = [row for row, words in enumerate(sentences) if words.startswith(subject)]
    panel.plot(*places[rows].T, "o", markersize=4, label=f"{subject} ...")
panel.plot(*way.T, "k.-", linewidth=1, label="the way")
panel.set(xticks=[], yticks=[])
panel.legend(fontsize=8)
plt.show()
