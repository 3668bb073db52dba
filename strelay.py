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

  -i FILE, --idfile FILE       The relay's identity, created by `stmgr.py gen-ident`.
  -l ADDRESS, --laddr ADDRESS  The address to listen on, as IP:PORT: 0.0.0.0:4567 is every IPv4 address of
                               this host, [::]:4567 every IPv6 and IPv4 address; port 0 is any free port.
                               May be given several times, with a different address each time. Sockets
                               that systemd passes replace it.
  --config FILE                A TOML file with options, such as `rate = "10M"`. Options on the command line
                               override it.
  --check                      Check all options, files and host names without starting: print "the
                               configuration is valid", or the first error. Opens no port.
  -h, --help                   Show this page.
  -V, --version                Show the version.

The relay logs to standard error when it is ready, when a tunnel opens and when a connection ends
(docs/logs.md). SIGUSR1 logs its state; SIGHUP reloads its files. SIGUSR2 upgrades it in place: a new process
with the same command line takes over, and the old one ends when its tunnels have ended. SIGTERM or Ctrl-C
stops it gracefully, and a second one immediately.

  --status [IP:]PORT           Serve a live page, /status.json, /metrics and /healthz over HTTP at this
                               address; a port alone means 127.0.0.1.
  --log-format FORMAT          Format of the log: text, or json for one JSON object per line [default: text].
  --drain SECONDS              Time that tunnels get to end after SIGTERM [default: 5].
  --upgrade-drain SECONDS      The same after SIGUSR2; without this option, --drain applies.

More than one core:
  --workers N                  Processes that forward data; auto is one per core [default: 1].

Limits for all connections; the log says why a connection was refused or closed:
  --connections N              Connections in total; auto, which is also the maximum, is 80 % of the open
                               files that the system allows; half of that with --fleet [default: auto].
  --unproven N                 Connections whose peer has not completed the handshake [default: 4096].
  --accepts N                  New connections per second at each address of --laddr [default: 5000].
  --handshake-threads N        Threads that compute handshakes; each delays the tunnels [default: 1].
  --buffers MIB                Memory for slow readers and large messages, in MiB [default: 12].
  --socket-buffer KIB          Size of each of the four kernel buffers of a tunnel, in KiB; 0 lets the
                               system choose. It limits the throughput of distant peers [default: 512].
  --stall SECONDS              Time that a peer may leave its data unread [default: 120].

Limits for one address, which a thousand nodes may share:
  --per-address N              Connections; auto is 6000, but at most three quarters of --connections
                               [default: auto].
  --ipv6-prefix BITS           Length of the IPv6 prefix that counts as one address [default: 64].

Limits for one key:
  --per-key N                  Connections; auto is 2500, but at most half of --per-address [default: auto].
  --waiting N                  Pending connects from one key [default: 256].
  --waiting-for N              Pending connects for one listener [default: 4096].
  --tunnels N                  Tunnels and pending connects [default: 2048].

Behind a load balancer (docs/operations.md):
  --proxy-protocol NETWORK     Connections from NETWORK, as ADDRESS/PREFIX, begin with a PROXY header (version
                               1 or 2); limits and logs use the address in it. May be given several times.

Access control (docs/operations.md); SIGHUP reloads the file:
  --access FILE                Keys that may listen or connect, and keys and addresses that are denied.
                               `stmgr.py access-check` checks such a file.

Several hosts behind one name (docs/fleet.md), all with the same identity file:
  --fleet URL                  The directory of the fleet, on Valkey or Redis: valkey://HOST:PORT/0,
                               valkey+sentinel://HOST:PORT,HOST:PORT/SERVICE or valkey+cluster://HOST:PORT;
                               valkeys:// with TLS. @FILE reads it from a file, where it may have a password.
  --fleet-laddr ADDRESS        The address to listen on for the other hosts, as IP:PORT.
  --fleet-address ADDRESS      The address at which the other hosts reach this one, as HOST:PORT; by default
                               that of --fleet-laddr.
  --fleet-name NAME            The name of this host in logs and status; by default its host name.

Rates and quotas; with a suffix, 1k is 1000, 1M is 1000k, 1G is 1000M and 1T is 1000G:
  --rate BYTES                 Bytes per second through all tunnels together.
  --rate-per-key BYTES         Bytes per second through the tunnels of each key.
  --quota BYTES                Bytes per calendar month (UTC) through all tunnels together.
  --quota-per-key BYTES        Bytes per calendar month that each key sends and receives through tunnels.
  --usage FILE                 The database that keeps the bytes of each month and key; `stmgr.py relay-usage`
                               lists them.
"""

# This file must parse on old Pythons; offset_common/requirements.py says why.

import sys

try:
    from offset_common import requirements
    from offset_common.relay.signals import Signals
except ImportError:
    sys.exit(
        "strelay: the package offset_common is not found; leave strelay.py in its directory, make that"
        " readable for this user, and run it without -I, -P and PYTHONSAFEPATH"
    )


def main(argv=None):
    # type: (list[str] | None) -> int
    """Run the relay until a signal stops it; return the exit status."""
    signals = Signals()
    signals.install()
    # Only now: these imports take a while, and a signal may come meanwhile.
    requirements.check("strelay")
    from offset_common.commands.run_relay import run_strelay

    return run_strelay(__doc__ or "", argv, signals)


if __name__ == "__main__":
    sys.exit(main())
