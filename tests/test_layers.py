"""The order of the rooms: imports go down only, lazy and type-checking ones included."""

import ast
from pathlib import Path

from conftest import ROOT

ORDER = [
    {"dsg.files", "dsg.types", "dsg.image_files", "dsg.arguments", "dsg.statistics", "dsg.tokens"},
    {
        "dsg.schedule",
        "dsg.noise",
        "dsg.constraint",
        "dsg.steps",
        "dsg.weights",
        "dsg.downloads",
        "dsg.avatars64",
        "dsg.options",
    },
    {"dsg.priors"},
    {"tasks"},
    {"dsg.samplers", "dsg.metrics"},
    {"dsg.config", "dsg.cli", "dsg.layers", "dsg.overrides", "dsg.tuned"},
    {"dsg.runs"},
    {"dsg.suites"},
    {"dsg.studies", "dsg.api", "dsg.demo", "dsg.faults"},
]
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
TOP = {"dsg.api"}  # what `import dsg` offers


def room_of(module: str) -> str | None:
    """tasks.linear -> tasks, dsg.runs.runner -> dsg.runs; None for what is not ours."""
    first, *rest = module.split(".")
    if first == "tasks":
        return "tasks"
    return f"dsg.{rest[0]}" if first == "dsg" and rest else None


def imported(file: Path) -> set[str]:
    """Every module that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "dsg" else {node.module}
    return found


def edges() -> set[tuple[str, str]]:
    """(room, imported room), of all files in dsg and tasks."""
    files = [file for folder in ("dsg", "tasks") for file in (ROOT / folder).rglob("*.py")]
    found = set()
    for file in files:
        here = room_of(".".join(file.relative_to(ROOT).with_suffix("").parts))
        for room in map(room_of, imported(file)):
            if here is not None and room is not None and here not in (room, "dsg.__init__"):
                found.add((here, room))
    return found


def test_every_room_has_its_place():
    assert {room for edge in edges() for room in edge} <= set(LEVEL)


def test_imports_go_down_only():
    up = sorted(f"{a} imports {b}" for a, b in edges() if LEVEL.get(b, 0) > LEVEL.get(a, 99))
    assert not up


def test_no_two_rooms_import_each_other():
    found = edges()
    assert not sorted((a, b) for a, b in found if a < b and (b, a) in found)


def test_nothing_imports_scripts():
    files = [file for folder in ("dsg", "tasks") for file in (ROOT / folder).rglob("*.py")]
    assert not [file for file in files for module in imported(file) if module.split(".")[0] == "scripts"]


def test_no_file_name_occurs_in_two_rooms():
    names: dict[str, set[str]] = {}
    for file in (ROOT / "dsg").rglob("*.py"):
        names.setdefault(file.name, set()).add(str(file.parent.relative_to(ROOT)))
    allowed = {"__init__.py", "base.py", "main.py"}  # main.py: what a script calls
    assert not {name: rooms for name, rooms in names.items() if len(rooms) > 1 and name not in allowed}
