"""The house: imports go one way, the table of contents is true, the import is light, the documents are in step."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import urst_tiles

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "urst_tiles"

LIGHT = ["__init__", "allocator", "errors", "events", "geometry", "interrupts", "ledger", "memory", "options", "runs"]
"""Modules that import neither torch nor pyvips nor dask."""

LAYERS = [
    "errors",
    "allocator",
    "geometry",
    "memory",
    "events",
    "options",
    "objects",
    "sources",
    "buffers",
    "runs",
    "folders",
    "sharing",
    "statistics",
    "networks",
    "styles",
    "training",
    "engines",
    "stores",
    "ledger",
    "sites",
    "turns",
    "strips",
    "shards",
    "clusters",
    "driving",
    "scheduling",
    "preparing",
    "trial",
    "deployment",
    "reading",
    "copies",
    "costs",
    "estimating_gpu",
    "estimating_reading",
    "estimating",
    "fitting",
    "planning",
    "running",
    "joining",
    "results",
    "stylizing",
    "lazy",
    "exporting",
    "exporting_network",
    "reports",
    "progress",
    "demo",
    "interrupts",
    "exporting_cli",
    "cli_options",
    "cli",
]
"""The dependency order: a module imports from its own layer and from earlier ones."""


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__") or "__init__", path


def imports(path: Path, *, lazy_too: bool) -> set[str]:
    """Dotted names that a module imports; those inside functions only when asked for, those for type checkers never."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module:
                found.update(f"{child.module}.{alias.name}" for alias in child.names)
                found.add(child.module)
            elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            elif lazy_too or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                visit(child)

    visit(ast.parse(path.read_text()))
    return found


@pytest.mark.parametrize("name", LIGHT)
def test_light_modules_import_nothing_heavy(name: str) -> None:
    heavy = {found.split(".")[0] for found in imports(PACKAGE / f"{name}.py", lazy_too=False)}
    assert not heavy & {"torch", "pyvips", "dask", "distributed", "zarr", "tifffile"}


def test_heavy_libraries_live_where_the_design_says() -> None:
    homes: dict[str, set[str]] = {"pyvips": set(), "dask": set(), "distributed": set()}
    for name, path in modules():
        for library in {found.split(".")[0] for found in imports(path, lazy_too=True)} & homes.keys():
            homes[library].add(name)
    assert all(name.startswith(("sources.", "stores.", "training.")) for name in homes["pyvips"])
    assert homes["dask"] | homes["distributed"] <= {
        "clusters",
        "driving",
        "scheduling",
        "lazy",
        "cli",
        "sources.arrays",
        "sources",
    }


def test_imports_go_one_way() -> None:
    for name, path in modules():
        layer = name.split(".")[0]
        if layer in ("__init__", "__main__"):
            continue
        # Statistics are values of the networks' layer: the two may speak to each other.
        together = {"statistics", "networks"} if layer in ("statistics", "networks") else {layer}
        for found in imports(path, lazy_too=False):
            parts = found.split(".")
            if parts[0] == "urst_tiles" and len(parts) > 1 and parts[1] in LAYERS and parts[1] not in together:
                assert LAYERS.index(parts[1]) < LAYERS.index(layer), f"{name} imports {found}"


def test_every_module_has_a_layer() -> None:
    assert {name.split(".")[0] for name, _ in modules()} <= {*LAYERS, "__init__", "__main__"}


def test_the_table_of_contents_is_sorted_and_true() -> None:
    assert urst_tiles.__all__ == sorted(urst_tiles.__all__)
    for name in urst_tiles.__all__:
        assert getattr(urst_tiles, name).__name__ == name
    with pytest.raises(AttributeError):
        urst_tiles.nothing  # noqa: B018


def test_import_loads_nothing_heavy() -> None:
    code = "import urst_tiles, sys; print(sorted({'torch', 'pyvips', 'dask', 'numpy', 'zarr'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("command", ["info", "styles"])
def test_what_there_is_is_told_without_pytorch(command: str, tmp_path: Path) -> None:
    from urst_tiles.demo import make_raster

    make_raster(tmp_path / "scan.tif", 30, 20)
    words = [command, *([str(tmp_path / "scan.tif")] if command == "info" else [])]
    code = f"""if True:
        import sys
        from urst_tiles.cli import main

        main({words})
        print(sorted({{"torch", "dask", "distributed"}} & sys.modules.keys()))
    """
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(said) > 1
    assert said[-1] == "[]"


def test_the_conda_environment_is_in_step_with_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    conda_names = {"torch": "pytorch", "dask": "dask-core"}

    def required(line: str) -> tuple[str, str]:
        name, bound = re.fullmatch(r"([\w-]+)(?:\[[\w,]+\])?\s*(>=[\d.]+)?", line).groups()  # type: ignore[union-attr]
        return conda_names.get(name, name), bound or ""

    wanted = dict(map(required, project["dependencies"]))
    there = dict(required(line.replace(" ", "")) for line in environment if isinstance(line, str))
    assert wanted.items() <= there.items()
    assert there["python"] == project["requires-python"]
    assert there["distributed"] == wanted["dask-core"]


def test_no_module_prints() -> None:
    for name, path in modules():
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        assert not [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"], name


def test_the_notebook_runs() -> None:
    nbclient = pytest.importorskip("nbclient")
    import nbformat

    for path in sorted((ROOT / "pipelines" / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(path.parent)}}).execute()


def readme_examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("example", readme_examples())
def test_python_examples_of_the_readme_run(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from urst_tiles.demo import make_raster

    make_raster(tmp_path / "scan.tif", 300, 200)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})


def test_commands_of_the_readme_exist() -> None:
    from typer.main import get_command

    from urst_tiles.cli import app

    known = get_command(app).commands  # type: ignore[attr-defined]
    lines = re.findall(r"urst-tiles ([a-z-]+)(.*)", README)
    assert lines
    for command, rest in lines:
        assert command in known
        options = {name for parameter in known[command].params for name in parameter.opts}
        assert set(re.findall(r"(?<!\w)--[a-z-]+", rest)) <= options | {"--help"}


def test_the_readmes_table_of_networks_is_what_their_graphs_say() -> None:
    from urst_tiles.networks.catalogue import describe_methods

    rows = re.findall(r"^\| `([a-z-]+)` \|.*?\| (image|trained in) \| (\d+) \| (\d+) \|", README, flags=re.MULTILINE)
    told = {name: (style == "image", int(stride), int(halo)) for name, style, stride, halo in rows}
    facts = {entry.name: (entry.style_image, entry.stride, entry.halo) for entry in describe_methods()}
    assert told == {name: fact for name, fact in facts.items() if name != "identity"}


def test_runnable_recipes_compile() -> None:
    for path in sorted([*(ROOT / "pipelines").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]):
        compile(path.read_text(), str(path), "exec")
