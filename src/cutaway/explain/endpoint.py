"""A language model behind any OpenAI-compatible endpoint: asked within a budget, and every answer is kept."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)   # statuses after which the same request may succeed
LONGEST = 60.0                                     # seconds that are waited between two tries, at most
LARGEST = 1 << 24                                  # bytes of one reply that are read
OTHERWISE = {"max_tokens": "max_completion_tokens", "temperature": ""}   # what a model is told that refuses a parameter
LOCAL = ("127.0.0.1", "localhost", "::1")          # reached without a proxy


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is a refusal, because the key was meant for nobody else."""

    def redirect_request(self, *arguments: object) -> None:
        return None


class Spent(ValueError):
    """The budget does not allow another request."""


class Endpoint:
    """A chat model at `<url>/chat/completions`: llama.cpp, vLLM, Ollama, or a hosted service.

    url: such as http://127.0.0.1:8080/v1; without a path, /v1 is meant. model: its name there. key_from: the environment
        variable that holds the key, where one is needed; without it none is sent. keep: a JSON-lines file in which every
        prompt and raw answer is kept, and from which a request that was made before is answered again without being sent.
    requests, tokens: the budget, of requests sent (tries count) and of tokens as the endpoint counts them.
    retries: how often a request that failed for the moment is sent again, after `wait` seconds, then twice that.
    timeout: seconds for one request. longest: tokens of one answer, the reasoning before it included.
    """

    def __init__(self, url: str, model: str, key_from: str = "", keep: str | Path | None = None, requests: int = 1000,
                 tokens: int = 1_000_000, retries: int = 4, wait: float = 1.0, timeout: float = 120.0, longest: int = 400):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"an endpoint's address looks like http://127.0.0.1:8080/v1; found {url!r}.")
        if parts.username or parts.password or parts.query:
            raise ValueError("an endpoint's address is kept with its answers, so it has no user, password or ?query in it; put "
                             "the key into an environment variable, and give that variable's name.")
        if key_from and not re.fullmatch(r"[!-~]+", os.environ.get(key_from, "").strip()):
            raise ValueError(f"the key is to be read from the environment variable {key_from}, which "
                             + ("holds something that no key has." if os.environ.get(key_from) else "is not set."))
        path = parts.path.rstrip("/").removesuffix("/chat/completions").rstrip("/") or "/v1"
        self.url = f"{parts.scheme}://{parts.netloc}{path}/chat/completions"
        self.model, self.key_from = model, key_from
        self.keep = Path(keep) if keep is not None else None
        self.requests, self.tokens = requests, tokens
        self.retries, self.wait, self.timeout, self.longest = retries, wait, timeout, longest
        self.sent = self.used = self.asked = self.unread = 0
        self._refused: set[str] = set()
        here = [urllib.request.ProxyHandler({})] if parts.hostname in LOCAL else []
        self._opener = urllib.request.build_opener(NoRedirect, *here)
        self._kept = _read(self.keep) if self.keep is not None else {}

    def ask(self, system: str, user: str) -> str:
        """The model's answer to one prompt, at temperature 0; empty where it gave none, such as one that a filter held back.

        Raises Spent when the budget does not allow the request, and ValueError when the endpoint refuses it or cannot be
        reached.
        """
        request = {"model": self.model, "temperature": 0, "max_tokens": self.longest,
                   "messages": [{"role": "system", "content": system}, {"role": "user", "content": user}]}
        key = hashlib.sha256(json.dumps([self.url, request], sort_keys=True).encode()).hexdigest()[:24]
        self.asked += 1
        if key not in self._kept:
            start = time.time()
            reply = self._answer(request)
            self._kept[key] = _text(reply)
            self._note({"key": key, "url": self.url, "request": request, "answer": self._kept[key],
                        "choice": reply["choices"][0], "usage": reply.get("usage"), "seconds": round(time.time() - start, 3)})
        return self._kept[key]

    def unreadable(self, answer: str, wanted: str) -> None:
        """Count and keep an answer that is not what was asked for."""
        self.unread += 1
        self._note({"unreadable": answer, "wanted": wanted})

    def json(self) -> dict[str, Any]:
        """What was asked, sent and used so far; never the key."""
        return {"url": self.url, "model": self.model, "asked": self.asked, "sent": self.sent, "tokens": self.used,
                "unreadable": self.unread}

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to one request, after as many tries as it takes."""
        problem, pause = "", self.wait
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(min(pause, LONGEST))
                pause *= 2
            if self.sent >= self.requests or self.used >= self.tokens:
                raise Spent(f"the budget of {self.requests:,} requests and {self.tokens:,} tokens is spent ({self.sent:,} and "
                            f"{self.used:,} used); what was answered is kept, so give more and run the same again.")
            self.sent += 1
            try:
                reply = self._post({OTHERWISE[name] if name in self._refused else name: x for name, x in request.items()
                                    if name not in self._refused or OTHERWISE[name]})
                self.used += _used(reply, _text(reply), request)
                return reply
            except urllib.error.HTTPError as error:
                said = self._without_key(error.read(2000).decode("utf-8", "replace").strip())
                problem = f"status {error.code}: {said[:300]}"
                unknown = {name for name in OTHERWISE if error.code == 400 and f"'{name}'" in said} - self._refused
                if unknown:
                    self._refused |= unknown
                    return self._answer(request)
                if error.code not in AGAIN:
                    raise ValueError(f"{self.url} refused the request with {problem}") from error
                pause = max(pause, _seconds(error.headers.get("Retry-After")))
            except (OSError, http.client.HTTPException) as error:
                problem = self._without_key(str(error) or type(error).__name__)
            except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
                problem = self._without_key(f"an answer that is no chat completion ({error})")
        raise ValueError(f"{self.url} gave no answer in {self.retries + 1} tries, the last one with {problem}")

    def _post(self, request: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        if self.key_from:
            headers["Authorization"] = f"Bearer {self._key}"
        made = urllib.request.Request(self.url, json.dumps(request).encode(), headers, method="POST")
        with self._opener.open(made, timeout=self.timeout) as reply:
            return json.loads(reply.read(LARGEST))

    @property
    def _key(self) -> str:
        return os.environ.get(self.key_from, "").strip() if self.key_from else ""

    def _without_key(self, said: str) -> str:
        """What an endpoint said, in one line, without the key, which some repeat when they refuse it."""
        said = " ".join(said.split())
        return said.replace(self._key, "***") if self._key else said

    def _note(self, entry: dict[str, Any]) -> None:
        """Add a line to the kept answers; it is on the disk before the next request is made."""
        if self.keep is None:
            return
        self.keep.parent.mkdir(parents=True, exist_ok=True)
        with open(self.keep, "a", encoding="utf-8") as file:
            file.write(json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **entry}) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _text(reply: Mapping[str, Any]) -> str:
    """The words of a reply; none where the answer was filtered, or the model ran out of tokens while it reasoned."""
    if not reply.get("choices"):
        raise ValueError(json.dumps(reply)[:200])
    content = reply["choices"][0]["message"].get("content")
    if content is not None and not isinstance(content, str):
        raise TypeError(f"its content is {type(content).__name__}")
    return content or ""


def _used(reply: Mapping[str, Any], text: str, request: Mapping[str, Any]) -> int:
    """The tokens of a request and its reply, as the endpoint counts them; by their length where it does not."""
    total = (reply.get("usage") or {}).get("total_tokens")
    return total if isinstance(total, int) else (len(json.dumps(request)) + len(text)) // 4


def _read(path: Path) -> dict[str, str]:
    """Answers by request; a line that was cut off by a crash is ended, and asked again."""
    found: dict[str, str] = {}
    if not path.exists():
        return found
    text = path.read_text(encoding="utf-8")
    if text and not text.endswith("\n"):
        with open(path, "a", encoding="utf-8") as file:
            file.write("\n")
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and "key" in entry:
            found[entry["key"]] = entry["answer"]
    return found


def _seconds(text: str | None) -> float:
    try:
        return float(text or 0)
    except ValueError:
        return 0.0
