"""Add a net to those that come with the zoo, and write the cards of all of them.

python scripts/trained.py add=runs/<name>/model.zoo   test the file, and write its claim and its card
python scripts/trained.py                             write the cards in docs/cards again
"""

from pathlib import Path

from omegaconf import DictConfig

from zoo.cli.command import command


@command("trained")
def main(cfg: DictConfig) -> None:
    from zoo.checkpoint.named_files import file_of, trained_files
    from zoo.checkpoint.product_file import read_product
    from zoo.inference import cards

    if cfg.add:
        file = file_of(Path(cfg.add))
        chosen = read_product(file).facts["config"]["choices"]
        name = cfg.name or f"{chosen['model']}_{chosen['data']}"
        print(f"Added {cards.add(file, name, cfg)}")
    for name in trained_files():
        cards.write_card(name)
        print(f"Wrote docs/cards/{name}.md")


if __name__ == "__main__":
    main()
