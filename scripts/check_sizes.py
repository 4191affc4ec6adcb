"""Check that no function is longer than 60 lines and no file longer than 400: ``python scripts/check_sizes.py``."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"
MOST_LINES = {"function": 60, "file": 400}
"""A class may be longer than a function; its file may not."""


def too_long(path: Path) -> Iterator[str]:
    """Yield a line for the file and for each function in it that is too long."""
    text = path.read_text()
    n_lines = len(text.splitlines())
    if n_lines > MOST_LINES["file"]:
        yield f"{path}: {n_lines} lines; a file has at most {MOST_LINES['file']}: split it"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            n_lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if n_lines > MOST_LINES["function"]:
                yield (
                    f"{path}:{node.lineno}: {node.name} has {n_lines} lines; "
                    f"a function has at most {MOST_LINES['function']}: name its parts"
                )


if __name__ == "__main__":
    found = [line for path in sorted(SOURCE.rglob("*.py")) for line in too_long(path)]
    print("\n".join(found))
    sys.exit(bool(found))
