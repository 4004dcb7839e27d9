"""Finding methods: the entry-point group `tuneloop.methods`, and a folder of Python files."""

import importlib.util
import sys
import traceback
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from tuneloop.errors import NotFound
from tuneloop.methods.contract import Meta, Method

ENTRY_POINT_GROUP = "tuneloop.methods"
AnyMethod: TypeAlias = type[Method[Any]]


@dataclass(frozen=True)
class FailedPlugin:
    """A plugin that could not be used, and why."""

    source: str
    error: str


@dataclass(frozen=True)
class Registry:
    """The methods found, by name, and the plugins that failed."""

    methods: dict[str, AnyMethod]
    failed: tuple[FailedPlugin, ...]

    def get(self, name: str) -> AnyMethod:
        """The method of this name.

        Raises:
            NotFound: there is none; the message lists those there are.
        """
        try:
            return self.methods[name]
        except KeyError:
            known = ", ".join(sorted(self.methods)) or "none"
            raise NotFound(f"no method is named {name!r}; known: {known}") from None


def discover(folder: Path | None = None) -> Registry:
    """All methods of installed packages and of the `*.py` files in `folder`, but those that begin with `_`."""
    methods: dict[str, AnyMethod] = {}
    failed: list[FailedPlugin] = []

    def add(source: str, found: list[AnyMethod]) -> None:
        for method in found:
            _check(method)
            if methods.setdefault(method.meta.name, method) is not method:
                raise ValueError(f"another method is already named {method.meta.name!r}")

    for point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            add(point.name, [point.load()])
        except Exception as error:
            failed.append(FailedPlugin(f"{ENTRY_POINT_GROUP}: {point.name} = {point.value}", _describe(error)))
    if folder is not None and not folder.is_dir():
        failed.append(FailedPlugin(str(folder), "TUNELOOP_PLUGINS is not a folder"))
    for file in _plugin_files(folder):
        try:
            found = _methods_in(_load(file))
            if not found:
                raise ValueError("holds no class that inherits from tuneloop.methods.contract.Method")
            add(file.name, found)
        except (Exception, SystemExit) as error:
            failed.append(FailedPlugin(file.name, _describe(error)))
    return Registry(methods, tuple(failed))


def _plugin_files(folder: Path | None) -> list[Path]:
    if folder is None or not folder.is_dir():
        return []
    if str(folder.absolute()) not in sys.path:  # for the plugins' own helpers, whose names begin with `_`
        sys.path.append(str(folder.absolute()))
    return sorted(file for file in folder.glob("*.py") if not file.name.startswith("_"))


def _load(file: Path) -> ModuleType:
    name = f"tuneloop_plugin_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # pydantic and dataclasses look a class's module up there
    spec.loader.exec_module(module)
    return module


def _methods_in(module: ModuleType) -> list[AnyMethod]:
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Method)
        and value.__module__ == module.__name__
        and not getattr(value, "__abstractmethods__", None)
    ]


def _check(method: AnyMethod) -> None:
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise TypeError(f"{method!r} does not inherit from tuneloop.methods.contract.Method")
    meta = getattr(method, "meta", None)
    if not isinstance(meta, Meta):
        raise TypeError(f"{method.__name__} has no `meta`: give it name, version and description")
    if not meta.name.strip() or " / " in meta.name or len(meta.name) > 100 or not meta.name.isprintable():
        raise ValueError(f"the method name {meta.name!r} must have 1 to 100 printable characters without ' / '")
    for attribute in ("settings_schema", "metrics"):
        if not hasattr(method, attribute):
            raise TypeError(f"{method.__name__} has no `{attribute}`")


def _describe(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1:] or None
    where = f" ({Path(last[0].filename).name}, line {last[0].lineno})" if last else ""
    return f"{type(error).__name__}: {error}{where}"
