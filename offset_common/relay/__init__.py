"""The server: the only room, beside client.py, with sockets, threads and a clock."""
