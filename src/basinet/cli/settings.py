"""Turn a settings class into options of a command, so that names, defaults and texts are written once.

A settings class lives beside what it configures, and importing it imports torch. A command therefore names the class,
and it is imported when the command is typed, not when ``basinet --help`` lists the commands.
"""

import inspect
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import MISSING, dataclass, field, fields
from importlib import import_module
from typing import Annotated, Any, TypeVar, get_type_hints

import typer
from typer.core import TyperCommand

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A settings class whose fields are options of a command."""

    path: str
    """``module:Class``."""
    only: tuple[str, ...] | None = None
    """Fields to list; ``None``: every field that has a default and is not in ``without``."""
    without: tuple[str, ...] = ()
    """Fields to leave out."""
    flags: Mapping[str, str] = field(default_factory=dict[str, str])
    """Names on the command line that are not ``--`` and the name of the field."""

    def load(self) -> type[Any]:
        """Import the class."""
        return load_class(self.path)

    def parameters(self) -> list[Any]:
        """Return the fields as parameters of a command."""
        kind = self.load()
        defaults = {f.name: f.default for f in fields(kind) if f.default is not MISSING}
        chosen = [name for name in defaults if name not in self.without] if self.only is None else self.only
        return _parameters(kind, {name: defaults[name] for name in chosen}, self.flags)


def load_class(path: str) -> type[Any]:
    """Import the class ``module:Class``."""
    module, _, name = path.partition(":")
    return vars(import_module(module))[name]


def _parameters(kind: type[Any], defaults: Mapping[str, Any], flags: Mapping[str, str]) -> list[Any]:
    """Let typer make the parameters, from a function whose signature is made of the fields."""
    from basinet.options import describe

    texts = {o.name: " ".join(o.text.split()).replace("null:", "default:") for o in describe(kind)}
    types = get_type_hints(kind)

    def signature_only() -> None:
        """Hold the signature."""

    options = {
        name: Annotated[types[name], typer.Option(*filter(None, [flags.get(name)]), help=texts[name])]
        for name in defaults
    }
    signature_only.__annotations__ = options
    signature = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=option)
        for name, option in options.items()
    ]
    vars(signature_only)["__signature__"] = inspect.Signature(signature)
    holder = typer.Typer(add_completion=False)
    holder.command()(signature_only)
    return list(typer.main.get_command(holder).params)


def command_with(*listed: Listed) -> type[TyperCommand]:
    """Return the class of a command with the options of settings classes; :func:`from_options` reads them."""

    class SettingsCommand(TyperCommand):
        """A command with the options of settings classes."""

        def get_params(self, ctx: Any) -> list[Any]:
            """Return arguments, then options of settings, then the other options."""
            own = super().get_params(ctx)
            arguments = [p for p in own if p.param_type_name == "argument"]
            others = [p for p in own if p.param_type_name != "argument"]
            return [*arguments, *(p for group in listed for p in group.parameters()), *others]

        def invoke(self, ctx: Any) -> Any:
            """Run the command, whose function gets the options of settings from :func:`typed`."""
            values = {group.path: {p.name: ctx.params.pop(p.name) for p in group.parameters()} for group in listed}
            token = _TYPED.set(values)
            try:
                return super().invoke(ctx)
            finally:
                _TYPED.reset(token)

    return SettingsCommand


_TYPED: ContextVar[dict[str, dict[str, Any]]] = ContextVar("typed")
"""Options of the command that runs, by settings class and field; typer passes to a function only its own parameters."""


def typed(listed: Listed) -> dict[str, Any]:
    """Return the options of a settings class by field, in a command that has them."""
    return _TYPED.get()[listed.path]


def from_options(listed: Listed, **others: Any) -> Any:
    """Return settings from the options that were typed and from fields that are not options."""
    return listed.load()(**typed(listed), **others)
