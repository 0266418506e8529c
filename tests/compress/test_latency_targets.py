"""Channels are pruned until the net takes a share of its time; the times here are computed, not measured."""

import copy
import json

import pytest
import torch
from torch import nn

from zoo.compress import latency_table, prune_channels
from zoo.compress.context import Context
from zoo.compress.latency_table import LatencyTable, TimedLayer
from zoo.errors import BadInput
from zoo.measure.counts import count_macs_of
from zoo.measure.latency import latencies_ms
from zoo.models.lenet import LeNet300
from zoo.models.resnet import ResNet

IMAGE = (torch.empty(1, 1, 28, 28, device="meta"),)


PLACES = {"conv1": 28**2, "conv2": 14**2, "conv3": 7**2, "head": 1}  # of outputs, in the net below


class Net(nn.Module):
    """Three convolutions, of 16, 32 and 32 channels."""

    head_names = ("head",)

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.conv3, self.head = nn.Conv2d(32, 32, 3, padding=1), nn.Linear(32, 10)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.conv1(x).relu(), 2)
        x = nn.functional.max_pool2d(self.conv2(x).relu(), 2)
        return self.head(self.conv3(x).relu().mean((2, 3)))

    @property
    def widths(self):
        return self.conv1.out_channels, self.conv2.out_channels, self.conv3.out_channels


def drawn():
    torch.manual_seed(0)
    return Net()


def by_macs(num_out, num_in, places):
    return float(num_out * num_in * places)


class Clock:
    """A machine on which layers take the time that a function says, and a net also `overhead` of the dense net's."""

    def __init__(self, overhead=0.0, ms=by_macs):
        self.overhead, self.ms, self.layers, self.nets = 0.0, ms, 0, 0
        self.overhead = overhead * self.of(Net())

    def time_layer(self, module, shape):
        self.layers += 1
        return self.ms(*module.weight.shape[:2], shape[-1] ** 2 if len(shape) > 2 else 1)

    def of(self, net):
        weights = {name: net.get_submodule(name).weight for name in PLACES}
        return self.overhead + sum(self.ms(*weight.shape[:2], PLACES[name]) for name, weight in weights.items())

    def time_nets(self, nets, inputs, runtime):
        self.nets += 1
        return [self.of(net) for net in nets]


@pytest.fixture
def clock(monkeypatch):
    def start(*settings):
        clock = Clock(*settings)
        table = lambda *args, **kwargs: LatencyTable(  # noqa: E731
            *args, **kwargs, time_layer=clock.time_layer, time_nets=clock.time_nets
        )
        monkeypatch.setattr(prune_channels, "LatencyTable", table)
        return clock

    return start


def prune(net, folder=None, **settings):
    return prune_channels.prune_channels(net, Context(IMAGE, folder=folder), **settings)


@pytest.mark.parametrize(
    ("share", "overhead", "scope"), [(0.5, 0.0, "layer"), (0.5, 0.3, "layer"), (0.3, 0.05, "global")]
)
def test_the_share_asked_for_is_met_within_five_per_cent_whatever_a_call_costs(clock, share, overhead, scope):
    machine, net = clock(overhead), drawn()
    whole = machine.of(net)
    step = prune(net, latency=share, scope=scope)
    assert machine.of(net) / whole == pytest.approx(share, rel=0.05)
    assert step["latency"] == machine.of(net) / whole
    assert (step["latency_batch"], step["latency_runtime"]) == (16, "eager")


def test_layers_that_take_more_time_than_others_lose_more(clock):
    widths = {}
    for slow in (28, 7):
        clock(0.0, lambda num_out, num_in, places, slow=slow: num_out * num_in * (300 if places == slow**2 else 1))
        net = drawn()
        prune(net, latency=0.5)
        widths[slow] = net.widths
    assert widths[28][0] < widths[7][0]
    assert widths[28][2] > widths[7][2]


