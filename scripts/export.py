"""Export a trained network to other formats, and verify each file.

python scripts/export.py checkpoint=runs/first 'format=[zoo,pt2,onnx]'
python scripts/export.py checkpoint=model.safetensors format=zoo compress=rate compress.rate.max_drop=0.3
python scripts/export.py checkpoint=model.safetensors format=onnx_int8
"""

from omegaconf import DictConfig, OmegaConf

from zoo.cli.command import command, first_word_as


@command("export", reword=first_word_as("checkpoint"))
def main(cfg: DictConfig) -> None:
    from zoo.checkpoint.named_files import folder_for
    from zoo.checkpoint.product_file import read_product
    from zoo.errors import BadInput
    from zoo.export import export
    from zoo.instantiate import check

    names = list(cfg.format) if OmegaConf.is_list(cfg.format) else [cfg.format]
    export.check_formats(names)
    if {*cfg.compress} - {"before_fit", "after_fit", "share", "rate"} or cfg.compress.before_fit:
        raise BadInput("compress: export supports rate and share; for others, use python train.py init_from=...")
    product = read_product(cfg.checkpoint)
    for name in {"share", "rate"} & cfg.compress.keys():
        check(OmegaConf.to_container(cfg.compress[name]), f"compress.{name}")
    export.export(product, names, folder_for(product.path, cfg.out), cfg)


if __name__ == "__main__":
    main()
