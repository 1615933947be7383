"""The shape of the package: imports point downward, heavy imports stay where they belong, no setting is dead."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from pydantic import BaseModel

from saccade.spec import Spec
from saccade.sweep.spec import SweepFile

PACKAGE = Path(__file__).resolve().parent.parent / "saccade"

LAYERS = {
    6: "cli commands launch",
    5: "slurm sweep runs bench",
    4: "supervisor runner stages builders analysis plan doctor",
    3: "pretrain evaluation features clustering report initial_weights chain",
    2: "models datasets prototypes kmeans journal checkpoint tracking engine learner memory_bank figures run_dir "
    "run_record provenance",
    1: "gaze losses sampling transforms transforms_cpu transforms_gpu metrics schedules progress amounts console",
    0: "spec spec_checks spec_file spec_reader spec_reference spec_wording yaml_marks rng errors atomic checksum "
    "strict_json torch_file torchvision_shim",
}
"""A module or package directly below saccade/ may import those of its own layer and of lower ones."""

LAZY_BY_DESIGN = {
    # The front door: `saccade.load_encoder` comes with first use.
    ("saccade", "saccade.models.export"),
    # `load_encoder("runs:/...")` fetches from MLflow, and only then needs it.
    ("saccade.models.weights", "saccade.tracking.model"),
}
"""Imports inside a function that close a circle, or go up, on purpose."""


def _modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()
LAYER_OF = {name: layer for layer, names in LAYERS.items() for name in names.split()}


@cache
def trees() -> dict[str, ast.Module]:
    """The package's modules, read only by who runs these tests: all processes of the suite import this file."""
    return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def _imported(tree: ast.AST) -> Iterator[str]:
    """Full names of all that a module imports, at its top or inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they point"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else str(node.module)


def edges() -> list[tuple[str, str]]:
    """Each module with each of ours that it imports."""
    return [
        (name, other)
        for name, tree in trees().items()
        for other in _imported(tree)
        if other.split(".")[0] == "saccade" and (name, other) not in LAZY_BY_DESIGN
    ]


def _part(module: str) -> str:
    return module.split(".")[1]


def test_every_module_stands_in_the_table() -> None:
    there = {_part(name) for name in MODULES if name != "saccade"}
    assert there <= LAYER_OF.keys()
    assert LAYER_OF.keys() - there <= {"sweep"}


def test_imports_point_downward() -> None:
    upward = [
        f"{name} imports {other}"
        for name, other in edges()
        if other != "saccade" and (name == "saccade" or LAYER_OF[_part(other)] > LAYER_OF[_part(name)])
    ]
    assert upward == []


def test_imports_have_no_circle() -> None:
    graph: dict[str, set[str]] = {name: set() for name in MODULES}
    for name, other in edges():
        graph[name].add(other)
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_the_lazy_exceptions_are_lazy() -> None:
    for name, other in LAZY_BY_DESIGN:
        assert other in set(_imported(trees()[name]))
        at_import_time = [node for node in trees()[name].body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert other not in {found for node in at_import_time for found in _imported(node)}


def test_only_tracking_imports_mlflow() -> None:
    importers = {name for name, tree in trees().items() if any(i.split(".")[0] == "mlflow" for i in _imported(tree))}
    assert {name.rpartition(".")[0] for name in importers} == {"saccade.tracking"}


HEAVY = ("torch", "torchvision", "mlflow", "cv2", "faiss", "sklearn", "pandas", "matplotlib", "pyarrow", "PIL", "scipy")


def _loaded_by(code: str) -> set[str]:
    """Which of HEAVY are loaded after `code` in a new process."""
    script = f"import sys\n{code}\nprint('loaded:', *sorted(set({HEAVY!r}) & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    last = result.stdout.splitlines()[-1]
    assert last.startswith("loaded:")
    return set(last.split()[1:])


COMMAND = """
from saccade.cli import main
sys.argv = ["saccade", *{arguments!r}]
try:
    main()
except SystemExit as end:
    assert end.code in (0, None), end.code
