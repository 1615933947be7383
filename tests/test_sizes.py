"""Files that fit into a head and functions that fit onto a screen, in the package, its tests and its examples."""

import ast
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDERS = ("saccade", "tests", "docs", "docker")
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources(*suffixes: str) -> dict[str, str]:
    """Text of each file of code, by its path."""
    found = [path for folder in FOLDERS for suffix in suffixes for path in (REPOSITORY / folder).rglob(f"*{suffix}")]
    return {str(path.relative_to(REPOSITORY)): path.read_text(encoding="utf-8") for path in sorted(found)}


def lines(function: Function) -> int:
    """Lines of a function, its docstring and nested ones included."""
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def functions(text: str) -> list[tuple[str, int]]:
    """Name and lines of every function, methods and nested ones too."""
    return [(node.name, lines(node)) for node in ast.walk(ast.parse(text)) if isinstance(node, Function)]


def test_no_file_is_too_long() -> None:
    lengths = {path: len(text.splitlines()) for path, text in sources(".py", ".c", ".sh", ".js").items()}
    assert len(lengths) > 300
    assert {path: length for path, length in lengths.items() if length > MAX_FILE_LINES} == {}


def test_no_function_is_too_long() -> None:
    lengths = [(f"{path}: {name}", length) for path, text in sources(".py").items() for name, length in functions(text)]
    assert len(lengths) > 3000
    assert [found for found in lengths if found[1] > MAX_FUNCTION_LINES] == []


def test_lines_are_counted() -> None:
    text = """
class A:
    @decorated(
        1
    )
    def method(self):
        '''Two lines
        of docstring.'''
        def nested():
            return 1
        return nested


class B:
    def method(self): ...
"""
    assert sorted(functions(text)) == [("method", 1), ("method", 6), ("nested", 2)]
