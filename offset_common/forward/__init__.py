"""Reach TCP ports and Unix sockets of a machine by its key, through any relay: the program stforward.

    share.py, reach.py      the two sides: one decides who may connect, one reconnects after an interruption
        session.py          the part that both share: streams that outlive a tunnel
            local.py            one TCP connection, or a terminal's pipes, and its stream
            streams.py          many streams in one session, each with its own credit
            delivery.py         messages that are sent again through the next tunnel
        tunnel.py           one tunnel in the event loop
    messages.py             the messages between the two sides, as bytes
    targets.py, doors.py    connections to the shared services, and where they appear
    code.py, peers.py, known_codes.py, config_directory.py, services.py    arguments and files
    event_loop.py, display.py, approval.py                                 the process

One thread runs the event loop and everything in it. Other threads connect to the relay and to the shared
services, and ask the user; they report to the loop with `call_soon_threadsafe`.

A relay sees only tunnels between two nodes, like any others. Everything in these files happens between the
two nodes, encrypted end to end.
"""
