#!/usr/bin/env python3
"""A JSON-RPC 2.0 service that is reached by its key, and its client.

Usage:
  json_rpc.py serve <ticket> <identity>
  json_rpc.py call <ticket> <identity> <key-of-the-service> <method> [<parameter>...]

Each message of the tunnel is one request or response. An invalid request is answered with an error. A caller
that crashes or breaks the protocol loses only its own tunnel. The service listens again on its own when the
relay is back.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
from pathlib import Path
from typing import Any, Callable

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the program without a traceback
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from offset_common import __version__
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
from offset_common.command_line import parse, run

MAX_SIZE = 1024 * 1024  # bytes of a message
IDLE = 600.0  # seconds after which a caller that sends nothing is disconnected


def add(*numbers: float) -> float:
    """Return the sum."""
    if not all(isinstance(number, (int, float)) for number in numbers):
        raise TypeError("every parameter must be a number")
    return sum(numbers)


def upper(text: str) -> str:
    """Return text in capital letters."""
    if not isinstance(text, str):
        raise TypeError("the parameter must be a string")
    return text.upper()


METHODS: dict[str, Callable[..., Any]] = {"add": add, "upper": upper}


def respond(message: bytes) -> bytes:
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
        return encode({"jsonrpc": "2.0", "id": number, "result": method(*request.get("params", []))})
    except (TypeError, ValueError) as error:
        return failure(number, -32602, f"invalid params: {error}")
    except Exception:  # only this call fails
        logging.exception("the method %s failed", request["method"])
        return failure(number, -32603, "internal error")


def failure(number: object, code: int, text: str) -> bytes:
    """Return an error response."""
    return encode({"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": text}})


def encode(response: dict[str, Any]) -> bytes:
    """Return a response as a message; raise ValueError if it is too large for one."""
    message = json.dumps(response).encode()
    if len(message) > MAX_SIZE:
        raise ValueError("the result is too large")
    return message


def answer(tunnel: Tunnel) -> None:
    """Answer one caller's requests until it closes the tunnel; called in a thread for each caller."""
    while True:
        tunnel.send(respond(tunnel.receive(IDLE)))


class CallError(Exception):
    """The service answered a call with an error; this is its message and code."""


def call(tunnel: Tunnel, method: str, *params: object) -> Any:
    """Call a method of the service; raise CallError if it fails there."""
    tunnel.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode())
    response = json.loads(tunnel.receive(timeout=10))
    if "error" in response:
        raise CallError("{message} (error {code})".format_map(response["error"]))
    return response["result"]


def value_of(word: str) -> object:
    """Return the value of a word that is JSON, or the word itself."""
    try:
        return json.loads(word)
    except ValueError:
        return word


def main() -> None:
    """Run the service, or call it."""
    words = parse(__doc__ or "", sys.argv[1:], __version__, options_first=True)
    ticket, identity = RelayTicket.load(words["<ticket>"]), load_identity(words["<identity>"])
    if words["serve"]:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        print(encode_key(identity.public_key), flush=True)
        serve(ticket, identity, answer, allow=None)  # or a set of keys
    key = decode_key(words["<key-of-the-service>"], 32, "the key of the service")
    try:
        with connect(ticket, identity, key, end_to_end=True) as tunnel:
            print(json.dumps(call(tunnel, words["<method>"], *map(value_of, words["<parameter>"]))))
    except (OffsetError, CallError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    sys.exit(run("json_rpc", main))
