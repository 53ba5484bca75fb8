"""Embedders, against plain Python; their laws are those of the encoders that own them."""

from functools import partial

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from torch import nn

from memnets.app.trust import strict_parsing
from memnets.batches import Batch
from memnets.cells import GRU
from memnets.embedders import Patches, Sentences, Words, position_encoding
from memnets.encoders import Embedded, Recurrent
from memnets.models import Model, Seq2Seq


def test_position_encoding_is_that_of_the_paper():
    lengths, width = [4, 1, 3, 0], 5
    words = torch.arange(4) < torch.tensor(lengths).unsqueeze(1)
    expected = np.zeros((4, 4, width))
    for row, count in enumerate(lengths):
        for j in range(1, count + 1):
            for k in range(1, width + 1):
                expected[row, j - 1, k - 1] = (1 - j / count) - k / width * (1 - 2 * j / count)
    np.testing.assert_allclose(position_encoding(words, width), expected, atol=1e-6)


@pytest.mark.parametrize("encoding", ["bag", "position"])
def test_a_sentence_is_the_sum_of_its_words(encoding):
    embedder = Sentences(9, 3, encoding)
    story = torch.tensor([[[4, 5, 4], [6, 0, 0]]])
    vectors, mask = embedder(story)
    weight = embedder.embedding.weight
    assert mask is None
    for sentence, words in enumerate([[4, 5, 4], [6]]):
        factors = torch.ones(len(words), 3)
        if encoding == "position":
            factors = position_encoding(torch.ones(len(words), dtype=torch.bool), 3)
        expected = sum(factor * weight[word] for factor, word in zip(factors, words, strict=True))
        torch.testing.assert_close(vectors[0, sentence], expected)
    # Padding adds nothing, whatever the vector of PAD is.
    padded = nn.functional.pad(story, (0, 2))
    torch.testing.assert_close(embedder(padded)[0], vectors)


@pytest.mark.parametrize(
    ("filters", "halvings", "strides"),
    [(3, 0, [1, 1, 1]), (3, 2, [1, 2, 2]), (4, 2, [1, 2, 2, 1]), (2, 2, [2, 2])],
)
def test_the_layers_behind_the_first_halve_an_image(filters, halvings, strides):
    layers = Patches(1, [2] * filters, halvings).layers
    found = [layer.stride[0] for layer in layers if isinstance(layer, nn.Conv2d)]
    assert found == strides


def test_coordinates_stand_behind_the_features_of_a_place():
    embedder = Patches(1, (3, 4), 1, coordinates=True)
    image = torch.rand(2, 5, 9, 1)
    vectors, _ = embedder(image)
    assert embedder.output_size == 6
    rows, columns = embedder.grid(5, 9)
    features = embedder.layers(image.permute(0, 3, 1, 2))
    for row in range(rows):
        for column in range(columns):
            place = torch.tensor([row / 2 * 2 - 1, column / 4 * 2 - 1]).expand(2, 2)
            expected = torch.cat([features[:, :, row, column], place], -1)
            torch.testing.assert_close(vectors[:, row * columns + column], expected)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 7), (9, 1)])
@pytest.mark.parametrize("halvings", [0, 1, 2])
def test_patches_come_row_by_row(height, width, halvings):
    embedder = Patches(2, (3, 4), halvings)
    image = torch.rand(1, height, width, 2)
    rows, columns = embedder.grid(height, width)
    vectors, _ = embedder(image)
    assert vectors.shape == (1, rows * columns, 4)
    features = embedder.layers(image.permute(0, 3, 1, 2))
    assert features.shape[2:] == (rows, columns)
    for row in range(rows):
        for column in range(columns):
            place = row * columns + column
            torch.testing.assert_close(vectors[0, place], features[0, :, row, column])


def test_errors_of_sources():
    with pytest.raises(
        ValueError, match=r"images must be \[B, height, width, 3\]; got \[1, 4, 4, 1"
    ):
        Patches(3)(torch.zeros(1, 4, 4, 1))
    with pytest.raises(ValueError, match=r"a side of more than 4 pixels.*got \[1, 4, 3, 1\]"):
        Patches(1)(torch.zeros(1, 4, 3, 1))
    with pytest.raises(ValueError, match="images of a batch have one size and no padding"):
        Patches(1)(torch.zeros(1, 8, 8, 1), torch.ones(1, 8, dtype=torch.bool))
    with pytest.raises(ValueError, match="halvings must be from 0 to the number of layers, 1; got"):
        Patches(1, (4,), halvings=2)
    with pytest.raises(ValueError, match="encoding must be 'bag' or 'position'; got 'sum'"):
        Sentences(5, encoding="sum")
    encoder, decoder = partial(Embedded, embedding=Patches), partial(GRU, hidden_size=4)
    with pytest.raises(ValueError, match=r"source must be images \[B, height, width, channels\]"):
        Seq2Seq(3, 9, encoder, decoder, width=4).encode(torch.zeros(1, 4, 4))
    wrong = partial(Recurrent, controller=partial(GRU, hidden_size=3))
    with pytest.raises(TypeError, match=r"embedding must make an Embedder.*an object, Recurrent"):
        Embedded(5, wrong)


def test_a_model_gives_an_embedding_only_to_an_encoder_without_one():
    own = Seq2Seq(7, 9, partial(Embedded, embedding=Words), partial(GRU, hidden_size=4), width=4)
    assert own.source_embedding is None
    assert own.encoder.input_size == 7
    encoder = partial(Recurrent, controller=partial(GRU, hidden_size=3))
    given = Seq2Seq(7, 9, encoder, partial(GRU, hidden_size=4), width=4)
    assert given.source_embedding.weight.shape == (7, 4)
    assert given.encoder.input_size == 4


ATTENDING = {
    "Seq2Seq": {
        "decoder": {"class_path": "memnets.cells.GRU", "init_args": {"hidden_size": 4}},
        "attention": {
            "class_path": "memnets.addressing.Content",
            "init_args": {
                "score": {"class_path": "memnets.scores.Additive", "init_args": {"size": 4}}
            },
        },
        "key_size": 4,
    },
    "Transformer": {"heads": 2, "layers": 1},
    "ConvS2S": {"layers": 1},
}
SOURCES = {
    "Words": torch.tensor([[4, 5, 6]]),
    "Sentences": torch.tensor([[[4, 5, 6], [6, 0, 0]]]),
    "Patches": torch.rand(1, 9, 10, 7),
}


@pytest.mark.parametrize("embedder", SOURCES)
@pytest.mark.parametrize("model", ATTENDING)
def test_any_decoder_with_attention_takes_any_encoder_by_yaml(model, embedder):
    encoder = {
        "class_path": "memnets.encoders.Embedded",
        "init_args": {"embedding": f"memnets.embedders.{embedder}"},
    }
    sizes = {"input_size": 7, "output_size": 9, "width": 4}
    settings = {**sizes, **ATTENDING[model], "encoder": encoder}
    strict_parsing()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Model, "model", fail_untyped=False)
    config = {"model": {"class_path": f"memnets.models.{model}", "init_args": settings}}
    made = parser.instantiate(parser.parse_object(config))["model"]
    batch = Batch(SOURCES[embedder], torch.tensor([[2, 4]]), torch.tensor([[4, 3]]))
    logits = made.logits(batch)
    assert logits.shape == (1, 2, 9)
    # The answer looks at the source.
    weight = next(made.encoder.embedding.parameters())
    (gradient,) = torch.autograd.grad(logits.square().sum(), [weight])
    assert gradient.any()
