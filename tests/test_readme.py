"""The README says what works."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_readme_is_short_and_its_python_example_is_a_few_lines() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(code.splitlines()) <= 6
    assert len(README.splitlines()) <= 100
    assert len(re.findall(r"!\[", README)) == 1


def test_readme_names_the_test_command_that_ci_runs() -> None:
    assert "make test" in README
    assert "make test" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(((?!http)[^)]+)\)", README))))
def test_links_of_the_readme_lead_somewhere(link: str) -> None:
    assert (ROOT / link.split("#")[0]).exists(), link


def test_file_tree_of_the_readme_is_the_one_on_disk() -> None:
    tree = README.split("src/basinet/\n", 1)[1].split("docs/ ", 1)[0]
    named = {name for line in tree.splitlines() for name in re.findall(r"([a-z_]+\.py|[a-z]+/)", line.split("   ")[0])}
    missing = [name for name in named if not (ROOT / "src" / "basinet" / name).exists()]
    assert not missing, missing


def test_nothing_in_the_repository_names_a_place_outside_it() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    outside = re.compile(r"/work/|/root/|/opt/")
    texts = [p for p in listed if p.endswith((".py", ".md", ".yaml", ".toml", ".txt", "Makefile"))]
    found = [
        p
        for p in texts
        if (ROOT / p).exists() and p != "tests/test_readme.py" and outside.search((ROOT / p).read_text())
    ]
    assert not found, found
