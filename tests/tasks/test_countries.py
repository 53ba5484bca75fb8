"""Questions about facts: their answers against loops over the facts, files, and the settings."""

import random
import re
from collections import Counter

import numpy as np
import pytest
import torch

from memnets import extras
from memnets.batches import PAD, UNKNOWN
from memnets.extras import MissingExtra
from tasks import Countries
from tasks.countries import Fact, KeyHashing, Locations, country_facts, location_facts, read_facts
from tasks.countries.facts import plain, symmetric, with_inverses
from tasks.countries.questions import one_hop, shares, two_hops

FILMS = [
    Fact("Metropolis", "director", "Fritz Lang"),
    Fact("M", "director", "Fritz Lang"),
    Fact("Metropolis", "year", "1927"),
    Fact("Sunrise", "director", "F. W. Murnau"),
    Fact("Sunrise", "year", "1927"),
    Fact("F. W. Murnau", "country", "Germany"),
    Fact("Fritz Lang", "country", "Austria"),
]


@pytest.fixture
def films(tmp_path):
    path = tmp_path / "films.tsv"
    path.write_text("".join("\t".join(fact) + "\n" for fact in FILMS))
    return str(path)


@pytest.fixture(scope="module")
def tasks():
    """A task of each setting."""
    pytest.importorskip("countryinfo")
    return {
        setting: Countries(setting, most_facts=300)
        for setting in ("one_hop", "two_hops", "S1", "S2", "S3")
    }


# -- facts of a file -------------------------------------------------------------------------------


def test_names_are_compared_by_their_letters():
    assert plain("  Côte d'Ivoire ") == "cote d ivoire"
    assert plain("Washington, D.C.") == "washington d c"
    assert plain("Åland_Islands") == "aland islands"
    assert plain("Ελλάδα") == "ελλαδα"
    assert plain("?!") == ""


def test_a_file_of_facts_is_read(tmp_path):
    path = tmp_path / "facts.tsv"
    path.write_text("Ada\tborn in\tLondon\n\nADA\tKnows\tCharles \nAda\tborn in\tLondon\n")
    assert read_facts(str(path)) == [
        Fact("Ada", "born in", "London"),
        Fact("Ada", "knows", "Charles"),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Ada\tLondon", "line 2: expected 3 columns, subject, relation and object, .*; got 2"),
        ("Ada\tborn\tin\tLondon", "line 2: expected 3 columns.*; got 4"),
        ("Ada\t\tLondon", "line 2: expected a name with letters as the relation; got ''"),
        ("Ada\tborn in\t--", "line 2: expected a name with letters as the object; got '--'"),
        ("Ada\t!born in\tLondon", "line 2: expected a relation that does not begin with !"),
    ],
)
def test_a_line_that_is_no_fact_is_named(line, message, tmp_path):
    path = tmp_path / "facts.tsv"
    path.write_text(f"Ada\tborn in\tLondon\n{line}\n")
    with pytest.raises(ValueError, match=f"facts.tsv, {message}"):
        _ = Countries(facts=str(path)).words


def test_a_file_that_is_not_there_or_too_short_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"expected a file at .*facts\.tsv; there is none"):
        _ = Countries(facts=str(tmp_path / "facts.tsv")).words
    (tmp_path / "facts.tsv").write_text("Ada\tborn in\tLondon\n")
    with pytest.raises(ValueError, match="expected facts for at least 3 questions, for training"):
        _ = Countries(facts=str(tmp_path / "facts.tsv")).words


def test_settings_that_do_not_fit_are_named(films):
    with pytest.raises(ValueError, match=r"setting must be one of one_hop, .*; got 'S4'"):
        Countries("S4")
    with pytest.raises(ValueError, match=r"setting=S2 is about countries; .*got facts="):
        Countries("S2", facts=films)


@pytest.mark.parametrize("setting", ["one_hop", "S1"])
def test_a_package_that_is_missing_is_named(setting, monkeypatch, films):
    Countries(facts=films)
    monkeypatch.setattr(extras, "_installed", lambda module: False)
    Countries(facts=films)  # needs none
    with pytest.raises(MissingExtra, match=r"needs .*; to install: .*'memnets\[knowledge\]'"):
        Countries(setting)


# -- key hashing -----------------------------------------------------------------------------------


def found_by_hand(facts, words, rounds, frequent, hidden):
    """Facts by loops over all of them, as a set for each round."""
    counts = Counter(word for fact in facts for word in {fact.subject, fact.relation})
    found, asked, result = set(), set(words), []
    for _ in range(rounds):
        new = {
            fact
            for fact in facts
            if fact not in found
            and fact not in hidden
            and any(word in asked and counts[word] <= frequent for word in fact[:2])
        }
        result.append(new)
        found |= new
        asked = {fact.object for fact in new}
    return result


