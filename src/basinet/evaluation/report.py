"""A report in one HTML file: figures inside, nothing loaded from elsewhere, all text escaped.

:class:`Report` knows sections, tables and figures; :func:`write_quickstart_report` says what the quickstart's contains.
"""

import base64
import html
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from basinet.evaluation.metrics import Spread, over_seeds, to_unit
from basinet.evaluation.plots import data_figure, dynamics_figure, learning_figure, parity_figure, training_figure
from basinet.evaluation.results import (
    STARTS,
    DataSummary,
    MDSeries,
    Provenance,
    QuickstartResults,
    ResultRow,
    Stage,
    Start,
    TrainingCurve,
)
from basinet.files import write_bytes

FILE_NAME = "report.html"
DPI = 150

_LONG = 28
"""Characters; a longer text may be broken into lines."""
_CSS = """
body{font:16px/1.55 system-ui,sans-serif;color:#222;background:#fff;max-width:52rem;margin:0 auto;padding:1rem}
h1{font-size:1.6rem;line-height:1.25;margin:.5rem 0}h2{font-size:1.2rem;margin:2.2rem 0 .3rem}
p.lead{color:#555;margin-top:0}figure{margin:1rem 0;overflow-x:auto}
img{display:block;width:100%;min-width:30rem;height:auto}table{border-collapse:collapse;font-size:.9rem}
p.caption{font-size:.85rem;color:#555;margin:.3rem 0}summary{cursor:pointer;color:#0072B2;font-size:.9rem}
th,td{padding:.3rem .7rem;border-bottom:1px solid #ddd;text-align:left;vertical-align:top;white-space:nowrap}
th.number,td.number{text-align:right;font-variant-numeric:tabular-nums}
td.long{white-space:normal;overflow-wrap:anywhere}
footer{margin-top:3rem;padding-top:1rem;border-top:2px solid #ddd;font-size:.9rem}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of text under a header that names the units; columns of numbers are aligned to the right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    folded: str = ""
    """What to click on to see the table; empty for a table that is always in view."""

    def __post_init__(self) -> None:
        """Refuse rows that do not fit the header."""
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(
                    f"a row has {len(row)} cells, expected {len(self.header)} like the header: {list(row)}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A figure with the name of its PNG file and what it shows, for those who cannot see it."""

    name: str
    """File name without suffix."""
    figure: Figure
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A title, one sentence that says what to read from the section, and its figures and tables."""

    title: str
    reading: str
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()


@dataclass(slots=True)
class Report:
    """Collects sections and writes them as one HTML file with the PNGs beside it.

    Example::

        report = Report(title="Ethanol", lead="One molecule, two models.")
        report.add(Section(title="Errors", reading="Smaller is better.", tables=[table]))
        path = report.write(directory)
    """

    title: str
    lead: str
    sections: list[Section] = field(default_factory=list)
    footer: Sequence[Table] = ()
    """Tables under a line at the end: where the numbers come from."""

    def add(self, section: Section) -> None:
        """Append a section; the names of pictures must be new."""
        taken = {picture.name for known in self.sections for picture in known.pictures}
        for picture in section.pictures:
            if picture.name in taken:
                raise ValueError(f"two pictures are called {picture.name!r}; give each its own file name")
            taken.add(picture.name)
        self.sections.append(section)

    def write(self, directory: Path) -> Path:
        """Write ``report.html`` and the PNGs, each complete or not at all, and return the path of the HTML file."""
        directory.mkdir(parents=True, exist_ok=True)
        images = self._images()
        for name, png in images.items():
            write_bytes(directory / f"{name}.png", png)
        path = directory / FILE_NAME
        write_bytes(path, self._html(images).encode())
        return path

    def write_page(self, path: Path) -> Path:
        """Write the HTML file alone, which has the figures inside, and return its path."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, self._html(self._images()).encode())
        return path

    def _images(self) -> dict[str, bytes]:
        return {picture.name: _png(picture.figure) for section in self.sections for picture in section.pictures}

    def _html(self, images: dict[str, bytes]) -> str:
        body = "".join(_section_html(section, images) for section in self.sections)
        foot = "".join(_table_html(table) for table in self.footer)
        title = html.escape(self.title)
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{title}</title><style>{_CSS}</style></head>\n<body><h1>{title}</h1>"
            f'<p class="lead">{html.escape(self.lead)}</p>\n{body}<footer>{foot}</footer></body></html>\n'
        )


