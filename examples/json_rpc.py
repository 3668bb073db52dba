#!/usr/bin/env python3
"""A JSON-RPC 2.0 service that is reached by its key, and its client.

    python examples/json_rpc.py serve relay.relay service.ident
    python examples/json_rpc.py call relay.relay me.ident KEY_OF_THE_SERVICE add 1 2

Each message of the tunnel is one request or response. A caller that sends nonsense gets an error, and one
that breaks the protocol or crashes loses its own tunnel. The service listens again by itself after the relay
was away.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any, Callable

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from offset_common.client import (
    OffsetError,
    RelayTicket,
    Tunnel,
    connect,
    decode_key,
    encode_key,
    load_identity,
    serve,
)

IDLE = 600.0  # seconds after which a caller that sends nothing is disconnected


def add(*numbers: float) -> float:
    """Return the sum."""
    return sum(numbers)


def upper(text: str) -> str:
    """Return a text in capital letters."""
    return text.upper()


METHODS: dict[str, Callable[..., Any]] = {"add": add, "upper": upper}


def respond(message: bytes) -> dict[str, Any]:
    """Return the response to a request."""
    number = None
    try:
        request = json.loads(message)
        number = request.get("id")
        method = METHODS[request["method"]]
    except (ValueError, RecursionError):
        return failure(None, -32700, "parse error")
    except KeyError:
        return failure(number, -32601, "method not found")
    except (AttributeError, TypeError):
        return failure(None, -32600, "invalid request")
    try:
        return {"jsonrpc": "2.0", "id": number, "result": method(*request.get("params", []))}
    except Exception as error:  # whatever the parameters are, only this call fails
        return failure(number, -32602, f"invalid params: {error}")


def failure(number: object, code: int, text: str) -> dict[str, Any]:
    """Return an error response."""
    return {"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": text}}


def answer(tunnel: Tunnel) -> None:
    """Answer the requests of one caller, until it closes the tunnel; called in a thread for each."""
    while True:
        tunnel.send(json.dumps(respond(tunnel.receive(IDLE))).encode())


def call(tunnel: Tunnel, method: str, *params: object) -> Any:
    """Call a method of the service; raise RuntimeError if it fails there."""
    tunnel.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode())
    response = json.loads(tunnel.receive(timeout=10))
    if "error" in response:
        raise RuntimeError(response["error"]["message"])
    return response["result"]


def value_of(word: str) -> object:
    """Return the JSON value that a word is, or the word itself."""
    try:
        return json.loads(word)
    except ValueError:
        return word


def main(words: list[str]) -> None:
    """Run the service, or call it."""
    role, ticket, identity = words[0], RelayTicket.load(words[1]), load_identity(words[2])
    if role == "serve":
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        print(encode_key(identity.public_key), flush=True)
        serve(ticket, identity, answer, allow=None)  # or a set of keys
    with connect(ticket, identity, decode_key(words[3], 32), end_to_end=True) as tunnel:
        print(json.dumps(call(tunnel, words[4], *map(value_of, words[5:]))))


if __name__ == "__main__":
    serves, calls = sys.argv[1:2] == ["serve"], sys.argv[1:2] == ["call"]
    if not (serves and len(sys.argv) == 4) and not (calls and len(sys.argv) > 5):
        sys.exit("usage: json_rpc.py serve TICKET IDENTITY | call TICKET IDENTITY KEY METHOD [PARAM]...")
    try:
        main(sys.argv[1:])
    except (OffsetError, TimeoutError, RuntimeError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