def test_key_hashing_finds_what_loops_over_the_facts_find():
    generator = random.Random(0)
    for _ in range(60):
        facts = list(
            {Fact(*(str(generator.randrange(size)) for size in (6, 3, 6))) for _ in range(20)}
        )
        frequent, rounds = generator.choice([2, 4, 9]), generator.randint(1, 3)
        words = {str(generator.randrange(6)) for _ in range(2)}
        hidden = set(generator.sample(facts, 3))
        expected = found_by_hand(facts, words, rounds, frequent, hidden)
        hashing = KeyHashing(facts, frequent)
        found = hashing.find(words, rounds, hidden=hidden)
        assert len(found) == len(set(found))
        assert set(found) == set().union(*expected)
        most = len(expected[0])
        assert set(hashing.find(words, rounds, most, hidden)) == expected[0]


def test_rare_words_come_first():
    facts = [Fact("a", "r", "x"), Fact("a", "r", "y"), Fact("b", "q", "z")]
    assert KeyHashing(facts).find(["a", "b"], most=1) == [facts[2]]
    assert KeyHashing(facts, frequent=1).find(["a"]) == []


# -- facts about countries -------------------------------------------------------------------------


def test_quirks_of_the_package_are_made_good():
    countryinfo = pytest.importorskip("countryinfo")
    facts = set(country_facts())
    assert Fact("France", "capital", "Paris") in facts
    # A border is given by a code, and may be there for one side alone: Italy knows no Vatican.
    raw = countryinfo.CountryInfo.all()
    assert "ISR" not in (raw["palestine, state of"].get("borders") or ())
    assert "JOR" in raw["palestine"]["borders"]
    assert "PSE" not in raw["jordan"]["borders"]
    assert Fact("Jordan", "borders", "Palestine, State of") in facts
    assert "borders" in symmetric(facts)
    # Codes of two letters, and codes without a record: IT, KOS.
    holy_see = "Holy See (Vatican City State)"
    names = {fact.subject for fact in facts}
    assert {holy_see, "Vatican City State"} & names == {holy_see}
    assert Fact(holy_see, "borders", "Italy") in facts
    assert not any("KOS" in fact or "XKX" in fact for fact in facts)
    # A capital that is a list, missing values, one country in two records, no country at all.
    assert raw["vatican city state"]["capital"] == ["Vatican City"]
    assert Fact(holy_see, "capital", "Vatican City") in facts
    assert "Wales" not in names
    assert "Scotland" not in names
    assert "Burma" not in names
    assert Fact("Myanmar", "borders", "India") in facts  # from Burma's record alone
    # A name that is written in two ways, and codes of languages and currencies.
    assert "South-Eastern Asia" not in {fact.object for fact in facts}
    assert Fact("Japan", "language", "Japanese") in facts
    assert Fact("Japan", "currency", "Japanese Yen") in facts
    assert len({plain(fact.subject) for fact in facts}) == len(names) > 240


def test_facts_of_locations_have_two_relations():
    pytest.importorskip("countryinfo")
    facts = set(location_facts())
    assert {fact.relation for fact in facts} == {"located in", "neighbour of"}
    for place in ("Western Europe", "Europe"):
        assert Fact("France", "located in", place) in facts
    assert Fact("Western Europe", "located in", "Europe") in facts


# -- questions -------------------------------------------------------------------------------------


def test_answers_are_those_of_loops_over_the_facts(tasks):
    facts = with_inverses(country_facts())
    for setting in ("one_hop", "two_hops"):
        questions = [
            q for split in ("train", "val", "test") for q in tasks[setting].questions(split)
        ]
        for question in questions[::97]:
            names = {question.about}
            for relation in question.path:
                names = {
                    fact.object
                    for fact in facts
                    if fact.relation == relation and fact.subject in names
                }
            if setting == "two_hops":
                names -= {question.about}
            assert question.answers == names
            assert question.about in question.words


def test_questions_are_worded_as_english():
    asked = {" ".join(question.words): set(question.answers) for question in one_hop(FILMS)}
    assert asked["what is the director of M"] == {"Fritz Lang"}
    assert asked["whose director is Fritz Lang"] == {"Metropolis", "M"}
    asked = {" ".join(question.words): set(question.answers) for question in two_hops(FILMS)}
    assert asked["what is the country of the director of Sunrise"] == {"Germany"}
    assert asked["what is the year of what has the director Fritz Lang"] == {"1927"}
    # The way back leads to what was asked about.
    assert not any("whose director is the director" in question for question in asked)


