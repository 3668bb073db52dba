#!/usr/bin/env python3
"""Create and inspect Offset files: identities, tickets, node entries and node databases.

Usage:
  stmgr.py <command> [<option>...]
  stmgr.py help [<command>]
  stmgr.py -h | --help
  stmgr.py -V | --version

Commands:
  gen-ident     Create an identity: a private key in a file that only you can read.
  relay-ticket  Create the ticket of a relay. Nodes need it to use the relay.
  index-ticket  Create the ticket of an index server. Nodes need it to use the server.
  node-ticket   Create the ticket of a node. Apps need it to connect to the node.
  app-ticket    Create the ticket of an app. A node needs it to admit the app.
  node-entry    Create a node entry, with which one app can use a node.
  init-node-db  Create the database of a new node.
  convert-key   Copy an identity or node entry, and write its private key in another form.
  show          Show the content of a file, except for private keys.
  relay-check   Check that a relay works, by using it the way two nodes do.
  relay-status  Show the status of a running relay.
  access-check  Check an access file before a relay reads it.
  relay-usage   List the bytes of each month and key in a relay's usage file.
  help          Show this page, or the page of a command.

Options:
  -h, --help     Show this page; after a command, the page of that command.
  -V, --version  Show the version.

No command overwrites a file. Commands that create files print nothing unless asked to.
The exit status is 0 for success, 1 if a file cannot be read or created or the relay does not work,
and 2 if the command line is invalid.

For example, for a relay:
  stmgr.py gen-ident --output relay.ident
  stmgr.py relay-ticket --idfile relay.ident --address relay.example.com:4567 --output relay.relay
  stmgr.py relay-check relay.relay
  stmgr.py show relay.relay --qr
"""

# This file must parse on old Pythons; offset_common/requirements.py says why.

import sys

try:
    from offset_common import requirements
except ImportError:
    sys.exit(
        "stmgr: the package offset_common is not found; leave stmgr.py in its directory, make that"
        " readable for this user, and run it without -I, -P and PYTHONSAFEPATH"
    )


def main(argv=None):
    # type: (list[str] | None) -> int
    """Run stmgr.

    Args:
        argv: the arguments, without the program name; None for those of the process.

    Returns:
        The exit status; see the help page.
    """
    try:
        requirements.check("stmgr")
        from offset_common.commands.manage_files import run_stmgr

        return run_stmgr(__doc__ or "", argv)
    except KeyboardInterrupt:  # during the imports
        return 130


if __name__ == "__main__":
    sys.exit(main())
