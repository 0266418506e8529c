"""A program from a file is checked for each new input shape; its operators do not read out of bounds."""

import pytest
import torch
from torch import nn

from zoo.errors import BadInput
from zoo.memory import available_bytes
from zoo.quantize import graph_ir
from zoo.quantize.graph_ir import deserialize
from zoo.quantize.operators import EXPORTED, INT8, lstm

IMAGES, LAST = {"result": 0}, 2**40
LATE = ["aten.slice.Tensor", IMAGES, 0, 64, LAST]  # empty for up to 64 samples, the number tried when a file is read
FIRST = ["aten.slice.Tensor", IMAGES, 0, 0, 64]


def of_file(*steps):
    """Build a net for inputs of four numbers that starts with an input and returns the result of its last step."""
    whole = [["input"], *steps, ["output", {"result": len(steps)}]]
    return deserialize(whole, {}, "a file", lambda num: [torch.empty(num, 4, device="meta")], (INT8, EXPORTED))


def test_what_cannot_be_computed_for_more_samples_than_were_tried_is_a_sentence():
    net = of_file(FIRST, ["aten.add.Tensor", IMAGES, {"result": 1}])
    images = torch.randn(64, 4)
    assert net(images).equal(2 * images)
    with pytest.raises(BadInput, match=r"a file cannot be computed for inputs of \[65, 4\]"):
        net(torch.randn(65, 4))


@pytest.mark.parametrize(
    ("columns", "free", "words"),
    [(2**33, None, "numbers for one sample"), (2**20, 2**20, "more than this machine has free")],
)
def test_what_takes_more_memory_for_more_samples_than_were_tried_is_refused_before_it_does(
    monkeypatch, columns, free, words
):
    column = ["aten.slice.Tensor", {"result": 1}, 1, 0, 1]
    wide = [["aten.expand.default", {"result": 2}, [-1, columns]], ["aten.clone.default", {"result": 3}]]
    cut = ["aten.slice.Tensor", {"result": 4}, 1, 0, 4]
    net = of_file(LATE, column, *wide, cut, FIRST, ["aten.cat.default", [{"result": 6}, {"result": 5}]])
    images = torch.randn(64, 4)
    assert net(images).equal(images)
    monkeypatch.setattr(graph_ir.memory, "available_bytes", lambda: free or available_bytes())
    with pytest.raises(BadInput, match=words):
        net(torch.randn(65, 4))


@pytest.mark.parametrize("step", [["aten.slice.Tensor", IMAGES, 0, 0, 1], ["aten.mean.dim", IMAGES, [0, 1]]])
def test_a_result_for_each_sample_is_wanted(step):
    with pytest.raises(BadInput, match="one result for each of 2 samples"):
        of_file(step)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("biases", [False, True])
def test_an_lstm_is_torchs_and_sizes_that_its_kernel_would_read_beside_are_refused(biases, bidirectional):
    torch.manual_seed(0)
    net = nn.LSTM(3, 5, 2, bias=biases, bidirectional=bidirectional, batch_first=True)
    x, rows = torch.randn(7, 4, 3), 2 * (1 + bidirectional)
    states, weights = [torch.randn(rows, 7, 5), torch.randn(rows, 7, 5)], list(net.parameters())
    rest = (biases, 2, 0.0, False, bidirectional, True)
    with torch.no_grad():
        ours, theirs = lstm(x, states, weights, *rest), net(x, tuple(states))
    assert ours[0].equal(theirs[0])
    assert ours[2].equal(theirs[1][1])
    narrow = [weight[:1] if weight.dim() == 1 else weight[:, :1] for weight in weights]
    for odd in (
        (x, [states[0][:, :1], states[1]], weights),
        (x, [states[0], states[1][:1]], weights),
        (x, states, weights[:-1]),
        (x, states, [*weights, weights[0]]),
        (x, states, [*weights[:-1], narrow[-1]]),
        (x, states, [narrow[0], *weights[1:]]),
        (x, [one.double() for one in states], weights),
        (x[0], states, weights),
    ):
        with pytest.raises(ValueError, match="do not fit its inputs"):
            lstm(*odd, *rest)
    with pytest.raises(ValueError, match="do not fit its inputs"):
        lstm(x, states, weights, biases, 2**40, *rest[2:])
