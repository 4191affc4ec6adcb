"""Write a report as one HTML file: figures inside, nothing loaded from elsewhere, all text escaped."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure

from basinet.files import write_bytes

FILE_NAME = "report.html"
DPI = 150
_LONG = 28
"""Characters above which a text may be broken into lines."""
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
    """Title that unfolds the table when clicked; empty: the table is always visible."""

    def __post_init__(self) -> None:
        """Refuse rows that do not fit the header."""
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(
                    f"a row has {len(row)} cells, expected {len(self.header)} like the header: {list(row)}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A figure, the name of its PNG file, and a description in place of the image."""

    name: str
    """File name without suffix."""
    figure: Figure
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A title, one sentence about the content, figures and tables."""

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
    """Tables at the end: provenance of the numbers."""

    def add(self, section: Section) -> None:
        """Append a section whose pictures have new names."""
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
    """Return whether a cell is a number, with or without its standard deviation."""
    try:
        float(text.split(" ± ")[0])
    except ValueError:
        return False
    return True


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
