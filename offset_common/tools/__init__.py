"""The work of stmgr beside making files: look into them, draw them, and check a relay."""
