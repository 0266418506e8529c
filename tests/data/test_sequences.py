import hashlib
import itertools

import pytest

from zoo.data.pair_splits import split_pairs
from zoo.data.pairs import cmudict, reversed_letters, tab_separated
from zoo.data.sequence_loader import SequenceLoader
from zoo.data.sequences import PairsInFile, ReversedLetters, decode_tokens, encode_source
from zoo.errors import BadInput
from zoo.models import decoding


@pytest.fixture(scope="module")
def words():
    return cmudict()


@pytest.fixture(scope="module")
def reverse():
    data = ReversedLetters(max_length=8, batch_size=64, eval_batch_size=20)
    data.load()
    return data


def test_cmudict_has_the_words_and_the_39_phonemes_of_its_makers(words):
    assert len(words) == 126_052
    assert len({p for references in words.values() for one in references for p in one}) == 39
    assert words[tuple("phoenix")] == [("F", "IY", "N", "IH", "K", "S")]
    assert len(words[tuple("tomato")]) == 2
    several = sum(len(references) > 1 for references in words.values()) / len(words)
    assert several == pytest.approx(0.065, abs=0.002)


def test_stress_is_kept_where_it_is_asked_for(words):
    stressed = cmudict(stress=True)
    assert stressed[tuple("phoenix")] == [("F", "IY1", "N", "IH0", "K", "S")]
    assert len({p for references in stressed.values() for one in references for p in one}) == 69
    assert stressed.keys() == words.keys()


def test_a_word_is_in_the_part_that_its_published_hash_says(words):
    parts = split_pairs(words, "hash")
    assert sum(map(len, parts.values())) == len(words)
    for name, low, high in (("train", 0, 90), ("val", 90, 95), ("test", 95, 100)):
        for word in itertools.islice(parts[name], 50):
            assert low <= int(hashlib.sha256(" ".join(word).encode()).hexdigest(), 16) % 100 < high
    sizes = [len(part) / len(words) for part in parts.values()]
    assert sizes == pytest.approx([0.9, 0.05, 0.05], abs=0.002)


def test_data_and_nets_agree_on_what_pads_starts_and_ends(reverse):
    assert reverse.load().source_symbols[:3] == ["<pad>", "<start>", "<end>"]
    assert (decoding.PAD, decoding.START, decoding.END) == (0, 1, 2)


def test_tokens_are_what_was_read_and_all_that_may_be_written(reverse):
    facts = reverse.load()
    seen = set()
    for sources, targets, references in reverse.loader("val", "cpu"):
        for source, target, several in zip(sources, targets, references, strict=True):
            word = decode_tokens(source.tolist(), facts.source_symbols)
            assert decode_tokens(target[1:].tolist(), facts.target_symbols) == word[::-1]
            assert target[0] == 1
            assert target[len(word) + 1] == 2
            assert decode_tokens(several[0].tolist(), facts.target_symbols) == word[::-1]
            seen.add(word)
    assert seen == set(reverse.pairs["val"])


def test_an_epoch_has_every_pair_once_but_for_a_last_short_batch_and_little_padding(reverse):
    loader = reverse.loader("train", "cpu")
    rows = [tuple(source[source > 0].tolist()) for sources, _ in loader for source in sources]
    assert len(rows) == len(set(rows)) == len(loader) * 64
    assert len(loader) == reverse.load().num_samples["train"] // 64
    share = sum(int((s == 0).sum()) for s, _ in loader) / sum(s.numel() for s, _ in loader)
    assert share < 0.05


