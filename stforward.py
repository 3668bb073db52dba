#!/usr/bin/env python3
"""Reach a machine by its key, from anywhere: TCP ports and Unix sockets, through an Offset relay.

Usage:
  stforward.py share [options] [--allow KEY]... <what>...
  stforward.py to [options] <machine> [<where>...]
  stforward.py list [options] [<machine>]
  stforward.py key [options]
  stforward.py -h | --help
  stforward.py -V | --version

An ssh server behind one NAT and its user behind another:
  home$    stforward.py share 22 --relay relay.relay
  laptop$  stforward.py to CODE 2222
  laptop$  ssh -p 2222 localhost

`share` prints a command with a CODE, to run on the other machine. When a machine connects for the first time,
`share` asks whether to let it in. `to` makes the services of the other machine appear on this one, and
remembers the code under the name of that machine. `list` prints the services that a machine shares, or all
machines and keys that are remembered. `key` prints this machine's public key.

The relay cannot read the traffic: the two machines prove their keys to each other and encrypt between them.

  <what>     [NAME=]PORT, [NAME=]HOST:PORT or [NAME=]/PATH of a Unix socket, as in: share ssh=22 web=8080
  <machine>  A code, or the name under which one is remembered.
  <where>    [NAME=]PORT, [NAME=]IP:PORT or [NAME=]/PATH, as in: to home ssh=2222 web=8080; port 0 is any free
             one. With --stdio only a NAME, as in: ssh -o ProxyCommand='stforward.py to home ssh --stdio' home

Sharing:
  --relay FILE         The ticket of the relay; remembered for next time.
  --allow KEY          Let this key in without asking; may be given several times.
  --allow-any          Let every key in. Everyone who has the code can then use what is shared.
  --qr                 Also show the code as a QR code. This needs the package segno.

Connecting:
  --stdio              Connect standard input and output instead of listening.
  --wait SECONDS       Time that a connection waits for the other machine [default: 30].
  --as NAME            Remember the machine under this name.

Both:
  --keep SECONDS       Time that open connections wait while the network is down [default: 300].
  --max N              Connections at a time [default: 1000].
  --name NAME          The name of this machine on the other side; by default its host name.
  -i FILE, --idfile FILE  This machine's identity; by default one that is created at the first use.
  --json               Print events for programs on standard output, one JSON object per line.
  -h, --help           Show this page.
  -V, --version        Show the version.

Keys, names and the relay's ticket are kept in ~/.config/offset. UDP is not forwarded.
"""

# This file must parse on old Pythons; offset_common/requirements.py says why.

import sys

try:
    from offset_common import requirements
except ImportError:
    sys.exit(
        "stforward: the package offset_common is not found; leave stforward.py in its directory, make that"
        " readable for this user, and run it without -I, -P and PYTHONSAFEPATH"
    )


def main(argv=None):
    # type: (list[str] | None) -> int
    """Run stforward; return the exit status."""
    try:
        requirements.check("stforward")
        from offset_common.commands.forward_ports import run_stforward

        return run_stforward(__doc__ or "", argv)
    except KeyboardInterrupt:  # during the imports
        return 130


if __name__ == "__main__":
    sys.exit(main())
