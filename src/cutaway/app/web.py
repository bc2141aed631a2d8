"""The server's routes: each asks `pages` for data and `rendering` for HTML; only notes are ever written."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
from anyio import to_thread
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from ..store.layout import SCHEMA
from ..store.pages import written
from . import acting, pages
from .guard import LOOPBACK, Guard
from .links import Served
from .rendering import ASSETS, TYPES, render, version
from .shelves import Library, Shelf
from .worker import Busy, Worker

LARGEST = 64 * 1024      # bytes of a form
THREADS = 4              # that make pages; more of them only wait for each other, and make the slowest page slower


class Meanwhile(ValueError):
    """Somebody else changed what was to be changed."""


class TooLarge(ValueError):
    """A form that no page of the app sends."""


STATUS: dict[type[Exception], int] = {Meanwhile: 409, TooLarge: 413, IndexError: 404, LookupError: 404, ValueError: 400,
                                      Busy: 503, OSError: 500, ImportError: 500}


def application(library: Library, *, hosts: frozenset[str] = LOOPBACK, token: str = "", results: Path = Path("proofs/results"),
                worker: Worker | None = None) -> ASGIApp:
    """The app over a library, as ASGI. hosts, token: see `guard`; results: where `cutaway prove` keeps its results."""
    network, link = worker or Worker(), Served(version())

    def page(template: str, data: Mapping[str, Any], status: int = 200) -> HTMLResponse:
        # A browser must not take a part that was asked for by a script for the page of the same address, nor, on the way back,
        # an old page for one with the labels that were given since.
        headers = {"vary": "hx-request", "cache-control": "no-store"}
        return HTMLResponse(render(template, library, link, **data), status, headers)

    def shelf_of(request: Request) -> Shelf:
        slug = request.path_params["slug"]
        if slug not in library.shelves:
            raise LookupError(f"there is no dictionary {slug[:60]!r} here; there are {', '.join(library.shelves) or 'none'}.")
        return library.shelves[slug]

    def place(request: Request) -> tuple[Shelf, int]:
        shelf, latent = shelf_of(request), request.path_params["latent"]
        return shelf, shelf.store.known(latent)

    def partly(request: Request, whole: str, part: str) -> str:
        return part if "hx-request" in request.headers else whole

    # --- pages --------------------------------------------------------------------------------------------------------

    def features(request: Request) -> Response:
        data = pages.features(shelf_of(request), request.query_params)
        return page(partly(request, "features.html", "_table.html"), data)

    def feature(request: Request) -> Response:
        shelf, latent = place(request)
        data = pages.feature(shelf, latent, request.query_params)
        return page("feature.html", {**data, "open": network.has(shelf.model)})

    def contexts(request: Request) -> Response:
        return page("_more.html", pages.contexts(*place(request), request.query_params))

    def interval(request: Request) -> Response:
        data = pages.interval(*place(request), request.query_params)
        return page(partly(request, "interval.html", "_interval.html"), data)

    def anywhere(request: Request) -> Response:
        shelf = shelf_of(request)
        alive = np.flatnonzero(shelf.store.counts > 0)
        latent = int(np.random.default_rng().choice(alive)) if len(alive) else 0
        return RedirectResponse(link("feature", shelf.slug, latent), 303)

    def searched(request: Request) -> Response:
        return page("search.html", pages.search(shelf_of(request), request.query_params))

    def map_page(request: Request) -> Response:
        shelf = shelf_of(request)
        return page("map.html", {"shelf": shelf, "points": pages.points(shelf), "opens": lambda shelf: None})

    simple: dict[str, Callable[[Request], Response]] = {
        "/": lambda request: page("overview.html", pages.overview(library)),
        "/d/{slug}/": features,
        "/d/{slug}/f/{latent:int}": feature,
        "/d/{slug}/f/{latent:int}/contexts": contexts,
        "/d/{slug}/f/{latent:int}/interval": interval,
        "/d/{slug}/map": map_page,
        "/d/{slug}/search": searched,
        "/d/{slug}/random": anywhere,
        "/d/{slug}/row/{row:int}": lambda request: page("row.html", pages.row(shelf_of(request), request.path_params["row"])),
        "/compare": lambda request: page("compare.html", pages.compared(library, request.query_params)),
        "/evaluations": lambda request: page("evaluations.html", pages.evaluations(library)),
        "/units": lambda request: page("units.html", pages.units(library)),
        "/catalogue": lambda request: page(partly(request, "catalogue.html", "_methods.html"),
                                           pages.catalogue(request.query_params, results)),
        "/assets/{name}": _asset,
        "/api/v1/health": lambda request: JSONResponse({"status": "ok", "schema": SCHEMA,
                                                        "dictionaries": list(library.shelves)}),
        "/api/v1/d/{slug}": lambda request: JSONResponse(shelf_of(request).store.overview()),
        "/api/v1/d/{slug}/features": lambda request: JSONResponse(
            _rows(pages.features(shelf_of(request), request.query_params))),
        "/api/v1/d/{slug}/f/{latent:int}": lambda request: JSONResponse(_data(*place(request))),
        "/api/v1/d/{slug}/map": lambda request: JSONResponse(pages.points(shelf_of(request))),
    }

    # --- what is written, and what needs the network ------------------------------------------------------------------

    async def about(request: Request) -> Response:
        form = await _form(request)
        shelf, latent = await run_in_threadpool(place, request)
        quietly, status, refused = "hx-request" in request.headers, 200, dict[str, Any]()
        try:
            await run_in_threadpool(_write, shelf, latent, form)
        except tuple(STATUS) as error:
            if not quietly:
                raise
            status, refused = status_of(error), {"said": said_of(error)}
            if form.get("what") == "label":
                refused["typed"] = form.get("text", "")
        if not quietly:
            return RedirectResponse(link("feature", shelf.slug, latent), 303)
        found = await run_in_threadpool(written, shelf.store, latent)
        return page("_about.html", {"shelf": shelf, "latent": latent, "found": found, "what": form.get("what", ""), **refused},
                    status)

    async def with_network(request: Request, template: str, job: Callable[[Shelf, int, dict[str, str]], Any]) -> Response:
        form = await _form(request)
        shelf, latent = await run_in_threadpool(place, request)
        if not shelf.model:
            raise ValueError("this store does not say which network it was made from; start with --model to give it.")
        found = await network.do(shelf.model, job(shelf, latent, form))
        maximum = shelf.store.summary(latent)["max"] or 0.0
        return page(template, {"shelf": shelf, "latent": latent, "maximum": maximum, "found": found})

    def trying(shelf: Shelf, latent: int, form: dict[str, str]) -> Callable[..., Any]:
        return lambda net: acting.tried(shelf.store, net, latent, form.get("text", ""))

    def steering(shelf: Shelf, latent: int, form: dict[str, str]) -> Callable[..., Any]:
        strength, temperature = _number(form, "strength", 1.0), _number(form, "temperature", 0.0)
        new_tokens, seed = int(_number(form, "new_tokens", 40)), int(_number(form, "seed", 0))
        return lambda net: acting.steered(shelf.store, net, latent, form.get("prompt", ""), form.get("how", "add"), strength,
                                          new_tokens, temperature, seed)

    async def tried(request: Request) -> Response:
        return await with_network(request, "_tried.html", trying)

    async def steered(request: Request) -> Response:
        return await with_network(request, "_steered.html", steering)

    # ------------------------------------------------------------------------------------------------------------------

    def failed(request: Request, error: Exception) -> Response:
        status, said = status_of(error), said_of(error)
        if request.url.path.startswith("/api/"):
            return JSONResponse({"error": said}, status)
        return page(partly(request, "message.html", "_message.html"), {"status": status, "said": said}, status)

    def lost(request: Request, error: Exception) -> Response:
        return failed(request, LookupError("there is no such page here; the links above lead to all that there are."))

    @asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        to_thread.current_default_thread_limiter().total_tokens = THREADS
        yield
        network.close()
        library.close()

    routes = [Route(path, partial(_in_thread, answer)) for path, answer in simple.items()]
    routes += [Route(f"/d/{{slug}}/f/{{latent:int}}/{name}", answer, methods=["POST"])
               for name, answer in (("about", about), ("try", tried), ("steer", steered))]
    app = Starlette(routes=routes, lifespan=life, exception_handlers={404: lost, **dict.fromkeys(STATUS, failed)})
    return Guard(GZipMiddleware(app, minimum_size=1000, compresslevel=3), hosts, token)


def status_of(error: Exception) -> int:
    return next(n for kind, n in STATUS.items() if isinstance(error, kind))


def said_of(error: Exception) -> str:
    """An error as one sentence."""
    return str(error.args[0] if isinstance(error, LookupError) and error.args else error) or type(error).__name__


async def _in_thread(answer: Callable[[Request], Response], request: Request) -> Response:
    return await run_in_threadpool(answer, request)


def _asset(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in ASSETS:
        raise LookupError(f"there is no asset {name[:60]!r}.")
    return FileResponse(ASSETS[name], media_type=TYPES[ASSETS[name].suffix],
                        headers={"cache-control": "public, max-age=31536000, immutable"})


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form, read up to a bound."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > LARGEST:
            raise TooLarge(f"a form here holds at most {LARGEST // 1024} kB; this one is larger.")
    return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))


def _write(shelf: Shelf, latent: int, form: Mapping[str, str]) -> None:
    """One change to a feature's notes."""
    notes, author = shelf.store.notes, form.get("author", "").strip()[:80]
    what = form.get("what", "")
    text = form.get("text", "")
    if what == "label":
        kept = notes.label(latent)
        now = kept["text"] if kept else ""
        if "was" in form and now not in (form["was"], text.strip()):
            by = f" by {kept['author']}" if kept and kept["author"] else ""
            raise Meanwhile(f"in the meantime this label became {now!r}{by}; save again to replace it." if now else
                            "in the meantime this label was taken away; save again to give yours.")
        notes.set_label(latent, text.strip(), author)
    elif what == "note":
        notes.add_note(latent, text, author)
    elif what == "remove-note":
        notes.remove_note(int(_number(form, "id", -1)))
    elif what == "tag":
        notes.tag(latent, *[name for name in (part.strip() for part in text.split(",")) if name])
    elif what == "untag":
        notes.untag(latent, text)
    else:
        raise ValueError(f"a label, note or tag can be changed; found {what[:40]!r}.")


def _number(form: Mapping[str, str], name: str, default: float) -> float:
    text = form.get(name, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if value != value or abs(value) > 2**31:
        raise ValueError(f"{name} is a number; found {text[:40]!r}.")
    return value


def _rows(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: data[name] for name in ("total", "page", "pages", "sort", "rows")}


def _data(shelf: Shelf, latent: int) -> dict[str, Any]:
    return {"dictionary": shelf.slug, **shelf.store.page(latent)}


def as_text(data: Mapping[str, Any]) -> str:
    """A feature's data as a file of a static site."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))