@pytest.mark.parametrize("budget", [600, 601, 2000])
def test_batches_of_a_token_budget_have_every_pair_once_and_about_equally_many_tokens(budget):
    data = ReversedLetters(max_length=8, batch_tokens=budget)
    data.load()
    batches = list(data.loader("train", "cpu"))
    rows = [tuple(source[source > 0].tolist()) for sources, _ in batches for source in sources]
    assert sorted(rows) == sorted(tuple(row[row > 0].tolist()) for row in data.splits["train"].sources)
    sizes = [int((sources > 0).sum() + (targets > 0).sum()) for sources, targets in batches]
    longest = int(data.splits["train"].lengths.sum(1).max())
    assert len(batches) == len(data.loader("train", "cpu")) == -(-sum(sizes) // budget)
    assert max(sizes) - min(sizes) <= 2 * longest
    assert len({len(sources) for sources, _ in batches}) > 1  # short words come in larger batches


def test_if_only_some_batches_are_used_each_has_sequences_of_all_lengths(reverse):
    lengths = []
    for limit in (None, 1.0, 2, 0.5):
        loader = reverse.limited_loader("val", "cpu", limit)
        batch = next(iter(loader))
        lengths.append(int((batch[0] != 0).sum(1).amax()))
    longest = int(reverse.splits["val"].lengths[:, 0].max())
    assert lengths[0] == lengths[1] < longest
    assert lengths[2:] == [longest, longest]


def test_epochs_differ_and_seeds_repeat_them(reverse):
    def first(epoch, seed=0):
        loader = SequenceLoader(reverse.splits["train"], 64, shuffle=True, seed=seed)
        loader.set_epoch(epoch)
        return next(iter(loader))[0]

    assert first(3).equal(first(3))
    assert first(3).shape != first(4).shape or not first(3).equal(first(4))
    assert first(3).shape != first(3, 1).shape or not first(3).equal(first(3, 1))


def test_a_loader_goes_on_where_its_state_was_taken(reverse):
    def loader():
        return SequenceLoader(reverse.splits["train"], 64, shuffle=True, seed=5)

    whole, cut = loader(), loader()
    for one in (whole, cut):
        one.set_epoch(2)
    expected = list(whole)
    list(itertools.islice(cut, 7))
    state = cut.state_dict()
    again = loader()
    again.load_state_dict(state)
    rest = list(again)
    assert len(rest) == len(expected) - 7
    assert all(
        a.equal(b) for one, other in zip(rest, expected[7:], strict=True) for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize(("shuffle", "budget"), [(True, None), (True, 700), (False, None)])
def test_processes_share_out_what_one_would_have(reverse, shuffle, budget):
    sequences = reverse.splits["train" if shuffle else "val"]

    def batches(rank, world):
        share = {"shuffle": shuffle, "rank": rank, "world_size": world}
        return list(SequenceLoader(sequences, 64 if shuffle else 20, budget, **share))

    def rows(batches):
        return sorted(tuple(row[row > 0].tolist()) for batch in batches for row in batch[0])

    parts = [batches(rank, 2) for rank in (0, 1)]
    assert len(parts[0]) == len(parts[1])
    assert sorted(rows(parts[0]) + rows(parts[1])) == rows(batches(0, 1))


def test_a_file_of_pairs_is_read_with_all_its_references(tmp_path):
    file = tmp_path / "pairs.tsv"
    file.write_bytes("\ufeffab\tA B\r\ncd\tC D\nab\tA P\nab\tA B\n".encode())
    assert tab_separated(str(file)) == {("a", "b"): [("A", "B"), ("A", "P")], ("c", "d"): [("C", "D")]}
    file.write_text("a cat\tle chat\n")
    assert tab_separated(str(file), "word", "word") == {("a", "cat"): [("le", "chat")]}


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("ab\tA\nno tab\ncd\tC\n", "line 2 "),
        ("ab\tA\n\ncd\t\n\tC\nx\ty\tz\n", "lines 2, 3, 4, 5 "),
        ("toolong\tA\n", "line 1 "),
        ("\n" * 9, "lines 1, 2, 3, 4, 5 and 4 more "),
        ("", "an empty file "),
    ],
)
def test_bad_lines_are_named_by_number(tmp_path, text, lines):
    file = tmp_path / "pairs.tsv"
    file.write_text(text)
    with pytest.raises(BadInput, match=f"pairs.tsv: {lines}cannot be used; each line needs a source, a tab"):
        tab_separated(str(file), max_length=6)


def test_files_that_are_absent_or_no_text_or_too_small_are_refused(tmp_path):
    with pytest.raises(BadInput, match="No such file"):
        tab_separated(str(tmp_path / "absent.tsv"))
    (tmp_path / "bytes.tsv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="UTF-8"):
        tab_separated(str(tmp_path / "bytes.tsv"))
    (tmp_path / "small.tsv").write_text("ab\tA\n")
    with pytest.raises(BadInput, match="leave none for"):
        PairsInFile(str(tmp_path / "small.tsv")).load()


def test_settings_that_the_data_contradict_are_refused():
    with pytest.raises(BadInput, match=r"data\.num_source_tokens=5 is wrong: the data have 11"):
        ReversedLetters(num_source_tokens=5, max_length=8).load()
    with pytest.raises(BadInput, match=r"data\.max_length=4 is too small: the data have sequences of 8"):
        ReversedLetters(max_length=4).load()
    with pytest.raises(BadInput, match="larger than the"):
        ReversedLetters(max_length=8, batch_size=9000).load()
    for budget in (35, 10**6):  # the longest pair has 8 letters, read and written between two tokens
        with pytest.raises(BadInput, match=rf"data\.batch_tokens={budget}: expected 36 to \d+, for these data"):
            ReversedLetters(max_length=8, batch_tokens=budget).load()


def test_texts_are_read_in_capitals_and_refused_with_foreign_symbols(reverse):
    facts = reverse.load()
    assert encode_source("BAD", facts).tolist() == [[4, 3, 6]]
    with pytest.raises(BadInput, match="'bay' has 'y', which the net was not trained on; it knows a b c d e f g h"):
        encode_source("bay", facts)
    for text in ("", "abcdefgha"):
        with pytest.raises(BadInput, match="expected 1 to 8"):
            encode_source(text, facts)


def test_the_split_hash_tells_other_pairs():
    hashes = {ReversedLetters(num_pairs=num, max_length=8).load().split_hash for num in (500, 500, 501)}
    assert len(hashes) == 2
    assert len(reversed_letters(500)) < 501
