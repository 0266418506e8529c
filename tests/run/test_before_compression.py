"""What is known of a net before it was compressed."""

import json

from stored import RESULT

from zoo.paths import TRAINED
from zoo.run.before_compression import figures_before, figures_of_pruning

KNOWN = {**RESULT, "latency_ms": 0.25, "test_hash": "a", "device": "cpu"}


def test_the_figures_of_the_file_are_those_of_its_run_if_they_are_comparable(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(100))
    (tmp_path / "result.json").write_text(json.dumps(KNOWN))
    whole = {"product_bytes": 100, "params": RESULT["params"], "macs": RESULT["macs"]}
    assert figures_before(str(file), [], {}, KNOWN) == {**whole, "test": RESULT["test"]}
    assert figures_before(str(file), [], {}, {**KNOWN, "test_hash": "b"}) == whole
    (tmp_path / "result.json").unlink()
    assert figures_before(str(file), [], {}, KNOWN) == {"product_bytes": 100}


def test_a_pass_that_measured_the_float_net_or_cut_channels_is_asked(tmp_path):
    measured = {"product_bytes": 7, "test": {"accuracy": 0.5}}
    assert figures_before(None, [], {"ptq_int8": {"float": measured}}, KNOWN) == measured
    cuts = [{"pass": "prune_channels", "macs_before": 9}, {"pass": "remove_unread", "macs_before": 4}]
    found = figures_before(None, cuts, {"pack": {"stages": {"dense": 12.0}}}, KNOWN)
    assert found == {"macs": 9, "product_bytes": 12.0}


def test_the_figures_of_pruning_are_those_of_the_last_pass():
    steps = [{"pass": "prune_channels", "accuracy": {"cut": 0.1}, "latency": 0.7}]
    steps.append({"pass": "prune_channels", "accuracy": {"cut": 0.2}, "latency": 0.52})
    assert figures_of_pruning([*steps, {"pass": "remove_unread"}]) == {"repair": {"cut": 0.2}, "time_kept": 0.52}
    assert figures_of_pruning([{"pass": "prune_channels"}]) == {}


def test_a_net_of_the_package_has_the_accuracy_of_its_file():
    file = TRAINED / "lenet5_mnist_5k.zoo"
    claim = json.loads(file.with_suffix(".json").read_text())
    found = figures_before(str(file), [], {}, claim["run"])
    assert found["test"]["accuracy"] == claim["evaluation"]["accuracy"] != claim["run"]["test"]["accuracy"]
    assert found["product_bytes"] == file.stat().st_size
