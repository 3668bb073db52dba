"""The server: the only room, beside client/, with sockets, threads and a clock."""
