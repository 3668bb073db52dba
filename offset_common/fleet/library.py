"""The client library of the directory: valkey-py, or redis-py, which has the same interface."""

from __future__ import annotations

import importlib
from typing import Any, Optional

from offset_common.address import Address
from offset_common.errors import UsageError
from offset_common.fleet.entries import Answer
from offset_common.fleet.location import Kind, Location

TIMEOUT = 2.0  # seconds for a connection, and for each answer

_FAILURES = frozenset(
    {
        *("ReadOnlyError", "BusyLoadingError", "ClusterDownError", "MasterDownError"),
        *("AuthenticationError", "AuthenticationWrongNumberOfArgsError"),
    }
)
"""Errors in an answer after which it is better to reconnect, perhaps to another server."""

# Libraries have classes for these, or keep the server's error code in the text of another class.
_MOVED = frozenset({"MovedError", "MOVED"})
_ASK = frozenset({"AskError", "ASK"})
_FAILED_SERVERS = frozenset({"CLUSTERDOWN", "MASTERDOWN"})


class Library:
    """Connects to the directory with whichever library is installed.

    Raises:
        UsageError: no library is installed.
    """

    def __init__(self) -> None:
        self._module, self._prefix = _import_library()

    def connect(self, location: Location, any_key: str) -> Any:
        """Return a client of the server that has `any_key` and all other keys of the fleet.

        Raises:
            Exception: it cannot be reached; these libraries raise many kinds.
        """
        options = self._options(location)
        if location.path:
            return self._part("", "")(unix_socket_path=location.path, db=location.database, **options)
        if location.kind is Kind.SENTINEL:
            return self._connect_to_sentinel(location, options)
        if location.kind is Kind.CLUSTER:
            return self._connect_to_cluster(location, options, any_key)
        host, port = location.servers[0]
        return self._part("", "")(host=host, port=port, db=location.database, **options)

    def connect_at(self, location: Location, address: Address) -> Any:
        """Return a client of the server at `address`, one of those of the location."""
        return self._part("", "")(host=address.host, port=address.port, **self._options(location))

    @staticmethod
    def is_failure(answer: Answer) -> bool:
        """Return whether this answer means that the server is temporarily unusable."""
        return not _kinds(answer).isdisjoint(_FAILURES | _FAILED_SERVERS | _MOVED | _ASK)

    @staticmethod
    def moved_to(answer: Answer, client: Any) -> Optional[Address]:
        """Return the server of a cluster that now has the keys of a command, or None.

        Args:
            answer: the answer to the command.
            client: the client of the server that answered.
        """
        return None if _kinds(answer).isdisjoint(_MOVED) else _read_server(answer, client)

    @staticmethod
    def asks(answer: Answer, client: Any) -> Optional[Address]:
        """Return the server of a cluster to ask about keys that are moving there, or None."""
        return None if _kinds(answer).isdisjoint(_ASK) else _read_server(answer, client)

    def _options(self, location: Location) -> dict[str, Any]:
        retry = importlib.import_module(f"{self._module.__name__}.retry").Retry
        backoff = importlib.import_module(f"{self._module.__name__}.backoff").NoBackoff
        options: dict[str, Any] = {
            "username": location.username,
            "password": location.password,
            "socket_timeout": TIMEOUT,
            "socket_connect_timeout": TIMEOUT,
            "retry": retry(backoff(), 0),  # directory.py repeats what is safe to repeat
        }
        if location.tls:
            options.update(
                ssl=True,
                ssl_cert_reqs="required",
                ssl_check_hostname=True,
                ssl_ca_certs=location.options.get("ca"),
                ssl_certfile=location.options.get("cert"),
                ssl_keyfile=location.options.get("key"),
            )
        return options

    def _connect_to_sentinel(self, location: Location, options: dict[str, Any]) -> Any:
        login = {
            "username": location.options.get("sentinel-username"),
            "password": location.options.get("sentinel-password"),
        }
        sentinel = importlib.import_module(f"{self._module.__name__}.sentinel").Sentinel(
            [(host, port) for host, port in location.servers], sentinel_kwargs={**options, **login}
        )
        return sentinel.master_for(location.service, db=location.database, **options)

    def _connect_to_cluster(self, location: Location, options: dict[str, Any], any_key: str) -> Any:
        node = importlib.import_module(f"{self._module.__name__}.cluster").ClusterNode
        cluster = self._part("cluster", "Cluster")(
            startup_nodes=[node(host, port) for host, port in location.servers], **options
        )
        found = cluster.get_node_from_key(any_key)
        address = Address(found.host, found.port)
        cluster.close()
        return self.connect_at(location, address)

    def _part(self, module: str, name: str) -> Any:
        """Return a class whose name begins with the name of the product, such as ValkeyCluster."""
        where = importlib.import_module(f"{self._module.__name__}.{module}") if module else self._module
        return getattr(where, self._prefix + name)


def _kinds(answer: Answer) -> frozenset[str]:
    """Return the class of an error and the first word of its text; nothing for other answers."""
    if not isinstance(answer, Exception):
        return frozenset()
    return frozenset({type(answer).__name__, str(answer).partition(" ")[0]})


def _read_server(answer: Answer, client: Any) -> Optional[Address]:
    """Return the address at the end of an error, as in `MOVED 3999 127.0.0.1:6381`, or None for `?:6381`.

    "An empty endpoint indicates that the server node has an unknown endpoint, and the client should send the
    next request to the same endpoint as the current request but with the provided port."

    Source: "MOVED Redirection" in the cluster specification of Valkey and Redis.
    """
    host, _, port = str(answer).rpartition(" ")[2].rpartition(":")
    host = host or client.connection_pool.connection_kwargs.get("host", "?")
    return None if host == "?" else Address(host, int(port))


def _import_library() -> tuple[Any, str]:
    for name, prefix in (("valkey", "Valkey"), ("redis", "Redis")):
        try:
            importlib.import_module(f"{name}.cluster")  # redis-py before 4.1 lacks this and other parts
            return importlib.import_module(name), prefix
        except ImportError:
            continue
    raise UsageError(
        "--fleet needs the package valkey, or redis 4.1 or later; install one with"
        " .venv/bin/pip install valkey, or with apt-get install python3-redis"
    )
