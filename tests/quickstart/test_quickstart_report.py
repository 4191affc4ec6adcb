from dataclasses import replace
from pathlib import Path

from demo import demo_results

from basinet.quickstart.report import dynamics_reading, learning_reading, write_quickstart_report
from basinet.quickstart.results import ResultRow, Start
from pages import Page


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
    assert "intact for 5 ps" in reading
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
    page = Page(write_quickstart_report(tmp_path, replace(full, rows=rows, data=[])).read_text())
    assert "110.0 ± 14.1" in page.text
    assert "2.537 ± 0.326" in page.text
    assert page.tags.count("details") == 1
