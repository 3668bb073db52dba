"""The status of a running relay, over HTTP: for a browser, for Prometheus, and for health checks."""
