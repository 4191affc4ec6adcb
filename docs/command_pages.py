"""Write a page for each command from its options: a Sphinx extension, run before every build."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import typer

OUT = Path(__file__).parent / "commands"
INTRODUCTION = """# Commands

Written from the program itself: what `basinet COMMAND --help-all` prints.

| command | |
|---|---|
"""


def pages() -> dict[str, str]:
    """Return the name and the text of every page."""
    from basinet.cli import app

    found = {name: _page(name, command) for name, command in _commands(typer.main.get_command(app), "")}
    rows = [f"| [{name}]({_file(name)}) | {_first_line(text)} |" for name, text in found.items()]
    toctree = "\n".join(["", "", "```{toctree}", ":hidden:", "", *map(_file, found), "```", ""])
    return {"index.md": INTRODUCTION + "\n".join(rows) + toctree} | {_file(n): text for n, text in found.items()}


def _commands(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command.hidden:
            continue
        if hasattr(command, "list_commands"):
            yield from _commands(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


def _file(name: str) -> str:
    return f"{name.replace(' ', '-')}.md"


def _first_line(page: str) -> str:
    return page.split("\n\n")[1].split(". ")[0].rstrip(".")


def _page(name: str, command: Any) -> str:
    params = command.get_params(click.Context(command))
    arguments = [p for p in params if p.param_type_name == "argument"]
    options = [p for p in params if p.param_type_name == "option" and p.name != "help"]
    usage = " ".join([f"basinet {name}", *(_metavar(a) for a in arguments), "[OPTIONS]"])
    parts = [f"# basinet {name}", _prose(command.help), f"```text\n{usage}\n```"]
    if arguments:
        parts.append(_table("argument", [(f"`{_metavar(a)}`", a.help or "") for a in arguments]))
    if options:
        parts.append(_table("option", [(_flags(o), _meaning(o)) for o in options]))
    return "\n\n".join([*parts, *_settings(name)]) + "\n"


def _settings(name: str) -> Iterator[str]:
    from basinet import options
    from basinet.cli.recipes import HELP
    from basinet.cli.settings import load_class

    recipes = HELP[name.split()[-1]].recipes if name.split()[-1] in HELP else {}
    for purpose, path in recipes.items():
        described = [*options.describe(load_class(path))]
        yield f"## Options {purpose or 'of the recipe'}\n\nAs `key=value` on the command line, or in a YAML file."
        groups: dict[tuple[str, str], list[tuple[str, ...]]] = {}
        for o in described:
            row = (f"`{o.name}`", f"`{o.default}`" if o.default else "", o.kind, " ".join(o.text.split()))
            groups.setdefault((o.group, o.when), []).append(row)
        for (group, when), rows in groups.items():
            yield f"### {group or 'run and data'}" + (f", with `{when}`" if when else "")
            yield _rows(("option", "default", "values", "meaning"), rows)


def _metavar(argument: Any) -> str:
    return argument.metavar or (argument.name.upper() + ("..." if argument.nargs == -1 else ""))


def _flags(option: Any) -> str:
    return " ".join(f"`{flag}`" for flag in (*option.opts, *option.secondary_opts))


def _meaning(option: Any) -> str:
    default = option.default
    if default is None or default is False or callable(default) or option.required:
        return option.help or ""
    return f"{option.help or ''} Default: `{getattr(default, 'value', default)}`."


def _prose(text: str | None) -> str:
    return "\n\n".join(" ".join(part.split()) for part in (text or "").split("\n\n"))


def _table(title: str, rows: list[tuple[str, str]]) -> str:
    return _rows((title, "meaning"), rows)


def _rows(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(c.replace("|", r"\|") for c in row) + " |" for row in rows])


def write(_app: Any) -> None:
    """Write the pages that have changed."""
    OUT.mkdir(exist_ok=True)
    written = pages()
    for path in OUT.glob("*.md"):
        if path.name not in written:
            path.unlink()
    for name, text in written.items():
        path = OUT / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def setup(app: Any) -> dict[str, bool]:
    """Run before Sphinx looks for pages."""
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True}
