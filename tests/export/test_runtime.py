"""The inputs and outputs of a graph match its file's metadata."""

from pathlib import Path

import pytest
import torch

from zoo.errors import BadInput
from zoo.export.runtime import LoadedGraph

FLOATS = torch.float32
STATE = ([None, "length", 16], FLOATS)


def opened(run):
    return LoadedGraph(Path("net.pt2"), {}, [["batch", "length", 16]], [["batch", 8]], run, [FLOATS])


@pytest.mark.parametrize(
    "state",
    [torch.zeros(2, 3, 8), torch.zeros(2, 16), torch.zeros(2, 3, 16).double()],
    ids=["size", "rank", "type"],
)
def test_the_half_of_another_net_is_told_before_anything_is_computed(state):
    run = opened(lambda states: pytest.fail("was computed")).checked([STATE], [([None, 8], FLOATS)])
    with pytest.raises(BadInput, match=r"net\.pt2 takes .* the other file is of a different net"):
        run(state)


def test_any_number_of_samples_and_any_length_are_taken():
    run = opened(lambda states: (states[:, 0, :8],)).checked([STATE], [([None, 8], FLOATS)])
    for shape in ((1, 1, 16), (5, 3, 16)):
        assert run(torch.zeros(shape))[0].shape == (shape[0], 8)
