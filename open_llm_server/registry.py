"""Registry: a family's name -> its class, from this package, entry points, or a decorator.

Owns names and where they lead. Listing imports nothing of other people's; asking for one family
imports that family's module only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar, TypeVar

from .config.cards import cards
from .config.models import check_name
from .config.words import suggest
from .errors import ConfigurationError

if TYPE_CHECKING:
    from .config.resolved import ModelPlan
    from .runnable import LLMRunnable

Family = TypeVar("Family", bound="type[LLMRunnable]")

GROUP = "open_llm_server.families"


class Registry:
    """All families. A class of class methods: there is one per process."""

    _added: ClassVar[dict[str, type[LLMRunnable]]] = {}

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Every family that can be asked for, in alphabetical order."""
        return tuple(sorted({*cls._added, *_own(), *_entry_points()}))

    @classmethod
    def own_names(cls) -> tuple[str, ...]:
        """The families whose code is here or loaded already: cheap to ask for."""
        return tuple(sorted({*cls._added, *_own()}))

    @classmethod
    def get(cls, name: str) -> type[LLMRunnable]:
        """The family `name`. Raises ConfigurationError with the nearest name there is."""
        if name not in cls._added:
            if name in _own():
                import_module(_own()[name])
            elif name in _entry_points():
                cls._load(name, _entry_points()[name])
        try:
            return cls._added[name]
        except KeyError:
            raise ConfigurationError(_unknown(name, cls.names())) from None

    @classmethod
    def add_model(cls, name: str) -> Callable[[Family], Family]:
        """Decorator: `@Registry.add_model("mine")` on a subclass of LLMRunnable.

        Raises ConfigurationError for a name that is taken, and for anything else than such a class.
        """
        check_name(name, name)

        def add(family: Family) -> Family:
            if not _is_family(family):
                raise ConfigurationError(
                    f"family {name!r}: {family!r} is no subclass of LLMRunnable; write "
                    "class YourFamily(LLMRunnable)"
                )
            cls._refuse_taken(name, family)
            family.name = name
            cls._added[name] = family
            return family

        return add

    @classmethod
    def remove_model(cls, name: str) -> None:
        """Forgets a family that `add_model` added; say, to add its next version in a notebook."""
        cls._added.pop(name, None)

    @classmethod
    def locate(cls, name: str) -> str:
        """Where another process finds the family's class: `module:name`."""
        family = cls.get(name)
        return f"{family.__module__}:{family.__qualname__}"

    @classmethod
    def _refuse_taken(cls, name: str, family: type[LLMRunnable]) -> None:
        taken = cls._added.get(name)
        here = f"{family.__module__}:{family.__qualname__}"
        if taken is family:
            return
        if taken is not None:
            owner = f"{taken.__module__}:{taken.__qualname__}"
        elif name in _own() and family.__module__ != _own()[name]:
            owner = _own()[name]
        else:
            return
        raise ConfigurationError(
            f"a family named {name!r} is registered already, by {owner}; give {here} another "
            f"name, or call Registry.remove_model({name!r}) first if it is to be replaced"
        )

    @classmethod
    def _load(cls, name: str, points: tuple[EntryPoint, ...]) -> None:
        if len(points) > 1:
            owners = " and ".join(sorted(_owner(point) for point in points))
            raise ConfigurationError(f"family {name!r} is offered by {owners}; uninstall one")
        point = points[0]
        try:
            family = point.load()
        except Exception as error:
            raise ConfigurationError(
                f"family {name!r} of {_owner(point)} ({point.value}) cannot be loaded: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not _is_family(family):
            raise ConfigurationError(
                f"family {name!r} of {_owner(point)} ({point.value}) is no subclass of LLMRunnable"
            )
        if name not in cls._added:  # its module may have used the decorator
            cls.add_model(name)(family)


def load_family(plan: ModelPlan) -> type[LLMRunnable]:
    """The family of a plan, in a process that may not have imported it yet."""
    if plan.family not in Registry.names():
        module, _, _ = plan.implementation.partition(":")
        if module == "__main__":
            raise ConfigurationError(
                f"family {plan.family!r} is defined in a script, which other processes cannot "
                "import; put it into a module of its own"
            )
        try:
            import_module(module)
        except ImportError as error:
            raise ConfigurationError(
                f"family {plan.family!r} ({plan.implementation}) cannot be imported: {error}"
            ) from error
    return Registry.get(plan.family)


def _is_family(found: object) -> bool:
    from .runnable import LLMRunnable  # which imports this module

    return isinstance(found, type) and issubclass(found, LLMRunnable)


@cache
def _own() -> dict[str, str]:
    """Families of this package: those that a card names and that have a module of that name."""
    modules = {
        family: f"{__package__}.{family.replace('-', '_').replace('.', '_')}"
        for family in {card.family for card in cards().values()}
    }
    return {family: module for family, module in modules.items() if find_spec(module)}


@cache
def _entry_points() -> dict[str, tuple[EntryPoint, ...]]:
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for point in entry_points(group=GROUP):
        if point not in (others := found.get(point.name, ())):
            found[point.name] = (*others, point)
    return found


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "an installed package"


def _unknown(name: str, names: Iterable[str]) -> str:
    if name in cards():
        return f"{name!r} is a card of family {cards()[name].family!r}, which is not installed"
    return f"there is no family {name!r}{suggest(name, names)}"
