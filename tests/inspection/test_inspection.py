"""scripts/inspect_data.py finds planted faults, and its page is one file that no name in the data can break."""

import json
import re

import numpy as np
import pytest
from PIL import Image

SETTINGS = ["data=image_folder", "data.root=pictures", "data.num_validation=12", "data.image_size=32"]


def picture(draw):
    """A picture with detail at low frequencies, as photographs have."""
    small = draw.integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((90, 60), Image.Resampling.BICUBIC)


@pytest.fixture
def pictures(tmp_path):
    """Two classes, `many` and the rare `<b>few`, with one fault of each kind."""
    draw = np.random.default_rng(0)
    root = tmp_path / "pictures"
    for split, name, num in (("train", "many", 44), ("train", "<b>few", 4), ("val", "many", 5), ("val", "<b>few", 2)):
        folder = root / split / name
        folder.mkdir(parents=True)
        for i in range(num):
            picture(draw).save(folder / f"{i:02}.png")
    first = Image.open(root / "train/many/00.png")
    first.resize((45, 30), Image.Resampling.LANCZOS).save(root / "val/many/small.jpg", quality=60)
    (root / "val/<b>few/copy.png").write_bytes((root / "train/<b>few/01.png").read_bytes())
    (root / "train/<b>few/wrong.png").write_bytes((root / "train/many/02.png").read_bytes())
    (root / "train/many/<script>.png").write_bytes(b"not a picture")
    Image.new("RGB", (300, 20), "white").save(root / "train/many/long.png")
    return root


def test_planted_faults_are_found_in_the_terminal_the_page_and_the_json_file(command, pictures, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    outcome = command("scripts/inspect_data", *SETTINGS)
    assert outcome.code == 0, outcome.err
    assert max(map(len, outcome.out.splitlines())) <= 80
    found = json.loads((tmp_path / "runs/inspect_image_folder/inspection.json").read_text())
    verdicts = {one["check"]: one["verdict"] for one in found["verdicts"]}
    faults = dict.fromkeys(["files", "splits", "labels"], "warn") | dict.fromkeys(["copies", "sizes"], "look")
    assert verdicts == faults | {"classes": "pass"}
    assert found["num_samples"] == {"train": 39, "val": 12, "test": 9}
    assert {name: sum(of.values()) for name, of in found["classes"].items()} == {"many": 52, "<b>few": 8}
    assert [one["file"].rsplit("/", 1)[1] for one in found["unreadable"]] == ["<script>.png"]
    assert [one["file"].rsplit("/", 1)[1] for one in found["one_colour"]] == ["long.png"]

    def groups(kind):
        return sorted(sorted(one["file"].split("pictures/")[1] for one in group) for group in found[kind])

    exact = [["train/<b>few/01.png", "val/<b>few/copy.png"], ["train/<b>few/wrong.png", "train/many/02.png"]]
    assert groups("exact_copies") == exact
    assert groups("near_copies") == [["train/many/00.png", "val/many/small.jpg"]]
    assert found["sides"]["width"] == {"least": 45, "5 %": 90, "median": 90, "95 %": 90, "most": 300}
    page = (tmp_path / "runs/inspect_image_folder/inspection.html").read_text()
    assert set(re.findall(r'src="([^"]{10})', page)) == {"data:image"}
    assert "<b>few" not in page
    assert page.count("<script>") == 1  # that of the page


def test_settings_that_training_refuses_are_a_verdict_and_all_else_is_shown(command, pictures, tmp_path):
    outcome = command("scripts/inspect_data", *SETTINGS, "data.num_validation=500", "out=here", "num_each=1")
    assert outcome.code == 0, outcome.err
    found = json.loads((tmp_path / "here/inspection.json").read_text())
    assert found["verdicts"][0]["check"] == "settings"
    assert "data.num_validation" in found["verdicts"][0]["found"]
    assert found["num_samples"] == {"train": 51, "val": 0, "test": 9}


def test_data_in_memory_are_inspected_too(command, toy, tmp_path):
    outcome = command("scripts/inspect_data", *toy, "out=here")
    assert outcome.code == 0, outcome.err
    found = json.loads((tmp_path / "here/inspection.json").read_text())
    assert sum(found["num_samples"].values()) == sum(sum(of.values()) for of in found["classes"].values()) == 900
    assert found["sides"]["height"]["least"] == 28
    assert not found["exact_copies"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data=reverse"], "these data are sequences"),
        (["data=image_folder", "data.root=nowhere"], "data.root"),
        (["num_each=0"], "num_each"),
        (["out=taken"], "out=taken"),
    ],
)
def test_what_cannot_be_inspected_is_one_sentence_and_writes_nothing(command, tmp_path, arguments, words):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/inspection.json").write_text('{"kind": "my own"}')
    outcome = command("scripts/inspect_data", *arguments)
    assert outcome.code == 2
    assert words in outcome.sentence
    assert not (tmp_path / "runs").exists()
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["inspection.json"]
