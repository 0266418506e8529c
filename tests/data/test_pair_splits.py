"""Splits of sequence pairs: by hash, by stem and by lists of words."""

import pytest

from zoo.data.pair_splits import split_pairs, stem
from zoo.data.pairs import reversed_letters
from zoo.data.sequences import PairsInFile
from zoo.errors import BadInput

INFLECTIONS = [
    "walk walks walked walking walk's",
    "city cities city's",
    "bake bakes baked baking",
    "run runs running",
    "box boxes boxed boxing",
    "try tries tried trying",
    "pass passes passed passing",
    "see sees seeing",
    "bleed bleeds bleeding",
    "queue queues queued queuing",
    "dog dogs dogs' dog's",
    "building buildings building's",
]


def pairs_of(words):
    return {tuple(word): [("A",)] for word in words}


def part_of(parts, word):
    return next(name for name, part in parts.items() if tuple(word) in part)


@pytest.mark.parametrize("words", INFLECTIONS, ids=lambda words: words.split()[0])
def test_the_inflections_of_a_word_are_in_one_part(words):
    parts = split_pairs(pairs_of(words.split()), "stem")
    assert sum(len(part) > 0 for part in parts.values()) == 1


def test_different_words_have_different_stems():
    assert len({stem(words.split()[0]) for words in INFLECTIONS}) == len(INFLECTIONS)


def test_stems_are_split_90_5_5():
    words = {"".join(word) for word in reversed_letters(4000)}
    parts = split_pairs(pairs_of(words), "stem")
    shares = [len(part) / len(words) for part in parts.values()]
    assert shares == pytest.approx([0.9, 0.05, 0.05], abs=0.015)


def written(folder, **lists):
    for name, text in lists.items():
        (folder / name).write_text(text)
    return {name: str(folder / name) for name in lists}


def test_lists_of_words_and_lines_of_a_dictionary_say_which_words_are_tested(tmp_path, caplog):
    pairs = pairs_of(["tomato", "zoo", "ape", "bear", "cat's"])
    lists = written(tmp_path, val="zoo\n\nape\n", test=";;; a comment\nTOMATO(1)  T AH0 M EY1 T OW2\nABSENT  AE1\n")
    parts = split_pairs(pairs, lists)
    assert {name: {"".join(word) for word in part} for name, part in parts.items()} == {
        "train": {"bear", "cat's"},
        "val": {"zoo", "ape"},
        "test": {"tomato"},
    }
    assert "1 of its 2 lines" in caplog.text
    assert "ABSENT" in caplog.text
    parts = split_pairs(pairs, lists | written(tmp_path, train="bear\n"))
    assert list(parts["train"]) == [tuple("bear")]


def test_without_a_list_for_validation_one_training_word_in_twenty_is_used_for_it(tmp_path):
    words = sorted({"".join(word) for word in reversed_letters(4000)})
    parts = split_pairs(pairs_of(words), written(tmp_path, test="\n".join(words[:100])))
    assert {"".join(word) for word in parts["test"]} == set(words[:100])
    assert len(parts["val"]) / (len(words) - 100) == pytest.approx(0.05, abs=0.015)
    assert sum(map(len, parts.values())) == len(words)


def test_sources_of_several_words_are_listed_as_they_are(tmp_path):
    (tmp_path / "pairs.tsv").write_text("new york\tN Y\nnew\tN\nold town\tO T\n")
    lists = written(tmp_path, val="new\tN\n", test="new york\tN Y\n")
    data = PairsInFile(str(tmp_path / "pairs.tsv"), source_unit="word", split=lists, batch_size=1)
    data.load()
    assert [list(part) for part in data.pairs.values()] == [[("old", "town")], [("new",)], [("new", "york")]]


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"val": "zoo"}, "data.split.test: expected"),
        ({"tets": "zoo"}, "data.split.tets: expected the files of train, val, test"),
        ({"val": "zoo\n", "test": "ape\nzoo\n"}, "'zoo' is in the files of both val and test"),
        ({"test": "absent\n"}, "data.split.test=.* found none"),
        ({"test": ""}, "data.split.test=.* found none"),
    ],
)
def test_lists_that_cannot_be_used_are_named(lists, message, tmp_path):
    with pytest.raises(BadInput, match=message):
        split_pairs(pairs_of(["zoo", "ape"]), written(tmp_path, **lists))


def test_a_list_that_is_no_text_is_named(tmp_path):
    (tmp_path / "test").write_bytes(b"\xff\xfe\x00z")
    for path in (tmp_path / "test", tmp_path / "absent", "\0"):
        with pytest.raises(BadInput, match=r"data\.split\.test"):
            split_pairs(pairs_of(["zoo"]), {"test": str(path)})
