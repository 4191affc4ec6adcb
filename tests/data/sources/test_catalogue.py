"""The list of public data sets is complete, well-formed, and what the documentation shows."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from basinet.cli import app
from basinet.data.sources.catalogue import COLLECTIONS, HEADER, rows
from basinet.data.sources.collection import PublicDataset
from basinet.data.sources.fetch import fetch, store_place
from basinet.data.sources.names import parse_name
from basinet.data.stream.published_splits import PUBLISHED_SPLITS
from source_files import springs, unverified, write_gdml_npz, write_rmd17

DATASETS = [PublicDataset(collection, key) for collection in COLLECTIONS.values() for key in collection.contents]
DIGITS = {"sha256": 64, "md5": 32}


def markdown() -> str:
    """Return the table of docs/sources.md."""
    lines = [HEADER, tuple("---" for _ in HEADER), *rows()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


@pytest.mark.parametrize("dataset", DATASETS, ids=lambda d: d.name)
def test_every_part_is_described(dataset):
    collection = dataset.collection
    assert parse_name(dataset.name) == dataset and re.fullmatch(r"[a-z0-9-]{2,}", collection.name)
    for text in (
        collection.what,
        collection.units,
        collection.licence,
        collection.citation,
        dataset.contents.level_of_theory,
    ):
        assert text and "|" not in text
    assert dataset.contents.files
    for file in dataset.contents.files:
        assert file.urls and all(re.match(r"https?://\S+$", url) for url in file.urls)
        if file.checksum is not None:
            algorithm, digest = file.checksum.split(":")
            assert re.fullmatch(f"[0-9a-f]{{{DIGITS[algorithm]}}}", digest)


def test_files_of_one_name_are_one_file():
    for collection in COLLECTIONS.values():
        files = {file for part in collection.contents.values() for file in part.files}
        assert len({file.name for file in files}) == len(files)


def test_stores_and_names_do_not_collide():
    assert len({store_place(dataset) for dataset in DATASETS}) == len(DATASETS)


def test_splits_drawn_from_seeds_exist():
    with_files = {"rmd17", "iso17", "3bpa", "acac", "lba"}
    for collection in COLLECTIONS.values():
        assert collection.name in with_files or set(collection.splits) <= set(PUBLISHED_SPLITS)


def test_the_documentation_shows_this_list():
    page = Path(__file__).resolve().parents[3] / "docs" / "sources.md"
    assert markdown() in page.read_text(encoding="utf-8"), "put the output of markdown() into docs/sources.md"
    assert len(list(rows())) == len(COLLECTIONS)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("BASINET_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("BASINET_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_commands_list_and_fetch_and_say_how_to_cite(cache):
    assert "rmd17:aspirin" in run("data", "sources")
    path = cache / "md17" / "md17_ethanol.npz"
    path.parent.mkdir(parents=True)
    write_gdml_npz(path, springs(60))
    text = " ".join(run("data", "fetch", "md17:ethanol").split())
    for part in ("PBE+vdW-TS", "consistent", "555,092 were published", "cite Chmiela"):
        assert part in text
    text = run("data", "fetch", "md17:ethanol", "small", "limit=20")
    assert "20 conformations" in text and (cache.parent / "small" / "manifest.json").exists()
    assert "60 conformations" in run("data", "info", "md17:ethanol")
    built = run("data", "build", "md17:ethanol", "small", "joined")
    assert "80 conformations" in built


def test_fine_tuning_takes_a_name_and_a_split_that_came_with_the_data(cache, tmp_path):
    dataset = parse_name("rmd17:ethanol")
    path = cache / "rmd17" / "rmd17.tar.bz2"
    path.parent.mkdir(parents=True)
    lists = {f"{part}_0{i}": range(start, start + 60) for i in range(1, 6) for part, start in
             (("train", 0), ("test", 60))}  # fmt: skip
    write_rmd17(path, springs(120), lists)
    fetch(unverified(dataset))
    network = ["model.n_features=8", "model.n_layers=1", "model.n_heads=2", "training.n_steps=2"]
    out = run("finetune", "rmd17:ethanol", "split=rmd17-01", *network, "--out", "run")
    assert "10 conformations to train on, 50 to validate on, 60 to test on" in " ".join(out.split())
    assert "data: rmd17:ethanol" in (tmp_path / "run" / "recipe.yaml").read_text()
