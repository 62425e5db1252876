"""Services share contracts, never code; heavy libraries stay where they belong."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "atelier_contracts": ROOT / "contracts",
    "atelier_service": ROOT / "libs/service",
    "atelier_embedded": ROOT / "embedded",
    "atelier_twin": ROOT / "twin",
    "atelier_trainer": ROOT / "services/trainer",
    "atelier_registry": ROOT / "services/registry-api",
    "atelier_infer": ROOT / "services/infer",
    "atelier_infra": ROOT / "infra",
    "atelier_tracking": ROOT / "services/tracking",
}
OURS = set(PACKAGES)
HTTP_SERVICES = {"atelier_registry", "atelier_infer"}
TRAINER_ONLY = {"torch", "diffusers", "transformers", "peft", "accelerate", "ray", "datasets", "onnx", "onnxscript"}
EXCEPT = {("services/infer/atelier_infer/onnx/fp16.py", "onnx")}  # CUDA alone


def imported(file: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(file.read_text(), str(file))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module.split(".")[0]


def sources(package: str) -> list[Path]:
    files = sorted((PACKAGES[package] / package).rglob("*.py"))
    assert files, f"{package} has no source file"
    return files


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_itself_the_contracts_and_the_service_library_alone(package: str) -> None:
    others = OURS - {package, "atelier_contracts"} - ({"atelier_service"} if package in HTTP_SERVICES else set())
    found = [
        f"{file.relative_to(ROOT)}:{line} imports {name}"
        for file in sources(package)
        for line, name in imported(file)
        if name in others
    ]
    assert not found


@pytest.mark.parametrize("package", sorted(OURS - {"atelier_trainer"}))
def test_only_the_trainer_imports_training_libraries(package: str) -> None:
    found = [
        f"{file.relative_to(ROOT)}:{line} imports {name}"
        for file in sources(package)
        for line, name in imported(file)
        if name in TRAINER_ONLY and (str(file.relative_to(ROOT)), name) not in EXCEPT
    ]
    assert not found


def test_contracts_need_pydantic_and_the_standard_library_alone() -> None:
    allowed = set(sys.stdlib_module_names) | {"pydantic", "atelier_contracts"}
    found = [
        f"{file.name}:{line} imports {name}"
        for file in sources("atelier_contracts")
        for line, name in imported(file)
        if name not in allowed
    ]
    assert not found


def test_the_jobs_of_the_twin_need_the_standard_library_alone() -> None:
    """But for two modules of backup and restore, whose image has the rest; and those import it only when they are used."""
    allowed = set(sys.stdlib_module_names) | {"atelier_twin"}
    others = {(file.name, name) for file in sources("atelier_twin") for _, name in imported(file) if name not in allowed}
    assert others == {("bucket.py", "boto3"), ("bucket.py", "botocore"), ("database.py", "psycopg2")}
    code = "import sys, atelier_twin.__main__; print({'boto3', 'botocore', 'psycopg2'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"


def test_the_walk_notices_a_forbidden_import(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text("def f():\n    from torch.nn import Linear\n    import atelier_infer.engine.engine\n")
    assert list(imported(file)) == [(2, "torch"), (3, "atelier_infer")]
