"""What things cost: each suite times contenders in turn, the first of them the baseline that the others are held to.

A suite is a function of a run's config, found by its name in SUITES; `python scripts/benchmark.py suite=NAME` runs it.
"""

SUITES = {
    "augment": "loading.augment_suite",
    "gpu": "gpu.gpu_suite",
    "inference": "inference.inference_suite",
    "loader": "loading.loader_suite",
    "logging": "logging.logging_suite",
    "packed": "packing.packed_suite",
    "startup": "startup.startup_suite",
    "step": "training.step_suite",
    "train": "training.train_suite",
    "zoo": "nets.zoo_suite",
}
