"""What the repository says of itself is true: the map, the commands, the pins, the size of the shipped model."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def tracked() -> list[str]:
    return subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def test_the_map_names_every_folder() -> None:
    tree = README[README.index("## The map") : README.index("## Install")]
    named = re.findall(r"^([\w./-]+)", tree, re.M)
    folders = {Path(file).parts[0] for file in tracked() if len(Path(file).parts) > 1}
    assert {Path(name).parts[0] for name in named} >= folders
    assert all((ROOT / name).exists() for name in named)


def test_the_map_names_every_group_of_tests() -> None:
    line = next(line for line in README.splitlines() if line.startswith("tests/"))
    groups = {Path(file).parts[1] for file in tracked() if file.startswith("tests/") and len(Path(file).parts) > 2}
    assert groups <= set(re.findall(r"\w+", line))


def mapped(readme: Path, package: str) -> set[str]:
    """Paths, from the package on, that the map in a README names; a folder whose files are not listed ends in `/`."""
    lines = readme.read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.split("  ")[0].strip() == f"{package}/")
    found: list[str] = []
    folders: list[str] = []
    for line in lines[start + 1 :]:
        if not line.startswith("  "):
            break
        depth = (len(line) - len(line.lstrip())) // 2 - 1
        for name in re.match(r"\s*(\S+(?:, \S+)*)", line)[1].split(", "):
            path = "".join(folders[:depth]) + name
            found.append(path)
        if name.endswith("/"):
            folders[depth:] = [name]
    return {path for path in found if not (path.endswith("/") and any(o != path and o.startswith(path) for o in found))}


@pytest.mark.parametrize(
    ("folder", "package"),
    [
        ("services/infer", "atelier_infer"),
        ("services/registry-api", "atelier_registry"),
        ("services/trainer", "atelier_trainer"),
        ("services/tracking", "atelier_tracking"),
        ("infra", "atelier_infra"),
    ],
)
def test_a_readme_maps_every_module(folder: str, package: str) -> None:
    named = mapped(ROOT / folder / "README.md", package)
    assert [path for path in sorted(named) if not (ROOT / folder / package / path).exists()] == []
    modules = [file.removeprefix(f"{folder}/{package}/") for file in tracked() if file.startswith(f"{folder}/{package}/")]
    whole = tuple(path for path in named if path.endswith("/"))
    missing = [file for file in modules if file not in named and not file.startswith(whole)]
    assert [file for file in missing if not file.endswith(("__init__.py", "py.typed"))] == []


def test_make_alone_explains_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = set(re.search(r"^\.PHONY: (.+)$", makefile, re.M)[1].split())
    alone = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # the tests may run under make
    printed = subprocess.run(["make"], cwd=ROOT, env=alone, capture_output=True, text=True, check=True).stdout
    assert {line.split()[0] for line in printed.splitlines() if line.strip()} == phony


def test_every_dependency_is_pinned_and_no_index_is_named() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.\-]+==[\w.\-]+", line) for line in lines)
    pinned = {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in lines}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    not_installed = ("trainer-gpu", "trainer-wandb")  # no test runs with them
    wanted = {
        re.match(r"[\w.\-]+", item)[0].lower() for name, items in extras.items() if name not in not_installed for item in items
    }
    assert wanted <= pinned


def test_every_dependency_runs_on_the_oldest_python_that_the_project_supports() -> None:
    """Distributions ship patch releases that are years old, for example Debian 12 has 3.11.2."""
    too_new = {
        one.name: required
        for one in importlib.metadata.distributions()
        if "Requires-Python" in one.metadata
        and not SpecifierSet(required := one.metadata["Requires-Python"]).contains("3.11.0")
    }
    assert too_new == {}


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_the_tiny_base_is_complete(part: str) -> None:
    assert any((ROOT / "models/tiny-sd" / part).iterdir())


def test_the_tiny_base_is_small() -> None:
    files = [ROOT / file for file in tracked() if file.startswith("models/tiny-sd/") and not file.endswith((".md", ".png"))]
    assert 0 < sum(file.stat().st_size for file in files) <= 16e6
    assert not [file for file in files if file.suffix in (".bin", ".pt", ".ckpt", ".pkl")]


def test_the_ways_to_install_infer_differ_by_the_runtime_alone() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    plain = set(extras["infer"])
    for name in ("infer-openvino", "infer-cuda"):
        differ = plain ^ set(extras[name])
        assert all(item.startswith("onnx") for item in differ) and "onnxruntime>=1.24" in differ, name
