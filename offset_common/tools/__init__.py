"""What stmgr does besides making files: look into them, draw them, and check a relay."""
