"""Key-value memory networks against plain NumPy, and what their settings must be."""

import numpy as np
import pytest
import torch

from memnets.models import KeyValueNetwork
from memnets.training.objectives import Candidates
from memnets.viewing import pictures
from memnets.viewing.pictures import MOST_SLOTS, Pictures
from tasks import Countries

WORDS = 9


def answer_by_hand(model, facts, open_slots, question, update):
    """Logits of one question, from the equations of Miller et al. 2016, section 3."""
    table = model.embeddings[0].embedding.weight.detach().numpy()
    matrices = [matrix.weight.detach().numpy() for matrix in model.matrices]

    def bag(words):
        return sum((table[word] for word in words if word != 0), np.zeros(table.shape[1]))

    query = bag(question)
    for hop in range(len(model.reads)):
        shares = {
            slot: np.exp(query @ bag(key))
            for slot, (key, _) in enumerate(facts)
            if open_slots[slot]
        }
        found = sum(
            share / sum(shares.values()) * bag(facts[slot][1]) for slot, share in shares.items()
        )
        if update == "sum":
            query = matrices[hop] @ (query + found)
        elif hop < len(model.reads) - 1:
            query = matrices[hop] @ query + found
        else:
            query = found
    return table @ query


@pytest.mark.parametrize("update", ["query", "sum"])
@pytest.mark.parametrize("hops", [1, 3])
def test_answers_are_those_of_the_equations(update, hops):
    torch.manual_seed(0)
    model = KeyValueNetwork(
        WORDS, WORDS, width=5, hops=hops, update=update, objective=Candidates()
    ).double()
    for matrix in model.matrices:  # they begin as the identity
        torch.nn.init.normal_(matrix.weight)
    source = torch.randint(0, WORDS, (2, 4, 2, 3))
    mask = torch.tensor([[True, True, True, False], [True] * 4])
    questions = torch.randint(0, WORDS, (2, 2, 4))
    logits, _ = model.decode(questions, model.encode(source, mask))
    for row in range(2):
        for step in range(2):
            expected = answer_by_hand(
                model, source[row].tolist(), mask[row], questions[row, step].tolist(), update
            )
            assert logits[row, step].tolist() == pytest.approx(expected.tolist())


def test_a_name_that_was_never_an_answer_can_be_one():
    # Untrained, since the embedding of a value is that of the candidate.
    torch.manual_seed(0)
    model = KeyValueNetwork(WORDS, WORDS, objective=Candidates())
    source = torch.tensor([[[[4, 5], [6, 0]], [[7, 5], [8, 0]]]])
    logits, _ = model.decode(torch.tensor([[[4, 5], [7, 5]]]), model.encode(source))
    assert logits.argmax(-1).tolist() == [[6, 8]]


def test_settings_out_of_range_are_named():
    with pytest.raises(ValueError, match="update must be 'query' or 'sum'; got 'both'"):
        KeyValueNetwork(WORDS, WORDS, update="both")
    with pytest.raises(ValueError, match=r"strength must be more than 0; got 0\.0"):
        KeyValueNetwork(WORDS, WORDS, strength=0.0)
    with pytest.raises(ValueError, match="output_size must be input_size; got 3 and 9"):
        KeyValueNetwork(WORDS, 3)


def test_the_picture_shows_the_facts_that_were_looked_at_most(tmp_path, monkeypatch):
    # So many films of a director, and each of them may be the answer.
    films = [f"Film {number}" for number in range(MOST_SLOTS + 5)]
    lines = "".join(f"{film}\tdirector\tFritz Lang\n{film}\tgenre\tdrama\n" for film in films)
    (tmp_path / "films.tsv").write_text(lines)
    task = Countries(facts=str(tmp_path / "films.tsv"))
    torch.manual_seed(0)
    model = KeyValueNetwork(task.input_size, task.output_size, objective=Candidates()).eval()
    batch = task.asked(["Whose director is Fritz Lang?"])
    batch.targets[0, 0, task.words.encode(films[:2])] = 1
    drawn = []
    monkeypatch.setattr(
        pictures.plots, "alignment", lambda *given, **named: drawn.append((given, named))
    )
    for film in (films[1], films[2], "drama"):
        answer = torch.full(batch.targets.shape, 0.001)
        answer[0, 0, task.words.encode([film])] = 0.9
        Pictures(tmp_path).draw_hops(model, task, batch, answer, "test_{}_1.png")
    (weights, hops, facts, path), _ = drawn[0]
    assert path.name == "test_hops_1.png"
    assert hops == ["hop 1"]
    assert facts[0].startswith("Fritz Lang !director: Film ")
    assert weights.shape == (len(facts), 1) == (MOST_SLOTS, 1)
    titles = [named["title"] for _, named in drawn]
    assert titles == [
        f"question: whose director is Fritz Lang?\nanswer: {verdict}"
        for verdict in (
            "Film 1, right",
            "Film 2, wrong: right is Film 0 | Film 1",
            "drama, wrong: right is Film 0 | Film 1",
        )
    ]
