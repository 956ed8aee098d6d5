"""Lookup of things that a user can name, with the nearest right names on a miss."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

__all__ = ["Registry", "UnknownNameError", "unknown_name"]

T = TypeVar("T")


class UnknownNameError(ValueError):
    """A name that is not in its registry; the message gives the nearest right ones."""


def unknown_name(kind: str, name: str, known: Iterable[str], hint: str = "") -> UnknownNameError:
    """Build the error for an unknown `name` of a `kind`, naming the nearest of the `known` ones."""
    choices = list(known)
    near = difflib.get_close_matches(str(name).lower(), choices, n=3, cutoff=0.5)
    told = ", ".join(repr(c) for c in (near or sorted(choices)))
    lead = "nearest" if near else "known"
    return UnknownNameError(f"unknown {kind} {name!r}; {lead}: {told}{hint}")


class Registry(Generic[T]):
    """Named objects of one kind, plus an optional parser for names of a regular family.

    Parameters
    ----------
    kind
        What is named, for messages: ``"format"``, ``"recipe"``.
    parse
        Called with a name that is not registered; returns the object, or None where the name is of no known
        family.
    family
        How names of the family look, for messages: ``"any eXmY or intN"``.
    """

    def __init__(self, kind: str, *, parse: Callable[[str], T | None] | None = None, family: str = "") -> None:
        self.kind = kind
        self._parse = parse
        self.family = family
        self._members: dict[str, T] = {}
        self._aliases: dict[str, str] = {}

    def register(self, name: str, member: T, *aliases: str) -> T:
        """Add `member` under `name` and its `aliases`; a name can be taken only once."""
        for each in (name, *aliases):
            if each in self._members or each in self._aliases:
                raise ValueError(f"{self.kind} name {each!r} is registered already")
        self._members[name] = member
        self._aliases.update(dict.fromkeys(aliases, name))
        return member

    def get(self, name: str) -> T:
        """Look `name` up; raise `UnknownNameError` with the nearest names when it is unknown."""
        if not isinstance(name, str):
            raise TypeError(f"{self.kind} name must be a string, not {name!r}")
        key = name.strip().lower()
        key = self._aliases.get(key, key)
        if key in self._members:
            return self._members[key]
        made = self._parse(key) if self._parse else None
        if made is None:
            hint = f" (or {self.family})" if self.family else ""
            raise unknown_name(self.kind, name, [*self._members, *self._aliases], hint)
        return made

    def names(self) -> list[str]:
        """All registered names, in order of registration, without aliases."""
        return list(self._members)

    def aliases(self, name: str) -> list[str]:
        """The further names under which `name` can be looked up."""
        return [alias for alias, target in self._aliases.items() if target == name]

    def members(self) -> list[T]:
        """All registered objects, in order of registration."""
        return list(self._members.values())
