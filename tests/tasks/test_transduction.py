import functools
import math
import random

import pytest
import torch
from torch import nn
from torchmetrics.functional.text import word_error_rate as oracle

from zoo.data.sequences import padded, padded_twice
from zoo.errors import BadInput
from zoo.models.decoding import greedy
from zoo.models.lstm_seq2seq import LSTMSeq2Seq
from zoo.models.transformer import Transformer
from zoo.optim.schedules import constant
from zoo.tasks.edits import edits
from zoo.tasks.transduction import Transduction, TransductionMeter


@pytest.mark.parametrize(
    ("written", "reference", "distance"),
    [("kitten", "sitting", 3), ("sunday", "saturday", 3), ("", "abc", 3), ("abc", "abc", 0)],  # textbook examples
)
def test_edits_are_levenshteins(written, reference, distance):
    assert edits(list(written), [list(reference)]) == (distance, len(reference))


def test_the_nearest_reference_counts_and_of_equally_near_ones_the_longest():
    assert edits([3, 4], [[5, 6, 7], [3, 4, 5]]) == (1, 3)
    assert edits([3, 4], [[3], [3, 4, 5]]) == (1, 3)


def test_rates_are_of_edits_and_of_words_that_are_no_reference():
    meter = TransductionMeter()
    written = torch.tensor([[3, 4, 0], [3, 4, 5], [6, 0, 0]])
    references = torch.tensor([[[3, 5], [3, 4]], [[3, 5], [0, 0]], [[6, 6], [7, 0]]])
    meter.update(torch.tensor(6.0), torch.tensor(3), torch.tensor(4), written, references)
    found = {name: float(value) for name, value in meter.compute().items()}
    assert found == pytest.approx(  # edits of 0, 1 and 1 to references of 2 each
        {"loss": 1.5, "token_accuracy": 0.75, "per": 2 / 6, "wer": 2 / 3, "accuracy": 1 / 3}
    )
    assert meter.written == []


@pytest.mark.parametrize("num_references", [1, 3])
def test_rates_are_torchmetrics_over_batches_of_any_padding(num_references):
    """Phonemes as words give the PER, whole outputs as words the WER; of several references, the nearest counts."""
    draw, meter = random.Random(num_references), TransductionMeter()
    outputs, nearest, wrong = [], [], []
    for size in (5, 1, 30):
        written = [[draw.randint(3, 9) for _ in range(draw.randint(0, 6))] for _ in range(size)]
        known = [[[*one, 3][: draw.randint(1, 9)] for _ in range(num_references)] for one in written]
        for one in known[::3]:  # some with fewer, and some that are far away
            one[1:] = []
            one[0] = [draw.randint(3, 9) for _ in range(draw.randint(1, 9))]
        meter.update(torch.zeros(()), torch.zeros(()), torch.ones(()), padded(written), padded_twice(known))
        outputs += written
        for one, several in zip(written, known, strict=True):
            errors = [(round(float(oracle([text(one)], [text(r)])) * len(r)), -len(r), r) for r in several]
            nearest.append(min(errors)[2])
            wrong.append(min(float(oracle([text(one, "_")], [text(r, "_")])) for r in several))
    found = meter.compute()
    assert 0 < found["wer"] < 1
    assert float(found["per"]) == pytest.approx(float(oracle([*map(text, outputs)], [*map(text, nearest)])))
    assert float(found["wer"]) == pytest.approx(sum(wrong) / len(wrong))


def text(tokens, between=" "):
    return between.join(map(str, tokens)) or between.strip()


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Transformer(9, 7, 16, 1, 1, 2, 32, dropout=0.0)


SOURCE, TARGET = torch.tensor([[3, 4, 5], [4, 6, 0]]), torch.tensor([[1, 3, 4, 2], [1, 5, 2, 0]])


def test_r_drop_adds_the_divergence_of_two_passes_with_dropout():
    torch.manual_seed(0)
    built = task(Transformer(9, 7, 16, 1, 1, 2, 32, dropout=0.5), r_drop=3.0).train()
    state = torch.get_rng_state()
    found = float(built.training_step((SOURCE, TARGET), 0).detach())
    torch.set_rng_state(state)
    with torch.no_grad():
        logits = built.net(SOURCE.repeat(2, 1), TARGET.repeat(2, 1)[:, :-1]).unflatten(0, (2, 2))
    there = TARGET[:, 1:] != 0
    p, q = (torch.distributions.Categorical(logits=half[there]) for half in logits)
    likelihood = sum(one.log_prob(TARGET[:, 1:][there]).sum() for one in (p, q)) / (2 * there.sum())
    both = torch.distributions.kl_divergence(p, q).mean() + torch.distributions.kl_divergence(q, p).mean()
    assert both > 0.05
    assert found == pytest.approx(float(both * 3 / 4 - likelihood), rel=1e-5)


def test_r_drop_needs_dropout(net):
    with pytest.raises(BadInput, match=r"r_drop=5\.0 needs dropout"):
        task(net, r_drop=5.0)
    lstm = LSTMSeq2Seq(9, 7, 16, 2, 2, dropout=0.1)
    assert float(task(lstm, r_drop=5.0).training_step((SOURCE, TARGET), 0).detach()) > 0


def task(net, **settings):
    decode = functools.partial(greedy, max_length=5)
    return Transduction(net, functools.partial(torch.optim.SGD, lr=0.1), constant, decode, **settings)


def test_each_token_is_told_from_the_true_ones_before_it_and_padding_does_not_count(net):
    with torch.no_grad():
        logits = net(SOURCE, TARGET[:, :-1]).log_softmax(-1)
    wanted = [(0, 0, 3), (0, 1, 4), (0, 2, 2), (1, 0, 5), (1, 1, 2)]
    expected = -sum(float(logits[place]) for place in wanted) / 5
    built = task(net)
    assert float(built.training_step((SOURCE, TARGET), 0).detach()) == pytest.approx(expected, rel=1e-5)
    assert int(built.train_total) == 5


def test_smoothing_spreads_a_share_over_all_tokens(net):
    with torch.no_grad():
        logits = net(SOURCE, TARGET[:, :-1]).log_softmax(-1)[0]
    plain, even = -logits[range(3), [3, 4, 2]].mean(), -logits.mean()
    found = task(net, label_smoothing=0.1).training_step((SOURCE[:1], TARGET[:1]), 0)
    assert float(found.detach()) == pytest.approx(float(0.9 * plain + 0.1 * even), rel=1e-5)


def test_what_is_measured_is_plain_cross_entropy_a_token(net):
    built = task(net.eval(), label_smoothing=0.1)
    built.measure((SOURCE, TARGET, TARGET[:, None, 1:]))
    with torch.no_grad():
        logits = net(SOURCE, TARGET[:, :-1]).flatten(0, 1)
    expected = nn.functional.cross_entropy(logits, TARGET[:, 1:].flatten(), ignore_index=0)
    found = built.meter.compute()
    assert float(found["loss"]) == pytest.approx(float(expected), rel=1e-5)
    assert math.isclose(float(found["accuracy"]), 1 - float(found["wer"]))
