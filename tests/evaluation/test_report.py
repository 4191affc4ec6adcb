from pathlib import Path

import pytest
from matplotlib.figure import Figure

from basinet.evaluation.report import Picture, Report, Section, Table
from pages import Page


def small_figure() -> Figure:
    figure = Figure(figsize=(1, 1))
    figure.subplots().plot([0, 1])
    return figure


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
