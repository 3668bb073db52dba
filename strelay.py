#!/usr/bin/env python3
"""Run an Offset relay: a public server through which nodes behind NATs meet.

Usage:
  strelay.py --idfile FILE (--laddr ADDRESS)... [--proxy-protocol NETWORK]... [options]
  strelay.py --config FILE [--idfile FILE] [--laddr ADDRESS]... [--proxy-protocol NETWORK]... [options]
  strelay.py --idfile FILE [--proxy-protocol NETWORK]... [options]
  strelay.py -h | --help
  strelay.py -V | --version

Example:
  strelay.py --idfile relay/relay.ident --laddr 0.0.0.0:4567

  -i FILE, --idfile FILE       The relay's identity, made by `stmgr.py gen-ident`.
  -l ADDRESS, --laddr ADDRESS  The address to listen on, as IP:PORT: 0.0.0.0:4567 is every IPv4 address of
                               this host, [::]:4567 every IPv6 and IPv4 address; port 0 is any free port.
                               It may be given several times, with a different address each time. Without
                               it, systemd must pass the sockets to listen on; if it does, they count.
  --config FILE                Options in TOML, such as `rate = "10M"`; the command line goes before them.
  -h, --help                   Show this page.
  -V, --version                Show the version.

The relay logs to standard error: a line when it is ready, one for each tunnel that opened and each
connection that ended, and on SIGUSR1 one with its present state. SIGTERM or Ctrl-C stops it in order, a
second one at once. SIGHUP reads its files again. SIGUSR2 upgrades it in place: a fresh process with the same
command line takes over, and this one ends with its tunnels.

  --status [IP:]PORT           Serve a live page, /status.json, /metrics and /healthz over HTTP there, at the
                               loopback address if there is only a port. Without it, nothing is served.
  --log-format FORMAT          Format of the log: text, or json for one JSON object a line [default: text].
  --drain SECONDS              Time that tunnels have to end after SIGTERM [default: 5].
  --upgrade-drain SECONDS      The same after SIGUSR2; without it, --drain counts.

More than one core:
  --workers N                  Processes that forward for tunnels; auto is one per core [default: 1].

Limits for all connections; the log says why a connection was refused or closed:
  --connections N              Connections in all; auto, and the most possible, is 80 % of the open files
                               that the system allows [default: auto].
  --unproven N                 Connections that have not finished the handshake [default: 4096].
  --accepts N                  New connections per second [default: 5000].
  --handshake-threads N        Handshakes computed at the same time [default: 4].
  --buffers MIB                Memory for slow readers and large messages, in MiB [default: 12].
  --socket-buffer KIB          Memory for each of the four kernel buffers of a tunnel, in KiB; 0 lets the
                               system decide. It bounds the speed of a distant peer [default: 512].
  --stall SECONDS              Time that a peer may leave its data unread [default: 120].

Limits for one address (a thousand nodes may share one):
  --per-address N              Connections; auto is 6000, but at most three quarters of --connections
                               [default: auto].
  --ipv6-prefix BITS           Length of the IPv6 prefix that counts as one address [default: 64].

Limits for one key:
  --per-key N                  Connections; auto is 2500, but at most half of --per-address [default: auto].
  --waiting N                  Pending connects from one key [default: 256].
  --waiting-for N              Pending connects for one listener [default: 4096].
  --tunnels N                  Tunnels [default: 2048].

Behind a load balancer (docs/operations.md):
  --proxy-protocol NETWORK     Connections from NETWORK, as ADDRESS/PREFIX, begin with a PROXY header (version
                               1 or 2); limits and logs use the address in it. May be given several times.

What some may do and others not (docs/operations.md); SIGHUP reads the file again:
  --access FILE                Who may listen and connect, and who is denied. `stmgr.py access-check`
                               checks such a file.

How fast and how much; suffixes k, M, G and T stand for 1000, 1000 k and so on:
  --rate BYTES                 Bytes a second through all tunnels together.
  --rate-per-key BYTES         Bytes a second through the tunnels of each key.
  --quota BYTES                Bytes a calendar month (UTC) through all tunnels together.
  --quota-per-key BYTES        Bytes a calendar month that each key sends and receives through tunnels.
  --usage FILE                 Where the bytes of each month and key are kept; `stmgr.py relay-usage`
                               lists them.
"""

# This file must parse on old Pythons; offset_common/requirements.py says why.

import sys

from offset_common import requirements
from offset_common.relay.signals import Signals


def main(argv=None):
    # type: (list[str] | None) -> int
    """Run the relay until a signal stops it; return the exit status."""
    signals = Signals()
    signals.install()
    # Only now: what these import takes a while.
    requirements.check("strelay")
    from offset_common.commands.run_relay import run_strelay

    return run_strelay(__doc__ or "", argv, signals)


if __name__ == "__main__":
    sys.exit(main())
