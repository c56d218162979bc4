"""A search service of one file: answers over HTTP while newer releases arrive.

    python docs/examples/serving/server.py release --port 8080
    curl 'localhost:8080/search?q=baby+sipper&k=3'
    curl 'localhost:8080/search?q=baby+sipper&without=P00012&without=P00040'
    curl 'localhost:8080/source?q=hedphones&reformulations=5'
    curl 'localhost:8080/reformulate?q=couch'
    curl 'localhost:8080/release'

The standard library's server shows the calls; put the same calls behind the framework that your shop already has.
"""

import argparse
import json
import logging
import threading
from collections.abc import Callable
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from indexer.errors import ConfigError, IndexerError
from indexer.reader import Index, open_index

Options = dict[str, list[str]]


def answer_search(index: Index, options: Options) -> Any:
    """Answer with products; `without` may stand several times."""
    hits = index.search(options["q"][0], k=read_number(options, "k", 10), without=options.get("without"))
    return [asdict(hit) for hit in hits]


def answer_source(index: Index, options: Options) -> Any:
    """Answer with products of the query and of its reformulations."""
    count = read_number(options, "reformulations", 5)
    return [asdict(hit) for hit in index.source(options["q"][0], read_number(options, "k", 10), reformulations=count)]


def answer_reformulate(index: Index, options: Options) -> Any:
    """Answer with curated queries that mean the same."""
    return index.reformulate(options["q"][0], k=read_number(options, "k", 10))


def answer_release(index: Index, options: Options) -> Any:
    """Answer with what is served, for the eyes of an alarm: `age_seconds` grows while nothing new arrives."""
    return asdict(index.release)


ANSWERS: dict[str, Callable[[Index, Options], Any]] = {
    "/search": answer_search,
    "/source": answer_source,
    "/reformulate": answer_reformulate,
    "/release": answer_release,
}


def read_number(options: Options, name: str, default: int) -> int:
    """Return an option that is a number; raises ConfigError for another text."""
    text = options.get(name, [str(default)])[0]
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{name}: expected a number, found {text!r}") from None


def make_server(index: Index, port: int) -> ThreadingHTTPServer:
    """Return a server on loopback; port 0 takes any that is free."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            place = urlsplit(self.path)
            options = parse_qs(place.query)
            answer = ANSWERS.get(place.path)
            if answer is None:
                return self.send(404, {"error": f"expected one of {', '.join(ANSWERS)}"})
            if place.path != "/release" and "q" not in options:
                return self.send(400, {"error": "q: expected a query"})
            try:
                self.send(200, answer(index, options))
            except ConfigError as error:
                self.send(400, {"error": str(error)})

        def send(self, status: int, document: Any) -> None:
            body = json.dumps(document, ensure_ascii=False).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            logging.debug(format, *arguments)

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def follow_releases(index: Index, seconds: float, stop: threading.Event) -> None:
    """Look for a newer release again and again; an error is logged and the served release stays."""
    while not stop.wait(seconds):
        try:
            if index.refresh():
                logging.info("serving %s", index.release.run_id)
        except IndexerError as error:
            logging.error("kept %s: %s", index.release.run_id, error)
        except Exception:
            # Whatever it is, the next look may succeed: a thread that ends would leave the service stale for good.
            logging.exception("kept %s", index.release.run_id)


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", help="a folder or s3://bucket/prefix")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--every", type=float, default=60, metavar="SECONDS", help="between two looks for a release")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--mapped", action="store_true")
    parser.add_argument("--public-key", metavar="FILE", help="trust only what one of this PEM file's keys signed")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    index = open_index(options.release, threads=options.threads, mapped=options.mapped, public_key=options.public_key)
    server = make_server(index, options.port)
    stop = threading.Event()
    threading.Thread(target=follow_releases, args=[index, options.every, stop], daemon=True).start()
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        stop.set()


if __name__ == "__main__":
    main()