def test_no_question_of_the_test_is_in_the_training_in_any_wording(tasks):
    for setting in ("one_hop", "two_hops"):
        keys = {
            split: {(question.about, question.path) for question in tasks[setting].questions(split)}
            for split in ("train", "val", "test")
        }
        assert sum(map(len, keys.values())) == len(set().union(*keys.values()))
        assert len(keys["test"]) == len(keys["val"]) == len(set().union(*keys.values())) // 10
    assert shares(one_hop(FILMS)) == shares(one_hop(FILMS))
    with pytest.raises(ValueError, match="expected facts for at least 3 questions"):
        shares(one_hop(FILMS[:1]))


# -- the Countries tasks ---------------------------------------------------------------------------


def ways(facts, name, answer):
    """Lengths of the chains of facts from a country to its region, at most 3."""
    reached, lengths = {name}, []
    for length in (1, 2, 3):
        reached = {fact.object for fact in facts if fact.subject in reached} - {name}
        if answer in reached:
            lengths.append(length)
    return lengths


@pytest.mark.parametrize(("setting", "shortest"), [("S1", 2), ("S2", 2), ("S3", 3)])
def test_a_region_is_only_found_on_the_way_that_the_setting_leaves(setting, shortest, tasks):
    task = tasks[setting]
    countries = task.locations.countries
    assert len(countries["test"]) == len(countries["val"]) == 20
    assert not {*countries["test"]} & {*countries["val"]}
    whole = set(location_facts())
    for split in ("train", "val", "test"):
        for question in task.questions(split):
            (region,) = question.answers
            assert Fact(question.about, "located in", region) in whole
            memories = task.memories(question, split)
            assert ways(memories, question.about, region)[0] == shortest
            places = [
                fact.object for fact in memories if fact[:2] == (question.about, "located in")
            ]
            assert len(places) == (1 if setting == "S1" else 0)
            near = {
                fact.object for fact in memories if fact[:2] == (question.about, "neighbour of")
            }
            if split != "train":
                assert near & {*countries["train"]} or setting == "S3"
    # Nothing of a test country's region is in the memory of any question.
    for name in countries["test"]:
        assert not any(
            fact.subject == name and fact.object in task.locations.regions
            for fact in task.locations.facts
        )


def test_countries_of_the_test_are_the_same_in_all_settings(tasks):
    test = [tasks[setting].locations.countries["test"] for setting in ("S1", "S2", "S3")]
    assert test[0] == test[1] == test[2]
    near = {fact[::2] for fact in location_facts() if fact.relation == "neighbour of"}
    held = {*test[0], *tasks["S1"].locations.countries["val"]}
    for name in held:
        assert any(one == name and other not in held for one, other in near)
    with pytest.raises(ValueError, match="setting must be one of S1, S2, S3; got 'one_hop'"):
        Locations([], "one_hop")


# -- batches, answers and scores -------------------------------------------------------------------


def test_a_batch_says_what_was_asked_and_what_is_right(films):
    task = Countries("two_hops", facts=films, batch_size=4)
    batch = task.batch("train", 3)
    for row in range(4):
        facts, answers = task.labels(batch, row)
        (words,) = task.asked_words(batch, row)
        (known,) = [q for q in task.questions("train") if list(q.words) == words]
        assert answers == [" | ".join(sorted(known.answers, key=task.words.words.index))]
        assert facts == [f"{s} {r}: {o}" for s, r, o in task.memories(known, "train")]
    assert batch.targets.shape == (4, 1, len(task.words))


def test_every_question_of_a_pass_comes_once(films):
    task = Countries(facts=films, batch_size=3)
    count = len(task.questions("train"))
    batches = [task.batch("train", index) for index in range(count)]  # three passes
    asked = [str(task.asked_words(batch, row)) for batch in batches for row in range(3)]
    with pytest.raises(IndexError, match="test has 1 batches, numbered from 0"):
        task.batch("test", 1)
    for begin in range(0, 3 * count, count):
        assert len(set(asked[begin : begin + count])) == count


def test_a_question_is_read_by_its_names(tasks):
    task = tasks["one_hop"]
    for question in task.questions("test"):
        assert task.read(" ".join(question.words) + "?") == list(question.words)
    assert task.read("Which countries border COTE D'IVOIRE?")[-1] == "Ivory Coast"
    assert task.read("What is the capital of the UK?")[-1] == "United Kingdom"
    # IS is the code of Iceland, and IN that of India.
    assert " ".join(task.read("WHAT IS THE CAPITAL OF CHAD")) == "what is the capital of Chad"
    assert "Iceland" not in task.read("what is the capital of France in English")


