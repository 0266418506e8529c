"""The contract of every sequence net."""

import itertools

import pytest
import torch

from zoo.models.decoding import END, PAD, START, beam_search, greedy
from zoo.models.lstm_seq2seq import LSTMSeq2Seq
from zoo.models.transformer import Transformer

SIZES = {"width": 16, "encoder_depth": 2, "decoder_depth": 2}
NETS = {
    "pre": lambda: Transformer(9, 7, **SIZES, num_heads=2, mlp_width=32),
    "post": lambda: Transformer(9, 7, **SIZES, num_heads=2, mlp_width=32, norm="post", share="none"),
    "learned": lambda: Transformer(7, 7, **SIZES, num_heads=2, mlp_width=32, positions="learned", share="all"),
    "rotary": lambda: Transformer(9, 7, **SIZES, num_heads=2, mlp_width=32, positions="rotary"),
    "rotary_cross": lambda: Transformer(9, 7, **SIZES, num_heads=2, mlp_width=32, positions="rotary_cross"),
    "lstm": lambda: LSTMSeq2Seq(9, 7, **SIZES),
}
SOURCE = torch.tensor([[3, 4, 5, 6, 3], [4, 6, 0, 0, 0], [5, 5, 5, 6, 0], [6, 3, 4, 4, 4]])


@pytest.fixture(params=NETS)
def net(request):
    """A net with weights large enough for distinct predictions, which ends some sequences before others."""
    torch.manual_seed(2)
    net = NETS[request.param]().eval()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "embedding" in name or "head" in name:
                parameter.mul_(2)
    return net


def score(net, source, written):
    """Return the log-probability of an output (with its END), in one forward pass without a cache."""
    target = torch.tensor([[START, *written]])
    logits = net(source[None], target[:, :-1])[0]
    logits[:, [PAD, START]] = float("-inf")
    return float(logits.log_softmax(-1).gather(1, target[0, 1:, None]).sum())


@torch.no_grad()
def test_decoding_step_by_step_gives_what_the_whole_net_gives(net):
    state = net.begin(SOURCE)
    target = torch.tensor([[START, 3, 4, 5, 6, 3, 3]] * 4)
    for i in range(target.shape[1]):
        logits, state = net.step(target[:, i], state)
        torch.testing.assert_close(logits, net(SOURCE, target[:, : i + 1])[:, -1], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_cached_greedy_decoding_writes_what_uncached_writes(net):
    found = greedy(net, SOURCE, 12)
    for source, row in zip(SOURCE, found, strict=True):
        written = [START]
        while len(written) <= 12:
            logits = net(source[None], torch.tensor([written]))[0, -1]
            logits[[PAD, START]] = float("-inf")
            if int(logits.argmax()) == END:
                break
            written.append(int(logits.argmax()))
        assert row[row != PAD].tolist() == written[1:]


def test_a_beam_of_one_is_greedy(net):
    written, _ = beam_search(net, SOURCE, 1, 12)
    assert written[:, 0].equal(greedy(net, SOURCE, 12))


@torch.no_grad()
def test_a_wide_beam_finds_the_likeliest_of_all_sequences(net):
    """There are 21 sequences of up to two of four symbols, and 64 unfinished ones of three: few enough to enumerate."""
    symbols = range(3, 7)
    every = [list(s) for n in (0, 1, 2) for s in itertools.product(symbols, repeat=n)]
    written, scores = beam_search(net, SOURCE, 90, 3)
    for row, source in enumerate(SOURCE):
        expected = {tuple(s): score(net, source, [*s, END]) for s in every}
        found = {
            tuple(t for t in one.tolist() if t != PAD): float(s)
            for one, s in zip(written[row], scores[row], strict=True)
            if (one != PAD).sum() <= 2 and s > float("-inf")
        }
        assert found.keys() == expected.keys()
        assert found == {key: pytest.approx(value, abs=1e-4) for key, value in expected.items()}


def test_a_beam_scores_what_it_writes_and_sorts_it(net):
    written, scores = beam_search(net, SOURCE, 3, 30)
    assert scores.equal(scores.sort(1, descending=True).values)
    for row, beam in itertools.product(range(4), range(3)):
        tokens = [t for t in written[row, beam].tolist() if t != PAD]
        if len(tokens) < 30:
            with torch.no_grad():
                assert float(scores[row, beam]) == pytest.approx(score(net, SOURCE[row], [*tokens, END]), abs=1e-3)


@torch.no_grad()
def test_padding_never_changes_a_result(net):
    target = torch.tensor([[START, 3, 4, 5]] * 4)
    wider = torch.nn.functional.pad(SOURCE, (0, 4))
    torch.testing.assert_close(net(wider, target), net(SOURCE, target), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        net(SOURCE, torch.nn.functional.pad(target, (0, 3)))[:, :4], net(SOURCE, target), atol=1e-5, rtol=1e-5
    )
    written, scores = greedy(net, SOURCE, 12), beam_search(net, SOURCE, 3, 12)[1]
    for row, source in enumerate(SOURCE):
        alone = source[source != PAD][None]  # and without padding
        torch.testing.assert_close(net(alone, target[:1])[0], net(SOURCE, target)[row], atol=1e-5, rtol=1e-5)
        one = greedy(net, alone, 12)[0]
        assert one[one != PAD].tolist() == written[row][written[row] != PAD].tolist()
        torch.testing.assert_close(beam_search(net, alone, 3, 12)[1][0], scores[row], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_alignments_are_shares_of_what_is_read_and_none_of_padding(net):
    maps = net.alignments(SOURCE, torch.tensor([[START, 3, 4]] * 4))
    torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:-1]))
    assert not maps[1, ..., 2:].any()
