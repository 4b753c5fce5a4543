"""Stand-ins for packages that take seconds to import, so that ``--help`` answers at once: a command's options are read from its
module, and nothing of PyTorch is called for that."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

SLOW = ("torch", "torchvision", "lightning", "scipy", "sklearn", "pandas", "matplotlib")


class StandIn:
    """What a package gives when it is asked: more of the same. It can be called, subclassed and used as a decorator."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __mro_entries__(self, _: tuple) -> tuple[type, ...]:
        return (StandIn,)

    def __call__(self, *given: Any, **_: Any) -> Any:
        return given[0] if len(given) == 1 and callable(given[0]) else StandIn()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return StandIn()

    def __getitem__(self, _: Any) -> Any:
        return StandIn()

    def __or__(self, _: Any) -> Any:
        return Any

    __ror__ = __or__


class _Module(ModuleType):
    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return StandIn()


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in SLOW else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether a command with these arguments prints its options and ends."""
    return "--help" in _options(arguments)


def _options(arguments: Iterable[str]) -> list[str]:
    found = list(arguments)
    return found[: found.index("--")] if "--" in found else found


def install() -> None:
    """From now on :data:`SLOW` packages that are not here yet are stand-ins. For a process that ends after its help."""
    if not set(SLOW) & set(sys.modules):
        sys.meta_path.insert(0, _Finder())


def install_for_help_of(command: Sequence[str]) -> None:
    """:func:`install`, where ``command`` (the process's, with Python's own options) is ``python -m`` a module of this library
    that is asked for its help. Its packages are imported before the module itself can see the arguments."""
    if "-m" not in command:
        return
    module, *arguments = command[command.index("-m") + 1 :] or [""]
    if module.partition(".")[0] == "bnnlib" and asks_for_help(arguments):
        install()
