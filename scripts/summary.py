"""Show the layers of a network: shapes, parameters, multiply-accumulates, receptive fields.

  python scripts/summary.py model=vgg16 data=imagenet
  python scripts/summary.py checkpoint=model.safetensors
  python scripts/summary.py zoo=true                             writes docs/zoo.md

The table of all networks takes inference times from docs/results/benchmark_zoo.json, which
`python scripts/benchmark.py suite=zoo out=docs/results/benchmark_zoo.json` measures.
"""

import json
import textwrap
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from zoo.cli.command import command
from zoo.paths import CHECKOUT, IS_INSTALLED, RESULTS

if TYPE_CHECKING:
    from zoo.compress.recipe import Step
    from zoo.measure.layers import Layer

WIDE = 100  # columns of a terminal; narrower ones show less of the receptive field
TIMES = RESULTS / "benchmark_zoo.json"

ABOUT_THE_ZOO = """# The nets of the zoo

Each net is listed at the image size it was made for, including the parameters of auxiliary heads. A
multiply-accumulate (MAC) is one multiplication and one addition, in convolutions and matrix products; torchvision calls
these "GFLOPS". Activations are the outputs of the layers for one image in fp32, without the sums and concatenations
between layers and the intermediate results of attention. "sees px" is the receptive field, in the image, of one
position of the last feature map before the head, ignoring padding; in a ViT, every position sees the whole image from
the first block on.
{times}

`python scripts/summary.py model=vgg16 data=imagenet` shows the layers behind these numbers.
`python scripts/summary.py zoo=true` generates this page."""
HEAD_OF_TABLE = (
    "| net | paper | year | image px | parameters | MMACs | activations MB | sees px | time |",
    "|---|---|---:|---:|---:|---:|---:|---:|---:|",
)


def print_layers(layers: "list[Layer]", title: str, all_layers: bool) -> None:
    """Print one row per layer, and the sums; layers that only keep the shape are hidden without `all_layers`."""
    from rich.table import Table

    from zoo import escape

    table = Table(title=title)
    for column in ("layer", "kind", "window"):
        table.add_column(column, no_wrap=True)
    console = escape.console()
    fields = ("sees px", "stride", "offset") if console.width >= WIDE else ("sees px",)
    for column in ("output", "parameters", "MACs", *fields):
        table.add_column(column, justify="right", no_wrap=True)
    shape: tuple[int, ...] = ()
    for layer in layers:
        if all_layers or layer.params or layer.macs or layer.output != shape:
            height, width = layer.field or (None, None)
            seen = ("", "", "")
            if height and width:
                size = f"{height.size}" if height.size == width.size else f"{height.size}×{width.size}"
                seen = (size, f"{height.stride}", f"{height.offset:g}")
            numbers = (f"{n:,}" if n else "" for n in (layer.params, layer.macs))
            output = "×".join(str(side) for side in layer.output)
            table.add_row(layer.name, layer.kind, layer.window, output, *numbers, *seen[: len(fields)])
        shape = layer.output
    table.add_section()
    sums = (sum(layer.params for layer in layers), sum(layer.macs for layer in layers))
    table.add_row("all", "", "", "", *(f"{n:,}" for n in sums), style="bold")
    console.width = max(console.width, console.measure(table).maximum)
    console.print(table)
    memory = sum(layer.activation_bytes for layer in layers)
    console.print(
        f"Activations take {memory / 1e6:,.1f} MB per image in fp32, the weights {4 * sums[0] / 1e6:,.1f} MB. "
        "'sees px' is the receptive field of an output; that of the next output is shifted by the stride. The offset "
        "is the distance from the centre of the first pixel to that of the first receptive field.",
        soft_wrap=True,
    )