"""


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["validate", "SPEC"], ["schema"]], ids=" ".join)
def test_commands_that_only_read_load_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text("name: x\n")
    arguments = [str(spec) if word == "SPEC" else word for word in arguments]
    assert _loaded_by(COMMAND.format(arguments=arguments)) == set()


def test_the_supervisor_side_loads_no_torch_before_it_is_needed() -> None:
    names = "journal run_dir supervisor launch cli spec_reader rng progress engine.stop"
    code = "\n".join(f"import saccade.{name}" for name in names.split())
    assert _loaded_by(code) & {"torch", "mlflow", "cv2", "faiss"} == set()


def test_the_trainer_never_loads_mlflow() -> None:
    loaded = _loaded_by("import saccade.runner")
    assert "torch" in loaded
    # What else takes a second to load and is needed at the end or seldom.
    assert loaded & {"mlflow", "sklearn", "pandas", "matplotlib"} == set()


def test_the_package_itself_is_cheap_to_import() -> None:
    assert _loaded_by("import saccade\nassert saccade.__version__") == set()


# Every setting is read -----------------------------------------------------------------------------------------------


def _settings(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _settings(kind, (*above, name))
        else:
            yield (*above, name)


def _sections(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(name of a section's class or of one that it derives from, where the section stands)."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from ((base.__name__, (*above, name)) for base in kind.__mro__)
            yield from _sections(kind, (*above, name))


class _Reads(ast.NodeVisitor):
    """Paths of the settings that a module reads: through `spec`, `self.spec`, local names for a section, and arguments
    annotated with a section's class, which stand for all sections of that class."""

    def __init__(
        self, settings: set[tuple[str, ...]], sections: Sequence[tuple[str, tuple[str, ...]]], root: str
    ) -> None:
        self.settings, self.sections, self.root = settings, sections, root
        self.names: dict[str, tuple[str, ...]] = {}
        self.annotated: dict[str, str] = {}
        self.found: set[tuple[str, ...]] = set()

    def path(self, node: ast.expr) -> tuple[str, ...] | None:
        """Dotted path that an expression stands for: `spec` is (), `spec.data` is ("data",)."""
        if isinstance(node, ast.Name):
            return () if node.id == self.root else self.names.get(node.id)
        if isinstance(node, ast.Attribute):
            above = self.path(node.value)
            if above is None:
                return () if node.attr == self.root else None
            return (*above, node.attr)
        return None

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=True))
            for name, value in pairs:
                path = self.path(value)
                if isinstance(name, ast.Name) and path:
                    self.names[name.id] = path
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        path = self.path(node)
        if path in self.settings:
            self.found.add(path)
        elif (
            path and path[-1] == "model_dump"
        ):  # the whole section, as `Augmentation(**spec.augmentation.model_dump())`
            self.found |= {setting for setting in self.settings if len(path) > 1 and setting[:-1] == path[:-1]}
        elif isinstance(node.value, ast.Name) and node.value.id in self.annotated:
            wanted = self.annotated[node.value.id]
            self.found |= {(*above, node.attr) for kind, above in self.sections if kind == wanted} & self.settings
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outer = dict(self.names), dict(self.annotated)
        for argument in node.args.args:
            if isinstance(argument.annotation, ast.Name):
                self.annotated[argument.arg] = argument.annotation.id
        self.generic_visit(node)
        self.names, self.annotated = outer


def _read_anywhere(
    settings: set[tuple[str, ...]],
    sources: dict[str, ast.Module],
    sections: Sequence[tuple[str, tuple[str, ...]]] = (),
    root: str = "spec",
) -> set[tuple[str, ...]]:
    found = set()
    for name, tree in sources.items():
        # Nor in a plan, which only talks about settings.
        if not name.startswith(("saccade.spec", "saccade.plan")):
            reads = _Reads(settings, sections, root)
            reads.visit(tree)
            found |= reads.found
    return found


def test_every_setting_is_read_outside_the_spec() -> None:
    settings = set(_settings(Spec))
    assert len(settings) > 60
    assert settings - _read_anywhere(settings, trees(), list(_sections(Spec))) == set()


def test_every_setting_of_a_sweep_is_read_outside_its_spec() -> None:
    settings = set(_settings(SweepFile))
    assert len(settings) > 15
    sources = {name: tree for name, tree in trees().items() if name != "saccade.sweep.spec"}
    assert settings - _read_anywhere(settings, sources, list(_sections(SweepFile)), root="file") == set()


def test_a_setting_that_nothing_reads_would_be_found() -> None:
    settings = {("seed",), ("a", "x"), ("a", "y"), ("b", "x"), ("c", "d", "z"), ("c", "d", "w")}
    code = """
def f(spec):
    a, other = spec.a, spec.seed
    return a.x, y.y

class Run:
    def g(self):
        return Thing(**self.spec.c.d.model_dump())

def h(spec):
    return a.y

def i(part: Shared, other: Unknown):
    return part.x, other.y, part.z
"""
    sections = [("Shared", ("a",)), ("Shared", ("b",)), ("A", ("a",)), ("Section", ("c", "d"))]
    assert _read_anywhere(settings, {"saccade.m": ast.parse(code)}, sections) == {
        ("seed",),
        ("a", "x"),
        ("b", "x"),
        ("c", "d", "z"),
        ("c", "d", "w"),
    }
