import base64
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from demo import demo_results
from matplotlib.figure import Figure

from basinet.evaluation.report import (
    Picture,
    Report,
    Section,
    Table,
    dynamics_reading,
    learning_reading,
    write_quickstart_report,
)
from basinet.evaluation.results import ResultRow, Start

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Reads a page strictly: every tag must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[bytes] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "src":
                prefix, data = (value or "").split(",")
                assert prefix == "data:image/png;base64"
                self.images.append(base64.b64decode(data))
            elif name in ("href", "data", "action"):
                self.links.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def small_figure() -> Figure:
    figure = Figure(figsize=(1, 1))
    figure.subplots().plot([0, 1])
    return figure


def test_the_quickstart_report_is_one_page_that_holds_every_figure_and_loads_nothing(tmp_path: Path) -> None:
    path = write_quickstart_report(tmp_path, demo_results(seeds=(0,), counts=(50,)))
    page = Page(path.read_text())
    beside = {png.read_bytes() for png in tmp_path.glob("*.png")}
    assert len(beside) == 7
    assert set(page.images) == beside
    assert page.links == []
    assert all(
        text in page.text for text in ("aspirin", "GFN2-xTB", "basinet quickstart --seed 0", "meV/Å", "torch 2.13")
    )
    assert {p.name for p in tmp_path.iterdir()} == {path.name, *(p.name for p in tmp_path.glob("*.png"))}


def test_text_from_outside_is_shown_and_never_run(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script> & \"q\""
    report = Report(title=evil, lead=evil, footer=[Table(header=[evil], rows=[[evil]])])
    picture = Picture(name="a", figure=small_figure(), description=evil)
    table = Table(header=[evil], rows=[[evil]], caption=evil)
    report.add(Section(title=evil, reading=evil, pictures=[picture], tables=[table]))
    page = Page(report.write(tmp_path).read_text())
    assert "script" not in page.tags
    assert page.text.count(evil) == 10  # the title twice; the alternative text of the picture is no text


def test_a_report_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Report(title="first", lead="").write(tmp_path)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        Report(title="second", lead="").write(tmp_path)
    assert "first" in (tmp_path / "report.html").read_text()
    assert len(list(tmp_path.iterdir())) == 1, "no temporary file stays behind"


def test_rows_that_do_not_fit_and_names_used_twice_are_refused() -> None:
    with pytest.raises(ValueError, match="1 cells, expected 2"):
        Table(header=["a", "b"], rows=[["1"]])
    picture = Picture(name="a", figure=small_figure(), description="")
    report = Report(title="", lead="")
    with pytest.raises(ValueError, match="two pictures are called 'a'"):
        report.add(Section(title="", reading="", pictures=[picture, picture]))


def row(start: Start, force_mae: float, labels: int = 50, seed: int = 0) -> ResultRow:
    return ResultRow(labels=labels, start=start, seed=seed, force_mae=force_mae, energy_mae=0.1)


def test_the_reading_says_what_happened_also_when_it_is_bad_news() -> None:
    better = learning_reading([row("scratch", 0.1), row("pre-trained", 0.08)])
    assert "lowers the force error from 100 to 80 meV/Å (-20 %; one seed" in better
    worse = learning_reading(
        [row("scratch", 0.1, seed=s) for s in (0, 1)] + [row("pre-trained", 0.12, seed=s) for s in (0, 1)]
    )
    assert "raises the force error from 100 to 120 meV/Å (+20 %; means of 2 seeds)" in worse
    assert "nothing can be compared" in learning_reading([row("scratch", 0.1), row("pre-trained", 0.1, labels=200)])


def test_the_reading_of_the_dynamics_counts_the_replicas_that_stayed_whole() -> None:
    reading = dynamics_reading(demo_results().dynamics)
    assert "whole for 5 ps" in reading
    assert "scratch: 2 of 4 (first broken after 1.62 ps)" in reading
    assert "pre-trained: 4 of 4." in reading


def test_parts_that_were_not_run_are_left_out(tmp_path: Path) -> None:
    full = demo_results()
    bare = replace(full, data=[], curves=[], rows=full.rows[:1], parities=[], dynamics=[], stages=[])
    page = Page(write_quickstart_report(tmp_path, bare).read_text())
    assert len(page.images) == 1
    assert "Molecular dynamics" not in page.text


def test_the_table_of_errors_gives_mean_and_deviation_and_every_seed_on_demand(tmp_path: Path) -> None:
    full = demo_results()
    rows = [row("scratch", 0.1), row("scratch", 0.12, seed=1), row("pre-trained", 0.05)]
    page = Page(write_quickstart_report(tmp_path, replace(full, rows=rows)).read_text())
    assert "110.0 ± 14.1" in page.text
    assert "2.537 ± 0.326" in page.text
    assert page.tags.count("details") == 1
