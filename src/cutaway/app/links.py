"""Where pages lead: addresses of the server, or relative paths in a static site."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol
from urllib.parse import quote, urlencode

# page -> its address on the server and its file in a static site (none where it needs the server)
PAGES: dict[str, tuple[str, str | None]] = {
    "overview": ("/", "index.html"),
    "features": ("/d/{}/", "d/{}/features.html"),
    "feature": ("/d/{}/f/{}", "d/{}/f/{}.html"),
    "map": ("/d/{}/map", "d/{}/map.html"),
    "search": ("/d/{}/search", None),
    "row": ("/d/{}/row/{}", None),
    "random": ("/d/{}/random", None),
    "compare": ("/compare", "compare.html"),
    "evaluations": ("/evaluations", "evaluations.html"),
    "units": ("/units", "units.html"),
    "catalogue": ("/catalogue", "catalogue.html"),
    "data": ("/api/v1/d/{}/f/{}", "d/{}/f/{}.json"),
    "asset": ("/assets/{}", "assets/{}"),
    "contexts": ("/d/{}/f/{}/contexts", None),
    "interval": ("/d/{}/f/{}/interval", None),
    "about": ("/d/{}/f/{}/about", None),
    "try": ("/d/{}/f/{}/try", None),
    "steer": ("/d/{}/f/{}/steer", None),
}


@lru_cache(maxsize=1024)      # the same few dictionaries, a hundred times on a page
def _quoted(part: str) -> str:
    return quote(part, safe="")


class Link(Protocol):
    """From a page's name and its parts to where it is; empty where it is not to be had."""

    @property
    def live(self) -> bool:
        """Whether there is a server to ask."""

    def __call__(self, page: str, /, *parts: Any, **query: Any) -> str: ...


@dataclass(frozen=True)
class Served:
    """Addresses of the server. version: of the assets, which browsers keep for ever."""

    version: str
    live: bool = True

    def __call__(self, page: str, /, *parts: Any, **query: Any) -> str:
        address = PAGES[page][0].format(*[part if type(part) is int else _quoted(str(part)) for part in parts])
        query = {"v": self.version} if page == "asset" else {name: value for name, value in query.items() if value != ""}
        return f"{address}?{urlencode(query)}" if query else address


@dataclass(frozen=True)
class Written:
    """Paths in a static site, from a page that lies `depth` folders deep. features: by dictionary, those that are in it."""

    depth: int
    features: dict[str, Collection[int]]
    there: Callable[[str], bool]
    live: bool = False

    def __call__(self, page: str, /, *parts: Any, **query: Any) -> str:
        file = PAGES[page][1]
        if file is None or not self.there(page):
            return ""
        if page in ("feature", "data") and parts[1] not in self.features[parts[0]]:
            return ""
        return "../" * self.depth + file.format(*parts)
