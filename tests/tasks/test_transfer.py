import pytest
import torch

from zoo.checkpoint.product_file import load_state
from zoo.errors import BadInput
from zoo.models.googlenet import GoogLeNet
from zoo.models.resnet import ResNet
from zoo.models.transformer import Transformer
from zoo.models.vit import ViT
from zoo.optim.schedules import constant
from zoo.tasks.base import parameter_groups
from zoo.tasks.classification import ImageClassification
from zoo.tasks.transfer import describe_rows, freeze, matched_by_name, rows_of


def resnet():
    return ResNet("basic", [1, 1, 1], [8, 16, 32], 1, 10, 28)


def trained(net):
    return {name.split(".")[0] for name, p in net.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("what", "left"),
    [
        ("backbone", ["fc"]),
        ({"until": "layer3"}, ["layer3", "fc"]),
        (["conv1", "bn1", "layer1"], ["layer2", "layer3", "fc"]),
        ("layer2", ["conv1", "bn1", "layer1", "layer3", "fc"]),
    ],
    ids=str,
)
def test_what_is_named_is_frozen_and_the_rest_is_trained(what, left):
    net = resnet()
    num = freeze(net, what)
    assert trained(net) == set(left)
    assert num == sum(p.numel() for p in net.parameters() if not p.requires_grad)


def test_all_heads_stay_free_with_a_frozen_backbone():
    net = GoogLeNet(1, 10, 28)
    freeze(net, "backbone")
    free = {name.rpartition(".")[0] for name, p in net.named_parameters() if p.requires_grad}
    assert free == {"fc", "aux1.fc2", "aux2.fc2"}


def test_what_comes_before_holds_no_head():
    net = GoogLeNet(1, 10, 28)
    freeze(net, {"until": "fc"})
    assert all(p.requires_grad for head in net.head_names for p in net.get_submodule(head).parameters())
    assert not net.aux1.conv.conv.weight.requires_grad


def test_a_learning_rate_for_a_frozen_head_is_refused():
    net = resnet()
    freeze(net, "fc")
    with pytest.raises(BadInput, match=r"head_lr=0\.1 is for the head, which is frozen"):
        parameter_groups(net, 0.1)


IMAGES, TURNS = "zoo.tasks.classification.ImageClassification", "zoo.tasks.rotation.RotationPrediction"


def heads(weights, there, here, task=IMAGES):
    """Return the head weights and biases of a new net after transfer from a net with other classes."""
    net = ResNet("basic", [1], [4], 1, len(here), 28)
    before = net.fc.weight.detach().clone()
    theirs, ours = rows_of(net, task, {"classes": there}), rows_of(net, IMAGES, {"classes": here})
    load_state(net, matched_by_name(net, weights, theirs, ours), "the file")
    return net.fc, before, " ".join(describe_rows(theirs, ours))


def test_a_head_is_matched_by_the_names_of_its_classes():
    source = ResNet("basic", [1], [4], 1, 3, 28)
    weights, there = source.state_dict(), ["bird", "cat", "dog"]
    found, _, told = heads(weights, there, there)
    assert (found.weight.equal(source.fc.weight), told) == (True, "")
    found, _, told = heads(weights, there, ["dog", "bird", "cat"])
    assert found.weight.equal(source.fc.weight[[2, 0, 1]])
    assert found.bias.equal(source.fc.bias[[2, 0, 1]])
    assert "random" not in told
    assert "by name" in told
    found, drawn, told = heads(weights, there, ["cat", "horse", "dog", "cow"])
    assert found.weight.equal(torch.stack([source.fc.weight[1], drawn[1], source.fc.weight[2], drawn[3]]))
    assert "horse, cow start from random values" in told
    found, drawn, told = heads(weights, there, ["avian", "canine", "feline"])
    assert found.weight.equal(drawn)
    assert "fc starts from random values" in told


