"""A relay as its service manager sees it: notifications, passed sockets, signals, upgrades in place."""
