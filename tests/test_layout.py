"""The packages and the layers they belong to, checked in the syntax tree."""

import ast
import re
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ZOO = ROOT / "zoo"

# Each room may import those of the floors below it. Single files in zoo/ are part of the ground, on which all
# stand, except the Python API.
FLOORS = (
    {path.stem for path in ZOO.glob("*.py")} - {"__init__"} | {"records", "cli"},
    {"models", "measure", "optim"},
    {"data", "report"},
    {"tasks", "compress", "packed"},
    {"quantize"},
    {"checkpoint"},
    {"callbacks"},
    {"run"},
    {"export", "compare"},
    {"inference", "inspection", "search", "benchmarks"},
    {"__init__"},  # the Python API
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
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


def rooms_imported(path: Path) -> set[str]:
    names = {name.split(".")[1] for name in imports(path) if name.startswith("zoo.")}
    return (names - {room_of(path)}) & FLOOR_OF.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ZOO)))
def test_a_room_imports_only_rooms_of_the_floors_below_it(path):
    room = room_of(path)
    assert room in FLOOR_OF, f"{path}: a new room needs its floor here and in the README"
    too_high = {
        other
        for other in rooms_imported(path)
        if FLOOR_OF[other] >= FLOOR_OF[room] > 0 or FLOOR_OF[other] > FLOOR_OF[room]
    }
    assert not too_high, f"{room} imports {sorted(too_high)}"


def test_the_files_of_the_ground_import_each_other_in_no_circle():
    graph = {room: set() for room in FLOORS[0]}
    for path in FILES:
        if room_of(path) in FLOORS[0]:
            graph[room_of(path)] |= rooms_imported(path)
    assert len(list(TopologicalSorter(graph).static_order())) == len(FLOORS[0])


def test_files_are_short_and_few_and_each_has_a_name_of_its_own():
    assert len(list(ZOO.glob("*.py"))) <= 11
    assert [str(path) for path in EVERYWHERE if len(path.read_text().splitlines()) > 300] == []
    names = [path.stem for path in FILES if path.stem != "__init__"]
    assert len(set(names)) == len(names)
    assert not set(names) & set(sys.stdlib_module_names)


# Functions above 40 lines, each with the reason why it is one.
LONG_FUNCTIONS = {
    "measure_layers": "two hooks and the loop that registers them share the state of one forward pass",
    "running": "a process, its pipes and what reads them end together, whatever fails",
    "prune_channels": "settings with their meanings, and a record with every number of the step",
    "check_settings": "a list of demands in the order in which they are reported",
    "_code": "the inner loop of the range coder, where a call costs as much as the work",
    "__init__": "the settings of a Transformer, each checked and stored",
    "kmeans_exactly": "one dynamic program, 30 of whose lines share six arrays",
}


def test_functions_are_short():
    nodes = (node for path in EVERYWHERE for node in ast.walk(ast.parse(path.read_text())))
    long = [n.name for n in nodes if isinstance(n, ast.FunctionDef) and n.end_lineno - n.lineno >= 40]
    assert sorted(long) == sorted(LONG_FUNCTIONS)
    assert len(long) <= 8


@pytest.mark.parametrize("path", sorted((ZOO / "models").glob("*.py")), ids=lambda p: p.name)
def test_a_net_knows_torch_and_the_ranges_of_its_settings_and_nothing_else(path):
    assert {name.split(".")[0] for name in imports(path)} <= {"torch", "zoo", *sys.stdlib_module_names}
    assert {name.split(".")[1] for name in imports(path) if name.startswith("zoo.")} <= {"models", "ranges"}


def test_folders_are_one_deep():
    assert {len(path.relative_to(ZOO).parts) for path in FILES} <= {1, 2}


def test_only_one_place_instantiates():
    for path in FILES:
        if room_of(path) != "instantiate":
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
        assert not re.search(r"(?<!is_)(?<!get_)autocast", name), (
            f"{path}:{node.lineno}: precision belongs to configs/trainer"
        )


def test_stories_stay_short():
    assert len((ROOT / "train.py").read_text().splitlines()) <= 60
    assert len((ROOT / "evaluate.py").read_text().splitlines()) <= 50
