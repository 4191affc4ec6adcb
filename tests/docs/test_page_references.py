"""What the pages name is there: files, modules, recipes; examples in docstrings are true."""

import doctest
import importlib
import re
from pathlib import Path

import pytest
from blocks import PAGES, ROOT

SOURCE = ROOT / "src" / "basinet"
PLACES = [ROOT, SOURCE, SOURCE / "recipes", ROOT / "tests", ROOT / "docs"]
WITH_EXAMPLES = sorted(path for path in SOURCE.rglob("*.py") if ">>> " in path.read_text())
LIVING = [page for page in PAGES if page.name != "log.md"]
"""The log says what was so on its day."""


NOT_OURS = {"examples/NCSN.py", "examples/pretrain_GeoSSL.py", "others.py", "my_net.py"}


@pytest.mark.parametrize("page", [str(page.relative_to(ROOT)) for page in LIVING])
def test_files_that_a_page_names_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    named = set(re.findall(r"`((?:[\w.-]+/)*[\w-]+\.(?:py|cpp|h|sbatch)|[\w-]+/|\w+_\w+\.yaml)`", text)) - NOT_OURS
    missing = [name for name in sorted(named) if not any((place / name).exists() for place in PLACES)]
    missing = [name for name in missing if "/" in name or not any(ROOT.glob(f"[st]*/**/{name}"))]
    assert not missing


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_examples_in_docstrings_are_true(path: Path) -> None:
    name = ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0


WALKS = re.split(r"^### ", (ROOT / "docs" / "architecture.md").read_text().split("## The central types")[0], flags=re.M)


@pytest.mark.parametrize("walk", WALKS[1:], ids=lambda walk: walk.splitlines()[0])
def test_a_walk_through_the_code_has_at_most_ten_stops_that_exist_and_no_way_back(walk: str) -> None:
    stops = re.findall(r"^\d+\. `([\w/]+\.py)` `([\w.]+)`", walk, flags=re.M)
    assert 5 <= len(stops) <= 10
    assert len({path for path, _ in stops}) == len(stops)
    for path, name in stops:
        text = (SOURCE / path).read_text()
        for part in name.split("."):
            assert re.search(rf"^ *(def|class) {part}\b", text, flags=re.M), f"{path} has no {part}"
