"""Each setting's range is declared with the setting, and values outside are refused before anything is built."""

import math
from typing import get_type_hints

import hydra
import pytest
from conftest import CONFIGS

from zoo.cli import settings
from zoo.errors import BadInput
from zoo.instantiate import check

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("target", "key", "wrong", "right"),
    [
        ("zoo.data.augment.RandomCrop", "padding", [0, -1, 2.5, "4", None, True], [1, 4]),
        ("zoo.data.augment.RandomFlip", "probability", [-0.1, 1.1, NAN, INF, True], [0, 0.5, 1]),
        ("zoo.data.augment.ColorJitter", "contrast", [-0.1, 1.5, NAN], [0, 1]),
        ("zoo.data.augment.RandomErasing", "area", [[0.5], [0.1, 0.2, 0.3], ["a", 1], 0.5, [NAN, 1]], [[0.02, 0.4]]),
        ("zoo.data.mix.MixUp", "alpha", [0, -1, NAN, INF, 1e308], [0.2, 1]),
        ("zoo.data.mix.CutMix", "alpha", [0, -1, NAN, INF, 1e308], [0.2, 1]),
        ("zoo.data.mix.CutMix", "probability", [-1, 1.5], [0, 1]),
        ("zoo.data.policies.RandAugment", "num_ops", [0, 1.5], [1]),
        ("zoo.data.policies.RandAugment", "magnitude", [-1, 31], [0, 30]),
        ("zoo.data.images.ImageData", "folds", [0, 1, -2], [2, None]),
        ("zoo.data.images.ImageData", "num_validation", [-1, 2.5, None], [0, 5000]),
        ("zoo.data.images.ImageData", "std", [[0.0], [-1.0], [NAN], 5], [[60.5], None]),
        ("zoo.data.images.ImageData", "batch_size", [0, -3], [1]),
        ("zoo.data.images.ImageData", "eval_batch_size", [0], [1]),
        ("zoo.data.folders.ImageFolders", "num_workers", [-1, 0.5], [0, None]),
        ("zoo.models.vit.ViT", "depth", [-1, 0, 1.5], [1, 12]),
        ("zoo.models.vit.ViT", "dropout", [-0.1, 1, NAN], [0, 0.9]),
        ("zoo.models.vit.ViT", "stochastic_depth", [1.0, -0.1, NAN, 2], [0.0, 0.5]),
        ("zoo.models.resnet.ResNet", "depths", [[], [2, -2], 5, ["2"]], [[2, 2]]),
        ("zoo.models.resnet.ResNet", "stochastic_depth", [1.0, -0.1, NAN, 2], [0.0]),
        ("zoo.models.vgg.VGG", "depth", [12, "11", True], [11, 19]),
        ("zoo.tasks.classification.ImageClassification", "aux_weight", [-1, NAN], [0, 0.3]),
        ("zoo.tasks.classification.ImageClassification", "label_smoothing", [1, -0.1], [0, 0.1]),
        ("zoo.tasks.classification.ImageClassification", "l1", [-0.1, NAN], [0]),
        ("zoo.tasks.classification.ImageClassification", "max_norm", [0, INF], [3, None]),
        ("zoo.tasks.classification.ImageClassification", "head_lr", [0, -1, "fast"], [0.1, None]),
        ("zoo.tasks.transduction.Transduction", "label_smoothing", [1, -0.1], [0, 0.1]),
        ("zoo.tasks.distillation.Distillation", "temperature", [0, NAN], [4]),
        ("zoo.tasks.distillation.Distillation", "alpha", [1.1, -0.1], [0, 1]),
        ("zoo.optim.muon.Muon", "lr", [0, -1, NAN, True], [0.02]),
        ("zoo.optim.muon.Muon", "momentum", [1, 2, -0.1], [0, 0.95]),
        ("zoo.optim.muon.Muon", "weight_decay", [-1, NAN], [0]),
        ("zoo.optim.schedules.cosine", "final", [-1, 5, NAN], [0, 1]),
        ("zoo.optim.schedules.cosine", "warmup", [1, -0.1, 3, "much"], [0, 0.05]),
        ("zoo.optim.schedules.one_cycle", "start", [-1, 2], [0.04]),
        ("zoo.optim.schedules.step", "milestones", [[-1], [0.5, 2], 0.5, [NAN]], [[0.5, 0.75], []]),
        ("zoo.optim.schedules.step", "gamma", [-1, 0, NAN], [0.1]),
        ("zoo.callbacks.resume.ResumeCheckpoint", "every_minutes", [NAN, -1, INF], [0, 10]),
        ("zoo.callbacks.ema.WeightEMA", "decay", [0, 1, -1], [0.999]),
        ("zoo.callbacks.diagnostics.Diagnostics", "every", [0, 0.5], [100]),
        ("zoo.callbacks.product.EarlyWeights", "step", [-1], [0]),
        (
            "zoo.callbacks.pruning_schedule.Pruning",
            "sparsity",
            [0, 1, -0.1, NAN, {"fc": 1}, {"fc": "much"}],
            [0.9, {"fc": 0}],
        ),
        ("zoo.callbacks.pruning_schedule.Pruning", "every", [0], [50]),
        ("zoo.callbacks.pruning_schedule.Pruning", "begin", [-0.1, 1.1, NAN], [0]),
        ("zoo.callbacks.sharing_schedule.WeightSharing", "bits", [0, 9, 5.0, {"fc": 9}, True], [5, {"fc": 8}]),
        ("zoo.callbacks.sharing_schedule.WeightSharing", "rate", [-1, NAN], [0, 0.005]),
        ("zoo.callbacks.sharing_schedule.WeightSharing", "mean_bits", [0, 9, NAN], [2.5, None]),
        ("zoo.callbacks.budget.AccuracyBudget", "max_drop", [0, 100, NAN], [0.5]),
        ("zoo.compress.prune_channels.prune_channels", "ratio", [0, 1, NAN], [0.5]),
        ("zoo.compress.prune_channels.prune_channels", "macs", [0, 1, NAN], [0.5, None]),
        ("zoo.compress.prune_channels.prune_channels", "latency", [0, 1, -0.5, 2, NAN, "half"], [0.5, None]),
        ("zoo.compress.prune_channels.prune_channels", "latency_batch", [0, 2.5], [16]),
        ("zoo.compress.prune_channels.prune_channels", "latency_runtime", ["onnx", None], ["eager", "compiled"]),
        ("zoo.compress.prune_channels.prune_channels", "repair", ["all", True], ["none", "norms", "refit"]),
        ("zoo.compress.prune_channels.prune_channels", "round_to", [0], [8]),
        ("zoo.run.quantize_product.ptq_int8", "num_batches", [0, 2.5, "ten"], [10]),
        ("zoo.run.quantize_product.ptq_int8", "max_drop", [-1, 100, NAN], [0, 0.5, None]),
        ("zoo.run.quantize_product.weight_only", "bits", [1, 16, "8"], [4, 8]),
        ("zoo.run.quantize_product.weight_only", "group", [0, -1, 2.5], [64, None]),
        ("zoo.run.quantize_product.weight_only", "float_layers", ["fc", 5, [5]], [[], ["fc"]]),
        ("torch.optim.SGD", "momentum", [1, 2, -0.1, NAN], [0, 0.9]),
        ("torch.optim.SGD", "lr", [0, -1, NAN, INF, True, "fast", None], [0.1, 1]),
        ("torch.optim.AdamW", "betas", [[0.9], [0.9, 1], [0.9, NAN], 0.9], [[0.9, 0.95]]),
        ("torch.optim.AdamW", "weight_decay", [-1, NAN], [0]),
        ("torch.optim.RMSprop", "alpha", [1, -1], [0.9]),
        ("lightning.Trainer", "limit_train_batches", [0, 0.0, 1.5, -1, True, NAN], [1, 2, 0.5, 1.0, None]),
        ("lightning.Trainer", "limit_test_batches", [0, -1], [1, None]),
        ("lightning.Trainer", "val_check_interval", [0, 0.0, 1.5], [1, 0.5, None]),
        ("lightning.Trainer", "check_val_every_n_epoch", [0, -1], [1, None]),
        ("lightning.Trainer", "strategy", ["ddp_spawn", "fsdp"], ["auto", "ddp", "fsdp2"]),
        ("lightning.Trainer", "devices", [0, -2, 1.5, "two", [], [-1], None], [1, -1, "auto", [0, 2]]),
        ("lightning.Trainer", "precision", ["32", 16, "16-true"], ["auto", "16-mixed"]),
        ("lightning.Trainer", "gradient_clip_val", [0, -1, "abc"], [1, 0.5, None]),
        ("lightning.pytorch.callbacks.EarlyStopping", "patience", [-1, 2.5], [0, 5]),
    ],
    ids=lambda value: value.rpartition(".")[2] if isinstance(value, str) else "",
)
def test_what_is_out_of_a_settings_range_is_refused(target, key, wrong, right):
    for value in right:
        check({"_target_": target, key: value}, "group")
    for value in wrong:
        with pytest.raises(BadInput, match=rf"^group\.{key}: expected .*, got ") as told:
            check({"_target_": target, key: value}, "group")
        assert "class '" not in str(told.value)


@pytest.mark.parametrize("config", sorted(path.stem for path in CONFIGS.glob("*.yaml")))
def test_each_setting_of_no_group_has_its_type(config):
    """A setting that is added to a config but not to zoo.cli.settings would not be checked."""
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        assert {*hydra.compose(config)} == {*get_type_hints(settings.OF_CONFIG[config])}
