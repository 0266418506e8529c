"""The rooms and the arrows between them, read from the syntax tree."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ZOO = ROOT / "zoo"

# room: the rooms it may import beside itself. GROUND is what all but the nets stand on; those know ranges only.
GROUND = {"errors", "escape", "files", "memory", "ranges", "ranks", "records"}
ARROWS = {
    "errors": set(),
    "escape": set(),
    "files": {"errors"},
    "records": {"errors", "files"},
    "ranges": {"errors"},
    "ranks": {"errors", "files"},
    "memory": {"ranks"},
    "models": {"ranges"},
    "measure": set(),
    "data": GROUND,
    "tasks": GROUND | {"measure"},
    "build": GROUND,
    "settings": GROUND,
    "cli": GROUND | {"settings"},
    "folder": GROUND | {"build", "catalogue", "settings", "stored_config"},
    "launch": GROUND | {"folder"},
    "catalogue": GROUND,
    "compress": GROUND | {"measure", "memory", "metadata", "models"},
    "metadata": GROUND,
    "facts": GROUND | {"metadata"},
    "ledger": GROUND,
    "packed": GROUND | {"compress", "facts", "ledger"},
    "shapes": GROUND | {"compress", "stored_config"},
    "checkpoint": GROUND | {"compress", "facts", "measure", "metadata", "packed", "shapes"},
    "stored_config": GROUND | {"build", "catalogue", "data", "models"},
    "pretrained": GROUND | {"checkpoint", "tasks"},
    "report": GROUND | {"compress", "measure"},
    "passes": GROUND | {"build", "checkpoint", "compress", "data", "folder", "tasks"},
    "nets": GROUND
    | {"build", "checkpoint", "compress", "data", "folder", "measure", "models", "passes", "pretrained", "tasks"}
    | {"shapes", "stored_config"},
    "callbacks": GROUND | {"compress", "measure", "checkpoint", "folder", "report"},
    "export": GROUND | {"compress", "facts", "measure", "metadata"},
    "packing": GROUND | {"checkpoint", "compress", "ledger", "packed"},
    "evaluation": GROUND | {"checkpoint", "compress", "data", "export", "nets", "report", "stored_config", "writing"},
    "proof": GROUND | {"checkpoint", "data", "export", "measure", "nets", "writing"},
    "exporting": GROUND
    | {"checkpoint", "compress", "data", "export", "ledger", "matrix", "nets", "packed", "packing", "proof"}
    | {"stored_config"},
    "matrix": GROUND | {"callbacks", "proof", "report"},
    "quantizing": GROUND | {"checkpoint", "compress", "data", "nets"},
    "prediction": GROUND | {"checkpoint", "data", "writing"},
    "starting": GROUND | {"catalogue", "checkpoint", "stored_config"},
    "trainer": GROUND | {"build", "callbacks", "folder"},
    "preflight": GROUND | {"data", "measure", "tasks"},
    "compare": GROUND,
    "search": GROUND | {"compare", "folder"},
    "writing": GROUND | {"data", "models", "tasks"},
    "run": None,  # everything
    "benchmarks": None,
}
FILES = sorted(ZOO.rglob("*.py"))
EVERYWHERE = [*FILES, *sorted(ROOT.glob("*.py")), *sorted((ROOT / "scripts").glob("*.py"))]


def room_of(path: Path) -> str:
    return path.relative_to(ZOO).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ZOO)))
def test_a_room_imports_only_the_rooms_below_it(path):
    room = room_of(path)
    if room == "__init__":
        return
    assert room in ARROWS, f"{path}: a new room needs its arrows here and in the README"
    found = {name.split(".")[1] for name in imports(path) if name.startswith("zoo.")} - {room}
    rooms = found & set(ARROWS)
    assert ARROWS[room] is None or rooms <= ARROWS[room], f"{room} imports {sorted(rooms - ARROWS[room])}"


@pytest.mark.parametrize("path", sorted((ZOO / "models").glob("*.py")), ids=lambda p: p.name)
def test_a_net_knows_torch_and_the_ranges_of_its_settings_and_nothing_else(path):
    assert {name.split(".")[0] for name in imports(path)} <= {"torch", "zoo", *sys.stdlib_module_names}
    assert {name.split(".")[1] for name in imports(path) if name.startswith("zoo.")} <= {"models", "ranges"}


def test_folders_are_one_deep():
    assert {len(path.relative_to(ZOO).parts) for path in FILES} <= {1, 2}


def test_only_run_and_benchmarks_know_everyone_and_nothing_imports_them():
    for path in FILES:
        if room_of(path) not in ("run", "benchmarks"):
            assert "zoo.run" not in imports(path)
            assert not any(name.startswith("zoo.benchmarks") for name in imports(path))
        if room_of(path) != "build":
            assert "hydra.utils.instantiate" not in imports(path)


@pytest.mark.parametrize("path", EVERYWHERE, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_unpickles(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        assert name not in ("pickle.load", "pickle.loads"), f"{path}:{node.lineno}"
        if name == "torch.load":
            safe = [k for k in node.keywords if k.arg == "weights_only" and ast.unparse(k.value) == "True"]
            assert safe, f"{path}:{node.lineno}: torch.load without weights_only=True"
        assert name != "torch.compile", f"{path}:{node.lineno}: torch.compile(net) renames every weight: net.compile()"
        assert "autocast" not in name, f"{path}:{node.lineno}: precision belongs to configs/trainer"


def test_stories_stay_short():
    assert len((ROOT / "train.py").read_text().splitlines()) <= 60
    assert len((ROOT / "evaluate.py").read_text().splitlines()) <= 50
