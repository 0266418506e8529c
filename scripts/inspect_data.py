"""Look at pictures and labels before training: counts, sizes, unreadable files, copies, pictures of each class.

  python scripts/inspect_data.py data=image_folder data.root=my_pictures
  python scripts/inspect_data.py data=image_table data.table=labels.csv data.images=my_pictures data.split=split

Splits are those of a training with the same settings. Copies are found also between splits, and if they were resized
or compressed again. The page shows all of it, with pictures; the JSON file lists every file concerned.
"""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from zoo.cli.command import command


@command("inspect_data")
def main(cfg: DictConfig) -> None:
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from zoo.data.images import ImageData
    from zoo.data.table_labels import has_numbers
    from zoo.errors import BadInput
    from zoo.inspection import inspection_page
    from zoo.inspection.inspection import inspect_pictures
    from zoo.instantiate import build

    folder = Path(cfg.out or f"{cfg.runs}/{cfg.name}")
    inspection_page.check_free(folder)
    settings: Any = OmegaConf.to_container(cfg.data, resolve=True)
    if settings["batch_size"] == "auto":  # found by a training
        settings["batch_size"] = 1
    data = build(settings, "data")
    if not isinstance(data, ImageData):
        raise BadInput("scripts/inspect_data.py is for pictures, and these data are sequences")
    if has_numbers(settings):
        raise BadInput("data.numbers=true: scripts/inspect_data.py looks at classes; leave it out")
    where = settings.get("table") or settings.get("root") or HydraConfig.get().runtime.choices["data"]
    found = inspect_pictures(data, where)
    inspection_page.show(found)
    inspection_page.write(folder, found, cfg.num_each)


if __name__ == "__main__":
    main()
