import pytest
import torch

from zoo.measure.counts import count_macs, count_parameters
from zoo.models.lenet import C3_TABLE, LeNet5, LeNet5Caffe, LeNet300


@pytest.mark.parametrize(
    ("net", "params", "macs"),
    [
        (LeNet5(image_size=32), 61_706, 416_520),
        (LeNet5(image_size=28), 61_706, 416_520),
        (LeNet5Caffe(), 431_080, 2_293_000),
        (LeNet300(), 266_610, 266_200),
    ],
    ids=["lenet5-32px", "lenet5-28px", "caffe", "300-100"],
)
def test_parameters_and_macs_equal_published_ones(net, params, macs):
    size = 32 if isinstance(net, LeNet5) and net.features[0].padding == (0, 0) else 28
    assert count_parameters(net) == params
    assert count_macs(net, (1, size, size)) == macs


def test_the_original_has_the_papers_60000_parameters_before_its_head():
    net = LeNet5(c3="table", pooling="trainable", activation="scaled_tanh")
    layers = {"C1": net.features[0], "S2": net.features[2], "C3": net.features[3], "S4": net.features[5]}
    layers |= {"C5": net.classifier[1], "F6": net.classifier[3]}
    counts = {name: count_parameters(layer) for name, layer in layers.items()}
    assert counts == {"C1": 156, "S2": 12, "C3": 1_516, "S4": 32, "C5": 48_120, "F6": 10_164}  # section II.B
    assert sum(counts.values()) == 60_000


def test_c3_sees_the_maps_of_table_1():
    seen = ["".join(str(i) for i, row in enumerate(C3_TABLE) if row[column] == "X") for column in range(16)]
    threes, fours = "012 123 234 345 045 015", "0123 1234 2345 0345 0145 0125 0134 1245 0235"
    assert seen == [*threes.split(), *fours.split(), "012345"]


def test_c3_is_blind_to_the_maps_that_the_table_leaves_out():
    c3 = LeNet5(c3="table").features[3]
    x = torch.randn(1, 6, 14, 14)
    changed = x.clone()
    changed[:, 3:] += 1  # the first map of C3 reads only maps 0, 1 and 2
    assert torch.equal(c3(x)[:, 0], c3(changed)[:, 0])
    assert not torch.equal(c3(x)[:, 1], c3(changed)[:, 1])


def test_images_too_small_are_refused():
    with pytest.raises(ValueError, match="image_size=15"):
        LeNet5(image_size=15)
