"""The facts stored next to a product's weights: as JSON text, and compressed."""

import json
import zlib
from collections.abc import Mapping
from typing import Any

from zoo.records.metadata import FORMAT, MAX_BYTES

# Settings that came after COMMON, and would take some 30 bytes of each packed file; files before them lack them, too.
USUAL: dict[str, Any] = {"calibrate": False, "logger": "tensorboard"}
USUAL_OF_GROUPS: dict[str, dict[str, Any]] = {
    "data": {"sampler": "shuffled", "split": "hash"},
    "task": {"class_weights": None, "logit_adjustment": 0.0},
}


def facts_text(facts: Mapping[str, Any]) -> str:
    """Return the JSON text of facts and the file format version, as stored in product files and packed files."""
    return json.dumps({"format": FORMAT, **facts}, separators=(",", ":"))


def without_usual(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts without the settings of the config that have their usual value, where the code has it as default."""
    if "config" not in facts:
        return dict(facts)
    config = _unusual(facts["config"], USUAL)
    of_groups = {group: _unusual(config[group], usual) for group, usual in USUAL_OF_GROUPS.items() if group in config}
    return {**facts, "config": config | of_groups}


def _unusual(settings: Any, usual: Mapping[str, Any]) -> Any:
    if not isinstance(settings, Mapping):
        return settings
    return {key: value for key, value in settings.items() if key not in usual or value != usual[key]}


def deflated(text: str) -> bytes:
    """Compress a text by DEFLATE, with COMMON as its preset dictionary."""
    coder = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_DEFAULT_STRATEGY, COMMON)
    return coder.compress(text.encode()) + coder.flush()


def inflated(content: bytes) -> tuple[str, bytes]:
    """Return the text compressed by `deflated` and the bytes after it; raise ValueError for anything else."""
    coder = zlib.decompressobj(-zlib.MAX_WBITS, COMMON)
    try:
        text = coder.decompress(content, MAX_BYTES)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if not coder.eof:
        raise ValueError("the text does not end")
    return text.decode(), coder.unused_data


# The preset dictionary of DEFLATE: pieces of our files, the most frequent last. A packed file can only be read with the
# exact text it was written with, so changing the text requires a new version of packed files.
COMMON = """
"lenet5","lenet300","resnet20","vgg16_bn","cifar10","mnist_5k","sgd","distill","one_cycle","airplane","automobile",
"bird","cat","deer","dog","frog","horse","ship","truck","_target_":"zoo.models.lenet.LeNet300","activation":"relu",
"_target_":"zoo.models.lenet.LeNet5","c3":"full","pooling":"max","dataset":"MNIST",
"_target_":"zoo.models.resnet.ResNet","block":"basic","depths":[3,"widths":[16,"shortcut":"pad",
"preactivation":false,"stochastic_depth":0.0,"_target_":"torch.optim.SGD","nesterov":true,
"_target_":"zoo.data.augment.RandomErasing","_target_":"zoo.tasks.muon.Muon","matrices":false},
"_target_":"zoo.tasks.schedules.one_cycle","metric":null,"_target_":"zoo.callbacks.ema.WeightEMA",
"_target_":"zoo.models.vgg.VGG","batch_norm":true,"block":"bottleneck","widths":[64,"in_channels":3,"image_size":32,
"stride_on":"3x3","dataset":"CIFAR10","padding":4},"_target_":"zoo.tasks.schedules.step","milestones":[0.5,
"batch_norm":false,"num_classes":100,"dataset":"CIFAR100","_target_":"torch.optim.Adam",
"_target_":"zoo.models.googlenet.GoogLeNet","num_classes":1000,"image_size":224,"kernel_5x5":false,"aux_heads":true,
"_target_":"zoo.data.folders.ImageFolders","root":"data/imagenet","test":"val","num_validation":10000,
"cache":"auto","num_workers":null,"decoder":"cpu","_target_":"zoo.data.augment.RandomResizedCrop",
"_target_":"zoo.models.vit.ViT","patch_size":16,"num_classes":null,"activation":"gelu",
"_target_":"lightning.pytorch.callbacks.EarlyStopping","monitor":"val/accuracy",
"_target_":"zoo.models.alexnet.AlexNet","_target_":"zoo.data.sources.mnist_5k",
"_target_":"zoo.tasks.schedules.constant","_target_":"zoo.models.inception_v3.InceptionV3",
"_target_":"zoo.models.transformer.Transformer","num_source_tokens":null,"num_target_tokens":null,"norm":"pre",
"positions":"sinusoidal","share":"output","_target_":"zoo.tasks.transduction.Transduction",
"_target_":"zoo.models.decoding.greedy","_target_":"zoo.data.sequences.CMUdict","stress":false,
"_target_":"zoo.callbacks.attention.AttentionMaps","_target_":"zoo.tasks.distillation.Distillation","teacher":null,
"_target_":"zoo.compress.prune_channels.prune_channels","ratio":0.5,"macs":null,"importance":"magnitude",
"scope":"layer","round_to":8},"_target_":"zoo.compress.semi_structured.semi_structured",
"_target_":"zoo.callbacks.keep_zeros.KeepZeros","_target_":"zoo.callbacks.budget.AccuracyBudget","max_drop":0.5,
"metric":"val/accuracy","compress":{"before_fit":{},"after_fit":{}},
"erase":{"ema":{"early_stopping":{"image_folder""dropout":"depth":"width":"num_heads":
{"shapes":{"layer1.0.conv1.weight":[16,16,3,3],"layer2.0.downsample.0.weight":[128,64,1,1],"blocks.0.attention.qkv.bias":[576],"classifier.6.weight":[10,
4096],"features.0.weight":[64,3,3,3],"features.0.bias":[64],"features.1.running_mean":[64],"bn1.weight":[64],
"bn1.bias":[64],"bn1.running_mean":[64],"bn1.running_var":[64],"bn1.num_batches_tracked":[],"fc.weight":[10,64],
"fc.bias":[10],"layers.1.weight":[300,784],"layers.1.bias":[300],"layers.3.weight":[100,300],"layers.3.bias":[100],
"layers.5.weight":[10,100],"layers.5.bias":[10],"conv1.weight":[20,1,5,5],"conv1.bias":[20],"conv2.weight":[50,20,5,
5],"conv2.bias":[50],"ip1.weight":[500,800],"ip1.bias":[500],"ip2.weight":[10,500],"ip2.bias":[10]},
"facts":{"format":3,"config":{"model":{"_target_":"zoo.models.lenet.LeNet5Caffe","in_channels":1,"num_classes":10,
"image_size":28,"init":"paper","pretrained":false,"freeze":null},
"task":{"_target_":"zoo.tasks.classification.ImageClassification","loss":"cross_entropy","label_smoothing":0.0,
"l1":0.0,"l2":0.0,"max_norm":null,"aux_weight":0.3,"head_lr":null},"data":{"_target_":"zoo.data.images.ImageData",
"source":{"_target_":"zoo.data.sources.torchvision_images","_partial_":true,"dataset":"FashionMNIST","root":"data",
"download":true},"num_classes":10,"in_channels":1,"image_size":28,"num_validation":5000,"folds":null,"fold":0,
"batch_size":128,"augment":{"crop":{"_target_":"zoo.data.augment.RandomCrop","padding":2},
"flip":{"_target_":"zoo.data.augment.RandomFlip"}},"mix":null,"mean":null,"std":null,"seed":1},
"optim":{"_target_":"torch.optim.AdamW","_partial_":true,"lr":0.001,"weight_decay":0.05,"fused":true},
"schedule":{"_target_":"zoo.tasks.schedules.cosine","_partial_":true,"warmup":0.05,"final":0.0},
"callbacks":{"progress":{"_target_":"zoo.callbacks.progress.ProgressBar","refresh_rate":20},
"monitor":{"_target_":"zoo.callbacks.monitor.TrainingMonitor"},
"product":{"_target_":"zoo.callbacks.product.BestProduct","metric":null,"mode":"max"},
"resume":{"_target_":"zoo.callbacks.resume.ResumeCheckpoint","every_minutes":10},
"prune":{"_target_":"zoo.callbacks.pruning.Pruning","sparsity":0.95,"per_layer":false,"score":"lamp","begin":0.1,
"end":0.6,"every":50,"regrow":0.0,"regrow_until":0.75,"rewind":null},
"share":{"_target_":"zoo.callbacks.sharing.WeightSharing","bits":3,"mean_bits":null,"init":"linear","begin":0.8}},
"compress":{"before_fit":{},"after_fit":{"pack":{"_target_":"zoo.packing.pack","_partial_":true,"half":true}},
"prune":{"_target_":"zoo.callbacks.pruning.Pruning","sparsity":0.95,"per_layer":false,"score":"lamp","begin":0.1,
"end":0.6,"every":50,"regrow":0.0,"regrow_until":0.75,"rewind":null},
"share":{"_target_":"zoo.callbacks.sharing.WeightSharing","bits":3,"mean_bits":null,"init":"linear","begin":0.8}},
"trainer":{"_target_":"lightning.Trainer","max_epochs":60,"accelerator":"auto","devices":1,"strategy":"auto",
"sync_batchnorm":false,"precision":"auto","gradient_clip_val":null,"gradient_clip_algorithm":"norm",
"accumulate_grad_batches":1,"log_every_n_steps":25,"deterministic":false,"benchmark":true,"limit_train_batches":null,
"limit_val_batches":null,"limit_test_batches":null},"name":"lenet","seed":1,"runs":"runs","data_root":"data",
"resume":null,"init_from":null,"channels_last":true,"tf32":true,"compile":false,"choices":{"model":"lenet5_caffe",
"data":"fashion_mnist","task":"classification","optim":"adamw","schedule":"cosine","compress":"deep_compression",
"callbacks":"default","trainer":"auto","experiment":"deep_compression_lenet5"}},
"recipe":[],"data":{"classes":["T-shirt/top","Trouser","Pullover","Dress",
"Coat","Sandal","Shirt","Sneaker","Bag","Ankle boot"],"mean":[72.9],"std":[90.0],"split_hash":"",
"num_samples":{"train":55000,"val":5000,"test":10000}},"versions":{"python":"3.11","torch":"2.14.1",
"torchvision":"0.29.1","lightning":"2.6.6","hydra-core":"1.3.8","zoo":"0.1.0"},"commit":"","best":{"epoch":0,
"metrics":{"val/loss":0.2,"val/accuracy":0.9,"val/top5":1.0}}}}
""".replace("\n", "").encode()