def test_a_users_question_brings_up_the_facts(tasks):
    batch = tasks["one_hop"].asked(["What is the capital of Chad, please?", "Who borders Chad?"])
    assert "Chad capital: N'Djamena" in tasks["one_hop"].labels(batch, 0)[0]
    assert UNKNOWN in batch.inputs[0]
    assert batch.inputs[1, 0, -1] == PAD
    likely = torch.zeros(2, 1, len(tasks["one_hop"].words))
    likely[0, 0, tasks["one_hop"].words.encode(["N'Djamena"])] = 1
    likely[1, 0, tasks["one_hop"].words.encode(["Libya"])] = 1
    assert tasks["one_hop"].says(batch, likely) == ["N'Djamena", "Libya"]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (
            "What is the capital of Atlantis?",
            "a question about a country or another name .*Atlantis",
        ),
        ("How old is France?", "one of the relations borders, capital, currency, language, region"),
        ("", "a question about a country"),
    ],
)
def test_a_question_without_a_known_name_or_relation_is_named(question, message, tasks):
    with pytest.raises(ValueError, match=f"item 8: expected .*{message}"):
        tasks["one_hop"].asked(["What is the capital of Chad?", question], first=7)


def test_scores_are_those_by_hand(tasks):
    task = tasks["S1"]
    generator = np.random.default_rng(0)
    likely = generator.random((20, 1, len(task.words)))
    scores = task.measure("test", [torch.from_numpy(likely)])
    pairs = [
        (likely[row, 0, task.words.encode([region])[0]], region in question.answers)
        for row, question in enumerate(task.questions("test"))
        for region in task.locations.regions
    ]
    pairs.sort(reverse=True)
    hits, area = 0, 0.0
    for rank, (_, right) in enumerate(pairs, start=1):
        hits += right
        area += right * hits / rank / 20
    assert scores == {"auc_pr": pytest.approx(area)}

    task = tasks["one_hop"]
    right = torch.cat([task.batch("test", index).targets for index in range(task.batches("test"))])
    scores = task.measure("test", list(right.split(100)))
    assert set(scores.values()) == {1.0}
    assert {"hits_capital", "hits_of_capital", "hits_borders"} <= scores.keys()
    with pytest.raises(ValueError, match="expected an answer to each of the 391 questions of test"):
        task.measure("test", [right[:99]])
    sources, references, said = zip(*task.texts("test", list(right.split(100))), strict=True)
    assert len(sources) == len(right)
    assert all(one in reference for one, reference in zip(said, references, strict=True))


def test_a_checkpoint_keeps_facts_and_words(films, tmp_path):
    task = Countries(facts=films)
    state = task.state_dict()
    other = tmp_path / "other.tsv"
    other.write_text("Ada\tborn in\tLondon\nBob\tborn in\tBonn\n")
    restored = Countries(facts=str(other))
    restored.load_state_dict(state)
    assert restored.known.facts == FILMS
    assert restored.words.words == task.words.words
    question = ["Whose director is Fritz Lang?"]
    for one, same in zip(restored.asked(question), task.asked(question), strict=True):
        assert (one is same is None) or torch.equal(one, same)
    gone = Countries(facts=str(tmp_path / "gone.tsv"))
    gone.load_state_dict(state)  # a checkpoint needs no file
    assert gone.known.facts == FILMS
    assert gone.output_size == task.output_size
    for one, same in zip(gone.batch("val", 0), task.batch("val", 0), strict=True):
        assert (one is same is None) or torch.equal(one, same)
    with pytest.raises(ValueError, match="expected a checkpoint with facts; got one without"):
        restored.load_state_dict({})
    with pytest.raises(ValueError, match="its facts are damaged"):
        restored.load_state_dict({**state, "facts": torch.full((1, 3), 10**6)})


def test_a_batch_of_validation_is_no_larger_than_its_set(films):
    task = Countries(facts=films, validation_batch_size=10**9)
    assert len(task.batch("val", 0).targets) == len(task.questions("val"))


def test_a_checkpoint_without_room_for_its_batches_is_not_called_damaged(films, monkeypatch):
    state = Countries(facts=films).state_dict()
    monkeypatch.setenv("MEMNETS_LIMIT", "100")
    with pytest.raises(ValueError, match=r"facts and words of a batch would have .*MEMNETS_LIMIT="):
        Countries(facts=films).load_state_dict(state)


def test_questions_of_a_file_are_its_lines(tmp_path, films):
    (tmp_path / "asked.txt").write_text("Whose year is 1927?\n\n what is the year of M? \n")
    items = Countries(facts=films).items(str(tmp_path / "asked.txt"))
    assert items == ["Whose year is 1927?", "what is the year of M?"]
    assert not any(re.search(r"^\s|\s$", item) for item in items)
