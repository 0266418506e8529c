"""Decoding with sequence nets, with and without cached state."""

from collections.abc import Callable

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from zoo.benchmarks.rounds import Contender, Suite, checkpoints, data_of, timed
from zoo.errors import BadInput
from zoo.export.parts import Encoder, Step
from zoo.export.read_export import Writer, net_of, read_net
from zoo.measure.compiler import has_compiler
from zoo.models.decoding import State, beam_search, greedy
from zoo.models.transformer import Transformer

NUM_AT_ONCE = 500
EVERY = 4  # every fourth validation batch is decoded
BEAM = 4
SYMBOLS = ("source_symbols", "target_symbols")


class WithoutCache(nn.Module):
    """A Transformer that encodes the source once, and at each step decodes all tokens so far again.

    This is greedy decoding as in PyTorch's translation tutorial. It has the interface of zoo.models.decoding.
    """

    def __init__(self, net: Transformer) -> None:
        super().__init__()
        self.net = net

    def begin(self, source: Tensor) -> State:
        return *self.net.encode(source), source[:, :0]

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        memory, mask, written = state
        written = torch.cat([written, tokens[:, None]], 1)
        x, rotation = self.net.embed(written, self.net.target_embedding)
        return self.net.logits(self.net.decoder(x, memory, mask, rotation)[:, -1]), (memory, mask, written)


def compiled(net: nn.Module) -> Writer:
    """Return a sequence net whose encoder and step are compiled, at their first call, for any length and batch size."""
    encoder, step = Encoder(net).eval(), Step(net).eval()
    for part in (encoder, step):
        part.compile(dynamic=True)
    return Writer(encoder, step, None)


def decoding_suite(cfg: DictConfig) -> Suite:
    """Time greedy decoding and beam search of a part of the validation sources, on the CPU.

    `cfg.checkpoint` names product files or exported files, which all decode the sources of the first one. The baseline
    is greedy decoding with the first net: without cached keys and values if it is a Transformer in torch, and with its
    cached state otherwise. A compiled Transformer is left out where there is no C++ compiler.
    """
    if not cfg.checkpoint:
        raise BadInput("suite=decoding: set checkpoint, such as checkpoint=zoo:transformer_cmudict")
    paths = checkpoints(cfg)
    sources = [read_net(path) for path in paths]
    for path, source in zip(paths, sources, strict=True):
        if "classes" in source.facts["data"]:
            raise BadInput(f"checkpoint={path}: suite=decoding is for sequence nets, and this one reads images")
        if any(source.facts["data"][key] != sources[0].facts["data"][key] for key in SYMBOLS):
            raise BadInput(f"checkpoint={path} has other symbols than {paths[0]}; name nets of the same data")
    data = data_of(sources[0].facts, cfg, NUM_AT_ONCE)
    length = data.load().max_length
    batches = [batch[0] for batch in data.loader("val", "cpu")][::EVERY]
    contenders: dict[str, Contender] = {}

    def add(name: str, net: nn.Module, decode: Callable[[nn.Module, Tensor], object]) -> None:
        contenders[name] = lambda: timed(lambda: [decode(net, batch) for batch in batches])

    def one_by_one(net: nn.Module, batch: Tensor) -> Tensor:
        return greedy(net, batch, length)

    for path, source in zip(paths, sources, strict=True):
        net = net_of(source).eval()
        title = f"{path}: " if len(paths) > 1 else ""
        if isinstance(net, Transformer):
            add(f"{title}greedy, without cache", WithoutCache(net), one_by_one)
        add(f"{title}greedy", net, one_by_one)
        if isinstance(net, Transformer) and has_compiler():
            add(f"{title}greedy, compiled", compiled(net), one_by_one)
        add(f"{title}beam={BEAM}", net, lambda net, batch: beam_search(net, batch, BEAM, length))
    return Suite(contenders, sum(map(len, batches)))