def write_quickstart_report(directory: Path, results: QuickstartResults) -> Path:
    """Write the report of a quickstart run into ``directory`` and return the path of its HTML file."""
    report = Report(
        title=f"{results.molecule}: pre-trained against from scratch",
        lead=f"The pre-trained model first learned from {results.pretraining}. Both models are the same network, "
        f"trained on the same labels of {results.molecule}; all errors are on other structures of it.",
        footer=[_provenance_table(results.provenance), _stage_table(results.stages)],
    )
    if results.rows:
        report.add(_learning_section(results.rows))
    if results.parities:
        report.add(_parity_section(results))
    if results.dynamics:
        report.add(_dynamics_section(results))
    if results.curves:
        report.add(_training_section(results.curves))
    for number, data in enumerate(results.data, start=1):
        report.add(_data_section(data, number))
    return report.write(directory)


def learning_reading(rows: Sequence[ResultRow]) -> str:
    """Say in one sentence what pre-training changed at the smallest number of labels where both models were tested."""
    both = [n for n in sorted({r.labels for r in rows}) if {r.start for r in rows if r.labels == n} == set(STARTS)]
    if not both:
        return "Only one of the two models was tested, so nothing can be compared."
    scratch, trained = (_force_spread(rows, both[0], start) for start in STARTS)
    change = 100 * (trained.mean / scratch.mean - 1)
    verb = "lowers" if change < 0 else "raises"
    seeds = "one seed, so its spread is not known" if scratch.n == 1 else f"means of {scratch.n} seeds"
    return (
        f"With {both[0]} labels, pre-training {verb} the force error from {scratch.mean:.3g} to {trained.mean:.3g} "
        f"meV/Å ({change:+.0f} %; {seeds})."
    )


def dynamics_reading(series: Sequence[MDSeries]) -> str:
    """Say how many replicas of each model stayed whole, and for how long the shortest lasted."""
    parts: list[str] = []
    for run in series:
        shortest = "" if run.n_stable == run.n_replicas else f" (first broken after {_ps(run.stability_time.min())} ps)"
        parts.append(f"{run.start}: {run.n_stable} of {run.n_replicas}{shortest}")
    return f"Replicas that stayed whole for {_ps(max(run.duration for run in series))} ps - {'; '.join(parts)}."


def _learning_section(rows: Sequence[ResultRow]) -> Section:
    picture = Picture(
        name="learning", figure=learning_figure(rows), description="Force error against the number of labels"
    )
    return Section(title="Test errors", reading=learning_reading(rows), pictures=[picture], tables=_error_tables(rows))


def _error_tables(rows: Sequence[ResultRow]) -> list[Table]:
    """Return the errors by label count and start, and if there are several seeds also those of every seed."""
    ordered = sorted(rows, key=lambda row: (row.labels, STARTS.index(row.start), row.seed))
    groups: dict[tuple[int, Start], list[ResultRow]] = {}
    for row in ordered:
        groups.setdefault((row.labels, row.start), []).append(row)
    units = ["force MAE (meV/Å)", "force MAE (kcal/mol/Å)", "energy MAE (meV)"]
    means = [[str(labels), start, str(len(group)), *_error_cells(group)] for (labels, start), group in groups.items()]
    singles = [[str(row.labels), row.start, str(row.seed), *_error_cells([row])] for row in ordered]
    caption = (
        "Mean ± standard deviation over seeds. Force errors are per Cartesian component, energy errors per molecule."
    )
    tables = [Table(header=["labels", "start", "seeds", *units], rows=means, caption=caption)]
    if len(singles) > len(means):
        tables.append(Table(header=["labels", "start", "seed", *units], rows=singles, folded="Errors of every seed"))
    return tables


def _error_cells(rows: Sequence[ResultRow]) -> list[str]:
    """Return force MAE in two units and energy MAE, over the seeds in ``rows``."""
    forces, energies = [row.force_mae for row in rows], [row.energy_mae for row in rows]
    columns = [(forces, "meV", 1), (forces, "kcal/mol", 3), (energies, "meV", 1)]
    spreads = [(over_seeds([to_unit(x, unit) for x in values]), digits) for values, unit, digits in columns]
    return [
        f"{spread.mean:.{digits}f}" + (f" ± {spread.std:.{digits}f}" if spread.std is not None else "")
        for spread, digits in spreads
    ]


def _parity_section(results: QuickstartResults) -> Section:
    picture = Picture(
        name="parity", figure=parity_figure(results.parities), description="Predictions against reference values"
    )
    return Section(
        title="Predictions against the reference",
        reading="Points on the line are perfect; energies are shown relative to the mean reference energy.",
        pictures=[picture],
    )


