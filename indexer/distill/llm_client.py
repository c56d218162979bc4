"""Ask a chat endpoint of the OpenAI form: answers are kept on disk, failures tried again, expenses limited."""

import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from email.message import Message
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from indexer.distill_config import LlmConfig
from indexer.errors import ConfigError, StoreError
from indexer.redaction import hide_value, redact

MAX_ANSWER_BYTES = 1 << 20
MAX_WAIT_SECONDS = 60.0
CHARACTERS_PER_TOKEN = 4
"""For endpoints that do not say how many tokens they used."""

Parsed = TypeVar("Parsed")


class NoAnswerError(Exception):
    """One question has no usable answer, for a reason that is counted; others may have one."""

    def __init__(self, reason: str, sample: str = "") -> None:
        super().__init__(reason)
        self.reason, self.sample = reason, sample


class ChatClient:
    """Asks one model; may be shared by threads.

    An answer that could be read is kept in `cache` under the hash of address, model, temperature, generation and
    prompt, and never paid for again.
    """

    def __init__(
        self, config: LlmConfig, *, key: str | None, cache: Path, sleep: Callable[[float], object] | None = None
    ) -> None:
        if not config.url.startswith(("http://", "https://")) or not config.model:
            raise ConfigError(
                f"[llm] url {config.url!r}, model {config.model!r}: expected the http(s):// base address of an "
                "OpenAI-compatible endpoint, such as http://localhost:8000/v1, and the name of a model"
            )
        if not config.url.isascii() or not config.url.isprintable() or " " in config.url:
            raise ConfigError(f"[llm] url {config.url!r}: expected ASCII without spaces; quote other characters by %XX")
        self.config = config
        self.counts = {"requests": 0, "retries": 0, "tokens": 0, "from_cache": 0}
        self._cache = cache
        self._lock = threading.Lock()
        self._opener = build_opener(_NoRedirect())
        self._ended = threading.Event()
        self._sleep = sleep or self._ended.wait
        # A file of a secret often ends its line.
        key = (key or "").strip()
        if key:
            # Its variable may have any name, and an endpoint may quote the key in its answer.
            hide_value(key)
        if not (key.isascii() and key.isprintable()):
            raise ConfigError(f"environment variable {config.key_variable}: expected a key in printable ASCII")
        self._headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}

    def end(self) -> None:
        """Have threads that wait for another try give up."""
        self._ended.set()

    def ask(self, prompt: str, *, generation: int, parse: Callable[[str], Parsed]) -> Parsed:
        """Return the parsed answer; raises NoAnswerError where there is none, and StoreError where none came.

        `parse` raises ValueError on an answer of another form.
        """
        file = self._find_file(prompt, generation)
        kept = _read_text(file)
        if kept is not None:
            with suppress(ValueError):
                parsed = parse(kept)
                self._count("from_cache", 1)
                return parsed
        answer = self._request(prompt, generation)
        try:
            parsed = parse(answer)
        except ValueError:
            raise NoAnswerError("answer_malformed", redact(answer)) from None
        _write_text(file, redact(answer))
        return parsed

    def _request(self, prompt: str, generation: int) -> str:
        config = self.config
        document: dict[str, Any] = {
            "model": config.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": config.temperature,
            "seed": generation,
        }
        if config.answer_tokens:
            document["max_tokens"] = config.answer_tokens
        request = Request(
            f"{config.url.rstrip('/')}/chat/completions", json.dumps(document).encode(), self._headers, method="POST"
        )
        reason = ""
        for attempt in range(config.retries + 1):
            if self._ended.is_set():
                raise NoAnswerError("stopped")
            if attempt:
                self._count("retries", 1)
            self._pay_request()
            try:
                with self._opener.open(request, timeout=config.timeout_seconds) as response:
                    body = response.read(MAX_ANSWER_BYTES)
                    if response.length and len(body) < MAX_ANSWER_BYTES:
                        raise ConnectionError(f"the answer ends {response.length} bytes early")
                return self._read_body(body, prompt)
            except HTTPError as error:
                reason, wait = f"HTTP {error.code}", _find_wait(error.headers)
                if error.code in (400, 413, 422):
                    raise NoAnswerError("request_refused", _read_error(error)) from None
                if error.code not in (408, 429) and error.code < 500:
                    raise ConfigError(
                        f"{config.url}: {reason} {_read_error(error)}; check llm.url, llm.model "
                        f"and the key in the environment variable {config.key_variable}"
                    ) from None
            # Of TLS, too, which are no ConnectionError.
            except (OSError, HTTPException) as error:
                reason, wait = str(error) or type(error).__name__, None
            if attempt < config.retries:
                self._sleep(min(MAX_WAIT_SECONDS, config.backoff_seconds * 2**attempt if wait is None else wait))
        raise StoreError(
            f"{config.url}: no answer after {config.retries + 1} requests, the last: {reason}; run the same command "
            "again, answers that came are kept"
        )

    def _read_body(self, body: bytes, prompt: str) -> str:
        try:
            document = json.loads(body)
            content = document["choices"][0]["message"]["content"]
            # Half of a character, which JSON can spell, could not be kept.
            str(content).encode()
        except (ValueError, LookupError, TypeError, RecursionError):
            raise NoAnswerError("answer_malformed", _shorten(body)) from None
        if not isinstance(content, str):
            raise NoAnswerError("answer_malformed", _shorten(body))
        usage = document.get("usage")
        used = usage.get("total_tokens") if isinstance(usage, Mapping) else None
        estimate = (len(prompt) + len(content)) // CHARACTERS_PER_TOKEN
        self._count("tokens", used if isinstance(used, int) else estimate)
        return content

    def _pay_request(self) -> None:
        """Count a request; raises NoAnswerError where the budget has none left."""
        with self._lock:
            if (
                self.counts["requests"] >= self.config.max_requests
                or self.counts["tokens"] >= self.config.max_total_tokens
            ):
                raise NoAnswerError("budget_reached")
            self.counts["requests"] += 1

    def _count(self, name: str, number: int) -> None:
        with self._lock:
            self.counts[name] += number

    def _find_file(self, prompt: str, generation: int) -> Path:
        config = self.config
        question = [config.url, config.model, config.temperature, generation, prompt]
        digest = hashlib.sha256(json.dumps(question).encode()).hexdigest()
        return self._cache / digest[:2] / f"{digest}.txt"


class _NoRedirect(HTTPRedirectHandler):
    """A redirection would carry the key to another host."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        return None


def _find_wait(headers: Message | None) -> float | None:
    """Return the seconds that the endpoint asks to wait, if it names a number."""
    text = (headers.get("Retry-After") if headers else None) or ""
    return float(text) if text.strip().isdecimal() else None


def _read_error(error: HTTPError) -> str:
    """Return what an endpoint says of its refusal, as far as it comes."""
    try:
        return _shorten(error.read(MAX_ANSWER_BYTES))
    except (OSError, HTTPException):
        return ""


def _shorten(body: bytes) -> str:
    return redact(" ".join(body.decode("utf-8", "replace").split()))[:200]


def _read_text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"answer {file}: cannot be read: {error.strerror}; correct shop.work") from None


def _write_text(file: Path, text: str) -> None:
    """Write a file whole or not at all, whatever other threads and processes write beside it."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=file.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as target:
            target.write(text)
        os.replace(draft, file)
    except OSError as error:
        raise StoreError(f"answer {file}: cannot be written: {error.strerror}; correct shop.work") from None
