"""The server: sockets, threads and clocks around channel/, which has none of them."""
