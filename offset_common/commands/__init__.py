"""The command lines: what stmgr.py and strelay.py run once the requirements are met."""