def test_widths_that_a_kernel_computes_in_the_same_time_are_passed_over(clock):
    clock(0.0, lambda num_out, num_in, places: float(-(-num_out // 8) * -(-num_in // 8) * places))
    net = drawn()
    prune(net, latency=0.5, round_to=4)
    assert [width % 8 for width in net.widths] == [0, 0, 0]
    assert net.widths != Net().widths


def test_a_table_in_the_folder_is_used_again_and_decides_the_same(clock, tmp_path):
    first = clock(0.1)
    net = drawn()
    step = prune(net, tmp_path, latency=0.5)
    assert first.layers >= 10
    assert first.nets >= 2
    found = json.loads((tmp_path / "latencies.json").read_text())
    assert found["batch"] == 16
    assert found["threads"] == torch.get_num_threads()
    again = clock(0.7)  # on which other widths would be chosen
    for settings in ({"folder": tmp_path}, {"latency_table": str(tmp_path / "latencies.json")}):
        other = drawn()
        assert prune(other, latency=0.5, **settings) == step
        assert (again.layers, again.nets) == (0, 0)
        assert str(other) == str(net)


def test_a_table_measured_on_something_else_is_refused_where_it_was_named_and_else_measured_again(clock, tmp_path):
    clock()
    prune(drawn(), tmp_path, latency=0.5)
    file = tmp_path / "latencies.json"
    with pytest.raises(BadInput, match="batch=16, and here it is 4"):
        prune(drawn(), latency=0.5, latency_batch=4, latency_table=str(file))
    again = clock()
    prune(drawn(), tmp_path, latency=0.5, latency_batch=4)
    assert again.layers >= 10
    assert json.loads(file.read_text())["batch"] == 4
    with pytest.raises(BadInput, match="does not exist"):
        prune(drawn(), latency=0.5, latency_table=str(tmp_path / "none.json"))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"latency": 0.25}, r"latency=0.25 cannot be reached: with one channel per layer this net takes 0\.3"),
        ({"latency": 0.5, "macs": 0.5}, "latency: expected no other target, and macs is one"),
        ({"latency": 0.5, "ratio": 0.5}, "latency: expected no other target, and ratio is one"),
    ],
)
def test_what_cannot_be_met_is_refused_in_one_sentence_and_leaves_the_net_as_it_was(clock, settings, sentence):
    clock(0.5)
    net = drawn()
    before = str(net)
    with pytest.raises(BadInput, match=sentence):
        prune(net, **settings)
    assert str(net) == before


def test_the_nearest_that_was_measured_is_named(clock):
    jumps = clock()
    jumps.time_nets = lambda nets, inputs, runtime: [0.2 if net.widths[1] < 20 else 1.0 for net in nets]
    with pytest.raises(BadInput, match=r"cannot be met within 5 %; the nearest that was measured is 0\.2"):
        prune(drawn(), latency=0.5, round_to=1)


def test_times_between_measured_widths_are_interpolated():
    calls = []

    def time_layer(module, shape):
        calls.append((shape[1], module.out_features))
        return shape[1] * module.out_features

    table = LatencyTable(IMAGE, 4, "eager", time_layer=time_layer)
    layer = TimedLayer(nn.Linear(64, 80), (4, 64))
    assert table.layer_ms(layer, 64, 80) == 64 * 80
    assert calls == [(64, 80)]
    assert table.layer_ms(layer, 20, 33) == pytest.approx(20 * 33)  # a product is linear in each of its factors
    assert set(calls[1:]) == {(16, 30), (16, 40), (24, 30), (24, 40)}


@pytest.mark.parametrize(
    ("module", "channels"),
    [
        (nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=2, bias=False), (4, 6)),
        (nn.Conv2d(8, 8, 3, groups=8), (6, 6)),
        (nn.BatchNorm2d(8), (5, 5)),
        (nn.Linear(8, 12), (3, 7)),
    ],
)
def test_a_layer_of_other_widths_is_else_the_same_and_drawn_without_random_numbers(module, channels):
    num_in, num_out = channels
    shape = (2, 8) if isinstance(module, nn.Linear) else (2, 8, 9, 9)
    state = torch.get_rng_state()
    narrow, shape = TimedLayer(module, shape).at(num_in, num_out)
    x = torch.empty(shape, device="meta")
    assert torch.get_rng_state().equal(state)
    assert x.shape[1] == num_in
    expected = copy.deepcopy(module).to("meta")(torch.empty((2, 8, *shape[2:]), device="meta")).shape
    assert narrow(x).shape == (2, num_out, *expected[2:])
    assert all(getattr(narrow, key) == getattr(module, key) for key in ("stride", "padding") if hasattr(module, key))


def test_a_measurement_changes_no_random_numbers_and_no_net(monkeypatch):
    net, layer = LeNet300(), TimedLayer(nn.Linear(8, 8), (2, 8))
    state, mode = torch.get_rng_state(), net.training
    assert latency_table._time_layer(*layer.at(4, 4)) > 0
    ms = latencies_ms([net, net], (torch.empty(2, 1, 28, 28, device="meta"),), "eager")
    assert len(ms) == 2
    assert min(ms) > 0
    assert torch.get_rng_state().equal(state)
    assert net.training == mode


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["eager", "compiled"])
def test_on_this_machine_a_pruned_net_is_faster(runtime, tmp_path):
    net = ResNet("basic", [1, 1, 1], [16, 32, 64], 1, 10, 28, shortcut="pad")
    dense = copy.deepcopy(net)
    step = prune(net, tmp_path, latency=0.6, latency_runtime=runtime)
    assert step["latency"] == pytest.approx(0.6, rel=0.05)
    assert count_macs_of(net, IMAGE) == step["macs"] < step["macs_before"]
    ours, theirs = latencies_ms([net, dense], (torch.empty(16, 1, 28, 28, device="meta"),), runtime)
    assert 0.3 < ours / theirs < 0.9
