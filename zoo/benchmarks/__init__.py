"""Benchmarks: each suite times contenders in turn; the first one is the baseline of the others.

A suite is a function of a run's config, found by its name in SUITES; `python scripts/benchmark.py suite=NAME` runs it.
"""

SUITES = {
    "augment": "augment_suite.augment_suite",
    "decoding": "decoding_suite.decoding_suite",
    "gpu": "gpu_suite.gpu_suite",
    "inference": "inference_suite.inference_suite",
    "loader": "loader_suite.loader_suite",
    "logging": "logging_suite.logging_suite",
    "mcu": "mcu_suite.mcu_suite",
    "muon": "training_suites.muon_suite",
    "packed": "packed_suite.packed_suite",
    "startup": "startup_suite.startup_suite",
    "step": "training_suites.step_suite",
    "train": "training_suites.train_suite",
    "zoo": "zoo_suite.zoo_suite",
}
ON_CPU = ("decoding", "inference", "mcu", "packed")  # suites that do not use a GPU
