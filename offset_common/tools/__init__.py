"""The work of stmgr besides creating files: it shows them, draws QR codes and checks relays."""
