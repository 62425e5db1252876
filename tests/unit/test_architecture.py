"""Folders are layers: imports point down only, no module is part of a circle, and no folder holds more than twelve modules."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LAYERS = {
    # from the top down: a module may import what stands further right; the names of one group do not import each other
    "services/infer/atelier_infer": (
        "__main__ | app | api | generation | aliases | artifacts | engine | registry | pipeline | families onnx "
        "| http_timeouts metrics settings upload_limiter | problems | client | errors arrays"
    ),
    "services/registry-api/atelier_registry": (
        "__main__ | bootstrap | app | cli api | decisions | events | models | storage | config "
        "| access_log metrics periodic_task | problems | errors"
    ),
    "services/trainer/atelier_trainer": (
        "__main__ | tune | train sync exchange | prepare fit | train_state context | objective checkpoint | export | tracking "
        "| data | synthetic | base_models | config | adapter_formats | families | graceful_stop | errors"
    ),
    "infra/atelier_infra": "__main__ | commands | secrets | environment | terraform | aws | cli subprocess_runner | errors",
    "services/tracking/atelier_tracking": "__main__ | maintenance | server | gate | settings | htpasswd roles | log | errors",
    "twin/atelier_twin": "__main__ | backups first_version summary ports | volume_layout | secrets htpasswd | errors",
}
FLAT = ("contracts/atelier_contracts", "embedded/atelier_embedded", "twin/localstack/persistent_s3", "benchmarks")
MOST_MODULES = 12
MOST_LINES = 300

BANNED = frozenset(
    """absent accept alone answers asking batch begin binding bodies bring callbacks chain choosing command courier decoding
    desk drawing feed flags following gallery generating graphs half judging kept lines logins machine merged moving orders
    page pictures places plan posting probe pushing raising recent refusals rollout sheet shelf staging stager stopping store
    switch teardown texts turns utils helpers verifying versions waiting watching winner""".split()  # noqa: SIM905
)
"""Names that do not say what a module holds; GLOSSARY.md has the words that are used."""


def modules(folder: Path) -> dict[str, Path]:
    """Dotted name, from the package on, to file."""
    found = {}
    for file in sorted(folder.rglob("*.py")):
        parts = file.relative_to(folder.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    assert found, f"{folder} has no module"
    return found


def imports(name: str, file: Path, known: Iterable[str]) -> set[str]:
    """Modules of `known` that a module imports, also where it does so in a function or for type checkers alone."""
    known, found = set(known), set()
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(), str(file))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{module}.{alias.name}"
                found.add(whole if whole in known else module)
    return (found & known) - {name}


def upward(folder: Path, layers: str) -> list[str]:
    """Imports that do not point down, and modules that stand in no layer."""
    level = {word: number for number, group in enumerate(layers.split("|")) for word in group.split()}
    known = modules(folder)
    problems = []
    for name, file in known.items():
        if "." not in name:
            continue
        own = name.split(".")[1]
        if own not in level:
            problems.append(f"{name} stands in no layer")
            continue
        for other in imports(name, file, known):
            layer = other.split(".")[1] if "." in other else own
            if layer != own and level.get(layer, -1) <= level[own]:
                problems.append(f"{name} imports {other}")
    return problems


def circles(folder: Path, flat: bool = False) -> list[list[str]]:
    """Groups of modules that import each other, each group once."""
    known = modules(folder)
    if flat:  # scripts import each other by their bare names
        known = {name.rpartition(".")[2]: file for name, file in known.items()}
    arrows = {name: imports(name, file, known) for name, file in known.items()}

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        todo = list(arrows[start])
        while todo:
            if (name := todo.pop()) not in seen:
                seen.add(name)
                todo += arrows[name]
        return seen

    ahead = {name: reached(name) for name in arrows}
    groups = {
        frozenset({name} | {other for other in ahead[name] if name in ahead[other]}) for name in arrows if name in ahead[name]
    }
    return sorted(sorted(group) for group in groups)


@pytest.mark.parametrize("folder", LAYERS)
def test_imports_point_down_only(folder: str) -> None:
    assert upward(ROOT / folder, LAYERS[folder]) == []


@pytest.mark.parametrize("folder", [*LAYERS, *FLAT])
def test_no_module_is_part_of_a_circle(folder: str) -> None:
    assert circles(ROOT / folder, flat=folder == "benchmarks") == []


@pytest.mark.parametrize("folder", [*LAYERS, *FLAT])
def test_a_folder_holds_at_most_twelve_modules(folder: str) -> None:
    counts = Counter(file.parent for file in modules(ROOT / folder).values() if file.name != "__init__.py")
    assert {str(place.relative_to(ROOT)): count for place, count in counts.items() if count > MOST_MODULES} == {}


@pytest.mark.parametrize("folder", [*LAYERS, *FLAT])
def test_no_module_has_a_banned_name(folder: str) -> None:
    # Alembic names the folder of its revisions
    found = [file.stem for file in modules(ROOT / folder).values() if file.name != "__init__.py"]
    assert sorted(set(found) & BANNED) == []


def test_the_walk_notices_upward_imports_and_circles(tmp_path: Path) -> None:
    package = tmp_path / "example"
    for name, text in {
        "__init__": "",
        "top/__init__": "",
        "top/first": "from example.low import second\n",
        "low/__init__": "",
        "low/second": "def f():\n    from example.top.first import x\n",
        "stray": "",
    }.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / f"{name}.py").write_text(text)
    assert upward(package, "top | low") == ["example.low.second imports example.top.first", "example.stray stands in no layer"]
    assert circles(package) == [["example.low.second", "example.top.first"]]


def test_only_a_familys_own_folder_asks_which_family_it_is() -> None:
    """What differs between families is data of `families/`; a condition elsewhere would be forgotten by the next family."""
    asks = re.compile(r"\b(if|elif|case)\b.*(sdxl|family\.name|manifest\.family|is (SD|SDXL)\b)|[=!]= *.sdxl", re.IGNORECASE)
    assert asks.search('    if bundle.manifest.family == "sd":') and asks.search('kind = x if family == "sdxl" else y')
    services = ("infer/atelier_infer", "trainer/atelier_trainer", "registry-api/atelier_registry")
    files = [file for service in services for file in sorted((ROOT / "services" / service).rglob("*.py"))]
    lines = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in files
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if "families" not in file.parts and asks.search(line)
    ]
    assert lines == []


def test_no_module_is_longer_than_300_lines() -> None:
    tops = ("contracts", "libs", "embedded", "services", "twin", "infra", "tests", "benchmarks", "scripts")
    files = [file for top in tops for file in sorted((ROOT / top).rglob("*.py")) if ".venv" not in file.parts]
    assert len(files) > 500
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in files}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}