def test_a_net_of_turns_gives_its_head_to_no_classes_also_where_there_are_four():
    source = ResNet("basic", [1], [4], 1, 4, 28)
    found, drawn, _ = heads(source.state_dict(), ["a", "b", "c", "d"], ["a", "b", "c", "d"], TURNS)
    assert found.weight.equal(drawn)


def test_embeddings_are_matched_by_the_names_of_symbols():
    old, new = (Transformer(6, 5, 8, 1, 1, 2, 16) for _ in range(2))
    first = {
        "source_symbols": ["<pad>", "<start>", "<end>", "a", "b", "c"],
        "target_symbols": ["<pad>", "X", "Y", "Z", "?"],
    }
    second = {
        "source_symbols": ["<pad>", "<start>", "<end>", "b", "c", "d"],
        "target_symbols": ["<pad>", "Z", "Y", "X", "?"],
    }
    drawn = new.source_embedding.weight[5].detach().clone()
    rows = [rows_of(old, "zoo.tasks.transduction.Transduction", facts) for facts in (first, second)]
    load_state(new, matched_by_name(new, old.state_dict(), *rows), "the file")
    source, target = old.source_embedding.weight, old.target_embedding.weight
    assert new.source_embedding.weight.equal(torch.cat([source[[0, 1, 2, 4, 5]], drawn[None]]))
    assert new.target_embedding.weight.equal(target[[0, 3, 2, 1, 4]])


def test_a_parameter_can_be_named():
    net = ViT(32, 1, 2, image_size=28, in_channels=1, num_classes=10)
    assert freeze(net, ["encoder.pos_embedding", "class_token"]) == 50 * 32 + 32


def test_blocks_of_a_transformer_can_be_named():
    net = ViT(32, 3, 2, image_size=28, in_channels=1, num_classes=10)
    freeze(net, {"until": "encoder.layers.encoder_layer_1"})
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    assert {"class_token", "encoder.pos_embedding", "conv_proj.weight"} < frozen
    assert not any("encoder_layer_1" in name or "encoder_layer_2" in name for name in frozen)


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("layer9", "no part 'layer9'; did you mean layer"),
        (["conv1", "xyz"], "no part 'xyz'; choose from bn1, conv1, fc"),
        ({"until": "layer3", "x": 1}, "a mapping with one key"),
        ({"until": None}, "a mapping with one key"),
        ({"until": "conv1"}, "freezes nothing"),
        ([], "freezes nothing"),
        ([1], "expected backbone"),
        (["conv1", "bn1", "layer1", "layer2", "layer3", "fc"], "leaves nothing to train"),
    ],
    ids=str,
)
def test_what_cannot_be_frozen_is_told(what, sentence):
    with pytest.raises(BadInput, match=sentence):
        freeze(resnet(), what)


def test_frozen_norms_keep_their_statistics_in_training_and_free_ones_do_not():
    net = resnet()
    freeze(net, {"until": "layer2"})
    task = ImageClassification(net, torch.optim.SGD, constant)
    task.eval()
    task.train()
    before = {name: b.clone() for name, b in net.named_buffers() if name.endswith("running_mean")}
    task.training_step((torch.randn(4, 1, 28, 28), torch.arange(4)), 0)
    same = {name.split(".")[0] for name, b in net.named_buffers() if name in before and b.equal(before[name])}
    assert same == {"bn1", "layer1"}


def test_a_head_has_its_own_learning_rate_and_biases_do_not_decay():
    net = resnet()
    optimizer = torch.optim.SGD(parameter_groups(net, head_lr=0.5), lr=0.1, weight_decay=0.01)
    settings = {}
    for group in optimizer.param_groups:
        for p in group["params"]:
            settings[id(p)] = (group["lr"], group["weight_decay"])
    for name, p in net.named_parameters():
        assert settings[id(p)] == (0.5 if name.startswith("fc.") else 0.1, 0.01 if p.ndim > 1 else 0.0), name
