"""The X25519 public keys whose shared value is all zeros, whatever the private key is.

Source: RFC 7748 section 6.1, and the list of D. J. Bernstein at https://cr.yp.to/ecdh.html#validate.
"""

from __future__ import annotations

_P = 2**255 - 19
_ORDER_8 = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
SMALL_ORDER_KEYS = [
    value.to_bytes(32, "little") for value in (0, 1, *_ORDER_8, _P - 1, _P, _P + 1, 2**255, 2**255 + 1)
]
