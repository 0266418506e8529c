"""The contract of every net as an exported file, small and in its paper's size, for any number of samples."""

import pytest
import small
import torch
from conftest import composed, options
from omegaconf import OmegaConf
from torch import nn

from zoo.catalogue import catalogue, matches
from zoo.export.onnx import save_onnx
from zoo.export.parts import parts
from zoo.export.pt2 import save_pt2
from zoo.export.read_export import read_export
from zoo.models.decoding import greedy
from zoo.models.init import initialise
from zoo.run.model import build_bare_model

NATIVE = {entry.name: entry.cfg for entry in catalogue()}
WRITERS = [model for model, data in matches() if data == "reverse"]
QUICK = ("lenet5", "transformer")  # the others take minutes on two cores
CASES = [
    pytest.param(model, size, marks=() if (model, size) in [(m, "small") for m in QUICK] else pytest.mark.slow)
    for model in options("model")
    for size in ("small", "native")
]
CASES.append(pytest.param("transformer", "rotary"))
SAVE = {".pt2": save_pt2, ".onnx": save_onnx}


def config_of(model, size):
    if size == "native":
        return NATIVE.get(model) or composed(model, "cmudict")
    cfg = composed(model, "reverse" if model in WRITERS else "mnist_5k")
    return OmegaConf.merge(cfg, {"model": {"positions": "rotary"}}) if size == "rotary" else cfg


def facts_of(cfg):
    """Return the facts that a net's file would have."""
    facts = small.facts_of(cfg)
    if "image_size" in cfg.data:
        data = {"classes": [str(i) for i in range(cfg.data.num_classes)]}
        data |= {name: [value] * cfg.data.in_channels for name, value in (("mean", 100.0), ("std", 50.0))}
    else:
        data = {
            f"{side}_symbols": [*small.SYMBOLS[:3], *map(str, range(cfg.data[f"num_{side}_tokens"] - 3))]
            for side in ("source", "target")
        }
    export = {"format": "pt2", "precision": "fp32", "bake": False}
    return {**facts, "data": {**facts["data"], **data}, "export": export}


def exported(net, facts, suffix, folder):
    """Export a net, and read it as evaluate.py does."""
    for name, part in parts(net, facts).items():
        path = folder / f"model_{name}{suffix}"
        SAVE[suffix](path, part, {**facts, "export": {**facts["export"], "part": name}})
    return read_export(path).net


def logits_of_steps(net, source, target):
    state, found = net.begin(source), []
    for tokens in target.unbind(1):
        logits, state = net.step(tokens, state)
        found.append(logits)
    return torch.stack(found, 1)


@pytest.mark.parametrize(("model", "size"), CASES)
def test_in_both_formats_it_is_the_net_for_1_3_and_64_samples(model, size, tmp_path):
    torch.manual_seed(0)
    cfg = config_of(model, size)
    net, facts = build_bare_model(cfg.model).eval(), facts_of(cfg)
    initialise(net, "he")  # with some papers' initial weights all logits are near 0
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    for name, buffer in net.named_buffers():
        if "running" in name:
            buffer.uniform_(*((-0.1, 0.1) if name.endswith("mean") else (0.8, 1.2)))
    if model in WRITERS:
        source = torch.randint(3, cfg.data.num_source_tokens, (64, 8))
        source[1:, 6:] = 0  # padded, as shorter words are
        inputs = source, torch.randint(3, cfg.data.num_target_tokens, (64, 7))
        ask = logits_of_steps
    else:
        inputs = (torch.randn(64, cfg.data.in_channels, cfg.data.image_size, cfg.data.image_size),)
        ask = nn.Module.__call__
    with torch.inference_mode():
        logits = ask(net, *inputs)
        spread = float((logits - logits.mean(0)).abs().max())
        for suffix in SAVE:
            found = exported(net, facts, suffix, tmp_path)
            off = max(
                float((ask(found, *(x[:batch] for x in inputs)) - logits[:batch]).abs().max()) for batch in (1, 3, 64)
            )
            print(f"{model}{suffix}, {size}: a logit is off by {off:.1g}, where samples differ by {spread:.2g}")
            assert off < 1e-4 * spread  # 110 for ResNet-50, since its weights are random
            if model in WRITERS:
                assert greedy(found, source, 8).equal(greedy(net, source, 8))
