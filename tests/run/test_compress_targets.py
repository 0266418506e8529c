"""What compress=auto is asked for is checked by the keys that the user sets, and decides which passes there are."""

import pytest
from omegaconf import OmegaConf

from zoo.errors import BadInput
from zoo.run.compress_targets import check_targets, naming_target, with_passes_for

PICTURES, SEQUENCES = "zoo.data.images.ImageData", "zoo.data.sequences.SequenceData"


def config(max_drop=0.5, data=PICTURES, **target):
    target = {"bytes": None, "latency": None, **target}
    compress = {
        "max_drop": max_drop,
        "target": target,
        "before_fit": {"channels": {"latency": 0.5, "blocks": 0, "ratio": None, "macs": None}},
    }
    callbacks = {"rate": {"bytes": 1}, "budget": {"max_drop": 1}, "progress": {}}
    return OmegaConf.create({"compress": compress, "data": {"_target_": data}, "callbacks": callbacks})


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"bytes": 0}, r"compress\.target\.bytes: expected a whole number of at least 1"),
        ({"bytes": -5}, r"compress\.target\.bytes: expected a whole number of at least 1"),
        ({"bytes": 2e4}, r"compress\.target\.bytes: expected a whole number of at least 1"),
        ({"bytes": "small"}, r"compress\.target\.bytes: expected a whole number of at least 1 or null, got 'small'"),
        ({"latency": 0}, r"compress\.target\.latency: expected a number above 0 and below 1"),
        ({"latency": -0.5}, r"compress\.target\.latency: expected a number above 0 and below 1"),
        ({"latency": 1}, r"compress\.target\.latency: expected a number above 0 and below 1"),
        ({"latency": "half"}, r"compress\.target\.latency: expected a number above 0 and below 1 or null, got 'half'"),
        ({"latency": 0.5, "data": SEQUENCES}, r"compress\.target\.latency: expected null for sequences"),
        ({"macs": 0.5}, r"there is no setting 'compress\.target\.macs'; "),
        ({"max_drop": 0}, r"compress\.max_drop: expected a number above 0 and below 100"),
        ({"max_drop": None}, r"compress\.max_drop: expected a number without compress\.target\.bytes, got null"),
        ({"max_drop": None, "latency": 0.5}, r"compress\.max_drop: expected a number without compress\.target\.bytes"),
    ],
)
def test_a_target_that_makes_no_sense_is_refused_by_its_key(settings, sentence):
    with pytest.raises(BadInput, match=f"^{sentence}"):
        check_targets(config(**settings))


def test_a_target_that_is_no_mapping_is_refused():
    with pytest.raises(BadInput, match=r"^compress\.target: expected bytes and latency, got 5"):
        check_targets(OmegaConf.create({"compress": {"max_drop": 0.5, "target": 5}}))


@pytest.mark.parametrize(
    ("settings", "left_out"),
    [
        ({}, ["channels", "rate"]),
        ({"bytes": 20_000}, ["budget", "channels"]),
        ({"bytes": 20_000, "max_drop": None, "data": SEQUENCES}, ["budget", "channels"]),
        ({"latency": 0.5}, ["budget"]),
        ({"bytes": 20_000, "latency": 0.5}, ["budget"]),
    ],
)
def test_channels_are_removed_for_a_latency_and_weights_are_integers_for_a_target(settings, left_out):
    cfg = with_passes_for(config(**settings))
    assert with_passes_for(cfg) == cfg  # as when the run is resumed
    parts = {**cfg.callbacks, **cfg.compress.before_fit}
    assert sorted(name for name, node in parts.items() if node is None) == left_out


def test_what_a_pass_refuses_begins_with_the_target_that_it_is_for():
    refused = pytest.raises(BadInput, match=r"^compress\.target\.latency=0\.5: it cannot be cut$")
    with refused, naming_target(config(latency=0.5), "channels"):
        raise BadInput("it cannot be cut")


def test_channels_that_no_target_asks_for_are_refused():
    cfg = config(bytes=20_000)
    cfg.compress.before_fit.channels.blocks = 2
    with pytest.raises(BadInput, match=r"channels\.blocks=2 needs compress=prune_channels, or with compress=auto a"):
        with_passes_for(cfg)