def _dynamics_section(results: QuickstartResults) -> Section:
    table = Table(
        header=["start", "replicas", "stayed whole", "shortest (ps)", "mean (ps)", "energy drift (meV/atom/ps)"],
        rows=[
            [
                run.start,
                str(run.n_replicas),
                str(run.n_stable),
                _ps(run.stability_time.min()),
                _ps(run.stability_time.mean()),
                _drift(run),
            ]
            for run in results.dynamics
        ],
        caption="A replica is whole until a bond deviates by more than "
        f"{results.dynamics[0].bond_tolerance} Å or a value is not finite. Drift: median size of the slope of the "
        "total energy; with a thermostat it is heat and no error.",
    )
    picture = Picture(
        name="dynamics",
        figure=dynamics_figure(results.dynamics),
        description="Total energy, temperature and bond deviation against time",
    )
    reading = f"{dynamics_reading(results.dynamics)} {results.dynamics_protocol}."
    return Section(title="Molecular dynamics", reading=reading, pictures=[picture], tables=[table])


def _training_section(curves: Sequence[TrainingCurve]) -> Section:
    groups = {
        "pretraining": [curve for curve in curves if curve.start is None],
        "finetuning": [curve for curve in curves if curve.start is not None],
    }
    pictures = [
        Picture(name=name, figure=training_figure(group), description=f"Loss and validation force error of {name}")
        for name, group in groups.items()
        if group
    ]
    reading = "Losses of pre-training and fine-tuning are of different objectives and cannot be compared."
    return Section(title="Training", reading=reading, pictures=pictures)


def _data_section(data: DataSummary, number: int) -> Section:
    low, high = data.atoms_per_molecule.min(), data.atoms_per_molecule.max()
    size = f"{low}" if low == high else f"{low} to {high}"
    n_structures, n_atoms = len(data.atoms_per_molecule), len(data.atomic_numbers)
    picture = Picture(name=f"data-{number}", figure=data_figure(data), description=f"What is in {data.name}")
    facts = Table(header=["", data.name], rows=list(data.facts.items()))
    return Section(
        title=f"Data: {data.name}",
        reading=f"{n_structures:,} structures of {size} atoms, {n_atoms:,} atoms in total.",
        pictures=[picture],
        tables=[facts] if data.facts else [],
    )


def _provenance_table(provenance: Provenance) -> Table:
    versions = ", ".join(f"{name} {version}" for name, version in provenance.versions.items())
    rows = [
        ("command", provenance.command),
        ("seed", str(provenance.seed)),
        ("level of theory", provenance.level_of_theory),
        ("device", provenance.device),
        ("versions", versions),
    ]
    return Table(header=["to do it again", ""], rows=rows)


def _stage_table(stages: Sequence[Stage]) -> Table:
    total = Stage(name="total", seconds=math.fsum(stage.seconds for stage in stages))
    rows = [[stage.name, f"{stage.seconds:.1f}"] for stage in [*stages, total]]
    return Table(header=["stage", "wall time (s)"], rows=rows)


def _force_spread(rows: Sequence[ResultRow], labels: int, start: Start) -> Spread:
    return over_seeds([to_unit(r.force_mae, "meV") for r in rows if r.labels == labels and r.start == start])


def _ps(femtoseconds: float) -> str:
    return f"{femtoseconds / 1000:.3g}"


def _drift(run: MDSeries) -> str:
    known = run.energy_drift[np.isfinite(run.energy_drift)]
    return f"{1000 * np.median(np.abs(known)):.3g}" if len(known) else "not known"


def _section_html(section: Section, images: dict[str, bytes]) -> str:
    pictures = "".join(
        f'<figure><img alt="{html.escape(picture.description)}" '
        f'src="data:image/png;base64,{base64.b64encode(images[picture.name]).decode()}"></figure>\n'
        for picture in section.pictures
    )
    tables = "".join(_table_html(table) for table in section.tables)
    title, reading = html.escape(section.title), html.escape(section.reading)
    return f"<section><h2>{title}</h2><p>{reading}</p>\n{pictures}{tables}</section>\n"


def _table_html(table: Table) -> str:
    columns = list(zip(*table.rows, strict=True)) or [()] * len(table.header)
    kinds = ["number" if cells and all(map(_is_number, cells)) else "text" for cells in columns]
    head = "".join(_cell_html("th", cell, kind) for cell, kind in zip(table.header, kinds, strict=True))
    rows = "".join(
        f"<tr>{''.join(_cell_html('td', cell, kind) for cell, kind in zip(row, kinds, strict=True))}</tr>\n"
        for row in table.rows
    )
    caption = f'<p class="caption">{html.escape(table.caption)}</p>' if table.caption else ""
    whole = f"{caption}<figure><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></figure>\n"
    return f"<details><summary>{html.escape(table.folded)}</summary>{whole}</details>\n" if table.folded else whole


def _cell_html(tag: str, text: str, kind: str) -> str:
    kind = "long" if kind == "text" and len(text) > _LONG else kind
    return f'<{tag} class="{kind}">{html.escape(text)}</{tag}>'


def _is_number(text: str) -> bool:
    """Tell whether a cell is a number, with or without its standard deviation."""
    try:
        float(text.split(" ± ")[0])
    except ValueError:
        return False
    return True


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