def zoo_table() -> str:
    """Return the table of all nets, sorted by year and then by MACs."""
    import torch

    from zoo.catalogue import catalogue
    from zoo.measure.layers import measure_layers
    from zoo.run.model import build_bare_model

    figures = json.loads(TIMES.read_text())["figures"] if TIMES.exists() else {}
    rows = []
    for entry in catalogue():
        with torch.device("meta"):
            net = build_bare_model(entry.cfg.model)
        layers = measure_layers(net, entry.image_shape)
        params, macs, activations = (
            sum(getattr(layer, what) for layer in layers) for what in ("params", "macs", "activation_bytes")
        )
        params = sum(p.numel() for p in net.parameters())  # including auxiliary heads
        maps = [layer.field for layer in layers if len(layer.output) == 3 and min(layer.output[1:]) > 1 and layer.field]
        sees = max(field.size for fields in maps for field in fields) if len(maps) > 1 else "all"
        time = f"{figures[entry.name]['ratio']:.2g}" if entry.name in figures else "–"
        source = entry.cfg.model._target_.rpartition(".")[0].replace(".", "/")
        cells = (
            f"[`{entry.name}`](../{source}.py)",
            f"{entry.authors}, {entry.title}",
            entry.year,
            entry.image_shape[1],
            f"{params:,}",
            f"{macs / 1e6:,.2f}",
            f"{activations / 1e6:,.3g}",
            sees,
            time,
        )
        rows.append(((entry.year, macs), f"| {' | '.join(str(cell) for cell in cells)} |"))
    return "\n".join([*HEAD_OF_TABLE, *(row for _, row in sorted(rows))])


def how_times_were_taken() -> str:
    if not TIMES.exists():
        return "Times have not been measured yet."
    report = json.loads(TIMES.read_text())
    return (
        f"Time is that of the forward pass of one image, relative to ResNet-18, on a CPU with {report['threads']} "
        f"threads in fp32: the median of {report['rounds']} rounds, torch {report['versions']['torch']}, commit "
        f"`{report['commit']}`; – means not measured."
    )


def _of_checkpoint(path: str) -> tuple[DictConfig, DictConfig, "list[Step]"]:
    """Return the config of a product file's net, the sizes of its data, and what was done to the net."""
    from omegaconf import OmegaConf

    from zoo.checkpoint.product_file import read_product
    from zoo.checkpoint.shapes import shape_of

    product = read_product(path)
    facts = product.facts
    shape_of(facts, product.weights, path)
    sizes = {}
    if "classes" in facts["data"]:
        sizes = {key: facts["config"]["data"].get(key) for key in ("image_size", "in_channels")}
        sizes["num_classes"] = len(facts["data"]["classes"])
    return OmegaConf.create(facts["config"]["model"]), OmegaConf.create(sizes), facts["recipe"]


def _size_of(data: DictConfig) -> tuple[int, int]:
    """Return the height and width of images; raise BadInput for sequences and for an invalid image size."""
    from omegaconf import OmegaConf

    from zoo.errors import BadInput
    from zoo.ranges import ImageSize, expected, height_width, takes

    plain: Any = OmegaConf.to_container(data, resolve=True)
    if "image_size" not in plain:
        raise BadInput("scripts/summary.py is for image nets, and these data are sequences")
    if not takes(ImageSize, plain["image_size"]):
        raise BadInput(expected("data.image_size", ImageSize, plain["image_size"]))
    return height_width(plain["image_size"])


@command("summary")
def main(cfg: DictConfig) -> None:
    from zoo.errors import BadInput
    from zoo.files import write_text

    if cfg.zoo:
        if IS_INSTALLED:
            raise BadInput("zoo=true writes docs/zoo.md, which exists only in a checkout")
        about = ABOUT_THE_ZOO.format(times=textwrap.fill(how_times_were_taken(), 120))
        write_text(CHECKOUT / "docs" / "zoo.md", f"{about}\n\n{zoo_table()}\n")
        print("Wrote docs/zoo.md")
        return

    import torch

    from zoo.compress.recipe import replay
    from zoo.measure.layers import measure_layers
    from zoo.models.fully_convolutional import to_fully_convolutional
    from zoo.ranges import plain_size
    from zoo.run.model import build_bare_model

    model, data, recipe = _of_checkpoint(cfg.checkpoint) if cfg.checkpoint else (cfg.model, cfg.data, [])
    height, width = _size_of(data)
    with torch.device("meta"):
        net = build_bare_model(model)
        replay(net, recipe)
        if cfg.slide_over:
            try:
                net = to_fully_convolutional(net, (data.in_channels, height, width))
                height = width = cfg.slide_over
            except ValueError as error:
                raise BadInput(f"slide_over={cfg.slide_over}: {error}") from error
    try:
        layers = measure_layers(net, (data.in_channels, height, width))
    except RuntimeError as error:
        key = "slide_over" if cfg.slide_over else "data.image_size"
        raise BadInput(f"{key}={plain_size([height, width])} px is too small for this net") from error
    title = f"{type(net).__name__} for {data.num_classes} classes, {data.in_channels} × {height} × {width}"
    print_layers(layers, title, cfg.all_layers)


if __name__ == "__main__":
    main()
