"""The house rules that a machine can check: which way imports point, what is imported late, how long a file may be."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("exporter", "calibration", "targets")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
LATE = {"torch", "onnxruntime", "tensorflow", "matplotlib"}
ROOMS = (
    "frontends",
    "graph",
    "pruning",
    "quantization",
    "backends",
    "compilers",
    "placement",
    "runtimes",
    "verification",
    "bundle",
)
LONGEST = 600

# Modules of the graph room that know no operator, so that operators may use them.
LEAVES = ("exporter.graph.close_bodies.", "exporter.graph.values.", "exporter.graph.rewriter.")

# Process entry points that import their one runtime at the top: nothing else of the product imports them.
WORKERS = "exporter/runtimes/"


def imported(tree: ast.AST, *, package: str) -> Iterator[str]:
    """Full names of the modules that the statements under `tree` import; relative imports are resolved against `package`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def at_import_time(tree: ast.Module) -> ast.Module:
    """The module without what runs later or never: bodies of functions, and `if TYPE_CHECKING:` blocks."""

    class Strip(ast.NodeTransformer):
        def visit_FunctionDef(self, node):
            return ast.Pass()

        visit_AsyncFunctionDef = visit_FunctionDef

        def visit_If(self, node):
            name = node.test.id if isinstance(node.test, ast.Name) else getattr(node.test, "attr", "")
            return ast.Pass() if name == "TYPE_CHECKING" else self.generic_visit(node)

    return Strip().visit(tree)


def parse(path: Path) -> tuple[ast.Module, str, str]:
    """Tree, path relative to the root, and the package that relative imports of the file count from."""
    relative = path.relative_to(ROOT)
    return ast.parse(path.read_text(encoding="utf-8")), relative.as_posix(), ".".join(relative.parent.parts)


def allowed(relative: str, module: str) -> bool:
    """Whether a file may import a module of the product."""
    top, second = (*module.split("."), "")[:2]
    if top not in (*PACKAGES, "tools", "tests"):
        return True
    room = relative.split("/")[1] if relative.startswith("exporter/") else relative.split("/")[0]
    if room in ("calibration", "targets"):
        return top == room
    if room == "ops":
        return top in ("calibration", "targets") or second == "ops" or (module + ".").startswith(LEAVES)
    if room in ROOMS:
        return top in PACKAGES and second not in ("cli", "pipeline")
    if room == "pipeline.py":
        return top in PACKAGES and second != "cli"
    return top in PACKAGES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_one_way(path):
    tree, relative, package = parse(path)
    names = set(imported(tree, package=package)) - {"exporter", "exporter.graph"}  # parents of what else is imported
    assert [name for name in sorted(names) if not allowed(relative, name)] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_heavy_packages_are_imported_late(path):
    tree, relative, package = parse(path)
    if relative.startswith(WORKERS) and "worker" in path.stem:
        return
    assert {name.split(".")[0] for name in imported(at_import_time(tree), package=package)} & LATE == set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_can_be_read_in_one_go(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_diagnostics_imports_nothing_of_the_product():
    tree = ast.parse((ROOT / "diagnostics.py").read_text(encoding="utf-8"))
    assert {name.split(".")[0] for name in imported(tree, package="")} <= {"__future__", "typing"}


def test_test_files_have_names_of_their_own():
    """pytest imports a test file by its bare name where its folder is no package."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))


def test_every_folder_of_sources_is_a_package():
    """setuptools finds packages by their `__init__.py`, so a folder without one would be missing from the wheel only."""
    assert {path.parent for path in FILES} - {ROOT} == {path.parent for path in FILES if path.name == "__init__.py"}


@pytest.mark.parametrize(
    ("relative", "module", "verdict"),
    [
        ("targets/loader.py", "exporter.ops", False),
        ("calibration/readers.py", "targets.schema", False),
        ("exporter/ops/convolution.py", "exporter.graph.values", True),
        ("exporter/ops/convolution.py", "exporter.graph.passes", False),
        ("exporter/ops/convolution.py", "exporter.quantization.plan", False),
        ("exporter/graph/passes.py", "exporter.cli.options", False),
        ("exporter/backends/onnx/writer.py", "exporter.pipeline", False),
        ("exporter/pipeline.py", "exporter.bundle.report", True),
        ("exporter/pipeline.py", "exporter.cli.main", False),
        ("exporter/cli/main.py", "tools.zoo", False),
    ],
)
def test_the_rule_itself(relative, module, verdict):
    assert allowed(relative, module) is verdict
