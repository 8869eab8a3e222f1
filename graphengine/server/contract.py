"""`Contract`: what clients of one sort speak over HTTP: its routes, and how it answers errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiohttp import web

from graphengine.server.problems import ApiError


@dataclass(frozen=True, slots=True)
class Route:
    """A route.

    Attributes:
        method, path, handler: As aiohttp takes them.
        summary: What it does.
        answers: The schema of the body by status; `''` for none, `bytes` for a file.
        body: The schema of the request's body, if it has one.
        query: The types of the parameters of the query, by name, or their schemas.
    """

    method: str
    path: str
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    summary: str
    answers: Mapping[str, str]
    body: str | None = None
    query: Mapping[str, str | Mapping[str, Any]] = field(default_factory=dict)


class Contract(Protocol):
    """The routes of one sort of clients. Each contract is a module that renders `JobApi` and `AsyncHub` in its form."""

    @property
    def prefixes(self) -> Sequence[str]:
        """The beginnings of the paths that it answers for: an error at a path is shown by the contract with the longest
        prefix of it."""

    @property
    def without_token(self) -> Sequence[str]:
        """Paths that need no token."""

    def routes(self) -> list[Route]:
        """All its routes."""

    def problem(self, error: ApiError, request: web.Request) -> web.Response:
        """An error as an answer in the contract's form."""


def contract_of(contracts: Sequence[Contract], path: str) -> Contract:
    """The contract that answers for a path; the first one for paths of none."""
    matches = [
        (len(prefix), contract) for contract in contracts for prefix in contract.prefixes if path.startswith(prefix)
    ]
    return max(matches, key=lambda match: match[0])[1] if matches else contracts[0]
